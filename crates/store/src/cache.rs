//! Copies of a bucket's objects on a local disk, within a limit of bytes; those not used for longest go first. Any number of
//! processes share a folder.
//!
//! A copy is a file named by the digest of what it holds, so it is right for whichever store names that digest, and it is checked
//! each time it is read. It gets that name only when it is whole. Its room is taken before it is written: under a lock of the folder
//! the oldest files go until it fits, and a temporary file is made at its full length. So the limit holds at each moment, whoever
//! shares the folder or dies while writing: what is left of a dead one is a file like others, and goes when it is the oldest.
//!
//! Nothing here fails a read. Whatever goes wrong with the cache, the object comes from the store.

use crate::{
    Result, StoreError,
    chance::{now_ms, unique_id},
    object::{map, verify},
    options::CacheOptions,
};
use bytes::Bytes;
use record::ObjectRef;
use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const LOCK: &str = "lock";
/// Ends the name of a file that is being written.
const PART: &str = ".part";
/// The lock is held for the time of a listing. Whoever does not get it in so many looks does without keeping a copy, so that a
/// process that is stopped with the lock in hand stops no other.
const LOOKS: u32 = 50;
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// One process's view of a folder of copies.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    limit: u64,
    /// When a copy was last used, in nanoseconds since 1970. No two uses by this process are at one time.
    last_use: AtomicU64,
    has_warned: AtomicBool,
}

/// A file of the folder.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    used: SystemTime,
    path: PathBuf,
    bytes: u64,
}

impl Cache {
    /// Makes the folder if it is not there, and checks that it can be written to.
    pub fn open(options: &CacheOptions) -> Result<Self> {
        let folder = options.path.clone();
        let cache = Self { folder, limit: options.bytes, last_use: AtomicU64::new(0), has_warned: false.into() };
        let fault = |reason: String| StoreError::Cache { path: options.path.display().to_string(), reason };
        if options.bytes == 0 {
            return Err(fault("its limit is 0 bytes".into()));
        }
        let try_it = || {
            fs::create_dir_all(&cache.folder)?;
            cache.lock_file()?;
            let part = cache.part();
            File::create_new(&part)?;
            match fs::remove_file(&part) {
                // Whoever shares the folder and needs the room may have been quicker.
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        try_it().map_err(|error| fault(error.to_string()))?;
        Ok(cache)
    }

    /// The copy of an object, mapped; none if there is none that is whole.
    pub fn get(&self, object: &ObjectRef) -> Option<Bytes> {
        let path = self.path(object);
        let bytes = match map(&path) {
            Ok((bytes, _)) => bytes,
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    self.warn(&error);
                }
                return None;
            }
        };
        match verify(object, bytes) {
            Ok(bytes) => {
                // Of a copy that another user made, the time cannot be set: then it goes earlier than it should.
                let _ = File::open(&path).and_then(|file| self.stamp(&file));
                Some(bytes)
            }
            Err(error) => {
                tracing::warn!(copy = %path.display(), %error, "a damaged copy is dropped, and the object fetched again");
                // Where it cannot be dropped, the next reader finds it damaged again.
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a copy of an object if there can be room for it. `bytes` are the object's, checked.
    pub fn keep(&self, object: &ObjectRef, bytes: &[u8]) {
        let path = self.path(object);
        if object.bytes > self.limit || path.exists() {
            return;
        }
        match self.write(&path, bytes) {
            // The folder is being emptied, or somebody needed the room more.
            Err(error) if error.kind() == ErrorKind::NotFound && self.folder.exists() => {}
            Err(error) => self.warn(&error),
            Ok(()) => {}
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let lock = self.lock_file()?;
        if !is_locked(&lock)? {
            return Ok(());
        }
        let part = self.part();
        let taken = self.take_room(&part, bytes.len() as u64);
        drop(lock);
        let written = taken.and_then(|mut file| {
            file.write_all(bytes)?;
            self.stamp(&file)?;
            fs::rename(&part, path)
        });
        if written.is_err() {
            // Most often it is gone already, or was never made.
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// A file of `bytes` bytes; to be called under the folder's lock.
    fn take_room(&self, part: &Path, bytes: u64) -> io::Result<File> {
        let mut entries = self.entries()?;
        entries.sort();
        let mut taken: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for entry in entries {
            if taken.saturating_add(bytes) <= self.limit {
                break;
            }
            match fs::remove_file(&entry.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => taken -= entry.bytes,
            }
        }
        let file = File::create_new(part)?;
        file.set_len(bytes)?;
        self.stamp(&file)?;
        Ok(file)
    }

    /// The files that are ours; whatever else lies in the folder is none of our business.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let name = file.file_name();
            let is_copy = name.len() == 64 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit);
            if !is_copy && !name.as_encoded_bytes().ends_with(PART.as_bytes()) {
                continue;
            }
            // A file that vanishes meanwhile takes no room.
            let Ok(meta) = file.metadata() else { continue };
            entries.push(Entry { used: meta.modified()?, path: file.path(), bytes: meta.len() });
        }
        Ok(entries)
    }

    fn path(&self, object: &ObjectRef) -> PathBuf {
        self.folder.join(object.digest.hex())
    }

    fn part(&self) -> PathBuf {
        self.folder.join(unique_id() + PART)
    }

    fn lock_file(&self) -> io::Result<File> {
        File::options().create(true).truncate(false).write(true).open(self.folder.join(LOCK))
    }

    /// Marks a file as used now: later than any that this process used before.
    fn stamp(&self, file: &File) -> io::Result<()> {
        let now = u64::try_from(now_ms()).unwrap_or(0).saturating_mul(1_000_000);
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let (Ok(last) | Err(last)) = self.last_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        file.set_modified(UNIX_EPOCH + Duration::from_nanos(now.max(last.saturating_add(1))))
    }

    /// Says once that the cache cannot be used as it should.
    fn warn(&self, error: &io::Error) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let folder = self.folder.display();
            tracing::warn!(%folder, %error, "the cache cannot be used; what it cannot hold comes from the store");
        }
    }
}

fn is_locked(file: &File) -> io::Result<bool> {
    for _ in 0..LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_LOOKS),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
