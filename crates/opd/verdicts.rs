//! What a selection says of the rows that are there. Made where rows are read; planning with it stays pure.

use record::{BatchId, RowSet};
use std::collections::BTreeMap;
use store::{Batch, Snapshot};

/// The rows that pass, of each batch that was looked at. A batch that was not is as if it had no scores yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    passing: BTreeMap<BatchId, RowSet>,
}

impl Verdicts {
    /// Of `batch` the rows `passing` pass, and no others.
    pub fn insert(&mut self, batch: BatchId, passing: RowSet) {
        self.passing.insert(batch, passing);
    }

    /// Whether `batch` was looked at.
    pub fn knows(&self, batch: &str) -> bool {
        self.passing.contains_key(batch)
    }

    /// Forgets batches all of whose rows have ended.
    pub fn forget_ended(&mut self, now: &Snapshot) {
        self.passing.retain(|id, _| now.batches.get(id).is_some_and(|batch| !batch.pending.is_empty()));
    }

    /// The pending rows of a batch that pass; none before it was looked at.
    pub fn passing(&self, id: &str, batch: &Batch) -> RowSet {
        self.passing.get(id).map_or_else(RowSet::default, |passing| batch.pending.intersection(passing))
    }

    /// The pending rows of a batch that do not pass; none before it was looked at.
    pub fn rejected(&self, id: &str, batch: &Batch) -> RowSet {
        self.passing.get(id).map_or_else(RowSet::default, |passing| batch.pending.minus(passing))
    }

    /// The pending rows of a batch that are not rejected.
    pub fn kept(&self, id: &str, batch: &Batch) -> RowSet {
        batch.pending.minus(&self.rejected(id, batch))
    }
}
