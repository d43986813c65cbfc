//! The tables against a second way of making them: SQL-shaped loops over a random log.

use super::{LOG_TABLES, rows};
use crate::{QueryError, columns::Columns, log::Log};
use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use proptest::prelude::*;
use record::{
    BatchRows, Claims, Commit, Digest, DropReason, Dropped, Event, Job, ObjectRef, Policy, PolicyVersion, PromptSet,
    RolloutCommit, RowSet, Run, StepCommit, UnitRows, Units, Work, schema::COMMENT,
};

fn object(key: &str) -> ObjectRef {
    ObjectRef { key: key.into(), bytes: 0, digest: Digest::of(b"") }
}

fn run() -> Event {
    Event::Run(Box::new(Run {
        run_id: "r".into(),
        pipeline: "p".into(),
        seed: 1,
        tokenizer: Digest::of(b""),
        teachers: Default::default(),
        prompts: PromptSet { digest: Digest::of(b""), count: 1 },
        units: Units { prompts: 4, samples: 2 },
        score_sets: Default::default(),
        student_config: object("config"),
        student_tokenizer: object("tokenizer"),
        student_files: Default::default(),
        policy: Policy { version: PolicyVersion(0), weights: object("weights") },
        parent: None,
    }))
}

fn commits(events: Vec<Event>) -> Vec<Commit> {
    let work = Work {
        worker: "w".into(),
        incarnation: "i".into(),
        job: Job::Run,
        started: 0,
        busy_s: 1.0,
        waited_s: 0.0,
        tokens: 5,
    };
    let number = |(seq, event)| Commit { format: 1, seq, id: seq.to_string(), at: 0, work: work.clone(), event };
    (0..).zip(std::iter::once(run()).chain(events)).map(number).collect()
}

fn rollouts(batch: &str, unit: u64, version: u64, rows: RowSet) -> Event {
    Event::Rollouts(RolloutCommit {
        batch: batch.into(),
        of: UnitRows { unit, rows },
        policy_version: PolicyVersion(version),
        teacher_id: "t".into(),
        object: object(batch),
        codec: None,
        tokens: 1,
        claims: Claims::default(),
    })
}

fn step(step: u64, consumed: Vec<BatchRows>, dropped: Vec<Dropped>) -> Event {
    Event::Step(Box::new(StepCommit {
        step,
        consumed,
        replayed: Vec::new(),
        dropped,
        score_set: "s".into(),
        record: object("record"),
        weights_digest: Digest::of(b""),
        policy: None,
        moments: None,
        settings: serde_json::Value::Null,
        metrics: Default::default(),
    }))
}

/// A log of so many commits that has rows in most tables, some of which a commit to come changes.
pub(crate) fn long_log(commits_in_all: usize) -> Log {
    let mut events = Vec::new();
    for i in 0.. {
        let batch = format!("u{i}");
        events.push(rollouts(&batch, i, i / 3, RowSet::first(8)));
        let dropped = Dropped {
            of: BatchRows { batch: batch.clone(), rows: [7].into_iter().collect() },
            reason: DropReason::Stale,
            reissue: i % 2 == 0,
        };
        let consumed = vec![BatchRows { batch, rows: RowSet::first(7) }];
        let Event::Step(mut of) = step(i + 1, consumed, vec![dropped]) else { continue };
        of.metrics.insert("loss".into(), (i as f64, 2.0));
        of.policy = Some(Policy { version: PolicyVersion(i + 1), weights: object("weights") });
        events.push(Event::Step(of));
        if events.len() + 1 >= commits_in_all {
            break;
        }
    }
    events.truncate(commits_in_all - 1);
    Log::new(commits(events), None).unwrap()
}

fn ints(batch: &RecordBatch, name: &str) -> Vec<i64> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn some_ints(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).unwrap().as_string::<i32>();
    column.iter().map(|text| text.unwrap().to_string()).collect()
}

fn row_set() -> impl Strategy<Value = RowSet> {
    prop::collection::btree_set(0u32..8, 0..8).prop_map(|rows| rows.into_iter().collect())
}

