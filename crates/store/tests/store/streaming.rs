//! Selections are exact on the log, and the stream keeps their order.

use crate::{
    bed::{Bed, on_every_backend},
    material::*,
};
use arrow::{
    array::{ArrayRef, Int64Array, ListArray, RecordBatch},
    buffer::OffsetBuffer,
    datatypes::DataType,
};
use futures::StreamExt;
use record::{BatchRows, ObjectRef, PolicyVersion, RolloutBatch, RowSet};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};
use store::{Follower, Scored, Selection, Staleness, Store, StoreError, StoreOptions, Versions, simulated::Faulty};

on_every_backend!(the_stream_is_in_the_order_rows_are_taken, a_damaged_batch_does_not_stop_the_others);

/// Units 0 to 8, three of each version 0 to 2; unit 4 has no scores, unit 0 is consumed, unit 3 up to its last row.
async fn nine_units(store: &Store) -> Follower {
    let mut follower = start(store).await;
    claim(&mut follower, 9).await;
    for version in 0..3 {
        for unit in [version * 3 + 2, version * 3, version * 3 + 1] {
            deliver(&mut follower, unit, version).await;
            if unit != 4 {
                score(&mut follower, unit).await;
            }
        }
        let (batch, rows) = [("u0", 4), ("u3", 3), ("u8", 1)][version as usize];
        step(&mut follower, vec![BatchRows { batch: batch.into(), rows: RowSet::first(rows) }]).await;
    }
    follower
}

async fn collect(store: &Store, follower: &Follower, selection: &Selection) -> Vec<Scored> {
    store.scored(follower.snapshot(), selection).map(|read| read.unwrap()).collect().await
}

async fn the_stream_is_in_the_order_rows_are_taken(bed: Bed) {
    let store = bed.open().await;
    let follower = nine_units(&store).await;
    let read = collect(&store, &follower, &Selection::scored_in(SET)).await;
    let found: Vec<_> = read.iter().map(|scored| (scored.batch.as_str(), scored.rows.len())).collect();
    assert_eq!(found, [("u1", 4), ("u2", 4), ("u3", 1), ("u5", 4), ("u6", 4), ("u7", 4), ("u8", 3)]);
    assert_eq!(read[2].rows, [3].into_iter().collect());
    for scored in &read {
        assert_eq!(scored.data.row(0).rollout.rollout_id, format!("{}-0", scored.batch));
        assert_eq!(scored.data.len(), ROWS as usize);
    }
}

#[tokio::test]
async fn a_selection_is_exact() {
    let store = Store::memory();
    let follower = nine_units(&store).await;
    let all = Selection::scored_in(SET);
    let batches = |selection: &Selection| {
        selection.batches(follower.snapshot()).into_iter().map(|batch| batch.batch).collect::<Vec<_>>()
    };
    let v = PolicyVersion;
    let versions = |versions| Selection { versions, ..all.clone() };
    assert_eq!(batches(&versions(Versions::Between(v(1), v(2)))), ["u3", "u5", "u6", "u7", "u8"]);
    assert_eq!(batches(&versions(Versions::Only([v(0), v(2)].into()))), ["u1", "u2", "u6", "u7", "u8"]);
    assert_eq!(batches(&versions(Versions::Between(v(2), v(1)))), [""; 0]);
    let stale =
        |against, min, max| Selection { staleness: Some(Staleness { against: v(against), min, max }), ..all.clone() };
    assert_eq!(batches(&stale(3, 1, 1)), ["u6", "u7", "u8"]);
    assert_eq!(batches(&stale(3, 2, 9)), ["u1", "u2", "u3", "u5"]);
    assert_eq!(batches(&stale(1, 0, 9)), ["u1", "u2", "u3", "u5"], "later versions are in no window");
    assert!(batches(&Selection::scored_in("other")).is_empty());
    let prompts = Some(BTreeSet::from([3, 5, 99]));
    let read = collect(&store, &follower, &Selection { prompts, ..all }).await;
    let found: Vec<_> = read.iter().map(|scored| (scored.batch.as_str(), scored.rows.iter().collect())).collect();
    assert_eq!(found, [("u1", vec![2, 3]), ("u2", vec![2, 3])]);
}

