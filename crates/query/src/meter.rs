//! How far a query is, by the batches and step records that its scans read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what the scans of a session's query are to read, and what they have read.
#[derive(Debug, Default)]
pub struct Meter {
    planned: AtomicU64,
    read: AtomicU64,
}

impl Meter {
    /// (read, planned) since the query began. A table that is read twice counts twice.
    pub fn progress(&self) -> (u64, u64) {
        let planned = self.planned.load(Ordering::Relaxed);
        (self.read.load(Ordering::Relaxed).min(planned), planned)
    }

    /// A query begins.
    pub(crate) fn begin(&self) {
        self.planned.store(0, Ordering::Relaxed);
        self.read.store(0, Ordering::Relaxed);
    }

    /// A scan was planned that reads `batches`.
    pub(crate) fn plan(&self, batches: usize) {
        self.planned.fetch_add(batches as u64, Ordering::Relaxed);
    }

    /// One of them was read.
    pub(crate) fn read(&self) {
        self.read.fetch_add(1, Ordering::Relaxed);
    }
}
