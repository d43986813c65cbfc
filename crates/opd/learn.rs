//! `opd learn`: trains the student on scored rollouts, step by step, and publishes what comes of it.

use crate::{
    config::Pipeline,
    context::Context,
    error::{CommandError, Result, off_thread},
    events,
    failpoint::Point,
    identity,
    output::say,
    pace::Pace,
    plan::{self, Learn, Next},
    policy::PolicyLoader,
    replay::Mix,
    score::drop_damaged,
    score_set,
    selection::Selecting,
    teachers::TEACHER,
    verdicts::Verdicts,
};
use bytes::Bytes;
use futures::TryStreamExt;
use learner::{EstimatorConfig, Learner, LearnerSettings, OptimizerConfig, StepReport, TrainRow};
use record::{
    BatchId, BatchRows, Budget, ConsumedRollout, Digest, Event, Parent, Policy, PolicyVersion, Replayed, Retirement,
    StepCommit, encode_step,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use store::{BatchError, Scored, SelectedBatch, Snapshot, Store, StoreError};

/// What decides an update beside weights, moments and rows; recorded with each step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StepSettings {
    pub(crate) estimator: EstimatorConfig,
    pub(crate) optimizer: OptimizerConfig,
    pub(crate) cut: LearnerSettings,
    /// How much of each row was read; of a step that does not say, all.
    #[serde(default)]
    pub(crate) read: Budget,
    pub(crate) device: String,
    pub(crate) threads: u32,
    /// The predicate that the rows met.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    selection: Option<String>,
}

impl StepSettings {
    pub(crate) fn of(pipeline: &Pipeline) -> Self {
        let learn = &pipeline.learn;
        let cut = LearnerSettings { microbatch_tokens: learn.microbatch_tokens, head_chunk: learn.head_chunk };
        let (device, threads) = (learn.device.clone(), learn.threads);
        let (estimator, selection) = (learn.estimator.clone(), learn.selection.clone());
        let read = estimator.needs().budget(learn.read_for_reports);
        Self { estimator, optimizer: learn.optimizer, cut, read, device, threads, selection }
    }
}

/// A learner at a policy version.
pub(crate) struct Trainee {
    learner: Learner,
    pub(crate) version: PolicyVersion,
    settings: StepSettings,
    /// Steps that gave other weights when they were executed again, until a commit records how many.
    diverged: u64,
}

/// A step that was made but not yet committed.
pub(crate) struct Outcome {
    trainee: Trainee,
    pub(crate) report: StepReport,
    record: arrow::array::RecordBatch,
    weights: Bytes,
}

/// The rows of a step.
#[derive(Default)]
pub(crate) struct Minibatch {
    /// Those whose versions are compared with the learner's: the run's own, or all that a replay trains on.
    pub(crate) rows: Vec<Scored>,
    /// Those that another run sampled, beside the run's own.
    pub(crate) foreign: Vec<Scored>,
}

/// What a step was made of, as its commit names it.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) consumed: Vec<BatchRows>,
    pub(crate) replayed: Vec<Replayed>,
}

