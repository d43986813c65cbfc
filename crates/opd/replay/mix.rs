//! `learn.replay`: recorded rows of another run among each step's own. Which, is a function of seed and step; they are read as a step
//! needs them, and the estimator weighs them by their sampler's recorded log-probabilities, as it does any row that is not fresh.

use super::{
    parent::ParentRun,
    pin,
    pool::Pool,
    same,
    script::{Chosen, Origin},
};
use crate::{
    config::{Pipeline, ReplaySection},
    error::{CommandError, Result, off_thread},
    learn::Unread,
    output::say,
    preflight::{self, Inputs},
    recorded,
    share::Share,
};
use record::{Budget, Digest, Parent, ReplayOrder, Replayed, Run, StepCommit};
use std::{collections::BTreeMap, sync::Arc};
use store::{Scored, Snapshot, Store, StoreError};

/// The parent's rows that a learner mixes in.
pub(crate) struct Mix {
    parent: ParentRun,
    origin: Arc<Origin>,
    pool: Pool,
    share: Share,
    /// The condition that they meet.
    condition: Option<String>,
    rows_per_step: u32,
    /// The rows of the step after the one in hand, read while that is computed.
    ahead: Option<(u64, Result<Vec<Scored>>)>,
}

/// Checks `[learn.replay]` as far as no store is needed.
///
/// # Errors
/// A share that is none, or leaves a step without rows of its own; the run's own store.
pub(crate) fn check(pipeline: &Pipeline) -> Result<()> {
    let Some(ReplaySection { from, share, .. }) = &pipeline.learn.replay else { return Ok(()) };
    let rows = pipeline.learn.rows_per_step;
    let Some(parts) = Share::of(*share) else {
        return Err(CommandError::new(format!("learn.replay.share is {share}")).hint(
            "it is the share of each step's rows: above 0, below 1; `opd replay` trains on recorded rows alone",
        ));
    };
    if parts.most(rows) >= u128::from(rows) {
        let what =
            format!("learn.replay.share is {share} of learn.rows_per_step = {rows}: a step may have no row of its own");
        return Err(CommandError::new(what).hint("lower the share, or take more rows a step"));
    }
    if from.trim_end_matches('/') == pipeline.store.url.trim_end_matches('/') {
        let what = format!("learn.replay.from is `{from}`, the store of the run itself");
        return Err(CommandError::new(what).hint("it names a store with rows that another run has recorded"));
    }
    Ok(())
}

