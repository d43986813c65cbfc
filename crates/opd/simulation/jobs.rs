//! The jobs of a run that is simulated over a real store: their loops, plans and commits, with a line of text for each row where
//! the real ones have tensors.

use super::{
    SET, Shape,
    audit::{Audit, Ledger},
    teacher,
};
use crate::{
    events,
    plan::{self, Learn, Next, Rollout, Score, Serves},
    verdicts::Verdicts,
};
use record::{
    BatchId, BatchRows, Claims, Commit, Digest, EvalCommit, Event, Job, ObjectRef, Policy, PolicyVersion, Retirement,
    RolloutCommit, ScoreCommit, StepCommit, UnitRows, Work,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use store::{
    Follower, Key, Result, Snapshot, Store, StoreError,
    simulated::{below, pause},
};

/// How long a worker may be silent before its claims may be taken over: less than a request that hangs, so that this happens.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(20);

/// What is evaluated, and how many steps lie between two evaluations.
pub const EVAL_SET: &str = "heldout";
const EVAL_EVERY: u64 = 2;

/// Whether a version waits for its evaluation.
pub fn awaits_eval(now: &Snapshot, version: PolicyVersion, steps: u64) -> bool {
    let is_done = now.evaluated.get(EVAL_SET).is_some_and(|done| done.contains(&version));
    is_eval_due(version, steps) && !is_done
}

/// Whether a version is to be evaluated.
pub fn is_eval_due(version: PolicyVersion, steps: u64) -> bool {
    plan::is_eval_due(version, EVAL_EVERY, steps)
}

/// A job at work.
pub struct At {
    pub shape: Shape,
    pub store: Store,
    pub job: Job,
    pub number: u32,
    pub fault: LearnerFault,
    pub audit: Rc<RefCell<Audit>>,
}

/// What a learner does wrong on purpose, so that the audit can be seen to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LearnerFault {
    /// Nothing.
    None,
    /// When it looks at the log it does not mind that another learner made a step.
    GoesOnBefore,
    /// When its own step was not made it does not mind whose was.
    GoesOnAfter,
}

/// A job and its place in the log.
struct Working {
    at: At,
    follower: Follower,
    worker: String,
    ledger: Ledger,
}

/// A life of a job: ends well when the run does, or where another learner has taken over.
pub async fn live(at: At) -> Result<()> {
    let worker = format!("{}-{}", at.job.as_str(), at.number);
    let ledger = Ledger::of(store::unique_id());
    if at.job == Job::Run {
        let run = at.audit.borrow().run.clone();
        return at.store.create(run, work(&worker, at.job, &ledger)).await.map(drop);
    }
    let follower = at.store.follow().await?;
    let working = Working { at, follower, worker, ledger };
    match working.at.job {
        Job::Rollout => rollout(working).await,
        Job::Score => score(working).await,
        Job::Eval => eval(working).await,
        _ => learn(working).await,
    }
}

fn work(worker: &str, job: Job, ledger: &Ledger) -> Work {
    let (worker, incarnation) = (worker.to_string(), ledger.incarnation.clone());
    Work { worker, incarnation, job, started: 0, busy_s: 0.0, waited_s: 0.0, tokens: 0 }
}

impl Working {
    fn now(&self) -> &Snapshot {
        self.follower.snapshot()
    }

    /// As a real job's: by its own clock alone.
    fn lapsed(&self) -> BTreeSet<String> {
        let silent = |worker: &&String| **worker != self.worker && self.follower.silent_for(worker) > CLAIM_TIMEOUT;
        self.now().workers.keys().filter(silent).cloned().collect()
    }

    async fn append(&mut self, plan: impl FnMut(&Snapshot) -> Option<Event>) -> Result<Option<Commit>> {
        let commit = self.follower.append(work(&self.worker, self.at.job, &self.ledger), plan).await?;
        self.ledger.commits += u64::from(commit.is_some());
        self.at.audit.borrow_mut().compare(&self.ledger);
        Ok(commit)
    }
}

/// Time that work takes.
async fn busy(most_ms: u64) {
    pause(Duration::from_millis(below(most_ms))).await;
}

