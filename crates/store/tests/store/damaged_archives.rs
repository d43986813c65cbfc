//! Archives that are damaged, or not there: nothing is lost for it that lies where it was put, and what is wrong is named.

use crate::{archives::*, bed::Bed, material::*};
use object_store::ObjectStoreExt;
use record::Digest;
use std::{path::Path, time::Duration};
use store::{Depth, Lacking, StoreError, Why};

/// As after a loss of power, or when a copy of the store left it out.
#[tokio::test]
async fn nothing_is_deleted_for_an_archive_that_is_damaged_or_not_there() {
    let bed = Bed::folder(false);
    let Moved { store, objects, archive, .. } = moved(&bed).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let file = Path::new(&bed.url()).join(&archive.object.key);
    let good = std::fs::read(&file).unwrap();
    let mut torn = good.clone();
    torn[good.len() / 2..].fill(0);
    for (bytes, says, by_length) in
        [(None, "nothing", true), (Some(&good[..7]), "7 bytes", true), (Some(&torn[..]), "sha256:", false)]
    {
        std::fs::remove_file(&file).unwrap();
        if let Some(bytes) = bytes {
            std::fs::write(&file, bytes).unwrap();
        }
        let inventory = store.inventory(true).await.unwrap();
        assert_eq!(inventory.collection(Duration::ZERO).lacking.len(), usize::from(by_length), "{says}");
        let found = store.collection(&inventory, Duration::ZERO, |_, _| {}).await.unwrap();
        assert!(!found.old.iter().any(|garbage| matches!(garbage.why, Why::Moved(_))), "{says}: {:?}", found.old);
        let [Lacking { archive: key, found, objects: 3, .. }] = &found.lacking[..] else {
            panic!("{says}: {:?}", found.lacking)
        };
        assert!(*key == archive.object.key && found.contains(says), "{says}: {key} {found}");
        std::fs::write(&file, &good).unwrap();
    }
    let inventory = store.inventory(true).await.unwrap();
    let found = store.collection(&inventory, Duration::ZERO, |_, _| {}).await.unwrap();
    assert_eq!((found.old.len(), found.lacking), (objects.len(), vec![]));
}

/// What lies where it was put, still or brought back from a copy, is read where the archive cannot be; what is said names the archive.
#[tokio::test]
async fn where_an_archive_cannot_be_read_the_object_is() {
    let bed = Bed::folder(false);
    let mut follower = trained(&bed).await;
    let (rollouts, scores) = (rollouts_of(&follower).await, scores_of(&follower).await);
    let before = read(follower.store(), &rollouts, &scores).await;
    let archive = put(follower.store(), &rollouts).await;
    commit(&mut follower, &archive).await.unwrap();
    let at = |key: &str| Path::new(&bed.url()).join(key);
    let (file, original) = (at(&archive.object.key), at(&rollouts[1].key));
    let (good, copy) = (std::fs::read(&file).unwrap(), std::fs::read(&original).unwrap());
    let (second, _) = archive.row_groups().nth(1).unwrap();
    let flipped = |at: u64| {
        let mut bytes = good.clone();
        bytes[at as usize] ^= 1;
        Some(bytes)
    };
    for damaged in [flipped(second + 3), flipped(archive.footer_at() + 3), Some(good[..9].to_vec()), None] {
        std::fs::remove_file(&file).unwrap();
        if let Some(bytes) = &damaged {
            std::fs::write(&file, bytes).unwrap();
        }
        // One that has read of the move, and one that has not.
        let (early, late) = (bed.open().await, bed.open().await);
        late.history(None).await.unwrap();
        for store in [&early, &late] {
            assert_eq!(read(store, &rollouts, &scores).await, before);
            store.check_length(&rollouts[1]).await.unwrap();
        }
        std::fs::remove_file(&original).unwrap();
        for store in [&early, &late] {
            let error = store.get_rollouts(&rollouts[1]).await.unwrap_err();
            assert!(error.is_of_one_object() && error.to_string().contains(&archive.object.key), "{error}");
            let is_whole = damaged.as_ref().is_some_and(|bytes| bytes.len() == good.len());
            assert_eq!(store.check_length(&rollouts[1]).await.is_ok(), is_whole);
        }
        std::fs::write(&original, &copy).unwrap();
        assert_eq!(read(&early, &rollouts, &scores).await, before, "brought back");
        std::fs::write(&file, &good).unwrap();
    }
}

