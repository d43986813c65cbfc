use super::*;
use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, DictionaryArray, Int32Array, LargeStringArray, ListArray, MapBuilder,
        RecordBatch, StringArray, StringBuilder, StructArray, TimestampMillisecondArray,
    },
    buffer::OffsetBuffer,
    datatypes::{Field, Int32Type},
};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use std::{fs::File, sync::Arc};

const CHAT: &str = "{%- if messages[0].role == 'assistant' %}{{ raise_exception('the user begins') }}{% endif -%}
    {%- for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor -%}
    {%- if add_generation_prompt %}<assistant>{{ mood or '' }}{% endif -%}";

fn chat() -> ChatTemplate {
    ChatTemplate::from_files(None, Some(CHAT)).unwrap().unwrap()
}

/// A section in words of the pipeline, without its path.
fn section(toml: &str) -> PromptsSection {
    toml::from_str(&format!("path = ''\n{toml}")).unwrap()
}

fn read_bytes(name: &str, bytes: &[u8], section: PromptsSection) -> Result<Prompts> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Prompts::read("prompts", &PromptsSection { path, ..section }, Some(&chat()))
}

fn lines(text: &str, toml: &str) -> Result<Prompts> {
    read_bytes("prompts.jsonl", text.as_bytes(), section(toml))
}

fn texts(prompts: &Prompts) -> Vec<&str> {
    prompts.prompts.iter().map(|prompt| prompt.text.as_str()).collect()
}

