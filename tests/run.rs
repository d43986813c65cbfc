//! The closed loop.

use crate::support::{ROWS_PER_STEP, Small, children, succeeded, text, wait_for};
use rustix::process::{Pid, Signal, kill_process};
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
fn a_run_that_waits_drops_nothing_however_its_jobs_overlap() {
    let small = Small::new();
    let sets = ["learn.max_staleness=2", "learn.when_stale=wait", "learn.steps=8", "rollout.workers=2"];
    succeeded(&small.run(&sets));
    assert_eq!(small.sql("select count(*) from dropped where reason = 'stale'"), ["0"]);
    let most: u64 = small.sql("select max(staleness) from consumed")[0].parse().unwrap();
    assert!(most <= 2, "{most}");
}

#[test]
fn a_lag_at_the_bound_is_the_staleness_of_every_row() {
    let small = Small::new();
    let sets =
        ["rollout.lag=6", "learn.max_staleness=6", "learn.min_staleness=6", "learn.steps=9", "learn.keep_policies=1"];
    succeeded(&small.run(&sets));
    assert_eq!(small.sql("select count(*) from consumed where staleness <> least(6, step - 1)"), ["0"]);
    assert_eq!(small.sql("select count(*) from consumed"), [(9 * ROWS_PER_STEP).to_string()]);
}

