//! The closed loop.

use crate::support::{ROWS_PER_STEP, Small, succeeded, text};
use std::{
    process::Stdio,
    time::{Duration, Instant},
};

const DIGESTS: &str = "select step, weights_digest from steps order by step";

#[test]
fn a_synchronous_run_trains_on_every_row_at_staleness_0_and_repeats_bit_for_bit() {
    let (first, second) = (Small::new(), Small::new());
    succeeded(&first.run(&[]));
    succeeded(&second.run(&[]));
    let digests = first.sql(DIGESTS);
    assert_eq!(digests.len(), 4);
    assert_eq!(digests, second.sql(DIGESTS));
    assert_eq!(first.sql("select count(*), count(distinct rollout_id), max(staleness) from consumed"), ["32,32,0"]);
    assert_eq!(first.sql("select count(*) from dropped"), ["0"]);
    assert_eq!(first.sql("select count(*) from rollouts"), ["32"]);
    assert_eq!(first.sql("select policy_version from evals order by 1"), ["0", "4"]);
    // The sampler and the learner hold the same weights, so they agree on what was sampled.
    let mismatch: f64 = first.sql("select max(abs(mismatch_kl)) from steps")[0].parse().unwrap();
    assert!(mismatch < 1e-5, "{mismatch}");
}

#[test]
fn an_asynchronous_run_stays_within_its_staleness_and_trains_on_the_same_number_of_rows() {
    let small = Small::new();
    succeeded(&small.run(&["learn.max_staleness=2", "learn.steps=8", "rollout.workers=2"]));
    let rows = small.sql("select count(*), count(distinct rollout_id) from consumed");
    assert_eq!(rows, [format!("{0},{0}", 8 * ROWS_PER_STEP)]);
    let most: u64 = small.sql("select max(staleness) from consumed")[0].parse().unwrap();
    assert!(most <= 2, "{most}");
}

#[test]
fn the_same_command_goes_on_from_where_a_run_was_stopped() {
    let (whole, parts) = (Small::new(), Small::new());
    succeeded(&whole.run(&[]));
    let mut program = parts.command("run", &[]);
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(120);
    let log = parts.path("store/log/00000000000000000005.json");
    while !log.exists() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert!(child.wait().unwrap().success(), "one Ctrl-C ends a run well");
    succeeded(&parts.run(&[]));
    assert_eq!(parts.sql(DIGESTS), whole.sql(DIGESTS));
    assert_eq!(parts.sql("select count(*), count(distinct rollout_id) from consumed"), ["32,32"]);
    // Once more: there is nothing left to do, and that is no error.
    let again = parts.run(&[]);
    succeeded(&again);
    assert!(text(&again.stdout).contains("finished"), "{}", text(&again.stdout));
}

#[test]
fn forward_kl_trains_from_the_top_k_alone() {
    let small = Small::new();
    let sets = ["learn.estimator={ name = \"forward_kl\", top_k = 8 }", "rollout.draws=0", "rollout.top_k_max=0"];
    succeeded(&small.run(&sets));
    let kl = small.sql("select forward_kl from steps order by step");
    let kl: Vec<f64> = kl.iter().map(|value| value.parse().unwrap()).collect();
    assert!(kl.iter().all(|value| value.is_finite() && *value >= 0.0), "{kl:?}");
}

#[test]
fn a_damaged_batch_is_dropped_by_name_and_sampled_again() {
    let small = Small::new();
    // A rollout job alone fills the store; nobody scores yet.
    let mut rollout =
        small.command("rollout", &[]).args(["--worker", "rollout-0"]).stderr(Stdio::null()).spawn().unwrap();
    let mut learn = small.command("learn", &[]).args(["--worker", "learn-0"]).stderr(Stdio::null()).spawn().unwrap();
    let folder = small.path("store/rollouts/v00000000");
    let patience = Instant::now() + Duration::from_secs(120);
    let mut batches = Vec::new();
    while batches.len() < 2 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(50));
        batches = std::fs::read_dir(&folder)
            .map(|files| files.map(|file| file.unwrap().path()).collect())
            .unwrap_or_default();
    }
    for child in [&mut rollout, &mut learn] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    batches.sort();
    let mut bytes = std::fs::read(&batches[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&batches[0], bytes).unwrap();
    let output = small.run(&[]);
    succeeded(&output);
    let said = text(&output.stderr);
    let name = batches[0].file_name().unwrap().to_string_lossy().into_owned();
    assert!(said.contains(&name) && said.contains("expected sha256:") && said.contains("sampled again"), "{said}");
    assert_eq!(small.sql("select reason, count(*) from dropped group by 1"), ["corrupt,4"]);
    assert_eq!(small.sql("select count(*), count(distinct rollout_id) from consumed"), ["32,32"]);
}

#[test]
fn a_second_learner_is_fenced() {
    let small = Small::new();
    let sets = ["learn.steps=40", "learn.max_staleness=1"];
    let mut run = small.command("run", &sets).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now() + Duration::from_secs(120);
    while !small.path("store/steps").exists() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = small.command("learn", &sets).output().unwrap();
    let id = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let status = run.wait().unwrap();
    // One of the two made the next step and goes on; the other says so and stops.
    let said = text(&second.stderr);
    let fenced = second.status.code() == Some(2) && said.contains("another learner made step");
    assert!(fenced || status.code() == Some(2), "{status}: {said}");
    assert_eq!(small.sql("select count(*) - count(distinct rollout_id) from consumed"), ["0"]);
}
