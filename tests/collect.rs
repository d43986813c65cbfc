//! What is made of a store without training it further: a data set, and Hugging Face directories.

use crate::support::{Small, opd, refused, succeeded, text};
use model::{Device, ScoreRow, ScoringParams, Tokenizer, Transformer};
use std::path::Path;

const DIGESTS: &str = "select step, weights_digest from steps order by step";

/// Samples and scores 96 rollouts of the teacher's own.
const OWN_TEXT: [&str; 5] =
    ["student.model=teacher", "learn.steps=12", "learn.max_staleness=20", "rollout.workers=2", "eval.every=1"];

fn collect(small: &Small, sets: &[&str]) -> String {
    let output = small.command("run", sets).arg("--collect").output().unwrap();
    succeeded(&output);
    assert!(text(&output.stderr).contains("hint: train on them with `opd sft`"), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn collecting_stops_at_what_the_pace_allows_and_a_run_goes_on_from_there() {
    let (collected, whole) = (Small::new(), Small::new());
    let sets = ["learn.max_staleness=1"];
    let summary = collect(&collected, &sets);
    // Two of four steps' worth: max_staleness + 1.
    assert_eq!(collected.sql("select count(*), count(teacher_logprobs) from scored"), ["16,16"]);
    let tokens = collected.sql("select sum(cardinality(response_ids)) from rollouts");
    let line = format!("collected    16 rollouts with scores in `main`, {} response tokens", tokens[0]);
    assert!(summary.contains(&line), "{line}:\n{summary}");
    assert_eq!(collected.sql("select count(*) from steps"), ["0"]);
    assert_eq!(collected.sql("select count(*) from evals"), ["0"]);
    // Once more: there is nothing to add but that another run goes on with it.
    let commits = collected.sql("select count(*) from commits where kind <> 'config'");
    collect(&collected, &sets);
    assert_eq!(collected.sql("select count(*) from commits where kind <> 'config'"), commits);
    // Strictly synchronous, what was collected too far ahead is dropped and sampled again: the same weights as without.
    succeeded(&collected.run(&[]));
    succeeded(&whole.run(&[]));
    assert_eq!(collected.sql(DIGESTS), whole.sql(DIGESTS));
    assert_eq!(collected.sql("select count(*), count(distinct rollout_id) from consumed"), ["32,32"]);
    // Consumed, dropped as stale, or pending: what is recorded with scores is all of it.
    let output = collected.command("run", &[]).arg("--collect").output().unwrap();
    succeeded(&output);
}

/// Mean reverse KL of a network to the teacher on answers to prompts that were asked.
fn distance(small: &Small, network: &str) -> f64 {
    tch::set_num_threads(1);
    let tokenizer = Tokenizer::load(&small.path("teacher")).unwrap();
    let load = |name: &str| Transformer::load(&small.path(name), Device::Cpu).unwrap();
    let (teacher, network) = (load("teacher"), load(network));
    let encode = |text: &str| tokenizer.encode(text).unwrap();
    let asked: Vec<(Vec<i32>, Vec<i32>)> =
        [3, 11, 20].map(|n| (encode(&format!("Q: {n} + {n}?\nA:")), encode(&(2 * n).to_string()))).into();
    let rows: Vec<(&[i32], &[i32])> = asked.iter().map(|(prompt, answer)| (&prompt[..], &answer[..])).collect();
    let nats = model::reverse_kl(&network, &teacher, &rows, 1.0, 4096).unwrap().concat();
    nats.iter().map(|nat| f64::from(*nat)).sum::<f64>() / nats.len() as f64
}

/// Teaches the teacher its prompts' answers, so that its distribution is no flat one.
fn teach(small: &Small) {
    let config = "model = \"teacher\"\ndata = \"train.jsonl\"\nkeys = { answer = \"answer\" }\nsteps = 60\n\
                  rows_per_step = 8\nthreads = 1\noptimizer.learning_rate = 1e-2\n";
    succeeded(&sft(small, config, &[], "teacher"));
}

fn sft(small: &Small, config: &str, sets: &[&str], out: &str) -> std::process::Output {
    std::fs::write(small.path("sft.toml"), config).unwrap();
    let mut program = opd();
    program.arg("sft").arg(small.path("sft.toml")).arg("--out").arg(small.path(out));
    program.args(sets.iter().flat_map(|set| ["--set", set])).output().unwrap()
}

/// Forward KL on what is in the store.
fn from_scores(small: &Small) -> String {
    format!(
        "model = \"student\"\nscores = {{ store = '{}', shuffle_batches = 4 }}\nestimator = {{ name = \"forward_kl\", top_k = 8 }}\n\
         steps = 40\nrows_per_step = 16\nthreads = 1\noptimizer.learning_rate = 1e-2\n",
        small.store()
    )
}

#[test]
fn forward_kl_on_the_teachers_own_text_moves_the_student_to_the_teacher() {
    let small = Small::new();
    std::fs::write(small.path("student/chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    teach(&small);
    collect(&small, &OWN_TEXT);
    assert_eq!(small.sql("select count(*), max(policy_version) from rollouts"), ["96,0"]);
    let config = from_scores(&small);
    let output = sft(&small, &config, &[], "trained");
    succeeded(&output);
    let said = text(&output.stderr);
    let losses: Vec<f64> =
        said.lines().filter_map(|line| line.split_once("loss ")?.1.split_whitespace().next()?.parse().ok()).collect();
    assert!(losses.len() == 2 && losses[1] < 0.5 * losses[0], "{said}");
    let (before, after) = (distance(&small, "student"), distance(&small, "trained"));
    assert!(after < 0.5 * before, "reverse KL {before} before, {after} after");
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        assert!(small.path("trained").join(file).exists(), "{file}");
    }
    // The order is the seed's: again is the same, whatever is read ahead; another seed is another order.
    let weights = |name: &str| std::fs::read(small.path(name).join("model.safetensors")).unwrap();
    succeeded(&sft(&small, &config, &["steps=3"], "a"));
    succeeded(&sft(&small, &config, &["steps=3"], "b"));
    succeeded(&sft(&small, &config, &["steps=3", "seed=8"], "c"));
    assert!(weights("a") == weights("b") && weights("a") != weights("c"));
    // Monte-Carlo draws of whoever sampled are enough for the other estimator.
    succeeded(&sft(&small, &config, &["steps=2", "estimator={ name = \"reverse_kl_mc\", draws = 4 }"], "d"));

    // A store that does not hold what is asked for says so before anything is written.
    for (sets, says) in [
        (
            &["estimator={ name = \"forward_kl\", top_k = 64 }"][..],
            &["reads 64 of `teacher_top_ids`", "`main`", "keeps 8"][..],
        ),
        (&["estimator={ name = \"reverse_kl_mc\", draws = 9 }"], &["reads 9 of `draw_teacher_logprobs`", "keeps 4"]),
        (&["scores.set=other"], &["has no score set `other`", "it has `main`"]),
        (&["scores.versions=[1, 3]"], &["has no rollouts of policies 1 to 3 with scores in `main`"]),
        (&["scores.versions=[3, 1]"], &["scores.versions is [3, 1]"]),
        (&["scores.shuffle_batches=0"], &["scores.shuffle_batches is 0"]),
        (&["scores.stor=x"], &["did you mean `store`?"]),
        (&["data=train.jsonl"], &["both data and scores"]),
        (&["scores.store=nowhere"], &["there is no run at `nowhere`"]),
    ] {
        refused(&sft(&small, &config, sets, "none"), says);
    }
    let tokenizer = std::fs::read_to_string(small.path("student/tokenizer.json")).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    let vocabulary = other["model"]["vocab"].as_object_mut().unwrap();
    let (seven, eight) = (vocabulary["7"].clone(), vocabulary["8"].clone());
    vocabulary.extend([("7".to_string(), eight), ("8".to_string(), seven)]);
    std::fs::write(small.path("student/tokenizer.json"), other.to_string()).unwrap();
    let output = sft(&small, &config, &[], "none");
    assert_eq!(text(&output.stderr).matches("sha256:").count(), 2, "{}", text(&output.stderr));
    refused(&output, &["has the tokenizer", "one token map"]);
    std::fs::write(small.path("student/tokenizer.json"), tokenizer).unwrap();
    assert!(!small.path("none").exists());

    // One damaged batch is passed over by name.
    let damage = |batch: &Path| {
        let mut bytes = std::fs::read(batch).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(batch, bytes).unwrap();
    };
    let batches = std::fs::read_dir(small.path("store/scores/main")).unwrap().map(|batch| batch.unwrap().path());
    let batches: Vec<_> = batches.collect();
    damage(&batches[0]);
    let output = sft(&small, &config, &["steps=6"], "e");
    succeeded(&output);
    assert!(text(&output.stderr).contains("passed over: batch `u"), "{}", text(&output.stderr));
    // Where all are, there is an end to it, however many are read at a time.
    batches[1..].iter().for_each(|batch| damage(batch));
    for at_once in ["scores.shuffle_batches=1", "scores.shuffle_batches=1000"] {
        let says = format!("none of the {} batches in", batches.len());
        refused(&sft(&small, &config, &[at_once], "f"), &[says.as_str()]);
    }
}

#[test]
fn sft_learns_completions_of_texts_and_chats() {
    let small = Small::new();
    let template = "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}Q: {{ m.content }}\n{% endfor %}A:";
    std::fs::write(small.path("student/chat_template.jinja"), template).unwrap();
    let config = "model = \"student\"\ndata = \"data.jsonl\"\nsteps = 30\nrows_per_step = 4\nthreads = 1\ndtype = \"float16\"\n\
                  optimizer.learning_rate = 2e-2\neval = { path = \"heldout.jsonl\", max_new_tokens = 3 }\n";
    let line = |prompt: &str, completion: &str| {
        format!("{{\"prompt\": {prompt}, \"completion\": \"{completion}\", \"source\": \"x\"}}\n")
    };
    let chat = r#"[{"role": "user", "content": "1 + 1?"}]"#;
    std::fs::write(small.path("data.jsonl"), line(r#""Q: 1 + 1?\nA:""#, " 2") + &line(chat, " 2")).unwrap();
    let output = sft(&small, config, &[], "out");
    succeeded(&output);
    assert!(text(&output.stdout).contains("held-out accuracy"), "{}", text(&output.stdout));
    // A text and the chat that renders to it are the same example, so it is learned by heart.
    let said = text(&output.stderr);
    let last: f64 = said.rsplit("loss ").next().unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(last < 0.3, "{said}");
    let saved: serde_json::Value =
        serde_json::from_slice(&std::fs::read(small.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(saved["dtype"], "float16");
    Transformer::load(&small.path("out"), Device::Cpu).unwrap();

    for (lines, says) in [
        (
            line("\"Q: 1?\"", " 2") + &line(r#"[{"role": "bad", "content": "1"}]"#, " 2"),
            &["data.jsonl`, line 2", "no such role"][..],
        ),
        (line("\"Q: 1?\"", " 2") + "{\"prompt\": \"Q: 1?\"}\n", &["data.jsonl`, line 2", "`completion`"]),
        (line("\"Q: 1?\"", ""), &["line 1", "the completion is empty"]),
        (line("\"Q: 1?\"", &"7 ".repeat(60)), &["line 1", "tokens; the context is 48"]),
    ] {
        std::fs::write(small.path("data.jsonl"), lines).unwrap();
        refused(&sft(&small, config, &[], "none"), says);
    }
    // Held-out problems are not left to the first test, when there is something to lose.
    std::fs::write(small.path("data.jsonl"), line("\"Q: 1?\"", " 2")).unwrap();
    let says = ["heldout.jsonl`, line 1: the prompt has ", "eval.max_new_tokens = 48 the context of 48 is exceeded"];
    refused(&sft(&small, config, &["eval.max_new_tokens=48"], "none"), &says);
    refused(&sft(&small, config, &["eval.max_new_tokens=0"], "none"), &["eval.max_new_tokens is 0"]);
    let says = ["data.jsonl`, line 1: there is no `answer`", "[eval] needs an answer for each prompt"];
    refused(&sft(&small, config, &["eval.path=data.jsonl"], "none"), &says);
    refused(&sft(&small, config, &["dtype=int8"], "none"), &["dtype is `int8`", "`float16`"]);
    refused(&sft(&small, config, &["estimator={ name = \"forward_kl\", top_k = 8 }"], "none"), &["data and estimator"]);
    refused(&sft(&small, &config.replace("data = \"data.jsonl\"", ""), &[], "none"), &["neither data nor scores"]);
    assert!(!small.path("none").exists());
}

fn export(small: &Small, version: &str, dir: &Path, more: &[&str]) -> std::process::Output {
    opd().args(["export-policy", &small.store(), version]).arg(dir).args(more).output().unwrap()
}

/// How likely the network finds a text.
fn logprobs(dir: &Path) -> Vec<f32> {
    tch::set_num_threads(1);
    let network = Transformer::load(dir, Device::Cpu).unwrap();
    let row = ScoreRow {
        prompt_ids: &[5, 6, 7],
        response_ids: &[8, 9, 10],
        draw_ids: &Default::default(),
        sampler_top_ids: &Default::default(),
        seed: 0,
    };
    let params = ScoringParams { temperature: 1.0, top_k: None, draws: 0, max_tokens_per_batch: 64 };
    model::score(&network, &[row], &params).unwrap().remove(0).teacher_logprobs
}

#[test]
fn a_published_version_becomes_a_hugging_face_directory() {
    let small = Small::new();
    std::fs::write(small.path("student/chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    succeeded(&small.run(&["learn.steps=12", "learn.keep_policies=2", "learn.rows_per_step=4"]));
    let out = small.path("exported/latest");
    let output = export(&small, "latest", &out, &[]);
    succeeded(&output);
    assert!(text(&output.stdout).starts_with("wrote policy v12 of `small`"), "{}", text(&output.stdout));
    let mut names: Vec<String> =
        std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let all = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names, all);
    for name in &all[..] {
        if name.contains("token") || name.contains("chat") {
            assert_eq!(
                std::fs::read(out.join(name)).unwrap(),
                std::fs::read(small.path("student").join(name)).unwrap()
            );
        }
    }
    // The weights are those that the step committed; what was read from the config is read from this one.
    let digest = record::Digest::of(&std::fs::read(out.join("model.safetensors")).unwrap()).to_string();
    assert_eq!(small.sql("select weights_digest from steps order by step desc limit 1"), [digest]);
    let config = |dir: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
    };
    let (mut given, written) = (config(&small.path("student")), config(&out));
    assert_eq!(written["dtype"], "float32");
    for key in ["dtype", "torch_dtype", "eos_token_id"] {
        given[key] = written[key].clone();
    }
    if given["torch_dtype"].is_null() {
        given.as_object_mut().unwrap().remove("torch_dtype");
    }
    assert_eq!(given, written);
    let exact = logprobs(&out);
    for (dtype, bound) in [("bfloat16", 2e-2), ("float16", 2e-3)] {
        let dir = small.path(dtype);
        // An empty folder is as good as none.
        std::fs::create_dir(&dir).unwrap();
        succeeded(&export(&small, "v12", &dir, &["--dtype", dtype]));
        assert_eq!(config(&dir)["dtype"], dtype);
        let most = exact.iter().zip(logprobs(&dir)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < bound, "{dtype}: {most}");
        let size = |dir: &Path| std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
        assert!(size(&dir) < size(&out) * 2 / 3, "{dtype}");
    }
    // Version 0 is the student as given.
    succeeded(&export(&small, "0", &small.path("first"), &[]));
    assert_eq!(logprobs(&small.path("first")), logprobs(&small.path("student")));

    let new = small.path("new");
    refused(&export(&small, "latest", &out, &[]), &["is in it already", "new or an empty folder"]);
    refused(&export(&small, "latest", &small.path("train.jsonl"), &[]), &["train.jsonl"]);
    refused(&export(&small, "13", &new, &[]), &["has no policy 13: the run is at version 12", "kept: 12"]);
    refused(&export(&small, "3", &new, &[]), &["has no policy 3: it was retired", "the nearest that are kept: 0, 9"]);
    refused(&export(&small, "newest", &new, &[]), &["VERSION is `newest`", "`latest`"]);
    refused(&export(&small, "1", &new, &["--dtype", "int8"]), &["--dtype is `int8`"]);
    // A file that cannot be written leaves nothing behind.
    refused(&export(&small, "12", Path::new("/proc/nowhere/x"), &[]), &["cannot be written"]);
    assert!(!new.exists());
    let left: Vec<_> = std::fs::read_dir(small.dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("unfinished"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let output = opd().args(["export-policy", "nowhere", "0"]).arg(&new).output().unwrap();
    refused(&output, &["there is no run at `nowhere`"]);
}