#[test]
fn the_same_command_goes_on_from_where_a_run_was_stopped() {
    let (whole, parts) = (Small::new(), Small::new());
    succeeded(&whole.run(&[]));
    let mut program = parts.command("run", &[]);
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = parts.path("store/log/00000000000000000005.json");
    wait_for("a commit", || log.exists().then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
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
fn an_estimator_is_one_line_of_a_pipeline() {
    for estimator in [
        "{ name = \"reverse_kl_student_top_k\", top_k = 4 }",
        "{ name = \"jsd\", top_k = 8 }",
        "{ name = \"reverse_kl_mc\", draws = 4, correction = { name = \"truncated\", c = 1.5 } }",
        "{ name = \"reverse_kl_mc\", draws = 4, correction = \"m2po\" }",
    ] {
        let small = Small::new();
        succeeded(&small.run(&[&format!("learn.estimator={estimator}"), "learn.steps=2", "learn.max_staleness=1"]));
        let steps = small.sql("select loss, reverse_kl, forward_kl from steps order by step");
        assert_eq!(steps.len(), 2, "{estimator}");
        for step in &steps {
            assert!(step.split(',').all(|value| value.parse::<f64>().unwrap().is_finite()), "{estimator}: {step}");
        }
    }
}

#[test]
fn a_damaged_batch_is_dropped_by_name_and_sampled_again() {
    let small = Small::new();
    // A rollout job alone fills the store; nobody scores yet.
    let mut rollout =
        small.command("rollout", &[]).args(["--worker", "rollout-0"]).stderr(Stdio::null()).spawn().unwrap();
    let mut learn = small.command("learn", &[]).args(["--worker", "learn-0"]).stderr(Stdio::null()).spawn().unwrap();
    let folder = small.path("store/rollouts/v00000000");
    let mut batches = wait_for("two batches", || {
        let files = std::fs::read_dir(&folder).ok()?;
        let batches: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        (batches.len() == 2).then_some(batches)
    });
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
    // So many steps that the run does not end by itself.
    let sets = ["learn.steps=4000", "learn.max_staleness=1"];
    let mut run = small.command("run", &sets).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("a step", || small.path("store/steps").exists().then_some(()));
    let mut second = small.command("learn", &sets).stderr(Stdio::piped()).spawn().unwrap();
    // One of the two makes the next step and goes on; the other says so and stops, the run with its learner.
    wait_for("the end of either", || {
        let ended = [&mut run, &mut second].iter_mut().any(|one| one.try_wait().unwrap().is_some());
        ended.then_some(())
    });
    for one in [&run, &second] {
        let _ = kill_process(Pid::from_child(one), Signal::INT);
    }
    let (status, second) = (run.wait().unwrap(), second.wait_with_output().unwrap());
    let said = text(&second.stderr);
    // The run starts its learner again when that is fenced; whoever started the other one is told.
    let fenced = second.status.code() == Some(3) && said.contains("another learner made step");
    assert!(fenced || !status.success(), "{status}: {said}");
    assert_eq!(small.sql("select count(*) - count(distinct rollout_id) from consumed"), ["0"]);
}

#[test]
fn the_later_of_two_runs_on_a_store_goes_on_and_the_earlier_ends() {
    let small = Small::new();
    let sets = ["learn.steps=40", "learn.max_staleness=1", "run.restarts=20"];
    let mut program = small.command("run", &sets);
    let first = program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a step", || small.path("store/steps").exists().then_some(()));
    succeeded(&small.run(&sets));
    let first = first.wait_with_output().unwrap();
    let said = text(&first.stderr);
    assert_eq!(first.status.code(), Some(2), "{said}");
    assert!(said.contains("another `opd run` was started on this store and goes on with it; this one ends"), "{said}");
    assert_eq!(small.sql("select count(*), max(step) from steps"), ["40,40"]);
    let rows = 40 * ROWS_PER_STEP;
    assert_eq!(small.sql("select count(*), count(distinct rollout_id) from consumed"), [format!("{rows},{rows}")]);
}

#[test]
fn a_second_ctrl_c_leaves_at_once() {
    let small = Small::new();
    // A unit that takes long, so that there is something in hand.
    let sets = ["rollout.prompts_per_unit=4096", "learn.rows_per_step=4096", "rollout.max_new_tokens=30"];
    let mut program = small.command("run", &sets);
    let run = program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let is_claim = |seq: u64| {
        let commit = std::fs::read_to_string(small.path(&format!("store/log/{seq:020}.json")));
        commit.is_ok_and(|commit| commit.contains("\"kind\":\"claim\""))
    };
    wait_for("a claim", || (1..8).any(is_claim).then_some(()));
    let named = |id: &Pid| {
        let command = std::fs::read_to_string(format!("/proc/{}/cmdline", id.as_raw_nonzero())).unwrap_or_default();
        command.contains("rollout-0")
    };
    let rollout = wait_for("the rollout job", || children(&run).into_iter().find(named));
    let interrupt = |id: Pid| kill_process(id, Signal::INT).unwrap();
    interrupt(rollout);
    std::thread::sleep(Duration::from_millis(100));
    assert!(children(&run).contains(&rollout), "after one it is still busy with its unit");
    interrupt(rollout);
    let begun = Instant::now();
    wait_for("its end", || (!children(&run).contains(&rollout)).then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // The run starts it again; then the run itself is asked twice.
    wait_for("the next rollout job", || children(&run).iter().any(named).then_some(()));
    interrupt(Pid::from_child(&run));
    std::thread::sleep(Duration::from_millis(300));
    interrupt(Pid::from_child(&run));
    let output = run.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("rollout-0 died (exit status 130); started again"), "{said}");
    assert!(said.contains("Ctrl-C again leaves at once"), "{said}");
}

#[test]
fn a_job_that_somebody_else_ends_is_started_again() {
    let small = Small::new();
    let mut program = small.command("run", &["learn.steps=12"]);
    let run = program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a step", || small.path("store/steps").exists().then_some(()));
    for id in children(&run) {
        kill_process(id, Signal::TERM).unwrap();
    }
    let output = run.wait_with_output().unwrap();
    succeeded(&output);
    assert!(text(&output.stderr).contains("learn-0 died (asked to end by another"), "{}", text(&output.stderr));
    assert_eq!(small.sql("select count(*) from steps"), ["12"]);
}

#[test]
fn recorded_steps_are_executed_again_with_the_threads_they_were_made_with() {
    let small = Small::new();
    let sets = ["learn.checkpoint_every=100", "learn.steps=40"];
    let mut run = small.command("run", &sets).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let records = || std::fs::read_dir(small.path("store/steps")).map_or(0, |steps| steps.count());
    wait_for("three steps", || (records() >= 3).then_some(()));
    kill_process(Pid::from_child(&run), Signal::INT).unwrap();
    assert!(run.wait().unwrap().success());
    let made = small.sql(DIGESTS);
    assert!((3..40).contains(&made.len()), "no checkpoint was made yet: {made:?}");
    let output = small.run(&[&sets[..], &["learn.threads=2"]].concat());
    succeeded(&output);
    let said = text(&output.stderr);
    assert!(said.contains("recorded steps are executed again") && !said.contains("it gives weights"), "{said}");
    assert_eq!(small.sql(DIGESTS)[..made.len()], made);
    assert_eq!(small.sql("select count(*) from metrics where name = 'resume/diverged_steps'"), ["0"]);
}
