//! Columns that queries have had made of the log, kept for the next: the log of a long run has hundreds of thousands of rows, and each
//! question about a trend asks for the same few columns of them.

use crate::{columns::Columns, log::Log, tables::LogTable};
use arrow::{
    array::{Array, ArrayRef},
    error::ArrowError,
};
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Commits made into columns at once.
pub(crate) const CHUNK: usize = 512;
/// A column of one chunk that is larger is not kept: such as the commits' JSON, which is as large as the log.
const LARGEST: usize = 1 << 20;

/// Where a column of some commits belongs: table, first commit, column.
type Place = (&'static str, usize, usize);

/// Kept columns, all together no larger than a limit. A clone is the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    limit: usize,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    columns: HashMap<Place, ArrayRef>,
    bytes: usize,
}

impl Kept {
    /// None yet, of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, inner: Arc::default() }
    }

    /// The columns `wanted` of the rows of `table` that come from these commits, one of the log's chunks.
    pub fn columns(
        &self,
        table: &LogTable,
        log: &Log,
        commits: Range<usize>,
        wanted: &[usize],
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let place = |column: usize| (table.name, commits.start, column);
        let mut found: HashMap<usize, ArrayRef> = HashMap::new();
        {
            let kept = self.inner();
            let of_kept = |column: usize| Some((column, kept.columns.get(&place(column))?.clone()));
            found.extend(wanted.iter().copied().filter_map(of_kept));
        }
        let mut missing: Vec<usize> = wanted.iter().copied().filter(|column| !found.contains_key(column)).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let made = (table.rows)(log, &log.commits()[commits.clone()], Columns::only(missing.clone()))?;
            // What comes of the last commits grows with the next.
            let is_whole = commits.len() == CHUNK;
            for (column, array) in missing.into_iter().zip(made.columns()) {
                if is_whole {
                    self.keep(place(column), array);
                }
                found.insert(column, array.clone());
            }
        }
        Ok(wanted.iter().filter_map(|column| found.get(column).cloned()).collect())
    }

    fn keep(&self, place: Place, array: &ArrayRef) {
        let bytes = array.get_array_memory_size();
        let mut inner = self.inner();
        if bytes <= LARGEST && inner.bytes + bytes <= self.limit && !inner.columns.contains_key(&place) {
            inner.bytes += bytes;
            inner.columns.insert(place, array.clone());
        }
    }

    /// Those that stay as they are when commits are appended to the log.
    pub fn after_more(&self, tables: &[LogTable]) -> Self {
        let is_final = |name: &str| tables.iter().any(|table| table.name == name && table.is_final);
        let mut inner = self.inner().clone();
        inner.columns.retain(|(table, ..), _| is_final(table));
        inner.bytes = inner.columns.values().map(|array| array.get_array_memory_size()).sum();
        Self { limit: self.limit, inner: Arc::new(Mutex::new(inner)) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock; and if it did, each column would still be right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