/// What [`preflight::check`] finds, with the run that rows are taken from, where `store` does not hold a run that says so already.
///
/// # Errors
/// As [`preflight::check`]; a parent that is gone, newer than this program, or lacks rows, scores or columns that are needed; one
/// with other tokens.
pub(crate) async fn check_all(pipeline: &Pipeline, store: &Store) -> Result<Inputs> {
    let checked = pipeline.clone();
    let mut inputs = off_thread(move || preflight::check(&checked)).await?;
    if pipeline.learn.replay.is_none() {
        return Ok(inputs);
    }
    match store.follow().await {
        // The learner opens it as the run names it.
        Ok(follower) => inputs.parent.clone_from(&follower.snapshot().run.parent),
        Err(StoreError::NoRun { .. }) => {
            if let Some(mix) = Mix::open(pipeline, None).await? {
                let parent = &mix.parent;
                preflight::check_tokens(pipeline, &inputs, &parent.run, parent.store.url())
                    .map_err(|error| error.at("learn.replay.from"))?;
                say_other_teachers(&mix, &inputs);
                inputs.parent = mix.named(pipeline);
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(inputs)
}

impl Mix {
    /// Opens the parent that the pipeline names, as it was when the run `begun` was begun, or as it is now; none where it names none.
    ///
    /// # Errors
    /// As [`check_all`], by the key in the pipeline; another run where the one was that this one was begun with.
    pub async fn open(pipeline: &Pipeline, begun: Option<&Parent>) -> Result<Option<Self>> {
        let Some(ReplaySection { from, condition, share }) = &pipeline.learn.replay else { return Ok(None) };
        let mut parent = ParentRun::open_beside(from, begun.map(|parent| parent.seq), pipeline).await?;
        if let Some(other) = begun.filter(|begun| begun.run_id != parent.run.run_id) {
            let what = format!(
                "learn.replay.from is `{from}` with the run {}, this run was begun with {}",
                parent.run.run_id, other.run_id
            );
            return Err(CommandError::new(what).hint("say where the store lies now that the run was begun with"));
        }
        let chosen: Option<Chosen> = match condition {
            Some(condition) => Some(parent.chosen(condition, &pipeline.score.set).await?),
            None => None,
        };
        let pool = Pool::of(&parent.recording(&pipeline.score.set), chosen.as_ref(), pipeline.seed);
        parent.check_codecs(pool.batches().map(|batch| &batch.batch), &pipeline.learn.estimator)?;
        // Of the log no more is needed, and it may be long.
        parent.commits = Vec::new();
        let (share, rows_per_step) = (Share::of(*share).unwrap_or_default(), pipeline.learn.rows_per_step);
        let needed = share.most(rows_per_step);
        if u128::from(pool.len()) < needed {
            let what = format!(
                "learn.replay: `{from}` has {} scored rows to take from in `{}`, a step takes {needed}",
                pool.len(),
                pipeline.score.set
            );
            return Err(CommandError::new(what).hint("lower learn.replay.share, or let learn.replay.where choose more"));
        }
        parent.check_objects(pool.batches().flat_map(|batch| [&batch.rollouts, &batch.scores])).await?;
        let batches: BTreeMap<_, _> = pool.batches().map(|batch| (batch.batch.clone(), batch.clone())).collect();
        let origin = Arc::new(Origin::new(parent.store.clone(), batches));
        Ok(Some(Self { parent, origin, pool, share, condition: condition.clone(), rows_per_step, ahead: None }))
    }

    /// What commit 0 of a run says of it.
    fn named(&self, pipeline: &Pipeline) -> Option<Parent> {
        let ReplaySection { from, condition, share } = pipeline.learn.replay.clone()?;
        Some(Parent {
            url: from,
            run_id: self.parent.run.run_id.clone(),
            seq: self.parent.seq,
            order: ReplayOrder::Seeded,
            condition,
            share: Some(share),
        })
    }

    /// Checks that the steps of the run in `own`, which is at `now`, took the rows that they would take again.
    ///
    /// # Errors
    /// The first that did not.
    pub async fn goes_on(&mut self, own: &Store, now: &Snapshot) -> Result<()> {
        if now.version.0 == 0 {
            return Ok(());
        }
        let (commits, Self { parent, pool, share, condition, .. }) = (own.history(Some(now.seq)).await?, self);
        // As many rows as steps had then: that number may be changed between starts.
        let takes = |step: &StepCommit| pool.step(step.step, *share, step.rows() as u32);
        same::check(parent, condition.as_deref(), recorded::steps(&commits), takes)
    }

    /// Where the rows lie.
    pub fn origin(&self) -> Arc<Origin> {
        self.origin.clone()
    }

    /// Pins what may be read, for the run `child`.
    ///
    /// # Errors
    /// As reading the parent's log.
    pub async fn keep(&self, child: &Run) -> Result<()> {
        let versions = || self.pool.batches().map(|batch| batch.policy_version);
        pin::keep(&self.parent, versions().min().zip(versions().max()), child).await
    }

    /// The rows of `step`, as the log names them and as they are.
    ///
    /// # Errors
    /// A store that cannot be read, a damaged batch. No other row takes its place: which rows a step takes does not depend on that.
    pub async fn take(&mut self, step: u64, budget: Budget) -> Result<(Vec<Replayed>, Vec<Scored>)> {
        let replayed = self.pool.step(step, self.share, self.rows_per_step);
        let read = match self.ahead.take() {
            Some((of, read)) if of == step => read,
            _ => self.read(&replayed, step, budget).await,
        };
        Ok((replayed, read?))
    }

    /// Reads the rows of `step` before they are taken.
    pub async fn read_ahead(&mut self, step: u64, budget: Budget) {
        let replayed = self.pool.step(step, self.share, self.rows_per_step);
        self.ahead = Some((step, self.read(&replayed, step, budget).await));
    }

    async fn read(&self, replayed: &[Replayed], step: u64, budget: Budget) -> Result<Vec<Scored>> {
        let read = self.origin.read(replayed.iter().map(|replayed| &replayed.of), budget).await;
        read.map_err(|unread| match unread {
            Unread::Fatal(error) => error,
            Unread::Damaged(batch, error) => {
                let url = self.origin.store.url();
                CommandError::new(format!(
                    "learn.replay: step {step} takes rows of batch `{batch}` of `{url}`: {error}"
                ))
                .hint("bring the object back from a copy; the same command goes on")
            }
        })
    }
}

/// Rows of two teachers pull two ways: that may be meant, and is said.
fn say_other_teachers(mix: &Mix, inputs: &Inputs) {
    let ours: Vec<&Digest> = inputs.teacher_digests.values().collect();
    for (id, digest) in mix.parent.run.teachers.iter().filter(|(_, digest)| !ours.contains(digest)) {
        say(&format!(
            "warning: the run in `{}` has a teacher `{id}` with {}, which this run has not: rows that it scored pull towards that one",
            mix.parent.store.url(),
            digest.short()
        ));
    }
}
