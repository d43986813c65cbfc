//! Files that are truncated, flipped, or from another time.

use crate::{bed::Bed, material::*};
use record::{Commit, FORMAT};
use std::path::Path;
use store::{Store, StoreError, StoreOptions};

fn path(bed: &Bed, key: &str) -> std::path::PathBuf {
    Path::new(&bed.url()).join(key)
}

#[tokio::test]
async fn a_truncated_or_flipped_object_is_named_with_both_values() {
    let bed = Bed::folder(false);
    let store = bed.open().await;
    let object = store.put_rollouts("u0", &rollouts("u0", 0, 0)).await.unwrap();
    let file = path(&bed, &object.key);
    let bytes = std::fs::read(&file).unwrap();
    for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..length]).unwrap();
        let error = store.get_rollouts(&object).await.unwrap_err();
        let StoreError::Corrupt { key, expected, found } = &error else { panic!("{error}") };
        assert_eq!(*key, object.key);
        assert_eq!((expected, found), (&format!("{} bytes", bytes.len()), &format!("{length} bytes")));
    }
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    std::fs::write(&file, flipped).unwrap();
    let error = store.get_rollouts(&object).await.unwrap_err();
    assert!(error.to_string().contains(&object.digest.to_string()), "{error}");
    std::fs::write(&file, bytes).unwrap();
    store.get_rollouts(&object).await.unwrap();
}

/// What was found whole is not found so again where it was changed since, in place or by another file under its name.
#[tokio::test]
async fn a_file_that_is_changed_after_it_was_read_is_found() {
    let bed = Bed::folder(false);
    let store = bed.open().await;
    let object = store.put_rollouts("u0", &rollouts("u0", 0, 0)).await.unwrap();
    let file = path(&bed, &object.key);
    let bytes = std::fs::read(&file).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    // Long enough for the file to be remembered as it is.
    tokio::time::sleep(std::time::Duration::from_millis(2_200)).await;
    for _ in 0..3 {
        store.get(&object).await.unwrap();
    }
    std::fs::write(&file, &flipped).unwrap();
    // The time that a program can set is set back.
    let then = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
    for _ in 0..2 {
        let error = store.get(&object).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { expected, .. } if *expected == object.digest.to_string()),
            "{error}"
        );
    }
    std::fs::write(&file, &bytes).unwrap();
    store.get(&object).await.unwrap();
    std::fs::write(file.with_extension("new"), &flipped).unwrap();
    std::fs::rename(file.with_extension("new"), &file).unwrap();
    assert!(store.get_rollouts(&object).await.is_err());
}

#[tokio::test]
async fn some_columns_are_those_of_the_whole_batch() {
    let store = Store::memory();
    let whole = rollouts("u0", 0, 0);
    let plain = store.put_rollouts("u0", &whole).await.unwrap();
    let (packed, _) = store.put_packed_rollouts("u1", &whole, record::Codec::Lossless, 100).await.unwrap();
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let wanted = ["seed", "draw_logprobs", "rollout_id", "response_ids"];
    let expected: Vec<_> = wanted.iter().map(|name| whole.as_record_batch().column_by_name(name).unwrap()).collect();
    for object in [&plain, &packed] {
        let some = store.get_some(object, &record::schema::ROLLOUTS, names(&wanted)).await.unwrap();
        assert_eq!(some.columns().iter().collect::<Vec<_>>(), expected);
        assert_eq!(some.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), wanted);
        let none = store.get_some(object, &record::schema::ROLLOUTS, vec![]).await.unwrap();
        assert_eq!((none.num_rows(), none.num_columns()), (whole.len(), 0));
    }
    for (schema, columns, says) in [
        (&record::schema::ROLLOUTS, ["seeds"], "expected a column of the schema"),
        (&record::schema::SCORES, ["teacher_id"], "its schema is `rollouts`, not `scores`"),
    ] {
        let error = store.get_some(&plain, schema, names(&columns)).await.unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(&plain.key), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_or_foreign_log_entry_is_named() {
    let bed = Bed::folder(false);
    let store = bed.open().await;
    let mut follower = start(&store).await;
    follower.append(work("w"), |_| Some(note("x".into()))).await.unwrap();
    let entry = path(&bed, "log/00000000000000000001.json");
    let good = std::fs::read_to_string(&entry).unwrap();
    let error = |text: String| {
        std::fs::write(&entry, text).unwrap();
        let store = store.clone();
        async move { store.follow().await.unwrap_err() }
    };
    for damaged in [String::new(), good[..good.len() / 2].into(), good.replace("\"seq\":1", "\"seq\":2")] {
        let error = error(damaged).await;
        assert!(matches!(&error, StoreError::Corrupt { key, .. } if key == "log/00000000000000000001.json"), "{error}");
    }
    let format = |number: u32| format!("\"format\":{number}");
    let written = Commit::from_json(good.as_bytes()).unwrap().format;
    let newer = error(good.replace(&format(written), &format(FORMAT + 1))).await;
    assert!(matches!(&newer, StoreError::NewerFormat { .. }), "{newer}");
    assert!(newer.to_string().contains("use a newer"), "{newer}");
    // A writer takes a damaged entry neither for its own nor for a gap.
    std::fs::write(&entry, good).unwrap();
    let next = path(&bed, "log/00000000000000000002.json");
    std::fs::write(&next, "torn").unwrap();
    let error = follower.append(work("w"), |_| Some(note("y".into()))).await.unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { found, .. } if found.contains("torn")), "{error}");
    assert_eq!(std::fs::read(&next).unwrap(), b"torn");
}