/// The columns as a Parquet file.
fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.unwrap();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn text_column(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn rows(bytes: &[u8], toml: &str) -> Result<Prompts> {
    read_bytes("prompts.parquet", bytes, section(toml))
}

#[test]
fn a_line_has_a_prompt_and_what_belongs_to_it() {
    let text = "\u{feff}{\"prompt\": \"a\", \"answer\": 7, \"data_source\": \"s\", \"teacher_id\": \"t\", \"more\": {}}\r\n\n\
                {\"prompt\": \" b\\n\", \"answer\": \"x\"}\n{\"prompt\": \"c\", \"answer\": null, \"data_source\": null}";
    let prompts = lines(text, "").unwrap();
    let first = Prompt {
        text: "a".into(),
        chat: false,
        answer: Some("7".into()),
        data_source: "s".into(),
        teacher_id: Some("t".into()),
        line: 1,
    };
    let second = Prompt {
        text: " b\n".into(),
        answer: Some("x".into()),
        data_source: String::new(),
        teacher_id: None,
        line: 3,
        ..first.clone()
    };
    let third = Prompt { text: "c".into(), answer: None, line: 4, ..second.clone() };
    assert_eq!(prompts.prompts, [first, second, third]);
    assert_eq!(prompts.set.count, 3);
}

#[test]
fn keys_are_renamed_and_may_go_into_nested_fields() {
    let text = r#"{"question": "q", "reward_model": {"ground_truth": "4"}, "a.b": "dotted", "meta": {"teacher": "t"}}"#;
    let keys = r#"keys = { prompt = "question", answer = "reward_model.ground_truth", data_source = "a.b", teacher_id = "meta.teacher" }"#;
    let prompts = lines(text, keys).unwrap();
    let prompt = &prompts.prompts[0];
    assert_eq!((prompt.text.as_str(), prompt.answer.as_deref()), ("q", Some("4")));
    assert_eq!((prompt.data_source.as_str(), prompt.teacher_id.as_deref()), ("dotted", Some("t")));
}

#[test]
fn a_template_makes_the_prompt_of_several_fields() {
    let text = r#"{"q": "1 + 1", "options": ["2", "3"], "prompt": "not asked"}"#;
    let template =
        "template = \"Q: {{ q.strip() }}{% for o in options %} ({{ loop.index }}) {{ o }}{% endfor %}\\nA:\\n\"";
    assert_eq!(texts(&lines(text, template).unwrap()), ["Q: 1 + 1 (1) 2 (2) 3\nA:\n"]);
    let chat = format!("{template}\nchat = true");
    assert_eq!(texts(&lines(text, &chat).unwrap()), ["<user>Q: 1 + 1 (1) 2 (2) 3\nA:\n<assistant>"]);
}

#[test]
fn texts_and_messages_become_chats() {
    let text = r#"{"prompt": "hi"}
        {"prompt": [{"role": "user", "content": "hi"}]}
        {"prompt": [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}]}
        {"prompt": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": null, "tool_calls": [{"name": "f", "args": {"b": 1, "a": 2}}]}, {"role": "tool", "content": "3"}]}"#;
    let prompts = lines(text, "chat = true").unwrap();
    assert!(prompts.prompts.iter().all(|prompt| prompt.chat));
    assert_eq!(
        texts(&prompts),
        [
            "<user>hi<assistant>",
            "<user>hi<assistant>",
            "<system>own<user>hi<assistant>",
            // Keys stand in the file's order, as models saw it.
            "<user>hi<assistant>None[{\"name\": \"f\", \"args\": {\"b\": 1, \"a\": 2}}]<tool>3<assistant>",
        ]
    );
    let with_system = lines(text, "chat = true\nsystem = 'S'\nchat_template_args = { mood = 2024-07-26 }").unwrap();
    assert_eq!(texts(&with_system)[0], "<system>S<user>hi<assistant>2024-07-26");
    assert_eq!(texts(&with_system)[2], "<system>own<user>hi<assistant>2024-07-26");
    let turned_off = lines(text, "chat = true\nsystem = ''\ntemplate = ''").unwrap();
    assert_eq!(texts(&turned_off), texts(&lines(text, "chat = true").unwrap()));
    // Without chat a text stays a text; messages have no other way to be asked.
    let prompts = lines(text, "").unwrap();
    assert_eq!((prompts.prompts[0].chat, prompts.prompts[1].chat), (false, true));
    assert_eq!(texts(&prompts)[0], "hi");
}

#[test]
fn a_faulty_line_is_named() {
    let messages = |messages: &str| format!("{{\"prompt\": {messages}}}");
    let says = |text: &str, toml: &str, says: &[&str]| {
        let error = lines(text, toml).unwrap_err().to_string();
        for words in says {
            assert!(error.contains(words), "{text:?} should say {words:?}:\n{error}");
        }
    };
    let good = "{\"prompt\": \"a\"}\n";
    says(
        &format!("{good}{{\"promt\": \"b\", \"x\": 1}}\n"),
        "",
        &["line 2: there is no `prompt`; there is `promt`, `x`"],
    );
    says(good, "keys = { answer = 'final' }", &["line 1: there is no `final`; there is `prompt`", "keys.answer"]);
    says("{\"prompt\": \" \"}\n", "", &["line 1: the prompt is empty"]);
    says("\n\n", "", &["no prompt in it"]);
    says("[1]\n", "", &["line 1: a sequence, expected an object", "each line is an object"]);
    says(
        &format!("{good}\n{{\"prompt\": \"b\"\n"),
        "",
        &["line 3: not JSON: EOF while parsing an object at column 14"],
    );
    says("{\"prompt\": null}", "", &["line 1: `prompt` is null"]);
    says("{\"prompt\": 3}", "", &["line 1: `prompt` is a number, expected a text or a list of messages"]);
    says("{\"prompt\": \"a\", \"answer\": true}", "", &["`answer` is a bool, expected a text or a number"]);
    says("{\"prompt\": \"a\", \"teacher_id\": 3}", "", &["`teacher_id` is a number, expected a text"]);
    says(good, "system = 'S'", &["line 1", "the prompt is a text and chat is false", "set chat = true"]);
    for (list, words) in [
        ("[]", "the prompt is empty"),
        ("[\"hi\"]", "`prompt[0]` is a string, expected a message"),
        (r#"[{"content": "hi"}]"#, "`prompt[0]` has no `role`; it has `content`"),
        (r#"[{"role": "user", "text": "hi"}]"#, "`prompt[0]` has no `content`; it has `role`, `text`"),
        (r#"[{"role": "user", "content": null}]"#, "`prompt[0]`: `content` is null"),
        (r#"[{"role": "user", "content": ["hi"]}]"#, "`prompt[0]`: `content` is a sequence, expected a text"),
        (r#"[{"role": "user", "content": "\n"}]"#, "the prompt is empty"),
        (
            r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#,
            "ends with the assistant's message",
        ),
        (r#"[{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]"#, "it raises: the user begins"),
    ] {
        says(&messages(list), "", &["prompts.jsonl`, line 1: ", words]);
    }
    says(
        good,
        "template = '{{ question }}'",
        &[
            "line 1: template `prompts.template`: line 1: ",
            "undefined",
            "the template reads `question`; there is `prompt`",
        ],
    );
    says(good, "template = '{{ raise_exception(\"not this\") }}'", &["line 1", "it raises: not this"]);
    says(good, "template = '{{ prompt '", &["template `prompts.template`: line 1"]);
    let error = read_bytes("prompts.jsonl", b"{\"prompt\": \"\xff\"}", section("")).unwrap_err().to_string();
    assert!(error.contains("line 1: not UTF-8"), "{error}");
    let error = read_bytes("prompts.csv", b"a,b", section("")).unwrap_err().to_string();
    assert!(error.contains("prompts.csv` is neither .jsonl nor .parquet"), "{error}");
    let section = PromptsSection { path: "nowhere.jsonl".into(), ..section("") };
    let error = Prompts::read("prompts", &section, None).unwrap_err().to_string();
    assert!(error.starts_with("prompts: there is no file `nowhere.jsonl`\nhint: "), "{error}");
}

#[test]
fn a_chat_needs_a_template() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompts.jsonl");
    std::fs::write(&path, "{\"prompt\": \"a\"}").unwrap();
    let section = PromptsSection { path, ..section("chat = true") };
    let error = Prompts::read("prompts", &section, None).unwrap_err().to_string();
    assert!(error.contains("line 1: the prompt is a chat, but the student has no chat template"), "{error}");
    assert!(error.contains("chat = false"), "{error}");
}

#[test]
fn answers_and_teachers_are_looked_for() {
    let prompts =
        lines("{\"prompt\": \"a\", \"answer\": \"1\"}\n\n{\"prompt\": \"b\", \"teacher_id\": \"t\"}", "").unwrap();
    assert!(prompts.check_teachers(&["t", "teacher"]).is_ok());
    let error = prompts.check_teachers(&["t"]).unwrap_err().to_string();
    assert!(error.contains("line 1: there is no `teacher_id`, the pipeline has `t`"), "{error}");
    let error = prompts.check_teachers(&["teacher", "u"]).unwrap_err().to_string();
    assert!(error.contains("line 3: `teacher_id` is `t`, the pipeline has `teacher`, `u`"), "{error}");
    let error = prompts.with_answers().unwrap_err().to_string();
    assert!(error.contains("line 3: there is no `answer`") && error.contains("answers = false"), "{error}");
}

/// One list of messages a row.
fn messages_column(messages: &[&[(&str, &str)]]) -> ArrayRef {
    let flat = || messages.iter().flat_map(|list| list.iter());
    let of = |name: &str, array: ArrayRef| (Arc::new(Field::new(name, array.data_type().clone(), true)), array);
    let structs = StructArray::from(vec![
        of("content", Arc::new(LargeStringArray::from(flat().map(|message| message.1).collect::<Vec<_>>()))),
        of("name", Arc::new(StringArray::new_null(flat().count()))),
        of("role", Arc::new(flat().map(|message| message.0).collect::<DictionaryArray<Int32Type>>())),
    ]);
    let item = Arc::new(Field::new("item", structs.data_type().clone(), true));
    let lengths = OffsetBuffer::from_lengths(messages.iter().map(|list| list.len()));
    Arc::new(ListArray::new(item, lengths, Arc::new(structs), None))
}

#[test]
fn parquet_rows_are_asked_as_lines_are() {
    let bytes = parquet(vec![
        ("prompt", messages_column(&[&[("user", "a")], &[("system", "s"), ("user", "b")]])),
        ("answer", Arc::new(Int32Array::from(vec![Some(7), None]))),
        ("data_source", Arc::new(["x", "y"].into_iter().collect::<DictionaryArray<Int32Type>>())),
        ("when", Arc::new(TimestampMillisecondArray::from(vec![1, 2]))),
    ]);
    let of_rows = rows(&bytes, "").unwrap();
    let text = r#"{"prompt": [{"role": "user", "content": "a"}], "answer": 7, "data_source": "x"}
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}], "data_source": "y"}"#;
    let of_lines = lines(text, "").unwrap();
    assert_eq!(of_rows.prompts, of_lines.prompts);
    assert_eq!(of_rows.set, of_lines.set);
    let template = "template = '{{ prompt[-1].content }} {{ answer is none }}'\nkeys = { answer = 'data_source' }";
    assert_eq!(texts(&rows(&bytes, template).unwrap()), ["a False", "b True"]);
}

#[test]
fn a_faulty_parquet_file_is_named() {
    let says = |bytes: &[u8], toml: &str, says: &[&str]| {
        let error = rows(bytes, toml).unwrap_err().to_string();
        for words in says {
            assert!(error.contains(words), "should say {words:?}:\n{error}");
        }
    };
    let good =
        parquet(vec![("prompt", text_column(&["a", "b"])), ("n", Arc::new(BooleanArray::from(vec![true, false])))]);
    says(&good[..good.len() - 9], "", &["prompts.parquet`: not a whole Parquet file"]);
    says(b"{\"prompt\": \"a\"}", "", &["not a whole Parquet file"]);
    let mut damaged = good.clone();
    damaged[8..24].fill(0xff);
    let error = rows(&damaged, "").unwrap_err().to_string();
    assert!(error.contains("prompts.parquet`, row 1: Parquet "), "{error}");
    assert_eq!(error.matches("prompts.parquet").count(), 1, "{error}");
    says(&good, "keys = { prompt = 'question' }", &["row 1: there is no `question`; there is `prompt`, `n`"]);
    says(&good, "keys = { answer = 'n' }", &["row 1: `n` is a bool, expected a text or a number"]);
    says(&good, "template = '{{ prompt + other }}'", &["row 1", "`prompt`, `n`"]);
    says(&parquet(vec![("prompt", text_column(&["a", " "]))]), "", &["row 2: the prompt is empty"]);
    let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    map.keys().append_value("role");
    map.values().append_value("user");
    map.append(true).unwrap();
    says(&parquet(vec![("prompt", Arc::new(map.finish()))]), "", &["column `prompt` is Map", "cannot be read"]);
    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1]));
    says(&parquet(vec![("prompt", times)]), "", &["column `prompt` is Timestamp", "a column is text"]);
    let bare = parquet(vec![("role", text_column(&["user"]))]);
    says(&bare, "", &["row 1: there is no `prompt`; there is `role`"]);
    let empty = parquet(vec![("prompt", text_column(&[]))]);
    says(&empty, "", &["no prompt in it"]);
}

