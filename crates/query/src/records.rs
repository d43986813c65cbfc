//! Step records that were opened last. The rows of a step lie in several batches, which come one after another: each needs the
//! same record, and it is opened once.

use crate::Result;
use arrow::array::RecordBatch;
use futures::lock::Mutex as AsyncMutex;
use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

/// How many are kept: more than the scans of a query have in hand at once, few enough to bound memory.
const KEPT: usize = 8;

/// The record, or none as long as it is being opened; whoever wants it meanwhile waits.
type Slot = Arc<AsyncMutex<Option<RecordBatch>>>;

/// The records, by key, the latest last. A clone is the same records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    kept: Arc<Mutex<VecDeque<(String, Slot)>>>,
}

impl Records {
    /// The record at `key`, from `open` unless it is kept.
    pub async fn get(&self, key: &str, open: impl Future<Output = Result<RecordBatch>>) -> Result<RecordBatch> {
        let slot = self.slot(key);
        let mut record = slot.lock().await;
        if let Some(record) = record.as_ref() {
            return Ok(record.clone());
        }
        // After an error the slot stays empty, and the next one tries again.
        Ok(record.insert(open.await?).clone())
    }

    fn slot(&self, key: &str) -> Slot {
        // Nothing panics while it holds the lock; and if it did, the list would still be one.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = kept.iter().find(|(of, _)| of == key) {
            return slot.clone();
        }
        if kept.len() == KEPT {
            kept.pop_front();
        }
        let slot = Slot::default();
        kept.push_back((key.into(), slot.clone()));
        slot
    }
}