#[tokio::test]
async fn an_address_that_names_no_store_is_told_so() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for url in
        ["", "gs://bucket/x", "file://host/x", "s3://key:secret@bucket/x", "s3://bucket/x?secret=1", "nonsense://"]
    {
        let error = Store::open(url, StoreOptions::default()).await.unwrap_err();
        assert!(matches!(error, StoreError::Address { .. }), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let error = Store::open(file.path().to_str().unwrap(), StoreOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("is a file"), "{error}");
}

#[tokio::test]
async fn one_folder_has_one_store_however_it_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("new store").display().to_string();
    let first = Store::open(&plain, StoreOptions::default()).await.unwrap();
    start(&first).await;
    for url in
        [plain.clone(), format!("{plain}/"), format!("file://{plain}"), format!("file://{}", plain.replace(' ', "%20"))]
    {
        let same = Store::open(&url, StoreOptions::default()).await.unwrap();
        assert_eq!(same.follow().await.unwrap().snapshot().seq, 0, "{url}");
    }
    let up = folder.path().join("nowhere/../new store").display().to_string();
    assert!(Store::open(&up, StoreOptions::default()).await.is_err());
}

#[tokio::test]
async fn what_a_killed_writer_leaves_is_not_seen() {
    let bed = Bed::folder(false);
    let store = bed.open().await;
    start(&store).await;
    let before = store.usage().await.unwrap();
    for name in ["log/00000000000000000001.json#1", "log/00000000000000000001.json#123456"] {
        std::fs::write(path(&bed, name), "half a comm").unwrap();
    }
    store.put_rollouts("u0", &rollouts("u0", 0, 0)).await.unwrap();
    let mut follower = store.follow().await.unwrap();
    assert_eq!((follower.snapshot().seq, follower.snapshot().batches.len()), (0, 0));
    follower.append(work("w"), |_| Some(note("x".into()))).await.unwrap().unwrap();
    let log = |usage: &std::collections::BTreeMap<_, store::Usage>| usage[&store::Kind::Log].objects;
    assert_eq!(log(&store.usage().await.unwrap()), log(&before) + 1);
}

#[tokio::test]
async fn a_commit_that_contradicts_the_log_stops_the_reader_before_it() {
    let bed = Bed::folder(false);
    let store = bed.open().await;
    let mut writer = start(&store).await;
    let mut reader = store.follow().await.unwrap();
    writer.append(work("w"), |_| Some(note("x".into()))).await.unwrap();
    let wrong = store::FoldError { seq: 2, kind: "run", what: "a run has one identity".into() };
    let entry = std::fs::read_to_string(path(&bed, "log/00000000000000000000.json")).unwrap();
    let entry = entry.replacen("\"seq\":0", "\"seq\":2", 1);
    std::fs::write(path(&bed, "log/00000000000000000002.json"), entry).unwrap();
    let error = reader.refresh().await.unwrap_err();
    assert!(matches!(&error, StoreError::Fold(found) if *found == wrong), "{error}");
    assert_eq!(reader.snapshot().seq, 1);
    assert_eq!(reader.take_new().len(), 1);
}
