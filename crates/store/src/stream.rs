//! Scored batches one after another, read and decoded ahead of whoever trains on them.

use crate::{Result, SelectedBatch, Selection, Snapshot, Store, StoreError};
use futures::{Stream, StreamExt};
use record::{BatchId, Budget, RecordError, RowSet, ScoredBatch};
use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::task::{JoinError, JoinHandle};

/// Selected rows of a batch.
#[derive(Clone, Debug)]
pub struct Scored {
    /// The batch.
    pub batch: BatchId,
    /// Which of its rows are selected; never none.
    pub rows: RowSet,
    /// All its rows.
    pub data: ScoredBatch,
}

impl Scored {
    /// The same rows, without the others of their batch where there are any: those are held no longer.
    ///
    /// # Errors
    /// As [`ScoredBatch::only`], which what a stream gave does not lead to.
    pub fn alone(self) -> Result<Self, RecordError> {
        if self.rows.len() as usize == self.data.len() {
            return Ok(self);
        }
        let (rows, data) = (RowSet::first(self.rows.len()), self.data.only(&self.rows)?);
        Ok(Self { batch: self.batch, rows, data })
    }
}

/// A batch that could not be read; the stream goes on behind it.
#[derive(Debug, thiserror::Error)]
#[error("batch `{batch}`: {error}")]
pub struct BatchError {
    /// The batch.
    pub batch: BatchId,
    /// Why.
    pub error: StoreError,
}

impl Store {
    /// The rows that `selection` selects of the live ones, batch by batch in the order rows are taken: by unit, then
    /// first row, whatever arrives first.
    ///
    /// Up to `prefetch` batches are read ahead, on threads of their own, so memory is bounded by that many; polling needs
    /// the tokio runtime.
    pub fn scored(
        &self,
        snapshot: &Snapshot,
        selection: &Selection,
    ) -> impl Stream<Item = Result<Scored, BatchError>> + Send + Unpin + use<> {
        self.stream_within(selection.batches(snapshot), selection.prompts.clone(), selection.budget)
    }

    /// `batches` in the order given; of their rows those whose prompt is among `prompts`, if it is given. As
    /// [`Store::scored`], for a selection made by other means.
    pub fn stream(
        &self,
        batches: Vec<SelectedBatch>,
        prompts: Option<BTreeSet<u64>>,
    ) -> impl Stream<Item = Result<Scored, BatchError>> + Send + Unpin + use<> {
        self.stream_within(batches, prompts, Budget::default())
    }

    /// As [`Store::stream`], with no more at a position than `budget` asks for.
    pub fn stream_within(
        &self,
        batches: Vec<SelectedBatch>,
        prompts: Option<BTreeSet<u64>>,
        budget: Budget,
    ) -> impl Stream<Item = Result<Scored, BatchError>> + Send + Unpin + use<> {
        let (store, prompts) = (self.clone(), prompts.map(Arc::new));
        futures::stream::iter(batches)
            .map(move |batch| {
                let (id, key) = (batch.batch.clone(), batch.rollouts.key.clone());
                let (store, prompts) = (store.clone(), prompts.clone());
                let owner = store.clone();
                // A task of its own makes headway while the reader is busy elsewhere.
                let read = async move { store.read_selected(batch, prompts.as_deref(), budget).await };
                let task = Task(tokio::spawn(read));
                async move {
                    let read = task
                        .await
                        .unwrap_or_else(|stopped| Err(owner.backend().refused("read", &key, stopped.to_string())));
                    read.map_err(|error| BatchError { batch: id, error })
                }
            })
            .buffered(self.options().prefetch.max(1))
            .filter(|read| {
                let any = !matches!(read, Ok(scored) if scored.rows.is_empty());
                std::future::ready(any)
            })
            .boxed()
    }

    async fn read_selected(
        &self,
        selected: SelectedBatch,
        prompts: Option<&BTreeSet<u64>>,
        budget: Budget,
    ) -> Result<Scored> {
        let data = self.get_scored_within(&selected.rollouts, &selected.scores, budget).await?;
        let corrupt = |expected, found| StoreError::Corrupt { key: selected.rollouts.key.clone(), expected, found };
        let version = data.rollouts().policy_version();
        if version != selected.policy_version {
            return Err(corrupt(format!("policy version {}", selected.policy_version), version.to_string()));
        }
        if selected.rows.end() as usize > data.len() {
            return Err(corrupt(format!("at least {} rows", selected.rows.end()), data.len().to_string()));
        }
        let wanted =
            |row: &u32| prompts.is_none_or(|prompts| prompts.contains(&data.rollouts().row(*row as usize).prompt_id));
        let rows = selected.rows.iter().filter(wanted).collect();
        Ok(Scored { batch: selected.batch, rows, data })
    }
}

/// A spawned task that ends with its handle.
struct Task<T>(JoinHandle<T>);

impl<T> Future for Task<T> {
    type Output = std::result::Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
