//! What is deleted, and what is found: nothing that is needed, and all that is damaged.

use crate::{
    bed::{Bed, on_every_backend},
    material::*,
};
use record::{
    BatchRows, ConsumedRollout, Event, ObjectRef, Policy, PolicyVersion, Retirement, RowSet, StepCommit, encode_step,
};
use std::{collections::BTreeSet, path::Path, time::Duration};
use store::{Depth, Finding, Follower, Key, Store, StoreError, StoreOptions, Why};

on_every_backend!(only_what_nobody_needs_is_deleted, a_sound_store_has_no_findings);

/// A run of two units, of which a step has trained on the first, with snapshots every four commits.
async fn trained(bed: &Bed) -> Follower {
    let store = bed.open_with(StoreOptions { snapshot_every: 4, ..bed.options() }).await;
    let mut follower = start(&store).await;
    for unit in 0..2 {
        claim(&mut follower, 1).await;
        deliver(&mut follower, unit, 0).await;
        score(&mut follower, unit).await;
    }
    train_on(&mut follower, "u0").await;
    follower
}

/// A step on all rows of a batch, with a record of them.
pub async fn train_on(follower: &mut Follower, batch: &str) {
    let (step, store) = (follower.snapshot().version.0 + 1, follower.store().clone());
    let seen = |row: u32| ConsumedRollout { rollout_id: record::rollout_id(batch, row as usize), ..Default::default() };
    let rows: Vec<ConsumedRollout> = (0..ROWS).map(seen).collect();
    let record = store.put_step_record(step, encode_step(step, &rows).unwrap()).await.unwrap();
    let weights = store.put_policy(PolicyVersion(step), format!("weights {step}")).await.unwrap();
    let event = Event::Step(Box::new(StepCommit {
        step,
        consumed: vec![BatchRows { batch: batch.into(), rows: RowSet::first(ROWS) }],
        replayed: Vec::new(),
        dropped: vec![],
        score_set: SET.into(),
        record,
        weights_digest: weights.digest,
        policy: Some(Policy { version: PolicyVersion(step), weights }),
        moments: Some(store.put_moments(PolicyVersion(step), "moments").await.unwrap()),
        settings: serde_json::Value::Null,
        metrics: Default::default(),
    }));
    follower.append(work("learn"), |_| Some(event.clone())).await.unwrap().unwrap();
}

async fn keys(store: &Store) -> BTreeSet<String> {
    store.inventory(false).await.unwrap().lying.into_keys().collect()
}

async fn findings(store: &Store, depth: Depth) -> Vec<Finding> {
    let mut told = Vec::new();
    let verified = store
        .verify(depth, &mut |seen| {
            if let store::Seen::Finding(finding) = seen {
                told.push(finding.clone());
            }
        })
        .await
        .unwrap();
    assert_eq!(told, verified.findings);
    told
}

