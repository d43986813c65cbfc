//! A store of each format version is kept, and read for ever: `golden/v1` is a run of three steps, without its weights.

use crate::support::{opd, succeeded, text};

#[test]
fn a_store_of_format_1_is_read() {
    let store = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1");
    let query = "select (select count(*) from commits) as commits, (select count(*) from consumed) as consumed, \
        (select max(staleness) from consumed) as stale, (select sum(cardinality(response_ids)) from rollouts) as tokens, \
        (select round(sum(k), 4) from (select unnest(teacher_logprobs) as k from scored)) as teacher, \
        (select round(sum(k), 4) from (select unnest(learner_logprobs) as k from step_records)) as learner";
    let output = opd().args(["sql", store, query, "--format", "csv"]).output().unwrap();
    succeeded(&output);
    let answer = text(&output.stdout);
    assert_eq!(answer.lines().last(), Some("28,12,1,247,-350.8347,-148.4983"), "{answer}");
    // The snapshot, too: `status` starts from it.
    let output = opd().args(["status", store]).output().unwrap();
    succeeded(&output);
    assert!(text(&output.stdout).contains("12 consumed, 0 pending"), "{}", text(&output.stdout));
}
