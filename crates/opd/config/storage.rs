//! `[store]`: where a run is kept, and how this machine reads it.

use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};
use store::{CacheOptions, StoreOptions};

/// `[store]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSection {
    /// `s3://bucket/prefix`, `file:///path`, or a path relative to where the command runs.
    pub url: String,
    /// Whether objects on local disks are flushed before they are committed, so that they outlive a loss of power.
    #[serde(default)]
    pub fsync: bool,
    /// Commits between two snapshots of the log.
    #[serde(default = "default_snapshot_every")]
    pub snapshot_every: u64,
    /// Milliseconds between two looks for a new commit, at most: who waits looks more often at first.
    #[serde(default = "default_poll_ms")]
    pub poll_ms: u64,
    /// Batches fetched ahead.
    #[serde(default = "default_prefetch")]
    pub prefetch: usize,
    /// Buckets: where this machine keeps copies of objects; nowhere without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheSection>,
}

/// `store.cache`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSection {
    /// A folder, relative to where the command runs; jobs and runs on one machine may share it.
    pub path: PathBuf,
    /// The most bytes that copies may take.
    pub bytes: u64,
}

fn default_snapshot_every() -> u64 {
    1024
}
fn default_poll_ms() -> u64 {
    20
}
fn default_prefetch() -> usize {
    4
}

impl StoreSection {
    /// How the store is opened.
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            fsync: self.fsync,
            snapshot_every: self.snapshot_every,
            poll: Duration::from_millis(self.poll_ms),
            prefetch: self.prefetch,
            cache: self.cache.as_ref().map(|cache| CacheOptions { path: cache.path.clone(), bytes: cache.bytes }),
            ..StoreOptions::default()
        }
    }
}