/// `rollouts` as if each row had been sampled by its version, then by a later one.
fn spanned(rollouts: &RolloutBatch, later: i64) -> RolloutBatch {
    let (batch, rows) = (rollouts.as_record_batch(), rollouts.len());
    let versions = (0..rows).flat_map(|_| [rollouts.policy_version().0 as i64, later]);
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| match field.data_type() {
        DataType::List(item) if field.name() == "span_versions" => {
            let (lengths, values) =
                (OffsetBuffer::from_lengths(vec![2; rows]), Int64Array::from_iter_values(versions.clone()));
            Arc::new(ListArray::new(item.clone(), lengths, Arc::new(values), None)) as ArrayRef
        }
        _ => column.clone(),
    });
    RolloutBatch::try_new(RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()).unwrap()
}

#[tokio::test]
async fn staleness_counts_the_oldest_version_in_a_row() {
    let store = Store::memory();
    let mut follower = start(&store).await;
    claim(&mut follower, 3).await;
    for version in 0..3 {
        deliver(&mut follower, version, version).await;
        score(&mut follower, version).await;
        if version < 2 {
            step(&mut follower, vec![BatchRows { batch: format!("u{version}"), rows: RowSet::first(1) }]).await;
        }
    }
    // Begun by version 1 and ended by version 2.
    claim(&mut follower, 1).await;
    deliver_as(&mut follower, &spanned(&rollouts("u3", 3, 1), 2)).await;
    score(&mut follower, 3).await;
    let of = |min, max| {
        let staleness = Some(Staleness { against: PolicyVersion(2), min, max });
        Selection { staleness, ..Selection::scored_in(SET) }
    };
    let names = |read: Vec<Scored>| read.into_iter().map(|scored| scored.batch).collect::<Vec<_>>();
    assert_eq!(names(collect(&store, &follower, &of(0, 0)).await), ["u2"]);
    let stale = collect(&store, &follower, &of(1, 1)).await;
    assert!(stale.iter().all(|scored| scored.data.rollouts().policy_version() == PolicyVersion(1)));
    assert_eq!(names(stale), ["u1", "u3"]);
}

async fn a_damaged_batch_does_not_stop_the_others(bed: Bed) {
    let store = bed.open().await;
    let follower = nine_units(&store).await;
    let mut batches = Selection::scored_in(SET).batches(follower.snapshot());
    store.delete(&batches[1].scores.key).await.unwrap();
    // Another batch's scores do not fit; another version's rollouts are not what the log says; rows beyond the object.
    batches[2].scores = batches[3].scores.clone();
    batches[3].policy_version = PolicyVersion(9);
    batches[4].rows = RowSet::first(ROWS + 1);
    batches[5].rollouts = ObjectRef { bytes: 1, ..batches[5].rollouts.clone() };
    let keys: Vec<ObjectRef> = batches.iter().map(|batch| batch.rollouts.clone()).collect();
    let read: Vec<_> = store.stream(batches, None).collect().await;
    let outcome = |i: usize| read[i].as_ref().map(|scored| scored.batch.as_str());
    assert_eq!((outcome(0).unwrap(), outcome(6).unwrap()), ("u1", "u8"));
    let error = |i: usize| outcome(i).unwrap_err();
    assert!(matches!(&error(1).error, StoreError::Missing { .. }) && error(1).batch == "u2");
    assert!(matches!(&error(2).error, StoreError::Invalid { .. }) && error(2).batch == "u3");
    for i in [3, 4, 5] {
        assert!(matches!(&error(i).error, StoreError::Corrupt { key, .. } if *key == keys[i].key), "{}", error(i));
        assert!(error(i).error.is_of_one_object());
    }
}

#[tokio::test]
async fn the_stream_reads_ahead_only_so_far() {
    let objects = Arc::new(Faulty::default());
    let store = Store::with_backend(objects.clone(), StoreOptions { prefetch: 2, ..StoreOptions::default() });
    let follower = nine_units(&store).await;
    let mut stream = store.scored(follower.snapshot(), &Selection::scored_in(SET));
    objects.gets.store(0, Ordering::SeqCst);
    tokio::task::yield_now().await;
    assert_eq!(objects.gets.load(Ordering::SeqCst), 0, "nothing is read before it is asked for");
    for taken in 1..=3 {
        stream.next().await.unwrap().unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        let gets = objects.gets.load(Ordering::SeqCst);
        // Rollouts and scores: 2 requests a batch. What is read: the taken ones and at most 2 ahead.
        assert!((2 * taken..=2 * (taken + 2)).contains(&gets), "{gets} requests after {taken} batches");
    }
}
