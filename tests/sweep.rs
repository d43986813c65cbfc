//! A sweep through the binary: made, gone on with, asked, drawn, and refused where it would pass off other settings' results.

use crate::support::{Small, opd, succeeded, text};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader, Read},
    process::{Output, Stdio},
};

const SWEEP: &str = r#"
name = "rates"
pipeline = ["small.toml"]
into = "INTO"
seeds = [1, 2]
at_once = 2
set = { "learn.steps" = 2 }

[grid]
"learn.optimizer.learning_rate" = [1e-3, 1e-2]
"#;

fn sweep(small: &Small, text: &str, args: &[&str]) -> Output {
    let into = small.path("runs").display().to_string();
    std::fs::write(small.path("sweep.toml"), text.replace("INTO", &into)).unwrap();
    opd().arg("sweep").arg(small.path("sweep.toml")).args(args).output().unwrap()
}

#[test]
fn a_sweep_is_made_once_asked_again_and_drawn() {
    let small = Small::new();
    let listed = sweep(&small, SWEEP, &["--dry-run"]);
    succeeded(&listed);
    assert_eq!(text(&listed.stdout).lines().count(), 4);
    assert!(text(&listed.stdout).starts_with("learning_rate0.001-seed1  learn.steps=2  "), "{}", text(&listed.stdout));
    let refused = sweep(&small, SWEEP, &["--results"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("no run is finished yet"), "{}", text(&refused.stderr));

    // One run has been made before, as an ordinary one.
    succeeded(&sweep(&small, &SWEEP.replace("[1, 2]", "[1]").replace("[1e-3, 1e-2]", "[1e-3]"), &[]));
    let plot = small.path("rates.svg").display().to_string();
    let made = sweep(&small, SWEEP, &["--plot", &plot, "--format", "csv"]);
    succeeded(&made);
    let said = text(&made.stderr);
    assert!(said.contains("4 runs below") && said.contains("1 finished before"), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("-seed")).count(), 3, "three were made: {said}");
    let lines: Vec<String> = text(&made.stdout).lines().map(String::from).collect();
    assert!(lines[0].starts_with("learning_rate,runs,accuracy,sd,") && lines.len() == 3, "{lines:?}");
    assert!(lines[1].starts_with("0.001,2,") && lines[2].starts_with("0.01,2,"), "{lines:?}");
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("learn.optimizer.learning_rate") && svg.ends_with("</svg>\n"));

    let asked = sweep(
        &small,
        SWEEP,
        &["--sql", "select count(distinct training_reverse_kl), sum(steps) from results", "--format", "csv"],
    );
    succeeded(&asked);
    assert!(!text(&asked.stderr).contains("seed"), "nothing is made again: {}", text(&asked.stderr));
    assert_eq!(text(&asked.stdout).lines().nth(1), Some("4,8"), "four runs that differ, of two steps each");

    // What was asked for has changed since.
    let refused = sweep(&small, &SWEEP.replace("\"learn.steps\" = 2", "\"learn.steps\" = 3"), &["--results"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains("was made with `learn.steps = 2`, the sweep asks for `3`"), "{said}");
}

#[test]
fn a_run_that_fails_is_named_with_its_last_words_and_the_others_are_made() {
    let small = Small::new();
    let mixed = SWEEP.replace("[1e-3, 1e-2]", "[1e-2]") + "[arms.good]\n[arms.bad]\n\"student.model\" = \"nowhere\"\n";
    let made = sweep(&small, &mixed.replace("[1, 2]", "[1]"), &["--format", "csv"]);
    assert_eq!(made.status.code(), Some(2));
    let said = text(&made.stderr);
    assert!(said.contains("run `bad-learning_rate0.01-seed1` failed; its last words:"), "{said}");
    assert!(said.contains("nowhere") && said.contains("1 run failed"), "{said}");
    assert!(text(&made.stdout).contains("good,0.01,1,"), "{}", text(&made.stdout));
}

