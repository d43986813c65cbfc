//! What every backend must keep.

use crate::{
    bed::{Bed, on_every_backend},
    material::*,
};
use record::{BatchRows, Digest, ObjectRef, PolicyVersion, RowSet, Run};
use std::collections::HashSet;
use store::{Key, Kind, StoreError};

on_every_backend!(
    objects_read_back,
    a_large_object_reads_back,
    unique_keys_are_never_overwritten,
    files_are_stored_once,
    what_was_not_committed_is_not_given,
    an_empty_place_has_no_run,
    a_run_is_created_once,
    another_run_is_refused_by_its_first_difference,
    a_whole_round_reads_back,
    a_follower_sees_what_others_append,
);

async fn objects_read_back(bed: Bed) {
    let store = bed.open().await;
    for bytes in [vec![], vec![7], vec![3; 1 << 20]] {
        let object = store.put(Key::weights(PolicyVersion(1)), bytes.clone()).await.unwrap();
        assert_eq!((object.bytes, object.digest), (bytes.len() as u64, Digest::of(&bytes)));
        assert_eq!(bed.open().await.get(&object).await.unwrap(), bytes);
        store.delete(&object.key).await.unwrap();
        store.delete(&object.key).await.unwrap();
        assert!(matches!(store.get(&object).await, Err(StoreError::Missing { .. })));
    }
}

/// Above 64 MiB a bucket gets an object in parts.
async fn a_large_object_reads_back(bed: Bed) {
    let store = bed.open().await;
    let bytes: Vec<u8> = (0..(64 << 20) + 12_345_u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    let object = store.put(Key::weights(PolicyVersion(1)), bytes.clone()).await.unwrap();
    assert_eq!((object.bytes, object.digest), (bytes.len() as u64, Digest::of(&bytes)));
    assert!(bed.open().await.get(&object).await.unwrap() == bytes);
    let listed = store.usage().await.unwrap();
    assert_eq!((listed[&Kind::Policies].objects, listed.len()), (1, 1), "parts are not objects");
    store.delete(&object.key).await.unwrap();
    assert!(matches!(store.get(&object).await, Err(StoreError::Missing { .. })));
}

async fn unique_keys_are_never_overwritten(bed: Bed) {
    let store = bed.open().await;
    let key = Key::step(1);
    let first = store.put(key.clone(), "first").await.unwrap();
    // The same again is what a lost acknowledgement looks like; anything else is refused.
    assert_eq!(store.put(key.clone(), "first").await.unwrap(), first);
    let error = store.put(key, "other").await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert_eq!(store.get(&first).await.unwrap(), "first");
}

async fn files_are_stored_once(bed: Bed) {
    let store = bed.open().await;
    let config = store.put_file("config.json", "{}").await.unwrap();
    assert_eq!(store.put_file("config.json", "{}").await.unwrap(), config);
    assert_ne!(store.put_file("config.json", "{ }").await.unwrap().key, config.key);
    assert_eq!(store.usage().await.unwrap()[&Kind::Policies].objects, 2);
}

async fn what_was_not_committed_is_not_given(bed: Bed) {
    let store = bed.open().await;
    let object = store.put(Key::step(1), "first").await.unwrap();
    let longer = ObjectRef { bytes: 6, ..object.clone() };
    let other = ObjectRef { digest: Digest::of(b"other"), ..object.clone() };
    for wrong in [longer, other] {
        let error = store.get(&wrong).await.unwrap_err();
        assert!(matches!(&error, StoreError::Corrupt { key, .. } if *key == object.key), "{error}");
        assert!(error.is_of_one_object());
    }
    let away = ObjectRef { key: "steps/nothing.arrow".into(), ..object.clone() };
    assert!(matches!(store.get(&away).await, Err(StoreError::Missing { .. })));
    for outside in ["../secret", "/etc/passwd", "steps//x", ""] {
        let outside = ObjectRef { key: outside.into(), ..object.clone() };
        assert!(store.get(&outside).await.is_err(), "{outside:?}");
    }
    let error = store.get_rollouts(&object).await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { .. }), "{error}");
}

async fn an_empty_place_has_no_run(bed: Bed) {
    let store = bed.open().await;
    for error in [
        store.follow().await.unwrap_err(),
        store.history(None).await.unwrap_err(),
        store.snapshot(None).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NoRun { .. }), "{error}");
    }
    assert!(store.usage().await.unwrap().is_empty());
    assert!(!std::path::Path::new(&bed.url()).exists(), "looking makes no folder");
}