async fn rollout(mut job: Working) -> Result<()> {
    let (shape, worker) = (job.at.shape, job.worker.clone());
    let pace = shape.pace;
    loop {
        job.follower.refresh().await?;
        let lapsed = job.lapsed();
        let is_lapsed = |worker: &str| lapsed.contains(worker);
        match plan::rollout(job.now(), &worker, pace, &is_lapsed) {
            Next::Done => return Ok(()),
            Next::Wait => drop(job.follower.wait().await?),
            Next::Do(Rollout::Claim(_)) => {
                job.append(|now| events::claim_rows(now, &worker, pace, &is_lapsed)).await?;
            }
            Next::Do(Rollout::Sample(of)) => {
                let policy = pace.sampling_version(job.now());
                // Retired in the meantime: look again.
                let Some(weights) = weights_of(&mut job, policy).await? else { continue };
                busy(3_000).await;
                let teachers: Vec<String> = (0..shape.teachers).map(teacher).collect();
                let parts = plan::parts(&of, |row| &teachers[(row % shape.teachers) as usize]);
                let last = parts.len() - 1;
                for (i, (teacher_id, of)) in parts.into_iter().enumerate() {
                    let batch = format!("u{:08}-{}", of.unit, store::unique_id());
                    let object = job.at.store.put(Key::rollouts(policy, &batch), sampled(&weights, &of)).await?;
                    job.follower.refresh().await?;
                    let lapsed = job.lapsed();
                    let claims = Claims::default();
                    let batch = RolloutCommit {
                        batch,
                        of,
                        policy_version: policy,
                        teacher_id,
                        object,
                        codec: None,
                        tokens: 1,
                        claims,
                    };
                    let is_lapsed = |worker: &str| lapsed.contains(worker);
                    job.append(|now| events::rollouts(now, &batch, pace, &is_lapsed, i == last)).await?;
                }
            }
        }
    }
}

/// The weights of a version that the log keeps, as this job knows it; `None` if it was retired since.
async fn weights_of(job: &mut Working, version: PolicyVersion) -> Result<Option<bytes::Bytes>> {
    let weights = job.now().policies[&version].weights.clone();
    match job.at.store.get(&weights).await {
        Err(missing @ StoreError::Missing { .. }) => {
            job.follower.refresh().await?;
            if job.now().policies.contains_key(&version) {
                job.at.audit.borrow_mut().fail(format!("the weights of {version} are gone, and the log keeps them"));
                return Err(missing);
            }
            Ok(None)
        }
        weights => weights.map(Some),
    }
}

async fn eval(mut job: Working) -> Result<()> {
    let (sets, steps) = ([EVAL_SET.to_string()], job.at.shape.pace.steps);
    loop {
        job.follower.refresh().await?;
        match plan::eval(job.now(), &sets, EVAL_EVERY, steps) {
            Next::Done => return Ok(()),
            Next::Wait => drop(job.follower.wait().await?),
            Next::Do((version, set)) => {
                let Some(weights) = weights_of(&mut job, version).await? else { continue };
                busy(4_000).await;
                let accuracy = (measured(&weights), 1.0);
                job.append(|now| {
                    (now.policies.contains_key(&version) && awaits_eval(now, version, steps)).then(|| {
                        Event::Eval(EvalCommit {
                            eval_set: set.clone(),
                            policy_version: version,
                            accuracy,
                            sampled_accuracy: accuracy,
                            metrics: BTreeMap::new(),
                        })
                    })
                })
                .await?;
            }
        }
    }
}

async fn score(mut job: Working) -> Result<()> {
    let (serves, worker) = (job.at.shape.serves(job.at.number), job.worker.clone());
    loop {
        job.follower.refresh().await?;
        let lapsed = job.lapsed();
        let is_lapsed = |worker: &str| lapsed.contains(worker);
        match plan::score(job.now(), &worker, &serves, &is_lapsed) {
            Next::Done => return Ok(()),
            Next::Wait => drop(job.follower.wait().await?),
            Next::Do(Score::Claim(_)) => {
                job.append(|now| events::claim_batch(now, &worker, &serves, &is_lapsed)).await?;
            }
            Next::Do(Score::Score(id)) => deliver_scores(&mut job, id, &serves).await?,
        }
    }
}

