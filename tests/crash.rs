//! Jobs that die: between object and commit, and at any moment. Nothing is lost and nothing trained on twice.

use crate::support::{Small, children, succeeded, text};
use std::{process::Stdio, time::Duration};

const DIGESTS: &str = "select step, weights_digest from steps order by step";

fn every_row_ended_once(small: &Small) {
    let counts = "select (select count(*) from rollouts) as stored, (select count(*) from consumed) as consumed, \
                  (select count(*) from dropped) as dropped";
    let counts: Vec<u64> = small.sql(counts)[0].split(',').map(|count| count.parse().unwrap()).collect();
    assert_eq!(counts[0], counts[1] + counts[2], "stored, consumed, dropped: {counts:?}");
    let twice = "select rollout_id from (select rollout_id from consumed union all select rollout_id from dropped) \
                 group by rollout_id having count(*) > 1";
    assert!(small.sql(twice).is_empty());
    // A committed batch has its object and its scores: reading all of it says so.
    assert_eq!(small.sql("select count(*) from scored where teacher_logprobs is null"), ["0"]);
}

#[test]
fn killed_between_object_and_commit_a_run_ends_with_the_same_weights() {
    let whole = Small::new();
    succeeded(&whole.run(&[]));
    for point in ["before_put", "after_put", "after_commit"] {
        let small = Small::new();
        // Each life of each job dies the second time it comes to the point.
        let failpoints: Vec<String> =
            ["rollout", "score", "learn", "eval"].iter().map(|job| format!("{job}.{point}:2")).collect();
        let output = small.command("run", &[]).env("OPD_FAILPOINT", failpoints.join(",")).output().unwrap();
        succeeded(&output);
        let said = text(&output.stderr);
        for job in ["rollout", "score", "learn"] {
            assert!(said.contains(&format!("{job}-0 died (signal 9)")), "{point}: {said}");
        }
        assert_eq!(small.sql(DIGESTS), whole.sql(DIGESTS), "{point}");
        assert_eq!(small.sql("select policy_version from evals order by 1"), ["0", "4"], "{point}");
        every_row_ended_once(&small);
    }
}

/// Proximal weights are in memory only: the learner that is killed has them, and the next one must find them again.
#[test]
fn killed_amid_a_batch_of_minibatches_a_run_ends_with_the_same_weights() {
    // Margins that a single step goes beyond, so that it shows which weights are the proximal ones.
    let minibatches = |n: u64| {
        format!(
            r#"learn.estimator.correction={{ name = "decoupled_ppo", minibatches = {n}, eps_low = 0.001, eps_high = 0.001 }}"#
        )
    };
    let two = minibatches(2);
    let sets = [two.as_str()];
    let (whole, small) = (Small::new(), Small::new());
    succeeded(&whole.run(&sets));
    // The first commit of the first learner is of its settings: it dies after step 1, the second one after step 3.
    let output = small.command("run", &sets).env("OPD_FAILPOINT", "learn.after_commit:2").output().unwrap();
    succeeded(&output);
    let said = text(&output.stderr);
    assert!(said.contains("learn-0 died (signal 9)") && !said.contains("it gives weights"), "{said}");
    assert_eq!(small.sql(DIGESTS), whole.sql(DIGESTS));
    // Other proximal weights would have been other weights.
    let alone = Small::new();
    succeeded(&alone.run(&[&minibatches(1)]));
    assert_ne!(alone.sql(DIGESTS), whole.sql(DIGESTS));
}

#[test]
fn killed_between_two_batches_of_a_unit_a_run_of_two_teachers_ends_with_the_same_weights() {
    // Two units a step, each of two teachers.
    let sets = ["learn.steps=2", "run.restarts=20"];
    let whole = Small::new().with_two_teachers();
    succeeded(&whole.run(&sets));
    // The first commit of a rollout job is its claim, so this is after the first batch of the first unit, before its second.
    for point in ["rollout.after_commit:2", "rollout.before_put:2", "rollout.after_put:2"] {
        let small = Small::new().with_two_teachers();
        let output = small.command("run", &sets).env("OPD_FAILPOINT", point).output().unwrap();
        succeeded(&output);
        let said = text(&output.stderr);
        assert!(said.contains("rollout-0 died (signal 9)"), "{point}: {said}");
        assert_eq!(small.sql(DIGESTS), whole.sql(DIGESTS), "{point}");
        every_row_ended_once(&small);
    }
}

#[test]
fn killed_at_any_moment_a_run_ends_with_the_same_weights() {
    let kills = std::env::var("OPD_TEST_KILLS").map_or(8, |kills| kills.parse().unwrap());
    let (whole, small) = (Small::new(), Small::new());
    let sets = ["learn.steps=12", "run.restarts=50", "eval.every=4"];
    succeeded(&whole.run(&sets));
    let mut chance: u64 = 0x9e37_79b9;
    let mut next = |n: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % n
    };
    let mut killed = 0;
    // A run that ends before it was killed often enough is begun again, in a store of its own.
    let mut runs = vec![small];
    while killed < kills {
        let store = runs.last().unwrap();
        let mut run = store.command("run", &sets).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while run.try_wait().unwrap().is_none() && killed < kills {
            std::thread::sleep(Duration::from_millis(150 + next(500)));
            let jobs = children(&run);
            if jobs.is_empty() {
                continue;
            }
            let job = jobs[next(jobs.len() as u64) as usize];
            // It may be gone already, which is no kill.
            killed += u64::from(rustix::process::kill_process(job, rustix::process::Signal::KILL).is_ok());
        }
        assert!(run.wait().unwrap().success());
        if killed < kills {
            runs.push(Small::new());
        }
    }
    for small in &runs {
        assert_eq!(small.sql(DIGESTS), whole.sql(DIGESTS));
        every_row_ended_once(small);
    }
    println!("kills {killed}, missing 0, twice 0");
}
