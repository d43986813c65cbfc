//! Archives: what is moved reads as before, from every reader, and what is not needed any more is known.

use crate::{
    bed::{Bed, on_every_backend},
    material::*,
    upkeep::train_on,
};
use arrow::array::RecordBatch;
use record::{
    Archive, Budget, Codec, Event, Move, ObjectRef, PolicyVersion, Retirement, What,
    schema::{ROLLOUTS, SCORES, STEPS},
};
use std::time::Duration;
use store::{CacheOptions, Depth, Finding, Follower, Key, Store, StoreError, StoreOptions, Why};

on_every_backend!(
    what_is_moved_reads_as_before,
    a_start_from_a_snapshot_finds_what_was_moved,
    what_was_moved_twice_counts_once,
);

/// Three units, sampled, scored and trained on, with a snapshot after every fourth commit; a fourth that is live.
pub async fn trained(bed: &Bed) -> Follower {
    let store = bed.open_with(StoreOptions { snapshot_every: 4, ..bed.options() }).await;
    let mut follower = start(&store).await;
    for unit in 0..4 {
        claim(&mut follower, 1).await;
        deliver(&mut follower, unit, unit.min(3)).await;
        score(&mut follower, unit).await;
        if unit < 3 {
            train_on(&mut follower, &format!("u{unit}")).await;
        }
    }
    follower
}

/// The objects of a kind whose batch is none of the live ones, in the order of the log.
async fn ended(follower: &Follower, wanted: impl Fn(&What) -> bool) -> Vec<ObjectRef> {
    let named = store::named(&follower.store().history(None).await.unwrap());
    let is_live = |what: &What| match what {
        What::Rollouts(batch) | What::Scores { batch, .. } => follower.snapshot().batches.contains_key(batch),
        _ => false,
    };
    let of = named.into_iter().filter(|named| wanted(&named.what) && !is_live(&named.what));
    of.map(|named| named.object).collect()
}

pub async fn rollouts_of(follower: &Follower) -> Vec<ObjectRef> {
    ended(follower, |what| matches!(what, What::Rollouts(_))).await
}

pub async fn scores_of(follower: &Follower) -> Vec<ObjectRef> {
    ended(follower, |what| matches!(what, What::Scores { .. })).await
}

fn key() -> Key {
    Key::archived_rollouts(PolicyVersion(0), PolicyVersion(2))
}

/// Moves `objects`, rollouts, into an archive of their own.
pub async fn put(store: &Store, objects: &[ObjectRef]) -> Archive {
    let put = store.put_archive(objects, &ROLLOUTS, |_| key(), |_| {}).await.unwrap();
    assert!(put.left.is_empty() && put.later.is_empty());
    put.archive.unwrap()
}

pub async fn commit(follower: &mut Follower, archive: &Archive) -> Result<u64, StoreError> {
    let event = Event::Archive(archive.clone());
    Ok(follower.append(work("archive"), |_| Some(event.clone())).await?.unwrap().seq)
}

/// A run whose ended rollouts lie in one archive.
pub struct Moved {
    pub follower: Follower,
    pub store: Store,
    /// Where they were put, in the order of the log; they are still there.
    pub objects: Vec<ObjectRef>,
    pub archive: Archive,
    /// The commit that moved them.
    pub seq: u64,
}

pub async fn moved(bed: &Bed) -> Moved {
    let mut follower = trained(bed).await;
    let store = follower.store().clone();
    let objects = rollouts_of(&follower).await;
    let archive = put(&store, &objects).await;
    let seq = commit(&mut follower, &archive).await.unwrap();
    Moved { follower, store, objects, archive, seq }
}

/// Moves everything that has ended.
pub async fn archive(follower: &mut Follower) {
    let store = follower.store().clone();
    let rollouts = put(&store, &rollouts_of(follower).await).await;
    let key = Key::archived_scores(SET, PolicyVersion(0), PolicyVersion(2));
    let scores = store.put_archive(&scores_of(follower).await, &SCORES, |_| key, |_| {}).await.unwrap();
    let key = Key::archived_steps(1, 3);
    let steps = ended(follower, |what| matches!(what, What::StepRecord(_))).await;
    let steps = store.put_archive(&steps, &STEPS, |_| key, |_| {}).await.unwrap();
    for archive in [rollouts, scores.archive.unwrap(), steps.archive.unwrap()] {
        commit(follower, &archive).await.unwrap();
    }
}