async fn deliver_scores(job: &mut Working, id: BatchId, serves: &Serves) -> Result<()> {
    let batch = job.now().batches[&id].clone();
    let rollouts = match job.at.store.get(&batch.object).await {
        Ok(rollouts) => rollouts,
        Err(error) if error.is_of_one_object() => {
            return job.append(|now| events::damaged(now, &id)).await.map(drop);
        }
        Err(error) => return Err(error),
    };
    busy(1_500).await;
    let scores: Vec<String> = lines(&rollouts).map(|row| format!("{} of {row}\n", batch.teacher_id)).collect();
    let object = job.at.store.put(Key::scores(SET, &id), scores.concat()).await?;
    job.follower.refresh().await?;
    let lapsed = job.lapsed();
    let scores = ScoreCommit {
        batch: id,
        score_set: SET.into(),
        parent: None,
        object,
        packing: None,
        claims: Claims::default(),
    };
    job.append(|now| events::scores(now, &scores, serves, &|worker| lapsed.contains(worker), true)).await?;
    Ok(())
}

async fn learn(mut job: Working) -> Result<()> {
    let (pace, incarnation) = (job.at.shape.pace, job.ledger.incarnation.clone());
    let (mut version, mut weights) = resume(&mut job).await?;
    let (shape, mut known) = (job.at.shape, Verdicts::default());
    loop {
        job.follower.refresh().await?;
        if job.at.fault != LearnerFault::GoesOnBefore && events::is_fenced(job.now(), version, &incarnation) {
            return Ok(());
        }
        shape.judge(job.now(), &mut known);
        let verdicts = shape.asked(&known);
        match plan::learn(job.now(), SET, pace, verdicts) {
            Next::Done => return Ok(()),
            Next::Wait => drop(job.follower.wait().await?),
            Next::Do(Learn::Drop(_) | Learn::Finish(_)) => {
                let is_fenced = |now: &Snapshot| events::is_fenced(now, version, &incarnation);
                job.append(|now| events::end_rows(now, SET, pace, verdicts).filter(|_| !is_fenced(now))).await?;
            }
            Next::Do(Learn::Step(batches)) => {
                if job.now().version != version {
                    let what = format!("a learner at {version} trains on what is due at {}", job.now().version);
                    job.at.audit.borrow_mut().fail(what);
                }
                let consumed: Vec<BatchRows> =
                    batches.into_iter().map(|of| BatchRows { batch: of.batch, rows: of.rows }).collect();
                match read(&job, &consumed).await? {
                    Err(damaged) => drop(job.append(|now| events::damaged(now, &damaged)).await?),
                    Ok(rows) => {
                        busy(1_000).await;
                        let trained = train(&weights, &rows);
                        let step = store_step(&job, version.0 + 1, consumed, &trained).await?;
                        let made = job.append(|now| events::step(now, &step, verdicts)).await?;
                        let goes_on = job.at.fault == LearnerFault::GoesOnAfter;
                        if !goes_on && events::is_fenced(job.now(), version, &incarnation) {
                            return Ok(());
                        }
                        (version, weights) = match made {
                            Some(_) => (PolicyVersion(step.step), trained),
                            None => resume(&mut job).await?,
                        };
                        retire(&mut job).await?;
                    }
                }
            }
        }
    }
}

/// Gives up what can be given up: more eagerly than real learners, who wait until it is worth it.
async fn retire(job: &mut Working) -> Result<()> {
    let (pace, incarnation) = (job.at.shape.pace, job.ledger.incarnation.clone());
    let mut objects = Vec::new();
    let retired = job.append(|now| {
        let awaits = |version| awaits_eval(now, version, pace.steps);
        let (policies, moments) = plan::retire(now, 1 + pace.lag as usize, &awaits);
        let is_ours = now.learner.as_ref() == Some(&incarnation);
        let weights = policies.iter().map(|version| &now.policies[version].weights);
        objects = weights.chain(moments.iter().map(|version| &now.moments[version])).cloned().collect();
        let retired = Retirement { policies, moments, ..Retirement::default() };
        (is_ours && !objects.is_empty()).then_some(Event::Retire(retired))
    });
    if retired.await?.is_some() {
        for object in &objects {
            // What stays is an object that nobody names.
            let _ = job.at.store.delete(&object.key).await;
        }
    }
    Ok(())
}