/// Trains until the last step is made or the job is stopped.
///
/// # Errors
/// Anything that keeps it from going on, another learner among it; what is committed stays.
pub async fn run(mut job: Context) -> Result<()> {
    // A run that has ended needs no parent, no teacher and no weights any more; its evaluations may still be left.
    if job.now().finished {
        return Ok(());
    }
    let settings = StepSettings::of(&job.pipeline);
    // The pipeline's keys and the store agree, as far as the store says what it holds: this is what it says.
    let (url, name) = (&job.pipeline.store.url, &job.pipeline.score.set);
    if let Some(set) = job.now().run.score_sets.get(name) {
        score_set::check(url, name, set, &settings.estimator)?;
    }
    for (id, batch) in job.now().pending() {
        let what = format!("the codec of batch `{id}` in `{url}`");
        score_set::check_sampler(&what, batch.codec.unwrap_or_default(), &settings.estimator)?;
    }
    let mut selecting = Selecting::new(&job.pipeline)?;
    let mut mix = Mix::open(&job.pipeline, job.now().run.parent.as_ref()).await?;
    if let Some(mix) = &mut mix {
        mix.goes_on(&job.store, job.now()).await?;
        mix.keep(&job.now().run).await?;
        job.origin = Some(mix.origin());
    }
    let mut trainee = resume(&mut job, &settings).await?;
    record_settings(&mut job).await?;
    let (pace, score_set) = (job.pace(), job.pipeline.score.set.clone());
    while !job.stop.is_asked() {
        job.refresh().await?;
        fence(&job, trainee.version)?;
        selecting.look(&mut job).await?;
        match plan::learn(job.now(), &score_set, pace, selecting.verdicts()) {
            Next::Done => return Ok(()),
            Next::Wait => job.wait().await?,
            Next::Do(Learn::Drop(_) | Learn::Finish(_)) => {
                let (version, incarnation) = (trainee.version, job.incarnation().to_string());
                let is_fenced = |now: &Snapshot| events::is_fenced(now, version, &incarnation);
                job.append(0, |now| {
                    events::end_rows(now, &score_set, pace, selecting.verdicts()).filter(|_| !is_fenced(now))
                })
                .await?;
            }
            Next::Do(Learn::Step(consumed)) => {
                job.begin();
                match fetch(&job.store, consumed.clone(), settings.read).await {
                    Ok(rows) => {
                        let consumed =
                            consumed.into_iter().map(|batch| BatchRows { batch: batch.batch, rows: batch.rows });
                        let (replayed, foreign) = match &mut mix {
                            Some(mix) => mix.take(trainee.version.0 + 1, settings.read).await?,
                            None => Default::default(),
                        };
                        let taken = Taken { consumed: consumed.collect(), replayed };
                        let minibatch = Minibatch { rows, foreign };
                        let outcome = make(trainee, minibatch, mix.as_mut(), pace, settings.read).await?;
                        trainee = match commit(&mut job, outcome, taken, &score_set, selecting.verdicts()).await? {
                            Some(trainee) => trainee,
                            None => {
                                say(
                                    "rows of this step were dropped by another job in the meantime; it is made again without",
                                );
                                resume(&mut job, &settings).await?
                            }
                        };
                        retire(&mut job).await?;
                    }
                    Err(Unread::Damaged(batch, error)) => {
                        say(&format!("batch `{batch}` is dropped and will be sampled again: {error}"));
                        drop_damaged(&mut job, &batch).await?;
                    }
                    Err(Unread::Fatal(error)) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// A step; while it is computed, the rows that the next one mixes in are read.
async fn make(
    trainee: Trainee,
    minibatch: Minibatch,
    mix: Option<&mut Mix>,
    pace: Pace,
    read: Budget,
) -> Result<Outcome> {
    let next = trainee.version.0 + 2;
    let work = off_thread(move || step(trainee, minibatch));
    match mix.filter(|_| next <= pace.steps) {
        Some(mix) => tokio::join!(work, mix.read_ahead(next, read)).0,
        None => work.await,
    }
}

/// Another learner's step ends this one: whichever commits first goes on.
pub(crate) fn fence(job: &Context, version: PolicyVersion) -> Result<()> {
    let now = job.now();
    if !events::is_fenced(now, version, job.incarnation()) {
        return Ok(());
    }
    let what = format!("another learner made step {}; this one, at step {}, stops", now.version.0, version.0);
    Err(CommandError::new(what).hint("a run has one learner; see `opd status` for who it is").passing())
}

/// Commits the settings that may change between starts, where they have changed.
pub(crate) async fn record_settings(job: &mut Context) -> Result<()> {
    let settings = serde_json::to_value(&job.pipeline).map_err(|error| CommandError::new(error.to_string()))?;
    job.append(0, |now| {
        let changed = !now.finished && now.settings.as_ref() != Some(&settings);
        changed.then(|| Event::Config { settings: settings.clone() })
    })
    .await?;
    Ok(())
}

/// The learner as the log left it: weights and moments of the last checkpoint, and the steps recorded after it executed
/// again, each checked by its weights' digest.
pub(crate) async fn resume(job: &mut Context, settings: &StepSettings) -> Result<Trainee> {
    let loader = PolicyLoader::open(&job.store, job.now(), &settings.device).await?;
    let (learner, checkpoint) = loop {
        let checkpoint = job.now().checkpoint;
        match at_checkpoint(job, &loader, settings).await {
            Ok(learner) => break (learner, checkpoint),
            Err(error) => {
                // Another learner that is still at work may have given them up for those of a later one.
                job.follower.refresh().await?;
                if job.now().checkpoint == checkpoint {
                    return Err(error);
                }
            }
        }
    };
    let steps = job.now().steps_after_checkpoint.clone();
    let mut trainee = Trainee { learner, version: checkpoint, settings: settings.clone(), diverged: 0 };
    if !steps.is_empty() {
        say(&format!("resuming from {checkpoint}: {} recorded steps are executed again", steps.len()));
    }
    for recorded in steps {
        let mut then: StepSettings = serde_json::from_value(recorded.settings.clone())
            .map_err(|error| CommandError::new(format!("settings of step {}: {error}", recorded.step)))?;
        // The learner stays where it is; everything else is as it was then, the number of threads included.
        let (device, threads) = (std::mem::replace(&mut then.device, settings.device.clone()), then.threads);
        trainee = with_teacher(job, with_settings(trainee, then)?).await?;
        let minibatch = match recorded_rows(job, &recorded, trainee.settings.read).await {
            Ok(minibatch) => minibatch,
            Err(Unread::Fatal(error)) => return Err(error),
            Err(Unread::Damaged(batch, error)) => {
                let what = format!("step {} cannot be executed again: batch `{batch}`: {error}", recorded.step);
                return Err(CommandError::new(what).hint("bring the object back from a copy"));
            }
        };
        let mut outcome = off_thread(move || step(trainee, minibatch)).await?;
        let digest = Digest::of(&outcome.weights);
        if digest != recorded.weights_digest {
            say(&format!(
                "step {}: executed again on {} it gives weights {}, recorded on {device} with {threads} threads are {}; going on",
                recorded.step,
                settings.device,
                digest.short(),
                recorded.weights_digest.short(),
            ));
            outcome.trainee.diverged += 1;
        }
        trainee = outcome.trainee;
    }
    with_teacher(job, with_settings(trainee, settings.clone())?).await
}

/// A learner with weights and moments of the last checkpoint.
async fn at_checkpoint(job: &Context, loader: &PolicyLoader, settings: &StepSettings) -> Result<Learner> {
    let checkpoint = job.now().checkpoint;
    let student = loader.load(&job.store, job.now(), checkpoint, None).await?;
    let gone = || CommandError::new(format!("the weights of the checkpoint {checkpoint} are gone"));
    let mut learner = Learner::new(student.ok_or_else(gone)?.network, settings.optimizer, settings.cut)?;
    if let Some(moments) = job.now().moments.get(&checkpoint) {
        learner.optimizer_mut().load_safetensors(&job.store.get(moments).await?)?;
    }
    Ok(learner)
}

/// The same weights and moments under other settings.
fn with_settings(trainee: Trainee, settings: StepSettings) -> Result<Trainee> {
    if trainee.settings == settings {
        return Ok(trainee);
    }
    let Trainee { learner: mut before, version, diverged, .. } = trainee;
    let (moments, teacher) = (before.optimizer().to_safetensors()?, before.take_teacher());
    let mut learner = Learner::new(before.into_student(), settings.optimizer, settings.cut)?;
    learner.optimizer_mut().load_safetensors(&moments)?;
    learner.set_teacher(teacher)?;
    Ok(Trainee { learner, version, settings, diverged })
}

/// The same with the run's one teacher beside it, if that is what its estimator needs.
async fn with_teacher(job: &Context, mut trainee: Trainee) -> Result<Trainee> {
    if !trainee.settings.estimator.needs().teacher || trainee.learner.has_teacher() {
        return Ok(trainee);
    }
    let (run, pipeline, device) = (job.now().run.clone(), job.pipeline.clone(), trainee.settings.device.clone());
    let teacher = off_thread(move || {
        let ids: BTreeSet<String> = pipeline.all_teachers().into_keys().map(str::to_string).collect();
        identity::check_teachers(&run, &pipeline, &ids)?;
        // The settings' check has seen that there is one, or this estimator is of steps that were made with one.
        let id = ids.first().map_or(TEACHER, String::as_str);
        pipeline.load_teacher(id, model::device(&device)?)
    })
    .await?;
    trainee.learner.set_teacher(Some(teacher))?;
    Ok(trainee)
}

/// Why rows could not be read.
pub(crate) enum Unread {
    /// One batch is damaged; the others go on.
    Damaged(BatchId, StoreError),
    /// Nothing goes on.
    Fatal(CommandError),
}

impl From<BatchError> for Unread {
    fn from(failed: BatchError) -> Self {
        match failed.error.is_of_one_object() {
            true => Self::Damaged(failed.batch, failed.error),
            false => Self::Fatal(failed.error.into()),
        }
    }
}

/// Reads the rows of a step, a few batches ahead of the one in hand.
pub(crate) async fn fetch(
    store: &Store,
    minibatch: Vec<SelectedBatch>,
    read: Budget,
) -> std::result::Result<Vec<Scored>, Unread> {
    store.stream_within(minibatch, None, read).map_err(Unread::from).try_collect().await
}

/// The rows of a recorded step: its own run's, then its parent's.
async fn recorded_rows(job: &Context, step: &StepCommit, read: Budget) -> std::result::Result<Minibatch, Unread> {
    let own = recorded_minibatch(job.now(), step).map_err(Unread::Fatal)?;
    let rows = fetch(&job.store, own, read).await?;
    let Some(origin) = &job.origin else { return Ok(Minibatch { rows, ..Minibatch::default() }) };
    let parents = origin.read(step.replayed.iter().map(|replayed| &replayed.of), read).await?;
    let is_replay = job.now().run.parent.as_ref().is_some_and(Parent::is_replayed_whole);
    Ok(match is_replay {
        true => Minibatch { rows: parents, ..Minibatch::default() },
        false => Minibatch { rows, foreign: parents },
    })
}

/// Where the rows of a recorded step lie.
fn recorded_minibatch(now: &Snapshot, step: &StepCommit) -> Result<Vec<SelectedBatch>> {
    let find = |of: &BatchRows| {
        let batch = now.batches.get(&of.batch)?;
        Some(SelectedBatch {
            batch: of.batch.clone(),
            rows: of.rows.clone(),
            policy_version: batch.policy_version,
            rollouts: batch.object.clone(),
            scores: batch.scores.get(&step.score_set)?.clone(),
        })
    };
    // The fold keeps the batches of every step after the checkpoint.
    let lost = |of: &BatchRows| CommandError::new(format!("step {}: the log lost batch `{}`", step.step, of.batch));
    step.consumed.iter().map(|of| find(of).ok_or_else(|| lost(of))).collect()
}

/// One optimizer step: pure but for the time it takes.
pub(crate) fn step(mut trainee: Trainee, minibatch: Minibatch) -> Result<Outcome> {
    // Said on the thread that computes: the number of threads is part of the result's bits.
    model::set_threads(trainee.settings.threads as usize);
    let number = trainee.version.0 + 1;
    let mut rows = Vec::new();
    let mut consumed = Vec::new();
    let (own, foreign) = (minibatch.rows.iter().map(|of| (of, true)), minibatch.foreign.iter().map(|of| (of, false)));
    for (Scored { rows: selected, data, .. }, is_comparable) in own.chain(foreign) {
        let sampled = Some(data.rollouts().policy_version()).filter(|_| is_comparable);
        let staleness = sampled.and_then(|sampled| trainee.version.checked_staleness_of(sampled));
        for row in selected.iter() {
            let scored = data.row(row as usize);
            consumed.push((scored.rollout.rollout_id.to_string(), staleness));
            rows.push(TrainRow::scored(&scored, staleness));
        }
    }
    let report = trainee.learner.step(&trainee.settings.estimator, &rows)?;
    if !report.update.is_some_and(|update| update.applied) {
        let norm = report.update.map_or(0.0, |update| update.grad_norm);
        let what =
            format!("step {number}: no update, the gradient's norm is {norm} over {} tokens", report.trained_tokens);
        return Err(CommandError::new(what)
            .hint("the same rows would give the same again: begin anew in another store with a lower learn.optimizer.learning_rate"));
    }
    let consumed = consumed.into_iter().zip(&report.rows).map(|((rollout_id, staleness), row)| ConsumedRollout {
        rollout_id,
        staleness: staleness.map(|staleness| staleness as u32),
        learner_logprobs: row.learner_logprobs.clone(),
        reverse_kl: row.reverse_kl.clone(),
        forward_kl: row.forward_kl.clone(),
        entropy: row.entropy.clone(),
    });
    let record = encode_step(number, &consumed.collect::<Vec<_>>())?;
    let weights = Bytes::from(trainee.learner.student().to_safetensors()?);
    trainee.version = PolicyVersion(number);
    Ok(Outcome { trainee, report, record, weights })
}

/// Stores what a step made and commits it: step, rows and weights become visible at once. `None` where its rows are not to be had any
/// more.
pub(crate) async fn commit(
    job: &mut Context,
    outcome: Outcome,
    taken: Taken,
    score_set: &str,
    verdicts: Option<&Verdicts>,
) -> Result<Option<Trainee>> {
    let Outcome { mut trainee, mut report, record, weights } = outcome;
    if trainee.diverged > 0 {
        report.metrics.insert("resume/diverged_steps".into(), (std::mem::take(&mut trainee.diverged) as f64, 1.0));
    }
    let (learn, version) = (job.pipeline.learn.clone(), trainee.version);
    let is_last = version.0 == learn.steps;
    let due = |every: u64| is_last || version.0.is_multiple_of(every);
    let weights_digest = Digest::of(&weights);
    job.pass(Point::BeforePut);
    let record = job.store.put_step_record(version.0, record).await?;
    let policy = match due(learn.publish_every) {
        true => Some(Policy { version, weights: job.store.put_policy(version, weights).await? }),
        false => None,
    };
    let moments = match due(learn.checkpoint_every) {
        true => Some(job.store.put_moments(version, trainee.learner.optimizer().to_safetensors()?).await?),
        false => None,
    };
    job.pass(Point::AfterPut);
    let settings = serde_json::to_value(&trainee.settings).map_err(|error| CommandError::new(error.to_string()))?;
    let event = StepCommit {
        step: version.0,
        consumed: taken.consumed,
        replayed: taken.replayed,
        dropped: Vec::new(),
        score_set: score_set.into(),
        record,
        weights_digest,
        policy,
        moments,
        settings,
        metrics: report.metrics,
    };
    let before = PolicyVersion(version.0 - 1);
    let made = job.append(report.trained_tokens as u64, |now| events::step(now, &event, verdicts)).await?;
    fence(job, before)?;
    Ok(made.map(|_| trainee))
}

/// Gives up weights and moments that nobody needs any more: first in the log, then on disk.
pub(crate) async fn retire(job: &mut Context) -> Result<()> {
    let pipeline = job.pipeline.clone();
    // A sampler that lags needs older versions than the newest.
    let lag = usize::try_from(pipeline.rollout.lag).unwrap_or(usize::MAX);
    let keep = pipeline.learn.keep_policies.max(lag.saturating_add(1));
    let plan = |now: &Snapshot| plan::retire(now, keep, &|version| plan::awaits_eval(now, &pipeline, version));
    let (policies, moments) = plan(job.now());
    if !plan::is_worth_retiring(job.now(), &policies, &moments) {
        return Ok(());
    }
    let mut objects = Vec::new();
    let incarnation = job.incarnation().to_string();
    let retired = job
        .append(0, |now| {
            // Of two learners, only the one whose step is the last gives anything up.
            if now.learner.as_ref() != Some(&incarnation) {
                return None;
            }
            let (policies, moments) = plan(now);
            let weights = policies.iter().filter_map(|version| now.policies.get(version)).map(|policy| &policy.weights);
            objects = weights.chain(moments.iter().filter_map(|version| now.moments.get(version))).cloned().collect();
            let retired = Retirement { policies, moments, ..Retirement::default() };
            (!retired.is_empty()).then_some(Event::Retire(retired))
        })
        .await?;
    if retired.is_some() {
        for object in &objects {
            // What stays is an object that nobody names; no reason to end a run.
            if let Err(error) = job.store.delete(&object.key).await {
                say(&format!("`{}` is not needed any more but stays: {error}", object.key));
            }
        }
    }
    Ok(())
}