pub async fn read(store: &Store, rollouts: &[ObjectRef], scores: &[ObjectRef]) -> Vec<(RecordBatch, RecordBatch)> {
    let mut read = Vec::new();
    for (rollouts, scores) in rollouts.iter().zip(scores) {
        let scored = store.get_scored(rollouts, scores).await.unwrap();
        read.push((scored.rollouts().as_record_batch().clone(), scored.scores().clone()));
    }
    read
}

async fn what_is_moved_reads_as_before(bed: Bed) {
    let mut follower = trained(&bed).await;
    let (rollouts, scores) = (rollouts_of(&follower).await, scores_of(&follower).await);
    let before = read(follower.store(), &rollouts, &scores).await;
    assert_eq!(before.len(), 3);
    // One that read the log before, and learns of it only when an object is gone.
    let early = bed.open().await;
    early.history(None).await.unwrap();

    archive(&mut follower).await;
    let snapshot = follower.snapshot().clone();
    assert_eq!(snapshot.archives, [snapshot.seq - 2, snapshot.seq - 1, snapshot.seq]);
    assert_eq!(read(&early, &rollouts, &scores).await, before);
    for object in rollouts.iter().chain(&scores) {
        follower.store().delete(&object.key).await.unwrap();
    }
    let late = bed.open().await;
    late.history(None).await.unwrap();
    for store in [follower.store(), &early, &late, &bed.open().await] {
        assert_eq!(read(store, &rollouts, &scores).await, before);
        store.check_length(&rollouts[0]).await.unwrap();
    }
    assert_eq!(bed.open().await.snapshot(None).await.unwrap(), Store::snapshot(&late, None).await.unwrap());

    // What nobody moved is missing, and called so by its own key.
    let live = &snapshot.batches["u3"].object;
    late.get_rollouts(live).await.unwrap();
    late.delete(&live.key).await.unwrap();
    let error = late.get_rollouts(live).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing { key, .. } if *key == live.key), "{error}");
}

async fn a_start_from_a_snapshot_finds_what_was_moved(bed: Bed) {
    let mut follower = trained(&bed).await;
    let (rollouts, scores) = (rollouts_of(&follower).await, scores_of(&follower).await);
    let before = read(follower.store(), &rollouts, &scores).await;
    archive(&mut follower).await;
    for note_no in 0..8 {
        let event = note(note_no.to_string());
        follower.append(work("w"), |_| Some(event.clone())).await.unwrap();
    }
    for object in rollouts.iter().chain(&scores) {
        follower.store().delete(&object.key).await.unwrap();
    }
    let later = bed.open().await;
    let started = later.follow().await.unwrap();
    assert_eq!(started.snapshot().archives.len(), 3);
    assert_eq!(read(&later, &rollouts, &scores).await, before);
    assert_eq!(findings(&later).await, [], "snapshots say the same as the log");
}

/// Two that archive at once.
async fn what_was_moved_twice_counts_once(bed: Bed) {
    let mut follower = trained(&bed).await;
    let store = follower.store().clone();
    let rollouts = rollouts_of(&follower).await;
    let scores = scores_of(&follower).await;
    let before = read(&store, &rollouts, &scores).await;
    let (first, second) = (put(&store, &rollouts).await, put(&store, &rollouts).await);
    commit(&mut follower, &first).await.unwrap();
    let seq = commit(&mut follower, &second).await.unwrap();
    let named = store::named(&store.history(None).await.unwrap());
    let of = |key: &str| named.iter().find(|named| named.object.key == key).unwrap();
    assert!(rollouts.iter().all(|object| of(&object.key).moved.as_ref().unwrap().archive == first.object.key));
    assert_eq!((of(&first.object.key).given_up, of(&second.object.key).given_up), (None, Some(seq)));
    store.delete(&second.object.key).await.unwrap();
    for object in &rollouts {
        store.delete(&object.key).await.unwrap();
    }
    assert_eq!(read(&bed.open().await, &rollouts, &scores).await, before);
    assert_eq!(findings(&bed.open().await).await, []);
}

