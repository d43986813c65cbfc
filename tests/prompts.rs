//! What is asked, and how the answers are counted: chats, templates, Parquet, several sources, several samples.

use crate::support::{Small, succeeded, text};
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use model::{ChatTemplate, Device, SamplingParams, Tokenizer, Transformer, chance};
use opd::answers::is_correct;
use parquet::arrow::ArrowWriter;
use std::{fs::File, sync::Arc};

/// A chat template of few tokens: the small models hold 48.
const CHAT: &str = "{{ bos_token }}{% for m in messages %}{{ m.role[0] | upper }}: {{ m.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}A:{% if brief %} {{ brief }}{% endif %}{% endif %}";

impl Small {
    fn write_chat_template(&self, model: &str, template: &str) {
        std::fs::write(self.path(model).join("chat_template.jinja"), template).unwrap();
    }

    /// The held-out problems as Parquet: columns `question`, `final` and `data_source`.
    fn write_parquet(&self, name: &str, rows: &[(String, String, &str)]) {
        let column = |of: fn(&(String, String, &str)) -> String| -> ArrayRef {
            Arc::new(StringArray::from(rows.iter().map(of).collect::<Vec<_>>()))
        };
        let columns = [
            ("question", column(|row| row.0.clone())),
            ("final", column(|row| row.1.clone())),
            ("data_source", column(|row| row.2.to_string())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(self.path(name)).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

/// What the student as given answers, greedily and in 3 samples: the second way to what `opd eval` asks.
fn answers(small: &Small, prompts: &[Vec<i32>]) -> (Vec<String>, Vec<Vec<String>>) {
    tch::set_num_threads(1);
    let dir = small.path("student");
    let (student, tokenizer) = (Transformer::load(&dir, Device::Cpu).unwrap(), Tokenizer::load(&dir).unwrap());
    let ask = |temperature: f64, rows: Vec<(usize, u64)>| -> Vec<String> {
        let seed = |i, sample| chance::row_seed(3, i as u64, u64::MAX - sample, 0);
        let asked = rows.iter().map(|&(i, sample)| model::Prompt { ids: prompts[i].clone(), seed: seed(i, sample) });
        let eos = tokenizer.eos_ids().to_vec();
        let params = SamplingParams {
            temperature,
            top_p: 1.0,
            max_new_tokens: 6,
            eos,
            draws: 0,
            draws_kept: record::DrawsKept::All,
            top_k: None,
        };
        let samples = model::sample(&student, &asked.collect::<Vec<_>>(), &params).unwrap();
        samples.iter().map(|sample| tokenizer.decode(&sample.response_ids).unwrap()).collect()
    };
    let greedy = ask(0.0, (0..prompts.len()).map(|i| (i, 0)).collect());
    let sampled = ask(1.0, (0..prompts.len()).flat_map(|i| (0..3).map(move |sample| (i, sample))).collect());
    (greedy, sampled.chunks(3).map(<[String]>::to_vec).collect())
}

#[test]
fn chats_are_asked_as_the_template_writes_them_and_every_answer_is_counted() {
    let small = Small::new();
    small.write_chat_template("student", CHAT);
    small.write_chat_template("teacher", CHAT);
    let train = r#"{"prompt": [{"role": "user", "content": "Q: 1 + 1?"}]}
        {"prompt": "Q: 2 + 2?"}
        {"prompt": [{"role": "system", "content": "sum"}, {"role": "user", "content": "Q: 3 + 3?"}]}"#;
    std::fs::write(small.path("train.jsonl"), train).unwrap();

    let tokenizer = Tokenizer::load(&small.path("student")).unwrap();
    let template = ChatTemplate::load(&small.path("student")).unwrap().unwrap();
    let ids = |user: &str| {
        let messages = serde_json::json!([{ "role": "system", "content": "go" }, { "role": "user", "content": user }]);
        let text = template.render(&messages, &serde_json::json!({ "brief": "so" }), true).unwrap();
        tokenizer.encode(&text).unwrap()
    };
    let questions: Vec<String> = (0..6).map(|i| format!("{i} and {i}?")).collect();
    let (greedy, sampled) = answers(&small, &questions.iter().map(|question| ids(question)).collect::<Vec<_>>());
    // The right answer is the greedy one, the first or the last sampled one, or nothing that anybody says.
    let right = |i: usize| match i % 4 {
        0 => greedy[i].clone(),
        1 => sampled[i][0].clone(),
        2 => sampled[i][2].clone(),
        _ => "Paris".into(),
    };
    let sources = ["a", "b", "b", "a", "b", "b"];
    let problems: Vec<_> = (0..6).map(|i| (questions[i].clone(), right(i), sources[i])).collect();
    small.write_parquet("heldout.parquet", &problems);
    // The same question once more, without an answer: only lengths and the distance to the teacher are measured.
    std::fs::write(small.path("open.jsonl"), "{\"prompt\": \"0 and 0?\"}\n").unwrap();

    let output = small.run(&[
        "prompts.chat=true",
        "prompts.system=go",
        "prompts.chat_template_args={ brief = \"so\" }",
        "eval.sets={ heldout = { path = \"heldout.parquet\", samples = 3, \
         keys = { prompt = \"question\", answer = \"final\" } }, open = { path = \"open.jsonl\", answers = false } }",
    ]);
    succeeded(&output);

    // What was asked, by the ids that are stored.
    let asked = small.sql("select distinct prompt_id, array_to_string(prompt_ids, ' ') from rollouts order by 1");
    let decode = |line: &String| {
        let ids: Vec<i32> = line.split_once(',').unwrap().1.split(' ').map(|id| id.parse().unwrap()).collect();
        tokenizer.decode(&ids).unwrap()
    };
    let asked: Vec<String> = asked.iter().map(decode).collect();
    assert_eq!(asked, ["S: go\nU: Q: 1 + 1?\nA: so", "S: go\nU: Q: 2 + 2?\nA: so", "S: sum\nU: Q: 3 + 3?\nA: so"]);

    // How it did at version 0, counted again here.
    let all = |i: &usize| sampled[*i].iter().filter(|answer| is_correct(answer, &right(*i))).count();
    let count = |of: &dyn Fn(&usize) -> usize, source: &str| -> usize {
        (0..6).filter(|&i| source.is_empty() || sources[i] == source).map(|i| of(&i)).sum()
    };
    let greedily = |i: &usize| usize::from(is_correct(&greedy[*i], &right(*i)));
    let first = |i: &usize| usize::from(is_correct(&sampled[*i][0], &right(*i)));
    let any = |i: &usize| usize::from(all(i) > 0);
    let expected = [
        ("accuracy/a", count(&greedily, "a"), 2),
        ("accuracy/b", count(&greedily, "b"), 4),
        ("avg@3", count(&all, ""), 18),
        ("avg@3/a", count(&all, "a"), 6),
        ("avg@3/b", count(&all, "b"), 12),
        ("pass@1", count(&first, ""), 6),
        ("pass@3", count(&any, ""), 6),
    ];
    let expected: Vec<String> = expected.iter().map(|(name, sum, of)| format!("{name},{sum},{of}")).collect();
    let metrics = "select name, numerator, denominator from eval_metrics where policy_version = 0 and eval_set = 'heldout' \
                   and (name like 'accuracy/%' or name like 'avg@%' or name like 'pass@%') order by name";
    assert_eq!(small.sql(metrics), expected);
    assert!(count(&greedily, "") > 0 && count(&any, "") > count(&first, ""), "the test would prove little");

    let query = "select e.accuracy * 6, e.sampled_accuracy * 18, e.problems, e.reverse_kl > 0, \
                 (select sum(numerator) from eval_metrics m where m.name like 'reverse_kl/%' and m.policy_version = 0) = \
                 (select numerator from eval_metrics m where m.name = 'reverse_kl' and m.policy_version = 0 \
                  and m.eval_set = 'heldout') from evals e where policy_version = 0 and eval_set = 'heldout'";
    assert_eq!(small.sql(query), [format!("{},{},6,true,true", count(&greedily, ""), count(&all, ""))]);
    let open = small.sql(
        "select accuracy is null, sampled_accuracy is null, problems, reverse_kl > 0, mean_length > 0 from evals \
         where eval_set = 'open' and policy_version = 0",
    );
    assert_eq!(open, ["true,true,0,true,true"]);
    let summary = text(&output.stdout);
    assert!(summary.contains("eval         open v0: reverse KL "), "{summary}");
    assert!(summary.contains("sampled, reverse KL "), "{summary}");
}

#[test]
fn a_student_that_is_its_teacher_has_no_reverse_kl_and_none_is_computed_unless_asked_for() {
    let small = Small::new();
    succeeded(&small.run(&["teacher.model=student", "learn.steps=1"]));
    assert_eq!(small.sql("select reverse_kl from evals where policy_version = 0"), ["0"]);
    let small = Small::new();
    succeeded(&small.run(&["eval.reverse_kl=false", "learn.steps=1"]));
    assert_eq!(small.sql("select distinct reverse_kl is null from evals"), ["true"]);
}

#[test]
fn each_answer_is_compared_with_the_teacher_that_its_problem_names() {
    let small = Small::new();
    let problem = |source: &str, teacher: &str| {
        format!("{{\"prompt\": \"Q: 1 + 1?\", \"data_source\": \"{source}\", \"teacher_id\": {teacher}}}\n")
    };
    let problems = [problem("own", "\"self\""), problem("other", "null"), problem("own", "\"self\"")];
    std::fs::write(small.path("two.jsonl"), problems.concat()).unwrap();
    let eval = "eval={ batch_rows = 2, sets = { two = { path = \"two.jsonl\", answers = false, samples = 3 } } }";
    succeeded(&small.run(&["learn.steps=1", "teachers={ self = { model = \"student\" } }", eval]));
    let query =
        "select name, numerator = 0 from eval_metrics where policy_version = 0 and name like 'reverse_kl/%' order by 1";
    assert_eq!(small.sql(query), ["reverse_kl/other,false", "reverse_kl/own,true"]);
    let lengths = "select distinct denominator from eval_metrics where name like 'completions/%'";
    assert_eq!(small.sql(lengths), ["9"]);
}

#[test]
fn a_teacher_with_another_chat_template_is_warned_of_where_it_matters() {
    let small = Small::new();
    small.write_chat_template("student", CHAT);
    let warnings = |sets: &[&str]| {
        let output = small.command("run", sets).arg("--dry-run").output().unwrap();
        succeeded(&output);
        let said = text(&output.stderr);
        said.lines().filter(|line| line.starts_with("warning: teacher `")).map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(warnings(&[]), Vec::<String>::new());
    let said = warnings(&["prompts.chat=true"]);
    assert!(said.len() == 1 && said[0].contains("has no chat template"), "{said:?}");
    small.write_chat_template("teacher", &CHAT.replace("A:", "R:"));
    let said = warnings(&["prompts.chat=true"]);
    assert!(said.len() == 1 && said[0].contains("has another chat template than the student"), "{said:?}");
    small.write_chat_template("teacher", CHAT);
    assert_eq!(warnings(&["prompts.chat=true"]), Vec::<String>::new());
}

#[test]
fn a_run_is_about_its_prompts_as_they_are_asked() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    // The same prompts under another name, with other keys, are the same.
    let renamed = std::fs::read_to_string(small.path("train.jsonl")).unwrap().replace("\"prompt\"", "\"question\"");
    std::fs::write(small.path("renamed.jsonl"), renamed).unwrap();
    let keys = "prompts={ path = \"renamed.jsonl\", keys = { prompt = \"question\" } }";
    // What [prompts] says would hold for the eval set as well.
    let eval = "eval.sets={ heldout = { path = \"heldout.jsonl\", keys = {} } }";
    succeeded(&small.run(&["learn.steps=1", keys, eval]));
    let commits = small.sql("select count(*) from commits");
    for command in ["run", "rollout"] {
        let output = small.command(command, &["learn.steps=1", "prompts.template={{ prompt }}!"]).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for words in ["prompts.path is", "train.jsonl", "asks 24 prompts", "hint:", "keys, template, chat"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        assert_eq!(said.matches("sha256:").count(), 2, "{said}");
    }
    assert_eq!(small.sql("select count(*) from commits"), commits, "nothing was written");
}
