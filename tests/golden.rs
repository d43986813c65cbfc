//! A store of each format version is kept, and read for ever: `golden/v*` are runs of three steps, without their weights.

use crate::support::{Small, opd, succeeded, text};
use std::path::{Path, PathBuf};

/// What is asked of each, and of the objects of each kind.
const QUESTION: &str = "select (select count(*) from commits) as commits, (select count(*) from consumed) as consumed, \
    (select max(staleness) from consumed) as stale, (select sum(cardinality(response_ids)) from rollouts) as tokens, \
    (select round(sum(k), 4) from (select unnest(teacher_logprobs) as k from scored)) as teacher, \
    (select round(sum(k), 4) from (select unnest(learner_logprobs) as k from step_records)) as learner";
/// And of what format 2 added: draws of the tail, and packed columns.
const PACKED: &str = "select sum(draws_taken) as taken, \
    round(sum(array_length(draw_ids)), 0) as kept, round(sum(array_length(teacher_top_ids)), 0) as entries from tokens";
/// And of what format 3 added: rows that a selection rejected, score sets beside the run's own, what was given up.
const KEPT: &str = "select (select count(*) from dropped where reason = 'selection') as rejected, \
    (select count(*) from scored_in('small')) as small, (select count(*) from rollouts) as kept, \
    (select count(*) from objects where retired) as retired, \
    (select string_agg(kind, ' ' order by seq) from commits where kind in ('score_set', 'pin', 'unpin', 'retire')) as kinds";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn last_line(store: &Path, query: &str) -> String {
    let output = opd().arg("sql").arg(store).args([query, "--format", "csv"]).output().unwrap();
    succeeded(&output);
    text(&output.stdout).lines().last().unwrap_or_default().to_string()
}

/// The snapshot, too: `status` starts from it.
fn stands(store: &Path, says: &str) {
    let output = opd().arg("status").arg(store).output().unwrap();
    succeeded(&output);
    assert!(text(&output.stdout).contains(says), "{}", text(&output.stdout));
}

#[test]
fn a_store_of_format_1_is_read() {
    let store = golden("v1");
    assert_eq!(last_line(&store, QUESTION), "28,12,1,247,-350.8347,-148.4983");
    stands(&store, "12 consumed, 0 pending");
}

#[test]
fn a_store_of_format_2_is_read() {
    let store = golden("v2");
    assert_eq!(last_line(&store, QUESTION), "16,12,1,144,-1097.9023,-1097.5142");
    assert_eq!(last_line(&store, PACKED), "576,571,1152");
    stands(&store, "12 consumed, 0 pending");
}

#[test]
fn a_store_of_format_3_is_read() {
    let store = golden("v3");
    assert_eq!(last_line(&store, QUESTION), "35,12,1,96,-731.5718,-289.3062");
    assert_eq!(last_line(&store, KEPT), "5,8,8,14,score_set pin pin unpin retire");
    stands(&store, "12 consumed, 3 dropped (finished), 5 dropped (selection), 0 pending");
}

/// And of what format 4 added: archives.
const ARCHIVED: &str = "select (select count(*) from objects where kind = 'archive') as archives, \
    (select count(*) from objects where archive is not null) as moved, (select count(*) from rollouts) as kept, \
    (select sum(cardinality(teacher_top_ids)) from scores) as positions";

#[test]
fn a_store_of_format_4_is_read() {
    let store = golden("v4");
    assert!(!store.join("rollouts").exists() && store.join("archive/rollouts").exists());
    assert_eq!(last_line(&store, QUESTION), "35,12,1,144,-1097.888,-1097.8414");
    assert_eq!(last_line(&store, ARCHIVED), "3,9,12,1152");
    stands(&store, "12 consumed, 0 pending");
}

/// How `golden/v4` was made, once. A new format gets a store of its own; one that is there is never made again.
#[test]
#[ignore = "writes a golden store"]
fn make() {
    let (small, to) = (Small::new(), golden("v4"));
    assert!(!to.exists(), "{} is there", to.display());
    succeeded(&small.run(&[
        "learn.steps=3",
        "learn.rows_per_step=4",
        "learn.max_staleness=1",
        "rollout.max_new_tokens=12",
        "score.codec=fast",
        "store.snapshot_every=8",
        "eval.sets={}",
    ]));
    let store = small.store();
    for args in [&["archive", &store] as &[&str], &["gc", &store, "--grace", "0s"]] {
        succeeded(&opd().args(args).output().unwrap());
    }
    // Commits of the common format behind those of archives.
    for _ in 0..8 {
        succeeded(&opd().args(["pin", &store, "all"]).output().unwrap());
        succeeded(&opd().args(["unpin", &store, "all"]).output().unwrap());
    }
    for emptied in ["rollouts", "scores", "steps"] {
        std::fs::remove_dir_all(small.path("store").join(emptied)).unwrap();
    }
    let copied = std::process::Command::new("cp").arg("-r").arg(small.store()).arg(&to).status().unwrap();
    assert!(copied.success());
    for of in ["policies", "optimizer"] {
        for entry in std::fs::read_dir(to.join(of)).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_dir()) {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    std::fs::remove_dir_all(to.join("optimizer")).unwrap();
}