pub async fn findings(store: &Store) -> Vec<Finding> {
    store.verify(Depth::Everything, &mut |_| {}).await.unwrap().findings
}

#[tokio::test]
async fn packed_batches_of_any_budget_read_alike() {
    let bed = Bed::folder(false);
    let store = bed.open().await;
    let mut follower = start(&store).await;
    let plain = rollouts("u0", 0, 0);
    let (object, _) = store.put_packed_rollouts("u0", &plain, Codec::Lossless, 16).await.unwrap();
    let (scores, _) = store.put_packed_scores(SET, "u0", &scored(plain.clone()), Codec::Lossless, 16).await.unwrap();
    let budgets = [
        Budget::default(),
        Budget { draws: Some(0), ..Budget::default() },
        Budget { sampler_top_k: Some(1), teacher_top_k: Some(0), ..Budget::default() },
        Budget { draws: Some(0), teacher_draws: Some(0), teacher_top_k: Some(0), sampler_top_k: Some(0) },
    ];
    let mut before = Vec::new();
    for budget in budgets {
        before.push(store.get_scored_within(&object, &scores, budget).await.unwrap());
    }
    for (object, schema) in [(&object, &ROLLOUTS), (&scores, &SCORES)] {
        let put = store.put_archive(std::slice::from_ref(object), schema, |_| key(), |_| {}).await.unwrap();
        commit(&mut follower, &put.archive.unwrap()).await.unwrap();
        store.delete(&object.key).await.unwrap();
    }
    for (budget, before) in budgets.into_iter().zip(before) {
        let after = store.get_scored_within(&object, &scores, budget).await.unwrap();
        assert_eq!(after.rollouts().as_record_batch(), before.rollouts().as_record_batch(), "{budget:?}");
        assert_eq!(after.scores(), before.scores(), "{budget:?}");
    }
}

/// As where only some batches have draws to pack: two archives, not one for each time that the columns change.
#[tokio::test]
async fn batches_with_other_columns_wait_for_another_archive_and_what_cannot_be_read_stays() {
    let bed = Bed::folder(false);
    let store = bed.open().await;
    let mut objects = Vec::new();
    for unit in 0..6 {
        let (name, codec) = (format!("u{unit}"), if unit % 2 == 0 { Codec::Plain } else { Codec::Lossless });
        let batch = rollouts(&name, unit, 0);
        objects.push(store.put_packed_rollouts(&name, &batch, codec, 16).await.unwrap().0);
    }
    store.delete(&objects[0].key).await.unwrap();
    let keys = |of: &[usize]| of.iter().map(|i| objects[*i].key.clone()).collect::<Vec<_>>();
    let moved = |moves: &[Move]| moves.iter().map(|of| of.key.clone()).collect::<Vec<_>>();
    let mut named = Vec::new();
    let put = async |objects: &[ObjectRef], named: &mut Vec<String>| {
        let key = |moves: &[Move]| {
            *named = moved(moves);
            key()
        };
        store.put_archive(objects, &ROLLOUTS, key, |_| {}).await.unwrap()
    };
    let first = put(&objects, &mut named).await;
    assert_eq!((moved(&first.archive.unwrap().moves), &named), (keys(&[1, 3, 5]), &keys(&[1, 3, 5])));
    assert!(matches!(&first.left[..], [StoreError::Missing { key, .. }] if *key == objects[0].key));
    let second = put(&first.later, &mut named).await;
    assert_eq!((moved(&second.archive.unwrap().moves), &named), (keys(&[2, 4]), &keys(&[2, 4])));
    assert!(second.later.is_empty() && second.left.is_empty());
    let none = put(&objects[..1], &mut named).await;
    assert!(none.archive.is_none() && none.later.is_empty() && none.left.len() == 1);
}

