//! What every job has in hand: its pipeline, the store, its place in the log, its name, and a stop to listen to.

use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    failpoint::{self, Point},
    output::say,
    pace::Pace,
    patience,
    replay::Origin,
    share::Share,
    stop::Stop,
};
use record::{Commit, Event, Job, Work};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use store::{Follower, Snapshot, Store};

/// A job at work on a store.
pub struct Context {
    /// What is learned.
    pub pipeline: Pipeline,
    /// Where it is kept.
    pub store: Store,
    /// The job's place in the log.
    pub follower: Follower,
    /// When to end.
    pub stop: Stop,
    /// The parent's rows, where the run is a replay or a learner mixes them in.
    pub origin: Option<Arc<Origin>>,
    job: Job,
    worker: String,
    incarnation: String,
    meter: Meter,
}

/// Splits a worker's time into waiting and working, between one commit and the next.
#[derive(Debug)]
struct Meter {
    last_commit: Instant,
    begun: Option<(Instant, i64)>,
}

impl Context {
    /// Opens the store and waits until a run is in it.
    ///
    /// # Errors
    /// If the store cannot be reached or belongs to another pipeline. `None` if the job was stopped while it waited.
    pub async fn open(pipeline: Pipeline, job: Job, worker: String, stop: Stop) -> Result<Option<Self>> {
        let store = open_store(&pipeline).await?;
        let mut said = false;
        let follower = loop {
            match store.follow().await {
                Ok(follower) => break follower,
                Err(store::StoreError::NoRun { .. }) if !stop.is_asked() => {
                    if !said {
                        let url = &pipeline.store.url;
                        say(&format!("waiting for a run in {url}: `opd run` or `opd learn` begins one"));
                        said = true;
                    }
                    stop.sleep(Duration::from_millis(500)).await;
                }
                Err(store::StoreError::NoRun { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        };
        crate::identity::check(&follower.snapshot().run, &pipeline)?;
        if let Some(parent) = &follower.snapshot().run.parent
            && parent.is_replayed_whole()
            && job != Job::Eval
        {
            let (url, of) = (&pipeline.store.url, &parent.url);
            let what =
                format!("the run in `{url}` is a replay of `{of}`: `opd {}` has nothing to do there", job.as_str());
            return Err(CommandError::new(what).hint("`opd replay` goes on with it, `opd eval` evaluates it"));
        }
        Ok(Some(Self::new(pipeline, store, follower, job, worker, stop)))
    }

    /// A job on a store that is already followed.
    pub fn new(pipeline: Pipeline, store: Store, follower: Follower, job: Job, worker: String, stop: Stop) -> Self {
        let meter = Meter { last_commit: Instant::now(), begun: None };
        let (incarnation, origin) = (store::unique_id(), None);
        Self { pipeline, store, follower, stop, origin, job, worker, incarnation, meter }
    }

    /// The state the job knows of.
    pub fn now(&self) -> &Snapshot {
        self.follower.snapshot()
    }

    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    /// Unique to this life of the worker.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The numbers that pace the run.
    pub fn pace(&self) -> Pace {
        self.pipeline.pace()
    }

    /// Folds in what is new. Returns the workers from which nothing has been heard for `run.claim_timeout_s`, by this
    /// process's own clock: whoever committed while this one was at work is not among them.
    ///
    /// # Errors
    /// As reading the log.
    pub async fn look(&mut self) -> Result<BTreeSet<String>> {
        self.refresh().await?;
        Ok(self.lapsed())
    }

    /// Folds in what is new; where the store cannot be reached, tries again for `run.patience_s`.
    ///
    /// # Errors
    /// As reading the log.
    pub async fn refresh(&mut self) -> Result<()> {
        let limit = self.pipeline.patience();
        Ok(patience::refresh(&mut self.follower, limit, &self.stop, say).await?)
    }

    fn lapsed(&self) -> BTreeSet<String> {
        // A time too long for a duration is a claim that never lapses.
        let timeout = Duration::try_from_secs_f64(self.pipeline.run.claim_timeout_s).unwrap_or(Duration::MAX);
        let snapshot = self.now();
        let sampling = snapshot.unit_claims.iter().map(|claim| &claim.worker);
        let scoring = snapshot.pending().filter_map(|(_, batch)| batch.scoring.as_ref());
        let silent = |worker: &&String| **worker != self.worker && self.follower.silent_for(worker) > timeout;
        sampling.chain(scoring).filter(silent).cloned().collect()
    }

    /// Waits for something new in the log, for the usual time between two looks, or for the stop.
    ///
    /// # Errors
    /// As reading the log.
    pub async fn wait(&mut self) -> Result<()> {
        let new = tokio::select! {
            () = self.stop.asked() => return Ok(()),
            new = self.follower.wait() => new,
        };
        match new {
            Err(error) if patience::may_pass(&error) => self.refresh().await,
            new => Ok(new.map(drop)?),
        }
    }

    /// From here on the worker is working, no longer waiting.
    pub fn begin(&mut self) {
        self.meter.begun = Some((Instant::now(), store::now_ms()));
    }

    /// Passes a failpoint of this job.
    pub fn pass(&self, point: Point) {
        failpoint::pass(self.job, point);
    }

    /// Appends what `plan` makes of the newest state, with the time worked since [`Context::begin`].
    ///
    /// # Errors
    /// As writing the log.
    pub async fn append(
        &mut self,
        tokens: u64,
        plan: impl FnMut(&Snapshot) -> Option<Event>,
    ) -> Result<Option<Commit>> {
        let (begun, started) = self.meter.begun.take().unwrap_or_else(|| (Instant::now(), store::now_ms()));
        let work = Work {
            worker: self.worker.clone(),
            incarnation: self.incarnation.clone(),
            job: self.job,
            started,
            busy_s: round(begun.elapsed()),
            waited_s: round(begun.saturating_duration_since(self.meter.last_commit)),
            tokens,
        };
        self.refresh().await?;
        let commit = self.follower.append(work, plan).await?;
        self.meter.last_commit = Instant::now();
        if commit.is_some() {
            self.pass(Point::AfterCommit);
        }
        Ok(commit)
    }
}

impl Pipeline {
    /// For how long a store that cannot be reached is tried again.
    pub fn patience(&self) -> Duration {
        // A time too long for a duration is patience without an end.
        Duration::try_from_secs_f64(self.run.patience_s).unwrap_or(Duration::MAX)
    }

    /// The numbers that pace the run.
    pub fn pace(&self) -> Pace {
        let learn = &self.learn;
        Pace {
            rows_per_step: learn.rows_per_step,
            steps: learn.steps,
            min_staleness: learn.min_staleness,
            max_staleness: learn.max_staleness,
            when_stale: learn.when_stale,
            lag: self.rollout.lag,
            share: learn.replay.as_ref().and_then(|replay| Share::of(replay.share)).unwrap_or_default(),
        }
    }
}

/// Seconds to the microsecond, which is all that such a clock knows.
fn round(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// Opens the pipeline's store.
///
/// # Errors
/// A URL that is not understood, a store that cannot be reached, or one in memory, where no other process can see it.
pub async fn open_store(pipeline: &Pipeline) -> Result<Store> {
    if pipeline.store.url.starts_with("memory:") {
        let what = format!("store.url is `{}`, but the jobs of a run are processes of their own", pipeline.store.url);
        return Err(CommandError::new(what)
            .hint("use a directory or s3://bucket/prefix; memory:/// is for tests within one process"));
    }
    Ok(Store::open(&pipeline.store.url, pipeline.store.options()).await?)
}