async fn only_what_nobody_needs_is_deleted(bed: Bed) {
    let mut follower = trained(&bed).await;
    let store = follower.store().clone();
    let before = keys(&store).await;
    let orphans = [
        store.put_rollouts("u9", &rollouts("u9", 9, 0)).await.unwrap(),
        store.put(Key::weights(PolicyVersion(7)), "nobody's").await.unwrap(),
        store.put(Key::scores("other", "u9"), "nobody's").await.unwrap(),
    ];
    store.put_file("left.json", "by a start that failed").await.unwrap();
    let retired = Retirement { batches: vec!["u0".into()], steps: vec![1], ..Default::default() };
    let given_up = follower.append(work("retain"), |_| Some(Event::Retire(retired.clone()))).await.unwrap().unwrap();
    // A bucket tells time by the second.
    tokio::time::sleep(Duration::from_millis(2_100)).await;

    let now = keys(&store).await;
    let inventory = store.inventory(true).await.unwrap();
    assert_eq!(keys(&store).await, now, "the marker is gone again");
    let patient = inventory.collection(Duration::from_secs(3_600));
    assert_eq!((patient.old.len(), patient.young.len(), patient.unknown.len()), (0, 6, 0));
    let eager = inventory.collection(Duration::from_secs(1));
    assert!(eager.young.is_empty() && eager.unknown.is_empty(), "{eager:?}");
    let unnamed: BTreeSet<&str> =
        eager.old.iter().filter(|garbage| garbage.why == Why::Unnamed).map(|garbage| garbage.key.as_str()).collect();
    assert_eq!(unnamed, orphans.iter().map(|object| object.key.as_str()).collect());
    let others: Vec<_> = eager.old.iter().filter(|garbage| garbage.why == Why::GivenUp(given_up.seq)).collect();
    assert_eq!(others.len(), 3, "rollouts, scores and a step record: {others:?}");
    assert!(eager.old.iter().all(|garbage| garbage.age >= Duration::from_secs(1) && garbage.bytes > 0));

    // Without ages nothing is old.
    assert!(store.inventory(false).await.unwrap().collection(Duration::ZERO).old.is_empty());
    for garbage in &eager.old {
        store.delete_garbage(garbage).await.unwrap();
        store.delete_garbage(garbage).await.unwrap();
    }
    let deleted: BTreeSet<String> = eager.old.into_iter().map(|garbage| garbage.key).collect();
    let after = keys(&store).await;
    assert_eq!(after, now.difference(&deleted).cloned().collect());
    let gone: Vec<&String> = before.difference(&after).collect();
    assert!(gone.len() == 3 && gone.iter().all(|key| key.contains("/u0-") || key.starts_with("steps/")), "{gone:?}");
    assert_eq!(findings(&store, Depth::Everything).await, []);
    train_on(&mut follower, "u1").await;
    assert_eq!(findings(&bed.open().await, Depth::Everything).await, []);
}

async fn a_sound_store_has_no_findings(bed: Bed) {
    let mut follower = trained(&bed).await;
    follower.store().put_rollouts("u9", &rollouts("u9", 9, 0)).await.unwrap();
    follower.append(work("w"), |_| Some(note("x".into()))).await.unwrap();
    for depth in [Depth::Everything, Depth::Lengths] {
        assert_eq!(findings(&bed.open().await, depth).await, []);
    }
    let mut objects = 0;
    let mut count = |seen: store::Seen<'_>| {
        if let store::Seen::Objects(done, all) = seen {
            objects = done;
            assert!(done <= all);
        }
    };
    let verified = follower.store().verify(Depth::Everything, &mut count).await.unwrap();
    // Three files and weights; two batches with scores; record, weights and moments of a step.
    assert_eq!((verified.commits, verified.objects, objects), (follower.snapshot().seq + 1, 11, 11));
    let error = Bed::memory().open().await.verify(Depth::Lengths, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::NoRun { .. }), "{error}");
}

/// Copies a folder, as a store to be damaged.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to)
        } else {
            std::fs::copy(entry.path(), to).map(|_| ()).unwrap()
        }
    }
}

/// What damage does to a file.
type Damage = fn(&Path);

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(file, text.replacen(from, to, 1)).unwrap();
}

