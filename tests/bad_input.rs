//! What is wrong is said before any work: exit status 2, the key or file, both values, what to do; nothing is written.

use crate::support::{Small, opd, succeeded, text};
use std::process::Stdio;

/// Runs with `sets` and asserts a clean refusal that says each of `says`.
fn refused(small: &Small, sets: &[&str], says: &[&str]) {
    let output = small.command("run", sets).env_remove("AWS_ACCESS_KEY_ID").output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{sets:?}: {said}");
    for words in says {
        assert!(said.contains(words), "{sets:?} should say {words:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert!(!small.path("store").exists(), "{sets:?}: nothing is written");
}

#[test]
fn settings_that_make_no_sense() {
    let small = Small::new();
    let forward = "learn.estimator={ name = \"forward_kl\", top_k = 64 }";
    for (sets, says) in [
        (&["learn.rows_per_stp=8"][..], &["learn.rows_per_stp", "did you mean `rows_per_step`?"][..]),
        (&["rolout.draws=8"], &["rolout", "did you mean `rollout`?"]),
        (&["rollout.top_p=0.9"], &["rollout.top_p is 0.9", "reverse_kl_mc", "set rollout.top_p = 1"]),
        (&["rollout.draws=2"], &["reads 4", "rollout.draws stores 2"]),
        (&[forward], &["forward_kl", "reads 64", "score.top_k_max stores 8"]),
        (
            &["learn.estimator={ name = \"jsd\", top_k = 8, support = \"student_top_k\" }"],
            &["jsd", "reads 8", "rollout.top_k_max stores 4"],
        ),
        (
            &["learn.estimator={ name = \"skewed_kl\", top_k = 8, alpha = 1.0 }"],
            &["estimator.alpha", "is 1", "above 0 and below 1"],
        ),
        (
            &["learn.estimator.correction={ name = \"truncated\", c = 0.5 }"],
            &["estimator.correction.c", "is 0.5", "1 or more"],
        ),
        (&["learn.estimator.correction=\"truncate\""], &["learn.estimator", "did you mean `truncated`?"]),
        (
            &["learn.estimator.correction={ name = \"decoupled_ppo\", minibatches = 4 }"],
            &[
                "learn.checkpoint_every is 2",
                "learn.estimator.correction.minibatches is 4",
                "a multiple of minibatches",
            ],
        ),
        (
            &["learn.estimator.correction={ name = \"decoupled_ppo\", minibatches = 0 }"],
            &["estimator.correction.minibatches", "is 0", "1 or more"],
        ),
        (&["learn.estimator.correction={ name = \"m2po\", budget = -1 }"], &["estimator.correction.budget", "is -1"]),
        (
            &["learn.estimator={ name = \"reverse_kl_hybrid\", top_k = 8, draws = 4 }"],
            &["reverse_kl_hybrid", "reads 8", "rollout.top_k_max stores 4", "rollout.top_k_max = 8"],
        ),
        (&["rollout.draws_kept=tail"], &["reverse_kl_mc", "reads all draws", "rollout.draws_kept is `tail`", "hint:"]),
        (&["learn.rows_per_step=6"], &["learn.rows_per_step is 6", "a unit has 4 rows"]),
        (&["learn.publish_every=2"], &["learn.publish_every is 2 at learn.max_staleness = 0"]),
        (&["rollout.lag=1"], &["rollout.lag is 1, learn.max_staleness 0", "born too stale"]),
        (
            &["learn.max_staleness=2", "rollout.lag=1", "learn.min_staleness=2"],
            &["learn.min_staleness is 2, rollout.lag 1"],
        ),
        (
            &["learn.max_staleness=2", "rollout.lag=1", "learn.publish_every=2"],
            &["rollout.lag is 1 and learn.publish_every 2"],
        ),
        (&["learn.when_stale=skip"], &["learn.when_stale", "unknown variant `skip`", "`drop`, `wait`, `reweight`"]),
        (&["rollout.temperature=0"], &["rollout.temperature is 0"]),
        (&["learn.steps=0"], &["learn.steps is 0"]),
        (&["learn.device=tpu"], &["learn.device", "tpu"]),
        (&["learn.device=cuda"], &["learn.device", "no CUDA here"]),
        (&["store.url=memory:///"], &["memory:///", "processes of their own"]),
        (&["store.url=ftp://x/y"], &["ftp://x/y"]),
        (&["store.url=s3://bucket/run"], &["s3://bucket/run", "no credentials", "AWS_ACCESS_KEY_ID"]),
        (&["rollout.max_new_tokens=60"], &["rollout.max_new_tokens = 60", "context of 48"]),
    ] {
        refused(&small, sets, says);
    }
}

#[test]
fn files_that_are_missing_or_do_not_fit() {
    let small = Small::new();
    refused(&small, &["student.model=nowhere"], &["student.model", "nowhere", "no such folder"]);
    refused(&small, &["prompts.path=nowhere.jsonl"], &["nowhere.jsonl"]);
    std::fs::write(small.path("long.jsonl"), format!("{{\"prompt\": \"{}\"}}\n", "7 ".repeat(80))).unwrap();
    refused(&small, &["prompts.path=long.jsonl"], &["long.jsonl", "line 1: the prompt has", "the context of 48"]);
    std::fs::write(small.path("open.jsonl"), "{\"prompt\": \"2 + 2?\"}\n").unwrap();
    refused(
        &small,
        &["eval.sets={ open = \"open.jsonl\" }"],
        &["open.jsonl", "line 1: there is no `answer`", "answers = false"],
    );
    std::fs::write(small.path("text.jsonl"), "2 + 2?\n").unwrap();
    refused(&small, &["prompts.path=text.jsonl"], &["text.jsonl", "line 1"]);
}

#[test]
fn prompts_that_cannot_be_asked() {
    let small = Small::new();
    let write = |name: &str, bytes: &[u8]| std::fs::write(small.path(name), bytes).unwrap();
    let good = "{\"prompt\": \"Q: 1?\", \"answer\": \"1\"}\n";
    write("good.jsonl", good.as_bytes());
    write("bytes.jsonl", b"{\"prompt\": \"\xff\"}\n");
    write("empty.jsonl", format!("{good}{{\"prompt\": \"\"}}\n").as_bytes());
    write("routed.jsonl", format!("{good}{{\"prompt\": \"a\", \"teacher_id\": \"math\"}}\n").as_bytes());
    write("chat.jsonl", b"{\"prompt\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n");
    write("table.csv", b"prompt,answer\n1,2\n");
    write("cut.parquet", b"PAR1 and no more");
    let eval = "eval.sets={ x = { path = \"good.jsonl\", keys = { answer = \"final\" } } }";
    for (sets, says) in [
        (&["prompts.path=bytes.jsonl"][..], &["bytes.jsonl`, line 1: not UTF-8"][..]),
        (&["prompts.path=empty.jsonl"], &["empty.jsonl`, line 2: the prompt is empty"]),
        (&["prompts.path=table.csv"], &["prompts: `", "table.csv` is neither .jsonl nor .parquet"]),
        (&["prompts.path=cut.parquet"], &["cut.parquet`: not a whole Parquet file"]),
        (
            &["prompts.path=routed.jsonl"],
            &["routed.jsonl`, line 2: `teacher_id` is `math`, the pipeline has `teacher`"],
        ),
        (&["prompts.path=chat.jsonl"], &["chat.jsonl`, line 1", "no chat template", "chat_template.jinja"]),
        (&["prompts.keys={ prompt = \"question\" }"], &["line 1: there is no `question`; there is `prompt`, `answer`"]),
        (
            &["prompts.template={{ question }}"],
            &["line 1: template `prompts.template`", "the template reads `question`"],
        ),
        (&["prompts.template={% if %}"], &["template `prompts.template`: line 1"]),
        (&["prompts.system=S"], &["line 1: there is a system message", "set chat = true"]),
        (&[eval], &["good.jsonl`, line 1: there is no `final`; there is `prompt`, `answer`", "keys.answer"]),
        (&["eval.sets={ x = { path = \"good.jsonl\", samples = 0 } }"], &["eval.sets.x.samples is 0", "1 or more"]),
        (
            &["eval.sets={ x = { path = \"good.jsonl\", sample = 2 } }"],
            &["eval.sets.x.sample", "did you mean `samples`?"],
        ),
    ] {
        refused(&small, sets, says);
    }
    std::fs::write(small.path("student/chat_template.jinja"), "{{ raise_exception('only tools') }}").unwrap();
    refused(&small, &["prompts.path=chat.jsonl"], &["chat.jsonl`, line 1", "student", "it raises: only tools"]);
    std::fs::write(small.path("student/chat_template.jinja"), "\n{% for %}").unwrap();
    refused(&small, &[], &["student.model: template", "chat_template.jinja`: line 2"]);
}

#[test]
fn a_teacher_with_another_tokenizer() {
    let small = Small::new();
    let path = small.path("teacher/tokenizer.json");
    let tokenizer = std::fs::read_to_string(&path).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    // The same size, but two tokens have changed places.
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (seven, eight) = (vocabulary["7"].clone(), vocabulary["8"].clone());
    vocabulary["7"] = eight;
    vocabulary["8"] = seven;
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    refused(&small, &[], &["the tokenizers of student", "differ", "one token map for both"]);
}

#[test]
fn a_model_that_is_damaged_or_unknown() {
    let small = Small::new();
    let weights = small.path("student/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    refused(&small, &[], &["model.safetensors"]);
    std::fs::remove_file(&weights).unwrap();
    refused(&small, &[], &["model.safetensors"]);
    std::fs::write(&weights, whole).unwrap();
    let config = std::fs::read_to_string(small.path("teacher/config.json")).unwrap();
    std::fs::write(small.path("teacher/config.json"), config.replace("qwen3", "mamba")).unwrap();
    refused(&small, &[], &["teacher.model", "mamba"]);
}

#[test]
fn a_store_that_belongs_to_another_pipeline() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    let commits = small.sql("select count(*) from commits");
    for (set, says) in [
        ("seed=4", "seed"),
        ("name=other", "other"),
        ("rollout.prompts_per_unit=2", "unit"),
        ("score.top_k_max=16", "score"),
        ("teacher.model=student", "teacher"),
    ] {
        let output = small.run(&["learn.steps=1", set]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{set}: {said}");
        assert!(said.contains("belongs to another run") && said.contains(says), "{set}: {said}");
    }
    std::fs::write(small.path("student/chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let said = text(&small.run(&["learn.steps=1"]).stderr);
    assert!(said.contains("student's other files") && said.contains("chat_template.jinja sha256:"), "{said}");
    assert_eq!(small.sql("select count(*) from commits"), commits, "nothing was written");
}

#[test]
fn two_pipelines_that_are_started_on_one_store_at_once() {
    let small = Small::new();
    let start = |seed: &str| {
        let mut program = small.command("run", &["learn.steps=1", seed]);
        program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs = ["seed=4", "seed=5"].map(start).map(|run| run.wait_with_output().unwrap());
    let (won, lost) = if runs[0].status.success() { (&runs[0], &runs[1]) } else { (&runs[1], &runs[0]) };
    succeeded(won);
    let said = text(&lost.stderr);
    assert_eq!(lost.status.code(), Some(2), "{said}");
    for words in
        ["belongs to another run: its seed is", "the pipeline's is", "hint: give this pipeline a store of its own"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(small.sql("select count(*) from steps"), ["1"]);
}

#[test]
fn a_cache_that_cannot_be_where_it_is_asked_for() {
    let small = Small::new();
    let file = small.path("train.jsonl").display().to_string();
    let cache = format!("store.cache={{ path = \"{file}/cache\", bytes = 1000 }}");
    let named = format!("`{file}/cache` cannot hold copies");
    let says = [named.as_str(), "Not a directory", "leave store.cache away"];
    // Only a bucket has one; nobody has to answer there.
    let mut program = small.command("run", &[&cache, "store.url=s3://bucket/run"]);
    let output = program.env("AWS_ACCESS_KEY_ID", "x").env("AWS_ENDPOINT", "http://127.0.0.1:9").output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(says.iter().all(|words| said.contains(words)), "{said}");
    refused(&small, &["store.cache={ path = \"c\", bytes = 0 }"], &["store.cache.bytes is 0", "1 or more"]);
    refused(&small, &["store.cache={ path = \"c\", size = 9 }"], &["store.cache.size", "unknown field `size`"]);
}

#[test]
fn a_folder_that_holds_something_else() {
    let small = Small::new();
    std::fs::create_dir(small.path("store")).unwrap();
    std::fs::write(small.path("store/thesis.tex"), "\\documentclass{article}").unwrap();
    let output = small.run(&[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in ["holds something else and no run", "`thesis.tex`", "hint: give the run a folder or prefix of its own"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(std::fs::read_dir(small.path("store")).unwrap().count(), 1, "nothing was written");
    // What a start leaves that died before its first commit is nothing else.
    std::fs::remove_file(small.path("store/thesis.tex")).unwrap();
    std::fs::create_dir(small.path("store/policies")).unwrap();
    std::fs::write(small.path("store/policies/config-0.json"), "{}").unwrap();
    succeeded(&small.run(&["learn.steps=1"]));
}

#[test]
fn a_store_that_a_newer_program_wrote() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    std::fs::remove_dir_all(small.path("store/log/snapshot")).unwrap_or_default();
    let first = small.path("store/log/00000000000000000000.json");
    let commit = std::fs::read_to_string(&first).unwrap();
    let format = record::Commit::from_json(commit.as_bytes()).unwrap().format;
    let newer = commit.replacen(&format!("\"format\":{format}"), "\"format\":97", 1);
    let reads = format!("reads up to {}", record::FORMAT);
    assert_ne!(commit, newer);
    std::fs::write(&first, newer).unwrap();
    let run = small.run(&["learn.steps=1"]);
    let status = opd().args(["status", &small.store()]).output().unwrap();
    let rollout = small.command("rollout", &["learn.steps=1"]).output().unwrap();
    for output in [run, status, rollout] {
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for words in ["`log/00000000000000000000.json` has format 97", &reads, "hint: use a newer `opd`"] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

#[test]
fn a_job_that_has_other_files_than_the_run() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    std::fs::write(small.path("train.jsonl"), "{\"prompt\": \"Q: 1 + 1?\"}\n").unwrap();
    small.write_model("teacher", 3, 24);
    for (job, says) in [("rollout", "prompts.path is"), ("score", "teacher.model is")] {
        let output = small.command(job, &["learn.steps=1"]).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{job}: {said}");
        assert!(said.contains(says) && said.matches("sha256:").count() == 2 && said.contains("hint:"), "{job}: {said}");
    }
}

#[test]
fn more_steps_than_a_run_that_has_ended() {
    let small = Small::new();
    // Bounds that mean "without an end" are no fault.
    succeeded(&small.run(&["learn.steps=1", "learn.max_staleness=9223372036854775807", "run.claim_timeout_s=1e300"]));
    let output = small.run(&["learn.steps=2"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("has ended with step 1; learn.steps is 2") && said.contains("hint:"), "{said}");
}

#[test]
fn a_store_that_is_not_there() {
    let small = Small::new();
    for command in [&["status"][..], &["sql"]] {
        let mut program = opd();
        program.args(command).arg(small.store());
        if command == ["sql"] {
            program.arg("select 1");
        }
        let output = program.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("there is no run at") && said.contains("hint:"), "{said}");
    }
    assert!(!small.path("store").exists());
}

#[test]
fn questions_that_cannot_be_answered() {
    let small = Small::new();
    succeeded(&small.run(&["learn.steps=1"]));
    for (query, says) in [
        ("select stalenes from consumed", "staleness"),
        ("select * from rollout", "rollouts"),
        ("drop table rollouts", "drop"),
        ("insert into rollouts values (1)", "insert"),
        ("selct 1", "selct"),
    ] {
        let output = opd().args(["sql", &small.store(), query]).output().unwrap();
        let said = text(&output.stderr).to_lowercase();
        assert_eq!(output.status.code(), Some(2), "{query}: {said}");
        assert!(said.contains(says) && !said.contains("panicked"), "{query}: {said}");
    }
}
