//! `learn.where`: which of the scored rows the learner takes. A predicate is asked once of each batch, when it is scored.

use crate::{
    config::Pipeline,
    context::Context,
    error::{CommandError, Result},
    output::say,
    pace::WhenStale,
    score::drop_damaged,
    verdicts::Verdicts,
};
use futures::{StreamExt, stream};
use query::{Predicate, QueryError};
use record::{BatchId, RowSet};
use store::{Batch, Store, StoreError};

/// Minibatches' worth of rows that were rejected in a row before the learner says so; then twice as many, and so on.
const WARN_AFTER: u64 = 4;

/// What the learner selects by, and what it made of the rows so far.
pub struct Selecting {
    predicate: Option<Predicate>,
    score_set: String,
    verdicts: Verdicts,
    rejected_in_a_row: u64,
    first_warning: u64,
    next_warning: u64,
}

/// Checks `learn.where`, and that what takes part of a unit leaves room for the rest of it.
///
/// # Errors
/// A predicate that cannot be asked of a row, with the nearest column for a misspelt one; a pace that leaves no room.
pub fn check(pipeline: &Pipeline) -> Result<()> {
    let learn = &pipeline.learn;
    let key = match (parse(pipeline)?, &learn.replay) {
        (Some(_), _) => "learn.where",
        (None, Some(_)) => "learn.replay",
        (None, None) => return Ok(()),
    };
    let least = learn.publish_every.max(pipeline.rollout.lag + 1);
    if learn.when_stale == WhenStale::Wait && learn.max_staleness < least {
        let what = format!("learn.when_stale is `wait` at learn.max_staleness = {} with {key}", learn.max_staleness);
        return Err(CommandError::new(what).hint(format!(
            "what a step leaves of a unit has to wait for one more step: set learn.max_staleness = {least} or more, or \
             when_stale = \"drop\""
        )));
    }
    Ok(())
}

fn parse(pipeline: &Pipeline) -> Result<Option<Predicate>> {
    let Some(text) = &pipeline.learn.selection else { return Ok(None) };
    let named = |error: QueryError| CommandError::new(format!("learn.where: {error}"));
    Predicate::parse(text).map(Some).map_err(named)
}

/// Why a batch has no verdict.
enum Unread {
    Damaged(BatchId, StoreError),
    Fatal(CommandError),
}

impl Selecting {
    /// By the pipeline's predicate, if it has one.
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(pipeline: &Pipeline) -> Result<Self> {
        let first_warning = WARN_AFTER * u64::from(pipeline.learn.rows_per_step);
        Ok(Self {
            predicate: parse(pipeline)?,
            score_set: pipeline.score.set.clone(),
            verdicts: Verdicts::default(),
            rejected_in_a_row: 0,
            first_warning,
            next_warning: first_warning,
        })
    }

    /// What it says of the rows that were looked at; `None` where every row is taken.
    pub fn verdicts(&self) -> Option<&Verdicts> {
        self.predicate.as_ref().map(|_| &self.verdicts)
    }

    /// Looks at the batches that were scored since.
    ///
    /// # Errors
    /// A store that cannot be read, a predicate that fails on a row. A damaged batch is dropped, to be sampled again.
    pub async fn look(&mut self, job: &mut Context) -> Result<()> {
        let Some(predicate) = &self.predicate else { return Ok(()) };
        self.verdicts.forget_ended(job.now());
        let is_new =
            |(id, batch): &(&BatchId, &Batch)| batch.scores.contains_key(&self.score_set) && !self.verdicts.knows(id);
        let new: Vec<(BatchId, Batch)> =
            job.now().pending().filter(is_new).map(|(id, batch)| (id.clone(), batch.clone())).collect();
        // What is chosen from is trained on next: of a bucket it is fetched once.
        let (store, score_set) = (job.store.looking_ahead(), self.score_set.clone());
        let ahead = store.options().prefetch.max(1);
        let mut judged =
            stream::iter(new).map(|(id, batch)| judge(&store, predicate, &score_set, id, batch)).buffered(ahead);
        let mut damaged = Vec::new();
        while let Some(verdict) = judged.next().await {
            match verdict {
                Ok((id, rows, passing)) => {
                    self.rejected_in_a_row =
                        if passing.is_empty() { self.rejected_in_a_row + u64::from(rows) } else { 0 };
                    self.verdicts.insert(id, passing);
                    if self.rejected_in_a_row == 0 {
                        self.next_warning = self.first_warning;
                    } else if self.rejected_in_a_row >= self.next_warning {
                        self.next_warning *= 2;
                        say(&format!(
                            "warning: learn.where = \"{}\" rejected all of the last {} rows; no step is made of them",
                            predicate.text(),
                            self.rejected_in_a_row
                        ));
                    }
                }
                Err(Unread::Damaged(id, error)) => damaged.push((id, error)),
                Err(Unread::Fatal(error)) => return Err(error),
            }
        }
        drop(judged);
        for (id, error) in damaged {
            say(&format!("batch `{id}` is dropped and will be sampled again: {error}"));
            drop_damaged(job, &id).await?;
        }
        Ok(())
    }
}

/// The rows of a batch, and which of them pass. What the log knows decides first; only what is left to say opens an object, and
/// scores only where the predicate reads them.
async fn judge(
    store: &Store,
    predicate: &Predicate,
    score_set: &str,
    id: BatchId,
    batch: Batch,
) -> Result<(BatchId, u32, RowSet), Unread> {
    let rows = batch.of.rows.len();
    let failed = |error: QueryError| Unread::Fatal(CommandError::new(format!("learn.where, batch `{id}`: {error}")));
    let unread = |error: StoreError| match error.is_of_one_object() {
        true => Unread::Damaged(id.clone(), error),
        false => Unread::Fatal(error.into()),
    };
    let told = predicate.of_batch(batch.of.unit, batch.policy_version.0, &batch.teacher_id).map_err(failed)?;
    let passing = match told {
        Some(true) => RowSet::first(rows),
        Some(false) => RowSet::default(),
        None => {
            let rollouts = store.get_rollouts(&batch.object).await.map_err(unread)?;
            let mut halves = vec![rollouts.as_record_batch().clone()];
            if predicate.reads_scores() {
                // The batches that are looked at have this score set.
                halves.push(store.get_scores(&batch.scores[score_set]).await.map_err(unread)?);
            }
            predicate.evaluate_side_by_side(&halves.iter().collect::<Vec<_>>()).map_err(failed)?
        }
    };
    Ok((id, rows, passing))
}