#[tokio::test]
async fn each_kind_of_damage_is_found_and_nothing_else() {
    let bed = Bed::folder(false);
    let follower = trained(&bed).await;
    let named = store::named(&follower.store().history(None).await.unwrap());
    let key =
        |begins: &str| named.iter().find(|named| named.object.key.starts_with(begins)).unwrap().object.key.clone();
    let (rollouts, scores, step) = (key("rollouts/"), key("scores/"), key("steps/"));
    let (weights, moments, config) = (key("policies/v00000001"), key("optimizer/"), key("policies/config"));
    let entry = |seq: u64| format!("log/{seq:020}.json");
    let mark = format!("log/snapshot/{:020}.json", 3);
    let segment = std::fs::read_dir(Path::new(&bed.url()).join("log/history")).unwrap().next().unwrap().unwrap();
    let segment = format!("log/history/{}", segment.file_name().to_str().unwrap());
    let (gap, torn, other) = (entry(5), entry(6), entry(7));
    let remove: Damage = |file| std::fs::remove_file(file).unwrap();
    let flip: Damage = |file| {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, bytes).unwrap();
    };
    // Where something is done, what, what is said, and whether it is seen from lengths alone.
    let cases: [(&str, Damage, &str, bool); 13] = [
        (&rollouts, remove, "found nothing", true),
        (&scores, |file| std::fs::write(file, "torn").unwrap(), "found 4 bytes", true),
        (&scores, flip, "found sha256:", false),
        (&step, flip, "found sha256:", false),
        (&weights, flip, "found sha256:", false),
        (&moments, remove, "found nothing", true),
        (&config, flip, "found sha256:", false),
        (&gap, remove, "the log goes on to 7, found nothing", true),
        (&torn, |file| std::fs::write(file, "{").unwrap(), "expected commit 6", true),
        (&other, |file| edit(file, "\"step\":1,", "\"step\":2,"), "step 1 was expected, not 2", true),
        (&other, |file| edit(file, "[[0,4]]", "[[0,5]]"), "are not pending", true),
        (&mark, |file| edit(file, "\"seq\":3,\"run\"", "\"seq\":3,\"ran\""), "has not the digest", true),
        (&segment, flip, "found sha256:", false),
    ];
    for (i, (at, damage, says, by_length)) in cases.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        copy(Path::new(&bed.url()), folder.path());
        damage(&folder.path().join(at));
        let store = Store::open(folder.path().to_str().unwrap(), StoreOptions::default()).await.unwrap();
        let text = |found: &[Finding]| -> Vec<String> {
            found.iter().map(|of| format!("{}: expected {}, found {}", of.key, of.expected, of.found)).collect()
        };
        let found = text(&findings(&store, Depth::Everything).await);
        assert!(found.len() == 1 && found[0].starts_with(at) && found[0].contains(says), "{i}: {found:?}");
        let found = text(&findings(&store, Depth::Lengths).await);
        assert_eq!(found.len(), usize::from(by_length), "{i}: {found:?}");
    }
}

/// Objects that are whole and yet not what their commit says.
#[tokio::test]
async fn rows_that_do_not_fit_their_commit_are_found() {
    let bed = Bed::memory();
    let store = bed.open().await;
    let mut follower = start(&store).await;
    claim(&mut follower, 2).await;
    deliver(&mut follower, 0, 0).await;
    // The batch of another unit, and scores of another batch.
    let other = store.put_rollouts("u1", &rollouts("u7", 7, 0)).await.unwrap();
    let event = Event::Rollouts(record::RolloutCommit {
        codec: None,
        batch: "u1".into(),
        of: record::UnitRows { unit: 1, rows: RowSet::first(ROWS) },
        policy_version: PolicyVersion(0),
        teacher_id: "teacher".into(),
        object: other.clone(),
        tokens: 18,
        claims: Default::default(),
    });
    follower.append(work("w"), |_| Some(event.clone())).await.unwrap();
    let stray = store.put_scores(SET, "u0", &scored(rollouts("u8", 8, 0))).await.unwrap();
    let (batch, score_set, claims) = ("u0".to_string(), SET.to_string(), Default::default());
    let event = Event::Scores(record::ScoreCommit {
        batch,
        score_set,
        object: stray.clone(),
        packing: None,
        parent: None,
        claims,
    });
    follower.append(work("w"), |_| Some(event.clone())).await.unwrap();
    // A record that lacks the rows of its step.
    score_second(&mut follower).await;
    step(&mut follower, vec![BatchRows { batch: "u1".into(), rows: RowSet::first(2) }]).await;
    let found = findings(&store, Depth::Everything).await;
    let said: Vec<(&str, String)> =
        found.iter().map(|of| (of.key.as_str(), format!("{} / {}", of.expected, of.found))).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert_eq!(said[0], (other.key.as_str(), "unit 1 / 7".to_string()));
    assert!(said[1].0 == stray.key && said[1].1.contains("rollout_id"), "{said:?}");
    assert!(said[2].0.starts_with("scores/") && said[2].1.contains("rollout_id"), "{said:?}");
    assert!(said[3].0.starts_with("steps/") && said[3].1 == "rows 2 / 0", "{said:?}");
    assert_eq!(findings(&store, Depth::Lengths).await, []);
}