#[tokio::test]
async fn damage_in_an_archive_is_found_and_named() {
    let bed = Bed::folder(false);
    let Moved { store, objects, archive, .. } = moved(&bed).await;
    for object in &objects {
        store.delete(&object.key).await.unwrap();
    }
    let root = bed.url();
    let file = Path::new(&root).join(&archive.object.key);
    let good = std::fs::read(&file).unwrap();
    let key = &archive.object.key;
    let flipped = |at: u64| {
        let mut bytes = good.clone();
        bytes[at as usize] ^= 1;
        bytes
    };
    let (second, _) = archive.row_groups().nth(1).unwrap();
    let cases = [
        // In a row group: the file, and the batch whose rows they are. In the footer and cut short: the file, once.
        (flipped(second + 3), vec![key, &objects[1].key]),
        (flipped(archive.footer_at() + 3), vec![key]),
        (good[..good.len() / 2].to_vec(), vec![key]),
    ];
    for (bytes, names) in cases {
        std::fs::write(&file, bytes).unwrap();
        let found = findings(&bed.open().await).await;
        let mut at: Vec<&String> = found.iter().map(|finding| &finding.key).collect();
        at.sort();
        at.dedup();
        assert_eq!(at, names, "{found:?}");
        assert!(found.iter().all(|finding| finding.key == *key || finding.expected.contains(key.as_str())));
    }
    let one = bed.open().await.get_rollouts(&objects[1]).await.unwrap_err();
    assert!(one.is_of_one_object(), "{one}");
    std::fs::remove_file(&file).unwrap();
    let found = findings(&bed.open().await).await;
    assert!(found.len() == 1 && found[0].key == *key && found[0].found == "nothing", "{found:?}");
    std::fs::write(&file, &good).unwrap();
    assert_eq!(findings(&bed.open().await).await, []);
}

/// A file that is what was put, of which the commit says something else: whether or not the objects lie where they were.
#[tokio::test]
async fn an_archive_whose_commit_is_wrong_is_found() {
    for (i, says) in [(0, "a footer with sha256:"), (1, "a footer with"), (2, "row groups")] {
        let bed = Bed::folder(false);
        let mut follower = trained(&bed).await;
        let store = follower.store().clone();
        let objects = rollouts_of(&follower).await;
        let mut archive = put(&store, &objects).await;
        match i {
            0 => archive.footer.digest = Digest::of(b"another"),
            // The border between the last row group and the footer lies elsewhere.
            1 => {
                archive.footer.bytes -= 1;
                archive.moves[2].bytes += 1;
            }
            _ => {
                let last = archive.moves.pop().unwrap();
                archive.moves[1].bytes += last.bytes;
            }
        }
        commit(&mut follower, &archive).await.unwrap();
        let found = findings(&bed.open().await).await;
        assert!(found.len() == 1 && found[0].expected.contains(says), "{i}: {found:?}");
        assert_eq!(found[0].key, archive.object.key);
        for object in &objects {
            store.delete(&object.key).await.unwrap();
        }
        let found = findings(&bed.open().await).await;
        assert!(found.iter().any(|finding| finding.key == archive.object.key), "{i}: {found:?}");
    }
}

/// What a snapshot names and the log has lost is not taken for read: once it is back, so is what was moved.
#[tokio::test]
async fn an_entry_that_is_gone_is_looked_for_again() {
    let bed = Bed::memory();
    let mut follower = trained(&bed).await;
    let (rollouts, scores) = (rollouts_of(&follower).await, scores_of(&follower).await);
    let before = read(follower.store(), &rollouts, &scores).await;
    archive(&mut follower).await;
    let seq = follower.snapshot().archives[0];
    for note_no in 0..8 {
        let event = note(note_no.to_string());
        follower.append(work("w"), |_| Some(event.clone())).await.unwrap();
    }
    for object in rollouts.iter().chain(&scores) {
        follower.store().delete(&object.key).await.unwrap();
    }
    let entry = object_store::path::Path::from(format!("log/{seq:020}.json"));
    let json = bed.objects().get(&entry).await.unwrap().bytes().await.unwrap();
    bed.objects().delete(&entry).await.unwrap();
    let later = bed.open().await;
    let error = later.get_rollouts(&rollouts[0]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Missing { key, .. } if *key == rollouts[0].key), "{error}");
    bed.objects().put(&entry, json.into()).await.unwrap();
    assert_eq!(read(&later, &rollouts, &scores).await, before);
}

/// What another archives and collects between the reading of the log and that of the objects is not lost.
#[tokio::test]
async fn what_is_moved_meanwhile_is_not_reported() {
    for depth in [Depth::Lengths, Depth::Everything] {
        let bed = Bed::folder(false);
        let mut follower = trained(&bed).await;
        let store = follower.store().clone();
        let (rollouts, lost) = (rollouts_of(&follower).await, scores_of(&follower).await.remove(0));
        let archive = put(&store, &rollouts).await;
        let seq = commit(&mut follower, &archive).await.unwrap();
        let at = |key: &str| Path::new(&bed.url()).join(key);
        let entry = at(&format!("log/{seq:020}.json"));
        let (aside, gone) = (entry.with_extension("aside"), at(&lost.key));
        std::fs::rename(&entry, &aside).unwrap();
        std::fs::remove_file(&gone).unwrap();
        let mut move_now = |seen: store::Seen<'_>| {
            if matches!(seen, store::Seen::Commits(_)) {
                std::fs::rename(&aside, &entry).unwrap();
                rollouts.iter().for_each(|object| std::fs::remove_file(at(&object.key)).unwrap());
            }
        };
        let found = bed.open().await.verify(depth, &mut move_now).await.unwrap().findings;
        assert!(found.len() == 1 && found[0].key == lost.key, "{depth:?}: {found:?}");
    }
}
