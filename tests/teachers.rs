//! Several teachers, each for its own prompts.

use crate::support::{Small, succeeded, text};
use std::process::Stdio;

const DIGESTS: &str = "select step, weights_digest from steps order by step";

#[test]
fn each_prompt_is_scored_by_its_teacher_and_the_run_repeats_bit_for_bit() {
    let (first, second) = (Small::new().with_two_teachers(), Small::new().with_two_teachers());
    let output = first.run(&[]);
    succeeded(&output);
    assert!(text(&output.stderr).contains("scores for `second`, `teacher`"), "{}", text(&output.stderr));
    succeeded(&second.run(&["score.workers=2"]));
    assert_eq!(first.sql(DIGESTS), second.sql(DIGESTS));
    assert_eq!(first.sql("select count(*), count(distinct rollout_id), max(staleness) from consumed"), ["32,32,0"]);
    // The even prompts are the first teacher's, the odd ones the second's, and each batch is of one of them.
    let routed = "select teacher_id, prompt_id % 2, count(*) > 0 from rollouts group by 1, 2 order by 1";
    assert_eq!(first.sql(routed), ["second,1,true", "teacher,0,true"]);
    // Two networks that differ say different things of the same prompt's answers.
    let alone = Small::new();
    succeeded(&alone.run(&[]));
    assert_ne!(alone.sql(DIGESTS), first.sql(DIGESTS));
}

#[test]
fn score_workers_of_one_teacher_each_make_the_same_run() {
    let (whole, parts) = (Small::new().with_two_teachers(), Small::new().with_two_teachers());
    succeeded(&whole.run(&[]));
    let job = |name: &str, teacher: &str| {
        let mut program = parts.command(name, &[]);
        if !teacher.is_empty() {
            program.args(["--teacher", teacher]);
        }
        program.stderr(Stdio::piped()).spawn().unwrap()
    };
    let learn = job("learn", "");
    let others = [job("rollout", ""), job("score", "teacher"), job("score", "second")];
    succeeded(&learn.wait_with_output().unwrap());
    let said: Vec<String> = others.map(|job| text(&job.wait_with_output().unwrap().stderr)).into();
    assert!(said[1].contains("scores for `teacher`\n") && said[2].contains("scores for `second`\n"), "{said:?}");
    assert_eq!(parts.sql(DIGESTS), whole.sql(DIGESTS));
    // Each worker scored what is for its teacher alone.
    let workers = "select count(distinct worker) from commits where kind = 'scores'";
    assert_eq!(parts.sql(workers), ["2"]);
}

#[test]
fn teachers_that_do_not_fit_are_refused_by_name() {
    let small = Small::new().with_two_teachers();
    let refused = |command: &str, sets: &[&str], more: &[&str], says: &[&str]| {
        let output = small.command(command, sets).args(more).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{sets:?}: {said}");
        for words in says {
            assert!(said.contains(words), "{sets:?} should say {words:?}:\n{said}");
        }
        assert!(!small.path("store").exists());
    };
    refused("run", &["teachers.second.model=nowhere"], &[], &["teachers.second.model is `", "no such folder"]);
    // Said at once, not when there is a run to score for.
    let says = ["--teacher `third`: the pipeline has `second`, `teacher`", "hint: "];
    refused("score", &[], &["--teacher", "third"], &says);
    refused("run", &["teachers.teacher.model=second"], &[], &["both [teacher] and teachers.teacher"]);
    refused("run", &["teachers.Ünder.model=second"], &[], &["teachers.`Ünder`", "a-z, 0-9"]);
    refused("run", &["teachers.second.device=tpu"], &[], &["teachers.second.device", "tpu"]);
    refused("run", &["teachers.second.modl=x"], &[], &["did you mean `model`?"]);
    std::fs::write(small.path("lost.jsonl"), "{\"prompt\": \"1\"}\n{\"prompt\": \"2\", \"teacher_id\": \"third\"}\n")
        .unwrap();
    let says = ["lost.jsonl`, line 2", "`teacher_id` is `third`", "has `second`, `teacher`", "[teachers] third = {"];
    refused("run", &["prompts.path=lost.jsonl"], &[], &says);
    // A teacher with another token map is named, whichever it is.
    let path = small.path("second/tokenizer.json");
    let tokenizer = std::fs::read_to_string(&path).unwrap();
    let mut other: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    let vocabulary = other["model"]["vocab"].as_object_mut().unwrap();
    let (seven, eight) = (vocabulary["7"].clone(), vocabulary["8"].clone());
    vocabulary.extend([("7".to_string(), eight), ("8".to_string(), seven)]);
    std::fs::write(&path, other.to_string()).unwrap();
    refused("run", &[], &[], &["and teacher `", "second` differ"]);
    std::fs::write(&path, tokenizer).unwrap();
    // Prompts that name nobody need [teacher].
    let pipeline = std::fs::read_to_string(small.path("small.toml")).unwrap();
    std::fs::write(small.path("small.toml"), pipeline.replace("teacher.model = \"teacher\"\n", "")).unwrap();
    refused("run", &[], &[], &["line 1: there is no `teacher_id`", "the pipeline has `second`", "add [teacher]"]);
    // So do held-out ones, unless nobody is asked about them.
    std::fs::write(small.path("routed.jsonl"), "{\"prompt\": \"1\", \"teacher_id\": \"second\"}\n").unwrap();
    refused("run", &["prompts.path=routed.jsonl"], &[], &["heldout.jsonl`, line 1: there is no `teacher_id`"]);
    let sets = ["prompts.path=routed.jsonl", "eval.reverse_kl=false"];
    succeeded(&small.command("run", &sets).arg("--dry-run").output().unwrap());
}
