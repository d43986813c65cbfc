//! The order of rows, against a second way of making it.

use super::*;
use crate::recorded;
use proptest::prelude::*;
use record::{Claims, Digest, Job, RolloutCommit, ScoreCommit, StepCommit, UnitRows, Work};

fn object(key: &str) -> ObjectRef {
    ObjectRef { key: key.into(), bytes: 0, digest: Digest::of(b"") }
}

fn commits(events: Vec<Event>) -> Vec<Commit> {
    let work = Work {
        worker: "w".into(),
        incarnation: "i".into(),
        job: Job::Run,
        started: 0,
        busy_s: 0.0,
        waited_s: 0.0,
        tokens: 0,
    };
    let number = |(seq, event)| Commit { format: 3, seq, id: seq.to_string(), at: 0, work: work.clone(), event };
    (1..).zip(events).map(number).collect()
}

/// A log with a batch for each size, scored, of which each step consumes the rows that are named.
fn log(sizes: &[u32], steps: &[Vec<BatchRows>]) -> Vec<Commit> {
    let mut events = Vec::new();
    for (unit, rows) in sizes.iter().enumerate() {
        let batch = name(unit);
        events.push(Event::Rollouts(RolloutCommit {
            batch: batch.clone(),
            of: UnitRows { unit: unit as u64, rows: RowSet::first(*rows) },
            policy_version: PolicyVersion(unit as u64 / 2),
            teacher_id: "t".into(),
            object: object(&batch),
            codec: None,
            tokens: 1,
            claims: Claims::default(),
        }));
        events.push(Event::Scores(ScoreCommit {
            batch: batch.clone(),
            score_set: "main".into(),
            parent: None,
            object: object(&format!("scores of {batch}")),
            packing: None,
            claims: Claims::default(),
        }));
    }
    for (i, consumed) in steps.iter().enumerate() {
        events.push(Event::Step(Box::new(StepCommit {
            step: i as u64 + 1,
            consumed: consumed.clone(),
            replayed: Vec::new(),
            dropped: Vec::new(),
            score_set: "main".into(),
            record: object("record"),
            weights_digest: Digest::of(b""),
            policy: None,
            moments: None,
            settings: serde_json::Value::Null,
            metrics: BTreeMap::new(),
        })));
    }
    commits(events)
}

/// What the whole log says of itself.
fn read(commits: &[Commit]) -> Recording {
    let gone = recorded::gone(commits).into_iter().cloned().collect();
    Recording::of(commits, "main", &gone)
}

fn name(unit: usize) -> BatchId {
    format!("u{unit:08}-x")
}

fn rows_of(steps: &[Vec<Replayed>]) -> Vec<Vec<(BatchId, u32)>> {
    let each = |of: &Replayed| of.of.rows.iter().map(|row| (of.of.batch.clone(), row)).collect::<Vec<_>>();
    steps.iter().map(|step| step.iter().flat_map(each).collect()).collect()
}

/// Sizes of batches, and a cut of their rows, in their order, into steps.
fn recorded() -> impl Strategy<Value = (Vec<u32>, Vec<Vec<BatchRows>>)> {
    (proptest::collection::vec(1u32..7, 1..9), 1usize..9).prop_map(|(sizes, count)| {
        let rows: Vec<(BatchId, u32)> =
            sizes.iter().enumerate().flat_map(|(unit, n)| (0..*n).map(move |row| (name(unit), row))).collect();
        let rows: Vec<(&BatchId, u32)> = rows.iter().map(|(id, row)| (id, *row)).collect();
        let steps = rows.chunks(count).map(grouped).collect();
        (sizes, steps)
    })
}

