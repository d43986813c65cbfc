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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{LOG_TABLES, tests::long_log};
    use arrow::compute::concat;

    /// All of a table's columns, chunk by chunk through what is kept.
    fn table(kept: &Kept, log: &Log, table: &LogTable, wanted: &[usize]) -> Vec<ArrayRef> {
        let all = log.commits().len();
        let chunks: Vec<Vec<ArrayRef>> = (0..all)
            .step_by(CHUNK)
            .map(|start| kept.columns(table, log, start..all.min(start + CHUNK), wanted).unwrap())
            .collect();
        (0..wanted.len())
            .map(|i| concat(&chunks.iter().map(|chunk| chunk[i].as_ref()).collect::<Vec<_>>()).unwrap())
            .collect()
    }

    #[test]
    fn what_is_kept_is_what_is_made_anew() {
        let (short, long) = (long_log(CHUNK + 40), long_log(2 * CHUNK + 10));
        for of in &LOG_TABLES {
            let whole = (of.rows)(&long, long.commits(), Columns::all()).unwrap();
            let all: Vec<usize> = (0..whole.num_columns()).collect();
            let kept = Kept::new(1 << 30);
            // Some columns first, in another order and one twice; then all; then with commits that came since.
            let some = [all.len() - 1, 0, 0];
            let first = table(&kept, &short, of, &some);
            assert_eq!(first, table(&kept, &short, of, &some), "{}", of.name);
            table(&kept, &short, of, &all);
            let more = kept.after_more(&LOG_TABLES);
            assert_eq!(more.inner().columns.is_empty(), !of.is_final, "{}", of.name);
            assert_eq!(table(&more, &long, of, &all), whole.columns(), "{}", of.name);
            assert_eq!(table(&more, &long, of, &all), whole.columns(), "{}, again", of.name);
        }
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let log = long_log(2 * CHUNK);
        let all: Vec<usize> = (0..4).collect();
        let steps = LOG_TABLES.iter().find(|table| table.name == "steps").unwrap();
        let one = (steps.rows)(&log, &log.commits()[..CHUNK], Columns::only(vec![0])).unwrap();
        let limit = 3 * one.column(0).get_array_memory_size();
        let kept = Kept::new(limit);
        let made = table(&kept, &log, steps, &all);
        assert!(kept.inner().bytes <= limit && !kept.inner().columns.is_empty());
        assert_eq!(table(&kept, &log, steps, &all), made);
    }
}