#[test]
fn a_prompt_set_is_another_if_it_asks_something_else() {
    let text = "{\"prompt\": \"a\", \"answer\": \"1\"}";
    let digest = |text: &str, toml: &str| lines(text, toml).unwrap().set.digest;
    let one = digest(text, "");
    assert_eq!(digest("{\"answer\": \"2\", \"q\": \"a\"}\n\n", "keys = { prompt = 'q' }"), one);
    assert_eq!(digest(text, "template = '{{ prompt }}'"), one);
    for (text, toml) in [
        (text, "template = '{{ prompt }} '"),
        (text, "chat = true"),
        ("{\"prompt\": \"a\", \"data_source\": \"s\"}", ""),
        ("{\"prompt\": \"a\", \"teacher_id\": \"s\"}", ""),
        ("{\"prompt\": \"a\"}\n{\"prompt\": \"a\"}", ""),
    ] {
        assert_ne!(digest(text, toml), one, "{text} {toml}");
    }
    // The text of a chat, written out by hand, has other ids: a tokenizer may add to it what the template has.
    assert_ne!(digest("{\"prompt\": \"<user>a<assistant>\"}", ""), digest(text, "chat = true"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_texts_come_through_lines_and_parquet_unchanged(
        rows in prop::collection::vec(("[^\\s]\\PC{0,12}\n?", "\\PC{0,6}", "\\PC{0,6}"), 1..20),
    ) {
        let lines: String = rows.iter().map(|(prompt, answer, source)| {
            serde_json::json!({ "prompt": prompt, "answer": answer, "data_source": source }).to_string() + "\n"
        }).collect();
        let of_lines = read_bytes("p.jsonl", lines.as_bytes(), section("")).unwrap();
        let column = |of: fn(&(String, String, String)) -> &String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
        };
        let columns = [("prompt", column(|row| &row.0)), ("answer", column(|row| &row.1)), ("data_source", column(|row| &row.2))];
        let of_rows = read_bytes("p.parquet", &parquet(columns.to_vec()), section("")).unwrap();
        prop_assert_eq!(&of_lines.set, &of_rows.set);
        for (prompt, row) in of_lines.prompts.iter().zip(&rows) {
            prop_assert_eq!((&prompt.text, prompt.answer.as_ref(), &prompt.data_source), (&row.0, Some(&row.1), &row.2));
        }
    }

    #[test]
    fn a_cut_file_is_an_error_or_fewer_whole_lines(cut in 0usize..300) {
        let text = "{\"prompt\": \"ä\", \"answer\": 12}\n".repeat(10);
        let cut = cut.min(text.len());
        match read_bytes("p.jsonl", &text.as_bytes()[..cut], section("")) {
            Ok(prompts) => prop_assert!(prompts.prompts.iter().all(|prompt| prompt.text == "ä" && prompt.answer.is_some())),
            Err(error) => prop_assert!(error.to_string().contains("p.jsonl"), "{}", error),
        }
        let whole = parquet(vec![("prompt", text_column(&["a"; 50]))]);
        let cut = cut.min(whole.len() - 1);
        prop_assert!(read_bytes("p.parquet", &whole[..cut], section("")).is_err());
    }
}

#[test]
fn a_file_is_read_by_its_own_reader() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no-extension");
    File::create(&path).unwrap();
    let error = Prompts::read("eval.sets.x", &PromptsSection { path, ..section("") }, None).unwrap_err().to_string();
    assert!(error.starts_with("eval.sets.x: `") && error.contains("neither .jsonl nor .parquet"), "{error}");
}