proptest! {
    #[test]
    fn without_a_condition_each_step_is_the_parents((sizes, steps) in recorded()) {
        let recording = read(&log(&sizes, &steps));
        let script = recording.script(ReplayOrder::Recorded, 1, Cut::Recorded, None).unwrap();
        let named: Vec<Vec<BatchRows>> =
            script.steps.iter().map(|step| step.iter().map(|of| of.of.clone()).collect()).collect();
        prop_assert_eq!(named, steps);
        prop_assert!(script.steps.iter().flatten().all(|of| name(of.unit as usize) == of.of.batch));
        prop_assert!(script.steps.iter().flatten().all(|of| of.policy_version.0 == of.unit / 2));
    }

    #[test]
    fn a_condition_keeps_the_order_and_cuts_anew((sizes, steps) in recorded(), count in 1u32..6, keep in any::<u64>()) {
        let kept = |id: &BatchId, row: u32| (keep >> ((id.len() as u32 + row * 7 + id.as_bytes()[8] as u32) % 64)) & 1 == 1;
        let all: Vec<(BatchId, u32)> = steps.iter().flatten().flat_map(|of| each(&of.batch, &of.rows)).map(|(id, row)| (id.clone(), row)).collect();
        let mut chosen = Chosen::new();
        let left: Vec<_> = all.into_iter().filter(|(id, row)| kept(id, *row)).collect();
        for (id, row) in &left {
            chosen.entry(id.clone()).or_default().insert(*row);
        }
        let recording = read(&log(&sizes, &steps));
        let script = recording.script(ReplayOrder::Recorded, 1, Cut::Rows(count), Some(&chosen)).unwrap();
        let expected: Vec<Vec<_>> = left.chunks_exact(count as usize).map(<[_]>::to_vec).collect();
        prop_assert_eq!(rows_of(&script.steps), expected);
    }

    #[test]
    fn a_condition_leaves_rows_of_each_step_where_the_steps_stay((sizes, steps) in recorded(), keep in any::<u64>()) {
        let kept = |id: &BatchId, row: u32| (keep >> ((row * 7 + id.as_bytes()[8] as u32) % 64)) & 1 == 1;
        let mut chosen = Chosen::new();
        for (id, row) in steps.iter().flatten().flat_map(|of| each(&of.batch, &of.rows)).filter(|(id, row)| kept(id, *row)) {
            chosen.entry(id.clone()).or_default().insert(row);
        }
        let script = read(&log(&sizes, &steps)).script(ReplayOrder::Recorded, 1, Cut::Recorded, Some(&chosen)).unwrap();
        let of_step = |step: &Vec<BatchRows>| -> Vec<(BatchId, u32)> {
            let rows = step.iter().flat_map(|of| each(&of.batch, &of.rows));
            rows.filter(|(id, row)| kept(id, *row)).map(|(id, row)| (id.clone(), row)).collect()
        };
        prop_assert_eq!(rows_of(&script.steps), steps.iter().map(of_step).collect::<Vec<_>>());
    }

    #[test]
    fn a_seeded_order_takes_each_row_once_by_the_seed_alone((sizes, steps) in recorded(), count in 1u32..6, seed in any::<u64>()) {
        let recording = read(&log(&sizes, &steps));
        let script = |seed| recording.script(ReplayOrder::Seeded, seed, Cut::Rows(count), None).unwrap();
        let rows = rows_of(&script(seed).steps);
        prop_assert!(rows.iter().all(|step| step.len() == count as usize));
        let mut each: Vec<_> = rows.concat();
        let taken = each.len();
        each.sort();
        each.dedup();
        prop_assert_eq!(each.len(), taken);
        let total = sizes.iter().sum::<u32>();
        prop_assert_eq!(taken as u32, total - total % count);
        prop_assert_eq!(rows, rows_of(&script(seed).steps));
        // What the steps of the parent were plays no part.
        let unstepped = read(&log(&sizes, &[]));
        let again = unstepped.script(ReplayOrder::Seeded, seed, Cut::Rows(count), None).unwrap();
        prop_assert_eq!(rows_of(&again.steps), rows_of(&script(seed).steps));
    }
}

#[test]
fn another_seed_is_another_order_and_a_damaged_batch_is_left_out() {
    let mut log = log(&[8, 8, 8], &[]);
    let of = |log: &[Commit], seed| {
        let script = read(log).script(ReplayOrder::Seeded, seed, Cut::Rows(4), None).unwrap();
        rows_of(&script.steps)
    };
    assert_ne!(of(&log, 1), of(&log, 2));
    let dropped = record::Dropped {
        of: BatchRows { batch: name(1), rows: RowSet::first(8) },
        reason: record::DropReason::Corrupt,
        reissue: true,
    };
    let seq = log.len() as u64 + 1;
    log.push(Commit { seq, event: Event::Drop { dropped: vec![dropped] }, ..log[0].clone() });
    let left = of(&log, 1).concat();
    assert_eq!(left.len(), 16);
    assert!(left.iter().all(|(id, _)| *id != name(1)));
}

#[test]
fn a_batch_that_was_given_up_after_the_commit_that_counts_is_left_out_but_for_steps_that_took_it() {
    let mut log = log(&[4, 4, 4], &[vec![BatchRows { batch: name(1), rows: RowSet::first(4) }]]);
    let counts = log.len();
    let retired = record::Retirement { batches: vec![name(1)], ..record::Retirement::default() };
    log.push(Commit { seq: counts as u64 + 1, event: Event::Retire(retired), ..log[0].clone() });
    let gone = recorded::gone(&log).into_iter().cloned().collect();
    let recording = Recording::of(&log[..counts], "main", &gone);
    let ids: BTreeSet<&BatchId> = recording.rows(None).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, BTreeSet::from([&name(0), &name(2)]));
    // It is there to be named, and the run is refused by that name.
    let script = recording.script(ReplayOrder::Recorded, 1, Cut::Recorded, None).unwrap();
    assert_eq!(script.names(), BTreeSet::from([&name(1)]));
}

#[test]
fn a_step_on_a_batch_without_scores_is_named() {
    let consumed = vec![vec![BatchRows { batch: "u9".into(), rows: RowSet::first(1) }]];
    let error = read(&log(&[4], &consumed)).script(ReplayOrder::Recorded, 1, Cut::Recorded, None);
    let said = error.unwrap_err().to_string();
    assert!(said.contains("`u9`") && said.contains("hint:"), "{said}");
}