#[tokio::test]
async fn a_live_batch_is_not_moved() {
    let bed = Bed::memory();
    let mut follower = trained(&bed).await;
    let store = follower.store().clone();
    let live = follower.snapshot().batches["u3"].object.clone();
    let error = commit(&mut follower, &put(&store, std::slice::from_ref(&live)).await).await.unwrap_err();
    let StoreError::Fold(error) = error else { panic!("{error}") };
    assert_eq!(error.what, format!("`{}` is of a live batch", live.key));
    let mut short = put(&store, &rollouts_of(&follower).await).await;
    short.moves.pop();
    let StoreError::Fold(error) = commit(&mut follower, &short).await.unwrap_err() else { panic!() };
    assert!(error.what.contains("end at byte"), "{error}");
}

/// What is moved, and then given up, may be deleted; what is left says how much room it takes.
#[tokio::test]
async fn what_may_be_deleted_follows_from_what_is_in_an_archive() {
    let bed = Bed::folder(false);
    let Moved { mut follower, store, objects, archive, seq } = moved(&bed).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let gone = async || {
        let found = store.inventory(true).await.unwrap().collection(Duration::ZERO).old;
        found.into_iter().map(|garbage| (garbage.key, garbage.why)).collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = objects.iter().map(|object| (object.key.clone(), Why::Moved(seq))).collect();
    expected.sort();
    assert_eq!(gone().await, expected);
    let bytes = async || -> u64 {
        let named = store.inventory(false).await.unwrap().named;
        named.iter().filter(|named| named.given_up.is_none()).map(|named| named.takes).sum()
    };
    let before = bytes().await;
    let retire = async |follower: &mut Follower, batches: &[&str]| {
        let batches = batches.iter().map(|batch| batch.to_string()).collect();
        let event = Event::Retire(Retirement { batches, ..Retirement::default() });
        follower.append(work("retain"), |_| Some(event.clone())).await.unwrap().unwrap().seq
    };
    // The archive stays as long as one batch in it is kept; what was given up in it is nobody's any more.
    let scores: Vec<u64> = scores_of(&follower).await.iter().map(|object| object.bytes).collect();
    retire(&mut follower, &["u0", "u1"]).await;
    let given_up: u64 = archive.moves[..2].iter().map(|of| of.bytes).sum();
    assert_eq!(bytes().await, before - given_up - scores[..2].iter().sum::<u64>());
    assert!(!gone().await.iter().any(|(key, _)| *key == archive.object.key));
    let last = retire(&mut follower, &["u2"]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(gone().await.contains(&(archive.object.key.clone(), Why::GivenUp(last))));
    assert_eq!(bytes().await, before - archive.object.bytes - scores.iter().sum::<u64>());
    for (key, _) in gone().await {
        store.delete(&key).await.unwrap();
    }
    assert_eq!(findings(&store).await, []);
}

/// Of an archive in a bucket the cache keeps the parts that were read.
#[tokio::test]
async fn the_cache_keeps_row_groups() {
    let (bed, folder) = (Bed::memory(), tempfile::tempdir().unwrap());
    let Moved { store, objects, archive, .. } = moved(&bed).await;
    for object in &objects {
        store.delete(&object.key).await.unwrap();
    }
    let cache = Some(CacheOptions { path: folder.path().into(), bytes: 1 << 20 });
    let cached = bed.open_with(StoreOptions { cache: cache.clone(), ..bed.options() }).await;
    let read = cached.get_rollouts(&objects[0]).await.unwrap();
    store.delete(&archive.object.key).await.unwrap();
    // Another process: footer and row group are on the disk.
    let other = bed.open_with(StoreOptions { cache, ..bed.options() }).await;
    assert_eq!(other.get_rollouts(&objects[0]).await.unwrap().as_record_batch(), read.as_record_batch());
    let error = other.get_rollouts(&objects[1]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing { key, .. } if *key == archive.object.key), "{error}");
}
