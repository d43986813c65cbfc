//! Reads through a cache of copies: the same as without, but for the requests.

use crate::{
    bed::{Bed, on_every_backend},
    material::*,
};
use futures::{StreamExt, TryStreamExt};
use record::{PolicyVersion, ScoredBatch};
use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};
use store::{CacheOptions, Key, Selection, Store, StoreError, StoreOptions, simulated::Faulty};

on_every_backend!(a_stream_through_a_cache_of_any_size_is_the_same);

fn cached(options: StoreOptions, path: &Path, bytes: u64) -> StoreOptions {
    StoreOptions { cache: Some(CacheOptions { path: path.into(), bytes }), ..options }
}

fn over(objects: &Arc<Faulty>, path: &Path, bytes: u64) -> Store {
    Store::with_backend(objects.clone(), cached(StoreOptions::default(), path, bytes)).cached().unwrap()
}

fn requests(objects: &Faulty) -> usize {
    objects.gets.swap(0, Ordering::SeqCst)
}

fn bytes_below(folder: &Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

async fn stream(store: &Store) -> Vec<(String, ScoredBatch)> {
    let snapshot = store.snapshot(None).await.unwrap();
    let read = store.scored(&snapshot, &Selection::scored_in(SET));
    read.map_ok(|scored| (scored.batch, scored.data)).map(Result::unwrap).collect().await
}

/// From one byte, which holds no batch at all, to more than there is; all of them with more batches on their way than fit.
async fn a_stream_through_a_cache_of_any_size_is_the_same(bed: Bed) {
    let mut follower = start(&bed.open().await).await;
    claim(&mut follower, 6).await;
    for unit in 0..6 {
        deliver(&mut follower, unit, 0).await;
        score(&mut follower, unit).await;
    }
    let plain = stream(&bed.open().await).await;
    assert_eq!(plain.len(), 6);
    for bytes in [1, 9_000, 1 << 20] {
        let folder = tempfile::tempdir().unwrap();
        let options = cached(bed.options(), folder.path(), bytes);
        for _ in 0..2 {
            let read = stream(&bed.open_with(options.clone()).await).await;
            for ((batch, data), (same, expected)) in read.iter().zip(&plain) {
                assert_eq!((batch, data.scores()), (same, expected.scores()), "{bytes}");
                let records = [data, expected].map(|data| data.rollouts().as_record_batch());
                assert_eq!(records[0], records[1], "{bytes}");
            }
            assert_eq!(read.len(), plain.len());
            assert!(bytes_below(folder.path()) <= bytes, "{bytes}");
        }
    }
}

#[tokio::test]
async fn what_a_reader_looked_at_ahead_the_next_one_does_not_fetch() {
    let objects = Arc::new(Faulty::default());
    let store = Store::with_backend(objects.clone(), StoreOptions::default());
    let batch = store.put_rollouts("u0", &rollouts("u0", 0, 0)).await.unwrap();
    requests(&objects);
    let seen = store.looking_ahead().get_rollouts(&batch).await.unwrap();
    store.looking_ahead().get_rollouts(&batch).await.unwrap();
    assert_eq!(requests(&objects), 1);
    for fetched in [0, 1, 1] {
        assert_eq!(store.get_rollouts(&batch).await.unwrap().as_record_batch(), seen.as_record_batch());
        assert_eq!(requests(&objects), fetched, "it is there for one reader");
    }
}

#[tokio::test]
async fn what_was_read_once_is_not_fetched_again_by_anyone_on_the_machine() {
    let (objects, folder) = (Arc::new(Faulty::default()), tempfile::tempdir().unwrap());
    let store = over(&objects, folder.path(), 1 << 20);
    let batch = store.put_rollouts("u0", &rollouts("u0", 0, 0)).await.unwrap();
    let weights = store.put_policy(PolicyVersion(1), vec![1; 5000]).await.unwrap();
    requests(&objects);
    let (first, second) = (store.get_rollouts(&batch).await.unwrap(), store.get(&weights).await.unwrap());
    assert_eq!(requests(&objects), 2);
    // Another process has its own view of both.
    let other = over(&objects, folder.path(), 1 << 20);
    for reader in [&store, &other] {
        assert_eq!(reader.get_rollouts(&batch).await.unwrap().as_record_batch(), first.as_record_batch());
        assert_eq!(reader.get(&weights).await.unwrap(), second);
    }
    assert_eq!(requests(&objects), 0);
    // The log is never a copy.
    start(&store).await;
    requests(&objects);
    store.follow().await.unwrap();
    assert!(requests(&objects) > 0);
}

#[tokio::test]
async fn a_damaged_copy_is_fetched_again_and_a_damaged_object_is_still_an_error() {
    let (objects, folder) = (Arc::new(Faulty::default()), tempfile::tempdir().unwrap());
    let store = over(&objects, folder.path(), 1 << 20);
    let object = store.put(Key::step(1), vec![7; 1000]).await.unwrap();
    store.get(&object).await.unwrap();
    let copy = folder.path().join(object.digest.hex());
    std::fs::write(&copy, vec![8; 1000]).unwrap();
    requests(&objects);
    assert_eq!(store.get(&object).await.unwrap(), vec![7; 1000]);
    assert_eq!((requests(&objects), std::fs::read(&copy).unwrap()), (1, vec![7; 1000]));
    objects.fail_reads([store::simulated::ReadFault::Truncated]);
    let other = store.put(Key::step(2), vec![9; 1000]).await.unwrap();
    let error = store.get(&other).await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { key, .. } if *key == other.key), "{error}");
    assert!(!folder.path().join(other.digest.hex()).exists(), "what is damaged is not kept");
}

/// A put that finds something at its key looks at what is stored, not at a copy of the same content from elsewhere.
#[tokio::test]
async fn a_copy_does_not_stand_in_for_an_object_that_was_not_stored() {
    let (objects, folder) = (Arc::new(Faulty::default()), tempfile::tempdir().unwrap());
    let store = over(&objects, folder.path(), 1 << 20);
    let first = store.put(Key::step(1), "the same").await.unwrap();
    store.get(&first).await.unwrap();
    objects.fail([store::simulated::Fault::BeforeAsExists]);
    let error = store.put(Key::step(2), "the same").await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

#[tokio::test]
async fn a_local_store_is_mapped_where_it_lies() {
    let (bed, folder) = (Bed::folder(false), tempfile::tempdir().unwrap());
    let path = folder.path().join("cache");
    let store = bed.open_with(cached(bed.options(), &path, 1 << 20)).await;
    let object = store.put(Key::step(1), "here").await.unwrap();
    assert_eq!(store.get(&object).await.unwrap(), "here");
    assert!(!path.exists());
}
