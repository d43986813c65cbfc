//! What a question gets: a schema and rows that are computed as they are read.

use crate::{QueryError, Result};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
use datafusion::{error::DataFusionError, execution::SendableRecordBatchStream};
use futures::StreamExt;
use store::StoreError;

/// The answer to one question; it holds one batch at a time.
pub struct Answer {
    stream: SendableRecordBatchStream,
}

impl Answer {
    pub(crate) fn new(stream: SendableRecordBatchStream) -> Self {
        Self { stream }
    }

    /// Names and types of the columns.
    pub fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }

    /// The next rows; none at the end.
    ///
    /// # Errors
    /// A damaged object as [`QueryError::Store`] or [`QueryError::Rows`], anything else as [`QueryError::Run`].
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        self.stream.next().await.transpose().map_err(in_own_words)
    }

    /// All rows at once, for answers known to be small.
    ///
    /// # Errors
    /// As [`Answer::next`].
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// Brings an error that passed through DataFusion back out as it was.
fn in_own_words(error: DataFusionError) -> QueryError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => in_own_words(*inner),
        DataFusionError::External(inner) => match inner.downcast::<QueryError>() {
            Ok(own) => *own,
            Err(inner) => match inner.downcast::<StoreError>() {
                Ok(store) => QueryError::Store(*store),
                Err(other) => QueryError::Run(other.to_string()),
            },
        },
        // Shared between the partitions that wait for it: only its words can be taken out.
        other => match other.find_root() {
            DataFusionError::External(inner) => QueryError::Run(inner.to_string()),
            root => QueryError::Run(root.to_string()),
        },
    }
}
