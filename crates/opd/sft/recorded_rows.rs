//! Rollouts with the scores of a set, streamed from a store epoch after epoch.

use super::{ScoresSection, SftConfig};
use crate::{
    error::{CommandError, Result},
    output::say,
    prompts::shuffle,
    recorded, score_set,
    teachers::listed,
};
use futures::{Stream, StreamExt};
use learner::{EstimatorConfig, Learner, StepReport, TrainRow};
use model::{Tokenizer, chance};
use record::{Event, PolicyVersion, Run, ScoreSet, ScoredBatch, ScoredRollout};
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
};
use store::{BatchError, Scored, SelectedBatch, Store, StoreOptions, Versions};
use tokio::runtime::Handle;

type Batches = Box<dyn Stream<Item = Result<Scored, BatchError>> + Send + Unpin>;

/// Rows in an endless order: each epoch takes the batches in an order shuffled by the seed, and mixes the rows of
/// `shuffle_batches` at a time. The order is a function of the log, the seed and the epoch; so many batches are in memory.
pub(super) struct RecordedRows {
    runtime: Handle,
    store: Store,
    batches: Vec<SelectedBatch>,
    estimator: EstimatorConfig,
    seed: u64,
    mixed: usize,
    context: usize,
    epochs: u64,
    blocks: u64,
    /// Rows that the epoch has given so far.
    given: usize,
    /// What is left of the epoch.
    rest: Option<Batches>,
    /// Rows that are next, by batch and row.
    next: VecDeque<(Arc<ScoredBatch>, usize)>,
}

