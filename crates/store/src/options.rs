//! How a store is used; nothing here changes what is stored.

use std::{path::PathBuf, time::Duration};

/// How long an object that no commit names is left alone.
pub const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Settings of a [`Store`](crate::Store).
#[derive(Clone, Debug, PartialEq)]
pub struct StoreOptions {
    /// Local stores: make each object durable before its commit, and each commit before going on. Without it, what was
    /// written last may be lost or torn when the power fails (never when a process is killed).
    pub fsync: bool,
    /// A history segment and a snapshot are written after every so many commits.
    pub snapshot_every: u64,
    /// The longest wait before looking for the next commit again; see [`Follower::wait`](crate::Follower::wait).
    pub poll: Duration,
    /// How many batches a stream reads ahead.
    pub prefetch: usize,
    /// How often a put is tried when it is not clear what became of it, and how often the read of a log's entry is.
    pub attempts: u32,
    /// An object that no commit names is deleted by nobody before it is this old. What a writer has put and not committed for
    /// half as long is put again before the commit, so all programs that share a store must agree on it.
    pub grace: Duration,
    /// After this long without an answer, what became of a commit is looked up, and an entry of the log asked for again: within
    /// twice this time.
    pub timeout: Duration,
    /// Buckets: where copies of objects are kept, so that none is fetched twice. A local store's are mapped where they lie.
    pub cache: Option<CacheOptions>,
}

/// A folder of copies of a bucket's objects, which any number of processes may share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// The folder.
    pub path: PathBuf,
    /// The most bytes that copies may take, together.
    pub bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            fsync: false,
            snapshot_every: 1024,
            poll: Duration::from_millis(100),
            prefetch: 4,
            attempts: 8,
            grace: GRACE,
            timeout: Duration::from_secs(30),
            cache: None,
        }
    }
}