#[test]
fn what_failed_before_a_sweep_was_stopped_is_told_with_its_end() {
    let small = Small::new();
    let endless = SWEEP.replace("at_once = 2", "at_once = 1").replace("[1, 2]", "[1]").replace("= 2 }", "= 1000000 }")
        + "[arms.bad]\n\"student.model\" = \"nowhere\"\n[arms.good]\n";
    let endless = endless.replace("[1e-3, 1e-2]", "[1e-2]").replace("INTO", &small.path("runs").display().to_string());
    std::fs::write(small.path("sweep.toml"), endless).unwrap();
    let mut child = opd().arg("sweep").arg(small.path("sweep.toml")).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("failed; its last words:") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "{rest}");
    assert!(rest.contains("stopped;") && rest.contains("1 run failed: bad-learning_rate0.01-seed1"), "{rest}");
}

#[test]
fn a_sweep_of_replays_trains_each_arm_on_the_recorded_rows() {
    let small = Small::new();
    let parent = small.path("parent").display().to_string();
    succeeded(&small.run(&[&format!("store.url={parent}"), "eval.sets={}"]));
    let replays = format!(
        r#"
name = "estimators"
pipeline = ["small.toml"]
into = "INTO"
seeds = [1, 2]
at_once = 2
replay = {{ from = "{parent}", order = "seeded" }}

[arms.reverse]
[arms.forward]
"learn.estimator" = {{ name = "forward_kl", top_k = 8 }}
[arms.recorded]
replay = {{ from = "{parent}", where = "prompt_id < 12" }}
"#
    );
    let listed = sweep(&small, &replays, &["--dry-run"]);
    succeeded(&listed);
    assert!(
        text(&listed.stdout).contains(&format!("replay --from={parent} --order=seeded")),
        "{}",
        text(&listed.stdout)
    );
    let made = sweep(
        &small,
        &replays,
        &["--format", "csv", "--sql", "select arm, seed, steps, accuracy is not null from results order by 1, 2"],
    );
    succeeded(&made);
    let of_recorded =
        "select count(*) / 8 from consumed c join rollouts r on r.rollout_id = c.rollout_id where r.prompt_id < 12";
    let ask = |store: &str, query: &str| {
        let output = opd().args(["sql", store, query, "--format", "csv"]).output().unwrap();
        succeeded(&output);
        text(&output.stdout).lines().skip(1).map(str::to_string).collect::<Vec<_>>()
    };
    let fewer = &ask(&parent, of_recorded)[0];
    let expected: Vec<String> = [("forward", "4"), ("recorded", fewer), ("reverse", "4")]
        .iter()
        .flat_map(|(arm, steps)| [1, 2].map(|seed| format!("{arm},{seed},{steps},true")))
        .collect();
    assert_eq!(text(&made.stdout).lines().skip(1).collect::<Vec<_>>(), expected, "{}", text(&made.stderr));
    // The same rows for each arm of a seed, others for the next; other weights for another estimator.
    let of = |run: &str, query: &str| ask(&small.path(&format!("runs/{run}")).display().to_string(), query);
    let rows = "select step, rollout_id from consumed";
    assert_eq!(of("reverse-seed1", rows), of("forward-seed1", rows));
    assert_ne!(of("reverse-seed1", rows), of("reverse-seed2", rows));
    let last = "select weights_digest from steps order by step desc limit 1";
    assert_ne!(of("reverse-seed1", last), of("forward-seed1", last));
    // It is not made again, and is not taken for what is asked for after a change.
    let again = sweep(&small, &replays, &["--format", "csv"]);
    succeeded(&again);
    assert!(!text(&again.stderr).contains("-seed"), "{}", text(&again.stderr));
    for (from, to, says) in [
        ("order = \"seeded\"", "order = \"recorded\"", "seeded order`, the sweep asks for"),
        ("prompt_id < 12", "prompt_id < 13", "where prompt_id < 12`, the sweep asks for"),
        ("top_k = 8", "top_k = 4", "was made with `learn.estimator.top_k = 8`, the sweep asks for `4`"),
    ] {
        let refused = sweep(&small, &replays.replace(from, to), &["--results"]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains(says), "{says}: {}", text(&refused.stderr));
    }
}