async fn a_run_is_created_once(bed: Bed) {
    let store = bed.open().await;
    let run = run(&store).await;
    let first = store.create(run.clone(), work("run")).await.unwrap();
    let again = Run { run_id: "another".into(), ..run.clone() };
    let other = bed.open().await;
    let second = other.create(again, work("run")).await.unwrap();
    assert_eq!(first.snapshot(), second.snapshot());
    assert_eq!(second.snapshot().run.run_id, run.run_id);
    assert_eq!(store.history(None).await.unwrap().len(), 1);
}

async fn another_run_is_refused_by_its_first_difference(bed: Bed) {
    let store = bed.open().await;
    let mine = run(&store).await;
    store.create(mine.clone(), work("run")).await.unwrap();
    let digest = Digest::of(b"other");
    type Change = fn(&mut Run, Digest);
    let changes: [(&str, Change); 8] = [
        ("pipeline", |run, _| run.pipeline = "other".into()),
        ("seed", |run, _| run.seed = 8),
        ("tokenizer", |run, digest| run.tokenizer = digest),
        ("student's other files", |run, _| run.student_files.clear()),
        ("student (policy version, weights)", |run, digest| run.policy.weights.digest = digest),
        ("units", |run, _| run.units.samples = 9),
        ("teachers", |run, digest| run.teachers.extend([("second".to_string(), digest)])),
        ("score sets", |run, _| run.score_sets.get_mut(SET).unwrap().draws = 2),
    ];
    for (name, change) in changes {
        let mut other = mine.clone();
        change(&mut other, digest);
        let error = store.create(other, work("run")).await.unwrap_err();
        let StoreError::OtherRun { what, store, pipeline, .. } = &error else { panic!("{error}") };
        assert_eq!(what, name);
        assert_ne!(store, pipeline);
    }
}

async fn a_whole_round_reads_back(bed: Bed) {
    let store = bed.open().await;
    let mut follower = start(&store).await;
    claim(&mut follower, 1).await;
    let rollouts_object = deliver(&mut follower, 0, 0).await;
    let scores_object = score(&mut follower, 0).await;
    step(&mut follower, vec![BatchRows { batch: "u0".into(), rows: RowSet::first(3) }]).await;

    let other = bed.open().await;
    let seen = other.follow().await.unwrap();
    assert_eq!(seen.snapshot(), follower.snapshot());
    let now = seen.snapshot();
    assert_eq!((now.version, now.batches["u0"].pending.len()), (PolicyVersion(1), 1));
    assert_eq!(other.get(&now.newest_policy().weights).await.unwrap(), "weights 1");
    assert_eq!(other.get(&now.moments[&PolicyVersion(1)]).await.unwrap(), "moments 1");
    let expected = scored(rollouts("u0", 0, 0));
    let read = other.get_scored(&rollouts_object, &scores_object).await.unwrap();
    assert_eq!(read.rollouts().as_record_batch(), expected.rollouts().as_record_batch());
    assert_eq!(read.scores(), expected.scores());
    let kinds: Vec<Kind> = other.usage().await.unwrap().into_keys().collect();
    assert_eq!(kinds, [Kind::Log, Kind::Rollouts, Kind::Scores, Kind::Steps, Kind::Policies, Kind::Optimizer]);
    let commits = other.history(None).await.unwrap();
    assert_eq!(
        commits.iter().map(|commit| commit.event.kind()).collect::<Vec<_>>(),
        ["run", "claim", "rollouts", "scores", "step"]
    );
    assert_eq!(other.history(Some(2)).await.unwrap(), commits[..3]);
    assert_eq!(other.snapshot(Some(2)).await.unwrap().version, PolicyVersion(0));
    assert!(other.history(Some(5)).await.unwrap_err().to_string().contains("ends at commit 4"));
    assert_eq!(commits.iter().map(|commit| &commit.id).collect::<HashSet<_>>().len(), commits.len());
}

async fn a_follower_sees_what_others_append(bed: Bed) {
    let store = bed.open().await;
    let mut writer = start(&store).await;
    let mut reader = bed.open().await.follow().await.unwrap();
    assert!(reader.take_new().is_empty() && !reader.refresh().await.unwrap());
    for i in 0..70 {
        writer.append(work("w"), |_| Some(note(i.to_string()))).await.unwrap().unwrap();
    }
    while reader.snapshot().seq < 70 {
        reader.wait().await.unwrap();
    }
    let new = reader.take_new();
    assert_eq!(new.iter().filter_map(note_of).collect::<Vec<_>>(), (0..70).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(reader.silent_for("w") < reader.silent_for("nobody"));
    assert_eq!(writer.append(work("w"), |_| None).await.unwrap(), None);
    assert!(!reader.refresh().await.unwrap());
}