impl RecordedRows {
    /// Opens the store and finds what is recorded there.
    ///
    /// # Errors
    /// No run, another tokenizer, no such score set, one that does not hold what the estimator reads, no row.
    pub fn open(
        config: &SftConfig,
        section: &ScoresSection,
        estimator: &EstimatorConfig,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Self> {
        let runtime = Handle::current();
        let (store, commits) = runtime.block_on(async {
            let store = Store::open(&section.store, StoreOptions::default()).await?;
            let commits = store.history(None).await?;
            Ok::<_, CommandError>((store, commits))
        })?;
        // The store has read commit 0 as the identity of a run, or there would be no history.
        if let Some(Event::Run(run)) = commits.first().map(|commit| &commit.event) {
            check(run, &recorded::score_sets(&commits), section, estimator, tokenizer, &config.model)?;
        }
        let versions = match section.versions {
            Some([first, last]) => Versions::Between(PolicyVersion(first), PolicyVersion(last)),
            None => Versions::All,
        };
        let found = recorded::scored(&commits, &section.set, &versions);
        for recorded in &found {
            let what = format!("the codec of batch `{}` in `{}`", recorded.selected.batch, section.store);
            score_set::check_sampler(&what, recorded.codec.unwrap_or_default(), estimator)?;
        }
        let batches: Vec<SelectedBatch> = found.into_iter().map(|recorded| recorded.selected).collect();
        if batches.is_empty() {
            let of = section.versions.map_or(String::new(), |[first, last]| format!(" of policies {first} to {last}"));
            let what = format!("`{}` has no rollouts{of} with scores in `{}`", section.store, section.set);
            return Err(
                CommandError::new(what).hint("`opd run --collect` makes some; `opd status` shows what there is")
            );
        }
        let (estimator, mixed) = (estimator.clone(), section.shuffle_batches);
        let (rest, next) = (None, VecDeque::new());
        let seed = config.seed;
        Ok(Self {
            runtime,
            store,
            batches,
            estimator,
            seed,
            mixed,
            context,
            epochs: 0,
            blocks: 0,
            given: 0,
            rest,
            next,
        })
    }

    /// One step on the next `count`.
    pub fn step(&mut self, learner: &mut Learner, count: usize) -> Result<StepReport> {
        while self.next.len() < count {
            self.mix()?;
        }
        let taken: Vec<_> = self.next.drain(..count).collect();
        let rows: Vec<ScoredRollout<'_>> = taken.iter().map(|(batch, row)| batch.row(*row)).collect();
        // Whoever sampled the rows was no earlier version of this student: staleness has no meaning here.
        let rows: Vec<TrainRow<'_>> = rows.iter().map(|row| TrainRow::scored(row, Some(0))).collect();
        Ok(learner.step(&self.estimator, &rows)?)
    }

    /// Reads the next few batches and appends their rows, mixed.
    fn mix(&mut self) -> Result<()> {
        let mut rest = self.rest.take().unwrap_or_else(|| self.epoch());
        let mut block = Vec::new();
        let mut ended = false;
        for _ in 0..self.mixed {
            match self.runtime.block_on(rest.next()) {
                Some(Ok(read)) => {
                    self.check_rows(&read)?;
                    let data = Arc::new(read.data);
                    block.extend(read.rows.iter().map(|row| Some((data.clone(), row as usize))));
                }
                Some(Err(failed)) if failed.error.is_of_one_object() => say(&format!("passed over: {failed}")),
                Some(Err(failed)) => return Err(failed.error.into()),
                None => {
                    ended = true;
                    break;
                }
            }
        }
        self.given += block.len();
        // Another epoch would find no more.
        if ended && self.given == 0 {
            let what = format!("none of the {} batches in `{}` can be read", self.batches.len(), self.store.url());
            return Err(CommandError::new(what).hint("bring the objects back from a copy"));
        }
        let seed = chance::row_seed(self.seed, self.epochs, self.blocks, u64::MAX);
        for place in shuffle(seed, 0, block.len() as u64) {
            self.next.extend(block[place as usize].take());
        }
        self.blocks += 1;
        if ended {
            (self.epochs, self.blocks, self.given) = (self.epochs + 1, 0, 0);
        } else {
            self.rest = Some(rest);
        }
        Ok(())
    }

    /// The batches of an epoch.
    fn epoch(&self) -> Batches {
        let order = shuffle(self.seed, self.epochs, self.batches.len() as u64);
        let batches = order.into_iter().map(|place| self.batches[place as usize].clone()).collect();
        // What reads ahead are tasks of the runtime.
        let _runtime = self.runtime.enter();
        let read = self.estimator.needs().budget(true);
        Box::new(self.store.stream_within(batches, None, read))
    }

    fn check_rows(&self, read: &Scored) -> Result<()> {
        for (i, row) in read.data.rows().enumerate() {
            let fault = |what: String| CommandError::new(format!("batch `{}`, row {i}: {what}", read.batch));
            let length = row.rollout.prompt_ids.len() + row.rollout.response_ids.len();
            if length > self.context {
                let what = format!("{length} tokens; the context of the model is {}", self.context);
                return Err(fault(what).hint("train a model with a longer context, or collect shorter rollouts"));
            }
        }
        Ok(())
    }
}

/// That the run's tokens are the model's, and that the score set holds what the estimator reads.
fn check(
    run: &Run,
    score_sets: &BTreeMap<&str, &ScoreSet>,
    section: &ScoresSection,
    estimator: &EstimatorConfig,
    tokenizer: &Tokenizer,
    model: &Path,
) -> Result<()> {
    let (store, name) = (&section.store, &section.set);
    let digest = format!("sha256:{}", tokenizer.map_digest());
    if run.tokenizer.to_string() != digest {
        let what = format!(
            "the run in `{store}` has the tokenizer {}, model `{}` has {digest}",
            run.tokenizer,
            model.display()
        );
        return Err(CommandError::new(what).hint("tokens are recorded as ids: both need one token map"));
    }
    let Some(set) = score_sets.get(name.as_str()) else {
        let known = listed(score_sets.keys().copied());
        return Err(CommandError::new(format!("`{store}` has no score set `{name}`")).hint(format!("it has {known}")));
    };
    if estimator.needs().teacher {
        let rule = estimator.estimator().name();
        let what = format!("estimator `{rule}` has the teacher beside the learner; `{store}` has its scores alone");
        return Err(CommandError::new(what).hint("take an estimator that reads stored scores, or `opd learn`"));
    }
    score_set::check(store, name, set, estimator)
}
