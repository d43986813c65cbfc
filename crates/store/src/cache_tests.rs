use super::*;
use proptest::prelude::*;
use record::Digest;
use std::collections::BTreeSet;

/// An object of `bytes` bytes, each `number`.
fn object(number: u8, bytes: usize) -> (ObjectRef, Vec<u8>) {
    let content = vec![number; bytes];
    let digest = Digest::of(&content);
    (ObjectRef { key: format!("scores/main/{number}"), bytes: bytes as u64, digest }, content)
}

fn cache(folder: &Path, bytes: u64) -> Cache {
    Cache::open(&CacheOptions { path: folder.into(), bytes }).unwrap()
}

/// Reads through the cache; says whether there was a copy.
fn read(cache: &Cache, (object, content): &(ObjectRef, Vec<u8>)) -> bool {
    match cache.get(object) {
        Some(copy) => {
            assert_eq!(copy, content);
            true
        }
        None => {
            cache.keep(object, content);
            false
        }
    }
}

fn names(cache: &Cache) -> BTreeSet<String> {
    let name = |entry: &Entry| entry.path.file_name().unwrap().to_str().unwrap().to_string();
    cache.entries().unwrap().iter().map(name).collect()
}

fn bytes(cache: &Cache) -> u64 {
    cache.entries().unwrap().iter().map(|entry| entry.bytes).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The oracle: a list of copies, the one used last at its end.
    #[test]
    fn what_was_not_used_for_longest_goes_first_and_the_limit_holds(
        sizes in proptest::collection::vec(0_usize..120, 1..10),
        limit in 1_u64..300,
        reads in proptest::collection::vec(0_usize..10, 1..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path(), limit);
        let objects: Vec<_> = sizes.iter().enumerate().map(|(i, size)| object(i as u8, *size)).collect();
        let mut kept: Vec<ObjectRef> = Vec::new();
        for i in reads {
            let wanted = &objects[i % objects.len()];
            // Objects without bytes are one and the same.
            let place = kept.iter().position(|copy| copy.digest == wanted.0.digest);
            prop_assert_eq!(read(&cache, wanted), place.is_some());
            if let Some(place) = place {
                let used = kept.remove(place);
                kept.push(used);
            } else if wanted.0.bytes <= limit {
                while kept.iter().map(|copy| copy.bytes).sum::<u64>() + wanted.0.bytes > limit {
                    kept.remove(0);
                }
                kept.push(wanted.0.clone());
            }
            prop_assert_eq!(names(&cache), kept.iter().map(|copy| copy.digest.hex()).collect());
            prop_assert!(bytes(&cache) <= limit);
        }
    }
}

#[test]
fn many_who_share_a_folder_keep_its_limit_and_read_nothing_but_whole_copies() {
    let folder = tempfile::tempdir().unwrap();
    let objects: Vec<_> = (0..20).map(|i| object(i, 1000 + usize::from(i))).collect();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (objects, folder) = (&objects, folder.path());
            // Each as a process has it: a view of its own.
            scope.spawn(move || {
                let cache = cache(folder, 5_000);
                for i in 0..150 {
                    read(&cache, &objects[(i * (worker + 1) + worker) % objects.len()]);
                }
            });
        }
    });
    let cache = cache(folder.path(), 5_000);
    assert!(bytes(&cache) <= 5_000, "{}", bytes(&cache));
    assert!(names(&cache).iter().all(|name| !name.ends_with(PART)), "each that was begun is done");
    assert!(!names(&cache).is_empty());
}

#[test]
fn a_damaged_copy_is_none_and_makes_room_for_a_whole_one() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, wanted) = (cache(folder.path(), 1000), object(7, 100));
    let copy = folder.path().join(wanted.0.digest.hex());
    for damage in [vec![], vec![7; 99], vec![7; 101], [vec![7; 99], vec![8]].concat()] {
        read(&cache, &wanted);
        fs::write(&copy, &damage).unwrap();
        assert_eq!(cache.get(&wanted.0), None, "{} bytes", damage.len());
        assert!(!copy.exists());
    }
    assert!(!read(&cache, &wanted) && read(&cache, &wanted));
}

#[test]
fn what_a_dead_writer_left_goes_in_its_turn_and_what_is_not_ours_stays() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path(), 250);
    let left = cache.part();
    let file = cache.take_room(&left, 200).unwrap();
    drop(file);
    fs::write(folder.path().join("notes.txt"), [0; 1000]).unwrap();
    assert_eq!(bytes(&cache), 200);
    read(&cache, &object(1, 100));
    assert!(!left.exists() && folder.path().join("notes.txt").exists());
    assert_eq!(bytes(&cache), 100);
    // Whoever wrote there finds its room taken, and that is all.
    let (ours, theirs) = (object(2, 200), object(3, 240));
    let (part, lock) = (cache.part(), cache.lock_file().unwrap());
    assert!(is_locked(&lock).unwrap());
    let mut slow = cache.take_room(&part, 200).unwrap();
    drop(lock);
    read(&cache, &theirs);
    slow.write_all(&ours.1).unwrap();
    assert_eq!(fs::rename(&part, cache.path(&ours.0)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(names(&cache), BTreeSet::from([theirs.0.digest.hex()]));
}

#[test]
fn who_cannot_have_the_lock_does_without() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, wanted) = (cache(folder.path(), 1000), object(1, 100));
    let held = cache.lock_file().unwrap();
    held.lock().unwrap();
    assert!(!read(&cache, &wanted) && !read(&cache, &wanted));
    drop(held);
    assert!(!read(&cache, &wanted) && read(&cache, &wanted));
}

#[test]
fn a_cache_that_goes_wrong_later_is_told_of_once_and_fails_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let (cache, wanted) = (cache(&path, 1000), object(1, 100));
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "a file").unwrap();
    assert!(!read(&cache, &wanted));
    assert!(cache.has_warned.load(Ordering::Relaxed));
    assert!(!read(&cache, &wanted));
}

#[test]
fn a_folder_that_cannot_hold_it_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for (path, limit, reason) in [(file.join("cache"), 10, "Not a directory"), (folder.path().into(), 0, "0 bytes")] {
        let error = Cache::open(&CacheOptions { path: path.clone(), bytes: limit }).unwrap_err().to_string();
        for words in [path.to_str().unwrap(), reason, "store.cache", "hint:"] {
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
