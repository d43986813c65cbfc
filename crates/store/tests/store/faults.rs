//! A lost acknowledgement is not a conflict, and an error is not a failure: nothing is ever committed twice.

use crate::material::*;
use object_store::{ObjectStoreExt, path::Path};
use proptest::prelude::*;
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use store::{
    Follower, Key, Store, StoreError, StoreOptions,
    simulated::{self, Fault, Faulty, ReadFault, Tasks},
};

fn options() -> StoreOptions {
    let timeout = Duration::from_millis(20);
    StoreOptions { timeout, poll: Duration::from_millis(1), ..StoreOptions::default() }
}

async fn faulty() -> (Arc<Faulty>, Store, Follower) {
    let objects = Arc::new(Faulty::default());
    let store = Store::with_backend(objects.clone(), options());
    let follower = start(&store).await;
    (objects, store, follower)
}

#[tokio::test]
async fn each_fault_of_a_commit_ends_in_one_commit() {
    use Fault::{After, AfterAsExists, Before, BeforeAsExists, Hang, Late, Twice};
    for fault in [Before, After, AfterAsExists, BeforeAsExists, Hang, Late, Twice] {
        let (objects, store, mut follower) = faulty().await;
        objects.fail([fault]);
        let commit = follower.append(work("w"), |_| Some(note("once".into()))).await.unwrap().unwrap();
        assert_eq!(objects.left(), 0);
        tokio::time::sleep(Duration::from_millis(40)).await;
        let commits = store.history(None).await.unwrap();
        assert_eq!(commits.len(), 2, "{fault:?}");
        assert_eq!(commits[1], commit, "{fault:?}");
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_is_an_error_that_says_so() {
    let objects = Arc::new(Faulty::default());
    let store = Store::with_backend(objects.clone(), StoreOptions { attempts: 2, ..options() });
    let mut follower = start(&store).await;
    objects.fail([Fault::Before; 2]);
    let error = follower.append(work("w"), |_| Some(note("x".into()))).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unreachable { key, attempts: 2, .. } if key.ends_with("1.json")), "{error}");
    assert!(error.to_string().contains("starting the job again is safe"));
    assert_eq!(store.history(None).await.unwrap().len(), 1);
    objects.fail([Fault::Hang; 2]);
    let error = follower.append(work("w"), |_| Some(note("x".into()))).await.unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
}

#[tokio::test]
async fn a_lost_acknowledgement_in_a_race_is_told_from_a_conflict() {
    let (objects, store, mut first) = faulty().await;
    let mut second = store.follow().await.unwrap();
    // The first one's commit is made and its answer lost; the second plans for the same number.
    objects.fail([Fault::AfterAsExists]);
    first.append(work("a"), |_| Some(note("first".into()))).await.unwrap().unwrap();
    let mut asked = 0;
    let plan = |now: &store::Snapshot| {
        asked += 1;
        now.settings.is_none().then(|| note("second".into()))
    };
    assert_eq!(second.append(work("b"), plan).await.unwrap(), None);
    assert_eq!(asked, 1);
    let commits = store.history(None).await.unwrap();
    assert_eq!(commits.iter().filter_map(note_of).collect::<Vec<_>>(), ["first"]);
}

#[tokio::test]
async fn a_commit_that_contradicts_the_log_is_never_written() {
    let (_, store, mut follower) = faulty().await;
    let run = follower.snapshot().run.clone();
    let event = record::Event::Run(Box::new(run));
    let error = follower.append(work("w"), |_| Some(event.clone())).await.unwrap_err();
    assert!(matches!(error, StoreError::Fold(_)), "{error}");
    assert_eq!(store.history(None).await.unwrap().len(), 1);
    follower.append(work("w"), |_| Some(note("goes on".into()))).await.unwrap().unwrap();
}

#[tokio::test]
async fn each_fault_of_an_object_ends_in_that_object() {
    use Fault::{After, AfterAsExists, Before, BeforeAsExists};
    let (objects, store, _) = faulty().await;
    for fault in [Before, After, AfterAsExists] {
        objects.fail([fault]);
        let object = store.put(Key::step(1), format!("{fault:?}")).await.unwrap();
        assert_eq!(store.get(&object).await.unwrap(), format!("{fault:?}"));
    }
    objects.fail([BeforeAsExists]);
    let error = store.put(Key::step(1), "x").await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "never taken for stored: {error}");
}

#[tokio::test]
async fn catching_up_asks_for_each_commit_about_once_and_a_poll_for_one() {
    let (objects, store, mut writer) = faulty().await;
    for i in 0..200 {
        writer.append(work("w"), |_| Some(note(i.to_string()))).await.unwrap();
    }
    let count = || objects.gets.swap(0, std::sync::atomic::Ordering::SeqCst);
    count();
    let mut reader = store.follow().await.unwrap();
    let catching_up = count();
    assert!((201..201 + 130).contains(&catching_up), "{catching_up} requests for 201 commits");
    reader.refresh().await.unwrap();
    assert_eq!(count(), 1);
}