proptest! {
    #[test]
    fn consumed_and_dropped_have_one_row_a_rollout(
        versions in prop::collection::vec(0u64..5, 1..6),
        ends in prop::collection::vec((0usize..6, row_set(), row_set()), 0..12),
        cut in 0usize..20,
    ) {
        let mut events: Vec<Event> = versions
            .iter()
            .enumerate()
            .map(|(i, version)| rollouts(&format!("u{i}-x"), i as u64, *version, RowSet::first(8)))
            .collect();
        let (mut consumed, mut dropped) = (Vec::new(), Vec::new());
        for (n, (batch, trained, untrained)) in ends.iter().enumerate() {
            let (i, number) = (batch % versions.len(), n as u64 + 1);
            let of = |rows: &RowSet| BatchRows { batch: format!("u{i}-x"), rows: rows.clone() };
            let drops = Dropped { of: of(untrained), reason: DropReason::Stale, reissue: n % 2 == 0 };
            let seq = events.len() as i64 + 1;
            events.push(step(number, vec![of(trained)], vec![drops]));
            for row in trained.iter() {
                let staleness = (number - 1).checked_sub(versions[i]).map(|staleness| staleness as i64);
                consumed.push((number as i64, format!("u{i}-x-{row}"), i as i64, versions[i] as i64, staleness));
            }
            dropped.extend(untrained.iter().map(|row| (seq, format!("u{i}-x-{row}"), row as i64)));
        }
        let log = Log::new(commits(events), None).unwrap();
        // However the log is cut into chunks, the rows are the same.
        let (head, tail) = log.commits().split_at(cut.min(log.commits().len()));
        let (mut found, mut found_dropped) = (Vec::new(), Vec::new());
        for part in [head, tail] {
            let table = rows::consumed(&log, part, Columns::all()).unwrap();
            let (steps, ids) = (ints(&table, "step"), texts(&table, "rollout_id"));
            let (units, sampled) = (ints(&table, "unit"), ints(&table, "policy_version"));
            let staleness = some_ints(&table, "staleness");
            found.extend((0..ids.len()).map(|i| (steps[i], ids[i].clone(), units[i], sampled[i], staleness[i])));
            let table = rows::dropped(&log, part, Columns::all()).unwrap();
            let (seqs, ids, numbers) = (ints(&table, "seq"), texts(&table, "rollout_id"), ints(&table, "row"));
            found_dropped.extend((0..ids.len()).map(|i| (seqs[i], ids[i].clone(), numbers[i])));
        }
        prop_assert_eq!(found, consumed);
        prop_assert_eq!(found_dropped, dropped);
    }
}

#[test]
fn a_log_that_names_an_unknown_batch_is_refused() {
    let of = BatchRows { batch: "nowhere".into(), rows: RowSet::first(1) };
    let error = Log::new(commits(vec![step(1, vec![of], vec![])]), None).unwrap_err();
    assert!(matches!(&error, QueryError::Log { seq: 1, what } if what.contains("`nowhere`")), "{error}");
    assert!(matches!(Log::new(vec![], None), Err(QueryError::Log { seq: 0, .. })));
    assert!(matches!(Log::new(commits(vec![])[1..].to_vec(), None), Err(QueryError::Log { seq: 0, .. })));
}

#[test]
fn every_table_and_column_has_a_sentence() {
    let log = Log::new(commits(vec![]), None).unwrap();
    let of_objects = crate::parts::object_tables(&log).map(|table| (table.name, table.schema));
    let of_log = LOG_TABLES.map(|table| (table.name, (table.rows)(&log, &[], Columns::all()).unwrap().schema()));
    for (name, schema) in of_objects.into_iter().chain(of_log) {
        assert!(schema.metadata()[COMMENT].ends_with('.'), "{name}");
        for field in schema.fields() {
            let comment = field.metadata().get(COMMENT).unwrap_or_else(|| panic!("{name}.{}", field.name()));
            assert!(comment.ends_with(['.', '`']) || comment.contains("..."), "{name}.{}: {comment}", field.name());
        }
    }
}