/// The weights as the log left them, from the last checkpoint and the steps recorded since.
async fn resume(job: &mut Working) -> Result<(PolicyVersion, Vec<u8>)> {
    let weights = loop {
        let checkpoint = job.now().checkpoint;
        // Another learner that is still at work may have given it up for a later one.
        if let Some(weights) = weights_of(job, checkpoint).await? {
            break weights;
        }
    };
    let (now, mut weights) = (job.now(), weights.to_vec());
    for step in &now.steps_after_checkpoint {
        match read(job, &step.consumed).await? {
            Ok(rows) => weights = train(&weights, &rows),
            Err(batch) => {
                // A job that cannot resume ends, and is started again.
                let object = &now.batches[&batch].object;
                let (expected, found) = (object.digest.to_string(), "another".to_string());
                return Err(StoreError::Corrupt { key: object.key.clone(), expected, found });
            }
        }
        if Digest::of(&weights) != step.weights_digest {
            job.at.audit.borrow_mut().fail(format!("step {} executed again gives other weights", step.step));
        }
    }
    Ok((now.version, weights))
}

/// What a step's rows say, or the batch that is damaged.
async fn read(job: &Working, consumed: &[BatchRows]) -> Result<Result<String, BatchId>> {
    let mut rows = String::new();
    for BatchRows { batch, rows: selected } in consumed {
        let state = &job.now().batches[batch];
        for object in [&state.object, &state.scores[SET]] {
            match job.at.store.get(object).await {
                Ok(bytes) => {
                    rows += &selected.iter().filter_map(|row| lines(&bytes).nth(row as usize)).collect::<String>()
                }
                Err(error) if error.is_of_one_object() => return Ok(Err(batch.clone())),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Ok(rows))
}

async fn store_step(job: &Working, step: u64, consumed: Vec<BatchRows>, weights: &[u8]) -> Result<StepCommit> {
    let (store, shape, version) = (&job.at.store, job.at.shape, PolicyVersion(step));
    let put = async |key: Key| -> Result<ObjectRef> { store.put(key, weights.to_vec()).await };
    let (is_published, is_checkpoint) = shape.keeps(step);
    let policy = match is_published {
        true => Some(Policy { version, weights: put(Key::weights(version)).await? }),
        false => None,
    };
    let moments = if is_checkpoint { Some(put(Key::moments(version)).await?) } else { None };
    Ok(StepCommit {
        step,
        consumed,
        replayed: Vec::new(),
        dropped: Vec::new(),
        score_set: SET.into(),
        record: put(Key::step(step)).await?,
        weights_digest: Digest::of(weights),
        policy,
        moments,
        settings: serde_json::Value::Null,
        metrics: BTreeMap::new(),
    })
}

/// What `weights` say of rows: nothing but what they are of, so that the same rows come out of it however often.
pub fn sampled(weights: &[u8], of: &UnitRows) -> String {
    let weights = Digest::of(weights);
    of.rows.iter().map(|row| format!("{}.{row} by {}\n", of.unit, weights.short())).collect()
}

/// Weights after a step on rows: a function of all there ever was in them.
pub fn train(weights: &[u8], rows: &str) -> Vec<u8> {
    Digest::of(&[weights, rows.as_bytes()].concat()).to_string().into_bytes()
}

/// What an evaluation finds: a number that only these weights have.
pub fn measured(weights: &[u8]) -> f64 {
    let digest = Digest::of(weights).hex();
    // Seven digits are 28 bits, which a float64 holds.
    u32::from_str_radix(&digest[..7], 16).map_or(0.0, f64::from)
}

/// The lines of an object's text.
pub fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(bytes).unwrap_or_default().lines()
}
