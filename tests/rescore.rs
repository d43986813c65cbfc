//! Recorded rollouts scored again: another teacher, beside the run's own scores.

use crate::support::{Small, opd, refused, succeeded, text};
use std::process::{Child, Command, Stdio};

const SCORES: &str = "select batch, \"row\", teacher_logprobs, teacher_top_ids from scores where score_set = ";

/// A finished run of four steps and eight batches.
fn recorded() -> Small {
    let small = Small::new();
    small.write_model("other", 9, 24);
    succeeded(&small.run(&["learn.max_staleness=1"]));
    small
}

/// `opd score --set NAME --teacher MODEL OF ARGS`
fn score(small: &Small, name: &str, model: &str, of: &str, args: &[&str]) -> Command {
    let mut program = opd();
    program.args(["score", "--set", name, "--teacher"]).arg(small.path(model)).arg(of).args(args);
    program
}

fn start(mut program: Command) -> Child {
    program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn the_same_teacher_gives_the_same_scores_and_another_its_own() {
    let small = recorded();
    let before = small.sql("select step, rollout_id from consumed");
    let output = score(&small, "same", "teacher", &small.store(), &[]).output().unwrap();
    succeeded(&output);
    assert_eq!(text(&output.stdout), "score set `same`: 8 of 8 batches, 8 of them scored now\n");
    let of = |name: &str| small.sql(&format!("{SCORES}'{name}' order by 1, 2"));
    assert_eq!(of("same"), of("main"));
    assert_eq!(of("same").len(), 32);
    // Another teacher, of which more is kept.
    let pipeline = small.path("small.toml").display().to_string();
    let at = format!("store.url={}", small.store());
    let more = ["--set", &at, "--set", "score.top_k_max=12"];
    succeeded(&score(&small, "other", "other", &pipeline, &more).output().unwrap());
    assert_eq!(of("other").len(), 32);
    assert_ne!(of("other"), of("main"));
    let most = "select max(array_length(teacher_top_ids[1])) from scores where score_set = ";
    assert_eq!(small.sql(&format!("{most}'other'")), ["12"]);
    assert_eq!(small.sql(&format!("{most}'main'")), ["8"]);
    // The run is as it was.
    assert_eq!(small.sql("select step, rollout_id from consumed"), before);
    let again = score(&small, "other", "other", &pipeline, &more).output().unwrap();
    succeeded(&again);
    assert_eq!(text(&again.stdout), "score set `other`: 8 of 8 batches, 0 of them scored now\n");

    // What was scored anew can be learned from anew.
    let replay = |set: &str, into: &str, args: &[&str]| {
        let mut program = opd();
        program.args(["replay", "--from", &small.store(), "--score-set", set, "--into"]).arg(small.path(into));
        let output =
            program.arg(small.path("small.toml")).args(["--set", "learn.max_staleness=1"]).args(args).output().unwrap();
        succeeded(&output);
        text(&output.stdout)
    };
    assert_eq!(replay("same", "a", &[]), "4 steps, every weights digest equal to the parent's\n");
    let said = replay("other", "b", &[]);
    assert!(
        said.contains("from step 1 on\n") && said.contains("score.set: `main` in the parent, `other` here"),
        "{said}"
    );
    // A condition is of the scores that are learned from; that it ends with a comment is its own affair.
    let evaluate = |set: &str| {
        let mut program = opd();
        program.args(["replay", "--evaluate", "--from", &small.store(), "--score-set", set, "--where"]);
        program.arg("array_length(teacher_top_ids[1]) > 8 -- more than `main` keeps").arg(small.path("small.toml"));
        program.args(["--set", "learn.max_staleness=1"]).output().unwrap()
    };
    refused(&evaluate("main"), &["selects no row"]);
    succeeded(&evaluate("other"));

    // Of more than the run itself keeps; what comes of it is evaluated by the same settings.
    let wider = ["--set", "learn.estimator={ name = \"forward_kl\", top_k = 12 }"];
    replay("other", "wide", &wider);
    let wide = small.path("wide").display().to_string();
    let mut eval = opd();
    eval.arg("eval").arg(small.path("small.toml")).args(wider).arg("--set").arg(format!("store.url={wide}"));
    succeeded(&eval.output().unwrap());
    let evaluated = opd().args(["sql", &wide, "select max(policy_version) from evals", "--format", "csv"]).output();
    assert_eq!(text(&evaluated.unwrap().stdout).lines().nth(1), Some("4"));

    // A replay has no rows to be scored.
    let says = [&format!("the run in `{wide}` is a replay"), &format!("hint: name `{}` instead", small.store())];
    let says = says.map(String::as_str);
    refused(&score(&small, "new", "other", &wide, &[]).output().unwrap(), &says);
    refused(&opd().args(["compact", &wide, "--codec", "fast", "--set", "new"]).output().unwrap(), &says);
}

#[test]
fn scoring_anew_goes_on_where_it_was_killed_and_several_share_it() {
    let small = recorded();
    let store = small.store();
    for point in ["before_put", "after_put", "after_commit"] {
        let (name, failpoint) = (format!("killed.{point}"), format!("score.{point}:3"));
        let mut deaths = 0;
        loop {
            let output = score(&small, &name, "other", &store, &[]).env("OPD_FAILPOINT", &failpoint).output().unwrap();
            if output.status.success() {
                break;
            }
            assert_eq!(output.status.code(), None, "it was killed: {}", text(&output.stderr));
            deaths += 1;
            assert!(deaths < 12, "{point}: it makes no headway");
        }
        assert!(deaths > 0, "{point}");
        let counts = format!("select count(*), count(distinct rollout_id) from scores where score_set = '{name}'");
        assert_eq!(small.sql(&counts), ["32,32"], "{point}");
    }
    let two: Vec<_> = (0..2).map(|_| start(score(&small, "shared", "other", &store, &[]))).collect();
    for one in two {
        succeeded(&one.wait_with_output().unwrap());
    }
    let scores = |name: &str| {
        small.sql(&format!(
            "select distinct batch, \"row\", teacher_logprobs from scores where score_set = '{name}' order by 1, 2"
        ))
    };
    assert_eq!(scores("shared"), scores("killed.after_put"));
}

#[test]
fn a_condition_chooses_batches_and_what_cannot_be_scored_is_said() {
    let small = recorded();
    let store = small.store();
    let output = score(&small, "some", "other", &store, &["--where", "unit < 3"]).output().unwrap();
    succeeded(&output);
    assert_eq!(small.sql("select count(distinct batch) from scores where score_set = 'some'"), ["3"]);
    // Of less than the run's own estimator reads, which reads the run's own.
    let less = ["--set", "learn.estimator={ name = \"forward_kl\", top_k = 8 }", "--set", "score.top_k_max=2"];
    let less = [&less[..], &["--where", "unit < 1"]].concat();
    succeeded(&score(&small, "less", "other", &store, &less).output().unwrap());
    for (name, model, args, says) in [
        ("main", "other", &[][..], &["--set `main` is the run's own score set"][..]),
        ("a b", "other", &[], &["--set `a b`", "letters"]),
        ("x", "nowhere", &[], &["--teacher is", "there is no such folder"]),
        ("x", "other", &["--where", "unit > 99"], &["--where `unit > 99` selects no rollout"]),
        ("x", "other", &["--where", "units > 9"], &["--where `units > 9`", "unit"]),
        ("some", "teacher", &[], &["--set `some` was begun as", "hint:"]),
        ("x", "other", &["--teacher", "second"], &["--teacher"]),
    ] {
        refused(&score(&small, name, model, &store, args).output().unwrap(), says);
    }
    let mut program = opd();
    refused(&program.args(["score", "--set", "x", &store]).output().unwrap(), &["--set `x`", "--teacher DIR"]);
    let mut program = small.command("score", &[]);
    refused(&program.args(["--where", "unit < 3"]).output().unwrap(), &["--where", "--set NAME"]);
    assert_eq!(small.sql("select count(*) from scores where score_set = 'x'"), ["0"]);
}