/// Scores for the batch `u1` of the rows it should have.
async fn score_second(follower: &mut Follower) {
    let object: ObjectRef = follower.store().put_scores(SET, "u1", &scored(rollouts("u1", 1, 0))).await.unwrap();
    let (batch, score_set, claims) = ("u1".to_string(), SET.to_string(), Default::default());
    let event = Event::Scores(record::ScoreCommit { batch, score_set, object, packing: None, parent: None, claims });
    follower.append(work("w"), |_| Some(event.clone())).await.unwrap();
}

#[tokio::test]
async fn what_killed_writers_left_in_a_folder_is_deleted_and_what_is_not_ours_stays() {
    let bed = Bed::folder(false);
    let follower = trained(&bed).await;
    let (store, root) = (follower.store(), bed.url());
    let write = |name: &str| {
        let file = Path::new(&root).join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "x").unwrap();
        file
    };
    let whole = follower.snapshot().newest_policy().weights.key.clone();
    let left = [write(&format!("{whole}#7")), write("log/00000000000000000099.json#1234")];
    let foreign = [
        write("notes.txt"),
        write("rollouts/readme.md"),
        write("rollouts/v00000000/u1.arrow"),
        write("policies/mine/model.safetensors"),
        write("log/notes.json"),
        write("notes.txt#1"),
    ];
    std::thread::sleep(Duration::from_millis(20));
    let found = store.inventory(true).await.unwrap().collection(Duration::ZERO);
    assert_eq!(found.unknown.len(), foreign.len(), "{:?}", found.unknown);
    let unfinished: Vec<_> = found.old.iter().map(|garbage| (garbage.why, garbage.bytes)).collect();
    assert_eq!(unfinished, [(Why::Unfinished, 1); 2]);
    for garbage in &found.old {
        store.delete_garbage(garbage).await.unwrap();
    }
    assert!(left.iter().all(|file| !file.exists()) && foreign.iter().all(|file| file.exists()));
    assert_eq!(findings(store, Depth::Everything).await, []);
}

/// What a writer has held for half the grace period it puts again under another key, before it names it.
#[tokio::test]
async fn what_waited_long_is_put_again_before_it_is_named() {
    let bed = Bed::folder(false);
    let store = bed.open_with(StoreOptions { grace: Duration::from_millis(400), ..bed.options() }).await;
    let mut follower = start(&store).await;
    claim(&mut follower, 2).await;
    let object = store.put_rollouts("u0", &rollouts("u0", 0, 0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let commit = |unit: u64, object: &ObjectRef| {
        Event::Rollouts(record::RolloutCommit {
            codec: None,
            batch: format!("u{unit}"),
            of: record::UnitRows { unit, rows: RowSet::first(ROWS) },
            policy_version: PolicyVersion(0),
            teacher_id: "teacher".into(),
            object: object.clone(),
            tokens: 18,
            claims: Default::default(),
        })
    };
    follower.append(work("w"), |_| Some(commit(0, &object))).await.unwrap();
    let named = &follower.snapshot().batches["u0"].object;
    assert!(named.key != object.key && (named.bytes, named.digest) == (object.bytes, object.digest));
    assert!(named.key.starts_with("rollouts/v00000000/u0-"), "{}", named.key);
    let found = store.inventory(true).await.unwrap().collection(Duration::from_millis(250));
    assert_eq!(found.old.iter().map(|garbage| &garbage.key).collect::<Vec<_>>(), [&object.key]);
    store.delete_garbage(&found.old[0]).await.unwrap();
    assert_eq!(findings(&store, Depth::Everything).await, []);
    // One that was collected meanwhile is named by nobody.
    let gone = store.put_rollouts("u1", &rollouts("u1", 1, 0)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    store.delete(&gone.key).await.unwrap();
    let error = follower.append(work("w"), |_| Some(commit(1, &gone))).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing { key, .. } if *key == gone.key), "{error}");
    assert!(!follower.snapshot().batches.contains_key("u1"));
}