/// Does `work` in a world whose time passes at once; how long it took there.
fn in_a_world(work: impl Future<Output = ()> + 'static) -> Duration {
    let mut tasks = Tasks::new(1);
    let task = tasks.start(work);
    while tasks.is_alive(task) {
        assert!(tasks.turn(), "nothing can go on");
    }
    simulated::now().unwrap()
}

#[test]
fn the_read_of_an_entry_is_tried_again() {
    use ReadFault::{Fails, Hangs, Truncated};
    for faults in [&[Fails][..], &[Truncated], &[Hangs], &[Fails, Truncated, Fails, Fails, Hangs, Fails, Fails]] {
        in_a_world(async move {
            let objects = Arc::new(Faulty::default());
            let store = Store::with_backend(objects.clone(), StoreOptions::default());
            let mut writer = start(&store).await;
            let mut reader = store.follow().await.unwrap();
            for i in 0..3 {
                writer.append(work("w"), |_| Some(note(i.to_string()))).await.unwrap();
            }
            objects.fail_reads(faults.iter().copied());
            assert!(reader.refresh().await.unwrap(), "{faults:?}");
            assert_eq!((reader.snapshot(), objects.reads_left()), (writer.snapshot(), 0), "{faults:?}");
        });
    }
}

#[test]
fn the_read_of_an_entry_is_tried_a_number_of_times_and_for_a_time() {
    use ReadFault::{Denied, Fails, Hangs, Truncated};
    for (fault, tries, says, seconds) in [
        (Fails, 8, "(attempts: 8): ", 3..12),
        (Hangs, 2, "no answer within 30s", 60..61),
        (Truncated, 3, "is damaged: expected commit 1", 0..1),
        (Denied, 1, "403", 0..1),
    ] {
        let took = in_a_world(async move {
            let objects = Arc::new(Faulty::default());
            let store = Store::with_backend(objects.clone(), StoreOptions::default());
            let mut writer = start(&store).await;
            let mut reader = store.follow().await.unwrap();
            writer.append(work("w"), |_| Some(note("x".into()))).await.unwrap();
            objects.fail_reads([fault; 20]);
            let error = reader.refresh().await.unwrap_err().to_string();
            assert!(error.contains("`log/00000000000000000001.json`") && error.contains(says), "{fault:?}: {error}");
            assert_eq!(20 - objects.reads_left(), tries, "{fault:?}: {error}");
        });
        assert!(seconds.contains(&took.as_secs()), "{fault:?}: {took:?}");
    }
}

#[tokio::test]
async fn what_was_read_before_an_error_need_not_be_read_again() {
    let objects = Arc::new(Faulty::default());
    let store = Store::with_backend(objects.clone(), StoreOptions { attempts: 1, ..options() });
    let mut writer = start(&store).await;
    let mut reader = store.follow().await.unwrap();
    for i in 0..20 {
        writer.append(work("w"), |_| Some(note(i.to_string()))).await.unwrap();
    }
    // One entry comes at first, then two; among the four behind them one is torn.
    let (sound, torn) = (objects.sound(), Path::from("log/00000000000000000006.json"));
    let whole = sound.get(&torn).await.unwrap().bytes().await.unwrap();
    sound.put(&torn, whole.slice(..9).into()).await.unwrap();
    assert!(matches!(reader.refresh().await, Err(StoreError::Corrupt { .. })));
    assert_eq!(reader.snapshot().seq, 3);
    assert_eq!(reader.take_new().len(), 3);
    sound.put(&torn, whole.into()).await.unwrap();
    assert!(reader.refresh().await.unwrap());
    assert_eq!(reader.snapshot(), writer.snapshot());
    assert_eq!(reader.take_new().len(), 17);
}

fn fault() -> impl Strategy<Value = Fault> {
    use Fault::*;
    prop_oneof![4 => Just(None), 1 => Just(Before), 2 => Just(After), 2 => Just(AfterAsExists), 1 => Just(BeforeAsExists),
        1 => Just(Late), 1 => Just(Twice)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_every_append_lands_exactly_once(faults in proptest::collection::vec(fault(), 1..16)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let counts: BTreeMap<String, usize> = runtime.block_on(async {
            let (objects, store, _) = faulty().await;
            objects.fail(faults);
            let writers = (0..3).map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut follower = store.follow().await.unwrap();
                    for i in 0..3 {
                        let event = note(format!("{writer}.{i}"));
                        follower.append(work("w"), |_| Some(event.clone())).await.unwrap().unwrap();
                    }
                })
            });
            futures::future::try_join_all(writers).await.unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
            let mut counts = BTreeMap::new();
            for commit in store.history(None).await.unwrap() {
                if let Some(note) = note_of(&commit) {
                    *counts.entry(note.to_string()).or_default() += 1;
                }
            }
            counts
        });
        prop_assert_eq!(counts.len(), 9);
        prop_assert!(counts.values().all(|count| *count == 1), "{:?}", counts);
    }
}
