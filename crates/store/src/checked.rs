//! Which files this process has found to hold what their digest says. An object never changes, so the SHA-256 of a file that nobody
//! wrote to since need not be computed again.
//!
//! Any write moves a file's time of change, which no program can set, and another file under the same name is another inode. Only a write
//! within one step of the file system's clock could leave the time as it was: files that were changed just now are not remembered.

use crate::chance::now_ms;
use record::{Digest, ObjectRef};
use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// No file system in use has a coarser clock; milliseconds.
const CLOCK_STEP: i64 = 2_000;
/// Files remembered at most: about 10 MB. What is forgotten is checked again.
const MOST: usize = 1 << 16;

/// A file as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds since 1970, as `changed`.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    /// Of an open file. To be taken before its bytes are read: what is written later then gives another state.
    pub fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            bytes: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether a write from `now` on, in milliseconds since 1970, is sure to give another state.
    fn is_settled(&self, now: i64) -> bool {
        let changed = self.changed.0.saturating_mul(1000).saturating_add(self.changed.1 / 1_000_000);
        changed.saturating_add(CLOCK_STEP) < now
    }
}

/// The files that were found whole, by the digest of what they hold.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    files: Mutex<HashMap<Digest, FileState>>,
}

impl Checked {
    /// Whether a file in this state was found to hold `object`.
    pub fn holds(&self, object: &ObjectRef, file: &FileState) -> bool {
        file.bytes == object.bytes && self.files().get(&object.digest) == Some(file)
    }

    /// Remembers that a file holds `object`: its bytes were read after its state was taken, and had the digest.
    pub fn add(&self, object: &ObjectRef, file: FileState) {
        self.add_at(object, file, now_ms());
    }

    fn add_at(&self, object: &ObjectRef, file: FileState, now: i64) {
        if !file.is_settled(now) {
            return;
        }
        let mut files = self.files();
        if files.len() >= MOST {
            files.clear();
        }
        files.insert(object.digest, file);
    }

    /// Forgets all of them: everything is checked again.
    pub fn forget(&self) {
        self.files().clear();
    }

    fn files(&self) -> MutexGuard<'_, HashMap<Digest, FileState>> {
        // Nothing panics while it holds the lock; and if it did, each entry would still be true.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn object(bytes: u64) -> ObjectRef {
        ObjectRef { key: "rollouts/a".into(), bytes, digest: Digest::of(b"abc") }
    }

    fn file() -> FileState {
        FileState { device: 1, inode: 7, bytes: 3, modified: (5, 5), changed: (NOW / 1000 - 60, 250) }
    }

    #[test]
    fn any_other_state_is_checked_again() {
        let checked = Checked::default();
        checked.add_at(&object(3), file(), NOW);
        assert!(checked.holds(&object(3), &file()));
        for other in [
            FileState { device: 2, ..file() },
            FileState { inode: 8, ..file() },
            FileState { bytes: 4, ..file() },
            FileState { modified: (5, 6), ..file() },
            FileState { changed: (file().changed.0, 251), ..file() },
        ] {
            assert!(!checked.holds(&object(3), &other), "{other:?}");
        }
        assert!(!checked.holds(&object(4), &file()), "another length is committed");
        let other = ObjectRef { digest: Digest::of(b"abd"), ..object(3) };
        assert!(!checked.holds(&other, &file()));
        checked.forget();
        assert!(!checked.holds(&object(3), &file()));
    }

    #[test]
    fn what_was_changed_just_now_is_not_remembered() {
        for (age, is_kept) in [(-5_000, false), (0, false), (1_999, false), (2_001, true), (60_000, true)] {
            let checked = Checked::default();
            let changed = NOW - age;
            let file = FileState { changed: (changed / 1000, changed % 1000 * 1_000_000), ..file() };
            checked.add_at(&object(3), file, NOW);
            assert_eq!(checked.holds(&object(3), &file), is_kept, "{age} ms old");
        }
    }

    #[tokio::test]
    async fn a_store_remembers_the_files_it_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::Store::open(&folder.path().display().to_string(), Default::default()).await.unwrap();
        let object = store.put_file("x", "abc").await.unwrap();
        let state = || FileState::of(&std::fs::metadata(folder.path().join(&object.key)).unwrap());
        store.get(&object).await.unwrap();
        assert!(!store.checked().holds(&object, &state()), "it was written just now");
        std::thread::sleep(std::time::Duration::from_millis(CLOCK_STEP as u64 + 100));
        assert_eq!(store.get(&object).await.unwrap(), "abc");
        assert!(store.checked().holds(&object, &state()));
        // Whoever verifies a store wants to know what lies there now.
        let _ = store.verify(crate::Depth::Everything, &mut |_| {}).await;
        assert!(!store.checked().holds(&object, &state()));
    }

    #[test]
    fn memory_is_bounded() {
        let checked = Checked::default();
        for i in 0..=MOST {
            let object = ObjectRef { digest: Digest::of(&i.to_le_bytes()), ..object(3) };
            checked.add_at(&object, file(), NOW);
        }
        assert_eq!(checked.files().len(), 1);
    }
}
