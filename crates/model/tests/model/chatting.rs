use model::{ChatTemplate, template::Value};
use serde::Deserialize;
use serde_json::{Map, json};

const TEMPLATES: [(&str, &str); 2] =
    [("reasoning", include_str!("chat/reasoning.jinja")), ("strict", include_str!("chat/strict.jinja"))];

/// What `transformers` made of the templates in `chat/`, by `chat/make_cases.py`. Read as template values, which keep the
/// order of keys.
#[derive(Deserialize)]
struct Golden {
    special_tokens: Map<String, serde_json::Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Value,
    args: Value,
    add_generation_prompt: bool,
    text: Option<String>,
    raises: Option<String>,
}

fn template(jinja: &str) -> ChatTemplate {
    let config = json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" }, "unk_token": null });
    ChatTemplate::from_files(Some(&config.to_string()), Some(jinja)).unwrap().unwrap()
}

#[test]
fn messages_render_as_transformers_renders_them() {
    let golden: Golden = serde_json::from_str(include_str!("chat/cases.json")).unwrap();
    assert!(golden.cases.len() >= 10);
    for (i, case) in golden.cases.iter().enumerate() {
        let (_, jinja) = TEMPLATES.iter().find(|(name, _)| *name == case.template).unwrap();
        let config = serde_json::to_string(&golden.special_tokens).unwrap();
        let template = ChatTemplate::from_files(Some(&config), Some(jinja)).unwrap().unwrap();
        let found = template.render(&case.messages, &case.args, case.add_generation_prompt);
        match (&case.text, &case.raises) {
            (Some(text), None) => assert_eq!(&found.unwrap(), text, "case {i}"),
            (None, Some(message)) => {
                let said = found.unwrap_err().to_string();
                assert!(said.contains(&format!("it raises: {message}")), "case {i}: {said}");
            }
            _ => panic!("case {i} has a text or a message"),
        }
    }
}

#[test]
fn the_clock_is_not_read() {
    let template = template("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}");
    let messages = json!([{ "role": "user", "content": "hi" }]);
    let said = template.render(&messages, &Map::new(), true).unwrap_err().to_string();
    assert!(said.contains("line 1") && said.contains("today's date") && said.contains("`strftime_now`"), "{said}");
    let text = template.render(&messages, &json!({ "strftime_now": "26 Jul 2024" }), true).unwrap();
    assert_eq!(text, "26 Jul 2024 hi");
}

#[test]
fn generation_tags_are_nothing() {
    for (source, text) in [
        ("a {% generation %} b {% endgeneration %} c", "a  b  c"),
        ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
        ("a\n  {% generation %}\nb\n{% endgeneration %}\nc", "a\nb\nc"),
        ("a {%+ generation +%}\n b{%endgeneration%}", "a \n b"),
        ("{{ '{% generations %}' }}", "{% generations %}"),
    ] {
        let template = ChatTemplate::from_files(None, Some(source)).unwrap().unwrap();
        assert_eq!(template.render(&json!([]), &Map::new(), true).unwrap(), text, "{source}");
    }
}

#[test]
fn the_template_is_found_where_people_keep_it() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let text = || {
        let template = ChatTemplate::load(dir.path()).unwrap()?;
        Some(template.render(&json!([]), &Map::new(), false).unwrap())
    };
    assert_eq!(text(), None);
    write("tokenizer_config.json", &json!({ "bos_token": "<s>" }).to_string());
    assert_eq!(text(), None);
    write(
        "tokenizer_config.json",
        &json!({ "bos_token": "<s>", "chat_template": "config {{ bos_token }}\n" }).to_string(),
    );
    assert_eq!(text().unwrap(), "config <s>");
    let several = json!([{ "name": "tool_use", "template": "tools" }, { "name": "default", "template": "default" }]);
    write("tokenizer_config.json", &json!({ "chat_template": several }).to_string());
    assert_eq!(text().unwrap(), "default");
    write("chat_template.jinja", "file{{ bos_token }}");
    assert_eq!(text().unwrap(), "file");
}

#[test]
fn a_faulty_template_is_named_with_its_line() {
    let render = |jinja: &str| {
        let template = ChatTemplate::from_files(None, Some(jinja))?.unwrap();
        template.render(&json!([{ "role": "user" }]), &Map::new(), true)
    };
    for (jinja, says) in [
        ("\n{% for m in messages %}", "`chat_template.jinja`: line 2"),
        ("\n\n{{ messages[0].content + 'x' }}", "line 3"),
        ("{{ messages[3].content.text }}", "undefined"),
        ("{{ messages.nothing() }}", "line 1"),
        ("{{ messages | nonsense }}", "nonsense"),
        ("{{ messages | tojson(indnt=3) }}", "indnt"),
        ("{% macro m() %}{{ raise_exception('no: ' ~ 3) }}{% endmacro %}{{ m() }}", "it raises: no: 3"),
    ] {
        let said = render(jinja).unwrap_err().to_string();
        assert!(said.contains(says), "{jinja}: {said}");
    }
    for (config, says) in [
        ("{", "`tokenizer_config.json`"),
        (r#"{"chat_template": 3}"#, "neither a text nor a list"),
        (
            r#"{"chat_template": [{"name": "rag", "template": ""}]}"#,
            "a list with rag, expected one with the name `default`",
        ),
    ] {
        let said = ChatTemplate::from_files(Some(config), None).map(drop).unwrap_err().to_string();
        assert!(said.contains(says), "{config}: {said}");
    }
}

#[test]
fn digests_are_equal_where_the_texts_are() {
    let digest = |config: serde_json::Value, jinja: &str| {
        let template = ChatTemplate::from_files(Some(&config.to_string()), Some(jinja)).unwrap().unwrap();
        template.digest().to_owned()
    };
    let jinja = "{{ bos_token }}{{ messages }}";
    let one = digest(json!({ "bos_token": "<s>", "pad_token": "<pad>" }), jinja);
    // A token that the template does not read makes no difference, one that it reads does.
    assert_eq!(digest(json!({ "bos_token": { "content": "<s>" }, "pad_token": "</s>" }), jinja), one);
    assert_ne!(digest(json!({ "bos_token": "<bos>" }), jinja), one);
    assert_ne!(digest(json!({ "bos_token": "<s>" }), "{{ bos_token }}{{ messages }} "), one);
    assert_eq!(one.len(), 64);
}
