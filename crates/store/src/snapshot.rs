//! The fold: what is live after a prefix of the log. Pure, so that every job plans from the same facts and a simulation
//! can drive it.

mod ended;
mod kept;

pub use ended::Ended;
use record::{
    BatchId, BatchRows, Claims, Codec, Commit, Digest, Dropped, EvalCommit, Event, Job, ObjectRef, Pin, Policy,
    PolicyVersion, RolloutCommit, RowSet, Run, ScoreCommit, ScoreSet, ScoreSetCommit, StepCommit, UnitRows,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A commit that contradicts the log before it. No correct writer makes one, because each plans from the same fold.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("commit {seq} ({kind}) contradicts the log before it: {what}; `opd` stops here so as not to make it worse")]
pub struct FoldError {
    /// The commit.
    pub seq: u64,
    /// Its kind.
    pub kind: &'static str,
    /// What does not hold.
    pub what: String,
}

/// Live state after commit `seq`. Its size depends on what is in flight, not on how long the run has been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last commit folded in.
    pub seq: u64,
    /// The run's identity.
    pub run: Run,
    /// The latest recorded settings.
    pub settings: Option<serde_json::Value>,
    /// Score sets beside the run's own, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub score_sets: BTreeMap<String, ScoreSetCommit>,
    /// The first unit nobody has claimed yet.
    pub next_unit: u64,
    /// Units being sampled.
    pub unit_claims: Vec<UnitClaim>,
    /// Rows to be sampled again, by unit.
    pub reissue: BTreeMap<u64, RowSet>,
    /// Batches with pending rows, and those that re-executing the steps after the last checkpoint needs.
    pub batches: BTreeMap<BatchId, Batch>,
    /// The learner's version: how many steps have been made.
    pub version: PolicyVersion,
    /// SHA-256 of the learner's weights.
    pub weights_digest: Digest,
    /// The incarnation of the learner that made the last step.
    pub learner: Option<String>,
    /// Policy versions whose weights are kept.
    pub policies: BTreeMap<PolicyVersion, Policy>,
    /// Moments that are kept, by policy version.
    pub moments: BTreeMap<PolicyVersion, ObjectRef>,
    /// The last version with both weights and moments; 0 has moments of zero.
    pub checkpoint: PolicyVersion,
    /// Steps after the checkpoint, to be executed again on resume.
    pub steps_after_checkpoint: Vec<StepCommit>,
    /// Kept versions that are evaluated, by eval set.
    pub evaluated: BTreeMap<String, BTreeSet<PolicyVersion>>,
    /// The newest evaluation, by eval set.
    pub newest_eval: BTreeMap<String, EvalCommit>,
    /// What each worker has done.
    pub workers: BTreeMap<String, Worker>,
    /// How many rows ended how.
    pub ended: Ended,
    /// Metrics of the last step.
    pub last_metrics: BTreeMap<String, record::Ratio>,
    /// Whether the last step is made.
    pub finished: bool,
    /// What is kept whatever retention says, by name.
    #[serde(default)]
    pub pins: BTreeMap<String, Pin>,
    /// The commits that moved objects into archives: where rows lie is looked up there, if their own object is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<u64>,
    /// Names of the history segments that hold the commits before this snapshot.
    #[serde(default)]
    pub history: Vec<ObjectRef>,
}

/// A unit being sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitClaim {
    /// The worker that has taken it on.
    pub worker: String,
    /// Which rows.
    pub of: UnitRows,
    /// The newest published version when it was made: what is sampled for it is of this one or later ones, less the lag.
    #[serde(default = "first_version")]
    pub newest: PolicyVersion,
}

fn first_version() -> PolicyVersion {
    PolicyVersion(0)
}

/// A live batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// What it holds rows of.
    pub of: UnitRows,
    /// The version that sampled it.
    pub policy_version: PolicyVersion,
    /// The teacher that is to score it.
    pub teacher_id: String,
    /// The rollouts.
    pub object: ObjectRef,
    /// How draws and the sampler's top-k are packed in it, where the writer said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
    /// Response tokens.
    pub tokens: u64,
    /// Its scores, by score set.
    pub scores: BTreeMap<String, ObjectRef>,
    /// The worker that has taken on scoring it.
    pub scoring: Option<String>,
    /// Rows that have not ended.
    pub pending: RowSet,
}

/// What a worker has done so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Its job.
    pub job: Job,
    /// Its latest life.
    pub incarnation: String,
    /// Commits it made.
    pub commits: u64,
    /// Its last one.
    pub last_seq: u64,
    /// When it wrote that; milliseconds since 1970 by its clock.
    pub last_at: i64,
    /// Tokens sampled, scored or trained.
    pub tokens: u64,
    /// Seconds at work.
    pub busy_s: f64,
    /// Seconds spent waiting.
    pub waited_s: f64,
}

impl Snapshot {
    /// The state after commit 0.
    ///
    /// # Errors
    /// If it is not commit 0, or not the identity of a run.
    pub fn start(commit: &Commit) -> Result<Self, FoldError> {
        let fail = |what: &str| FoldError { seq: commit.seq, kind: commit.event.kind(), what: what.into() };
        let Event::Run(run) = &commit.event else { return Err(fail("the log begins with the identity of its run")) };
        if commit.seq != 0 {
            return Err(fail("only commit 0 is the identity of a run"));
        }
        let policy = run.policy.clone();
        let mut snapshot = Self {
            seq: 0,
            run: (**run).clone(),
            settings: None,
            score_sets: BTreeMap::new(),
            next_unit: 0,
            unit_claims: Vec::new(),
            reissue: BTreeMap::new(),
            batches: BTreeMap::new(),
            version: policy.version,
            weights_digest: policy.weights.digest,
            learner: None,
            checkpoint: policy.version,
            policies: BTreeMap::from([(policy.version, policy)]),
            moments: BTreeMap::new(),
            steps_after_checkpoint: Vec::new(),
            evaluated: BTreeMap::new(),
            newest_eval: BTreeMap::new(),
            workers: BTreeMap::new(),
            ended: Ended::default(),
            last_metrics: BTreeMap::new(),
            finished: false,
            pins: BTreeMap::new(),
            archives: Vec::new(),
            history: Vec::new(),
        };
        snapshot.credit(commit);
        Ok(snapshot)
    }

    /// Folds in the next commit. After an error the state is not to be used; a writer tries its commit on a clone first.
    ///
    /// # Errors
    /// [`FoldError`] if the commit is not the next one or contradicts what came before.
    pub fn apply(&mut self, commit: &Commit) -> Result<(), FoldError> {
        let fail = |what: String| FoldError { seq: commit.seq, kind: commit.event.kind(), what };
        if commit.seq != self.seq + 1 {
            return Err(fail(format!("commit {} was expected", self.seq + 1)));
        }
        let may_follow_the_end = match &commit.event {
            Event::Eval(_) | Event::Retire(_) | Event::Config { .. } | Event::ScoreSet(_) => true,
            Event::Pin(_) | Event::Unpin { .. } | Event::Archive(_) => true,
            Event::Scores(scores) => self.score_sets.contains_key(&scores.score_set),
            _ => false,
        };
        if self.finished && !may_follow_the_end {
            return Err(fail("the run is finished".into()));
        }
        self.fold(commit).map_err(fail)?;
        self.seq = commit.seq;
        self.credit(commit);
        Ok(())
    }

    fn fold(&mut self, commit: &Commit) -> Result<(), String> {
        let worker = &commit.work.worker;
        match &commit.event {
            Event::Run(_) => return Err("a run has one identity".into()),
            Event::Config { settings } => self.settings = Some(settings.clone()),
            Event::Claim(claims) => self.claim(worker, claims)?,
            Event::Rollouts(rollouts) => {
                self.deliver(rollouts)?;
                self.claim(worker, &rollouts.claims)?;
            }
            Event::ScoreSet(set) => self.begin_score_set(set)?,
            Event::Scores(scores) if self.score_sets.contains_key(&scores.score_set) => self.score_beside(scores)?,
            Event::Scores(scores) => {
                self.score(scores)?;
                self.claim(worker, &scores.claims)?;
            }
            Event::Step(step) => self.step(step, &commit.work.incarnation)?,
            Event::Drop { dropped } => {
                dropped.iter().try_for_each(|rows| self.drop_rows(rows))?;
                self.forget_spent_batches();
            }
            Event::Eval(eval) => self.evaluate(eval),
            Event::Retire(retired) => self.retire(retired)?,
            Event::Pin(pin) => self.pin(pin)?,
            Event::Unpin { name } => {
                self.pins.remove(name).ok_or_else(|| format!("there is no pin `{name}`"))?;
            }
            Event::Archive(archive) => self.archive(archive, commit.seq)?,
            Event::Finish { dropped } => {
                dropped.iter().try_for_each(|rows| self.drop_rows(rows))?;
                self.forget_spent_batches();
                if let Some((id, _)) = self.pending().next() {
                    return Err(format!("batch `{id}` still has pending rows"));
                }
                self.finished = true;
                self.unit_claims.clear();
                self.reissue.clear();
            }
        }
        Ok(())
    }

    fn claim(&mut self, worker: &str, claims: &Claims) -> Result<(), String> {
        let newest = self.newest_policy().version;
        for of in &claims.units {
            if let Some(lapsed) = self.unit_claims.iter_mut().find(|claim| claim.of == *of) {
                lapsed.worker = worker.into();
                lapsed.newest = newest;
                continue;
            }
            if self.reissue.get(&of.unit) == Some(&of.rows) {
                self.reissue.remove(&of.unit);
            } else if of.unit == self.next_unit && of.rows == RowSet::first(self.run.units.rows()) {
                self.next_unit += 1;
            } else {
                return Err(format!("these rows of unit {} are not to be had", of.unit));
            }
            self.unit_claims.push(UnitClaim { worker: worker.into(), of: of.clone(), newest });
        }
        for id in &claims.batches {
            let batch = self.batches.get_mut(id).ok_or_else(|| format!("there is no live batch `{id}` to score"))?;
            batch.scoring = Some(worker.into());
        }
        Ok(())
    }

    fn deliver(&mut self, rollouts: &RolloutCommit) -> Result<(), String> {
        let RolloutCommit { batch, of, .. } = rollouts;
        if self.batches.contains_key(batch) {
            return Err(format!("batch `{batch}` was delivered before"));
        }
        let has = |claim: &UnitClaim| claim.of.unit == of.unit && claim.of.rows.contains_all(&of.rows);
        let Some(i) = self.unit_claims.iter().position(has).filter(|_| !of.rows.is_empty()) else {
            return Err(format!("these rows of unit {} were delivered before, or never claimed", of.unit));
        };
        if !self.run.teachers.contains_key(&rollouts.teacher_id) {
            return Err(format!("the run has no teacher `{}`", rollouts.teacher_id));
        }
        if rollouts.policy_version > self.version {
            return Err(format!("policy {} does not exist yet", rollouts.policy_version));
        }
        // A unit of several teachers comes in several batches; what is left of it stays claimed.
        let claim = &mut self.unit_claims[i];
        claim.of.rows = claim.of.rows.minus(&of.rows);
        if claim.of.rows.is_empty() {
            self.unit_claims.swap_remove(i);
        }
        let batch_state = Batch {
            of: of.clone(),
            policy_version: rollouts.policy_version,
            teacher_id: rollouts.teacher_id.clone(),
            object: rollouts.object.clone(),
            codec: rollouts.codec,
            tokens: rollouts.tokens,
            scores: BTreeMap::new(),
            scoring: None,
            pending: RowSet::first(of.rows.len()),
        };
        self.batches.insert(batch.clone(), batch_state);
        Ok(())
    }

    fn score(&mut self, scores: &ScoreCommit) -> Result<(), String> {
        let ScoreCommit { batch: id, score_set, object, .. } = scores;
        if !self.run.score_sets.contains_key(score_set) {
            return Err(format!("the run has no score set `{score_set}`"));
        }
        let batch = self.batches.get_mut(id).ok_or_else(|| format!("there is no live batch `{id}`"))?;
        if batch.scores.insert(score_set.clone(), object.clone()).is_some() {
            return Err(format!("batch `{id}` was scored before"));
        }
        batch.scoring = None;
        Ok(())
    }

    fn begin_score_set(&mut self, set: &ScoreSetCommit) -> Result<(), String> {
        let name = &set.score_set;
        if self.score_set(name).is_some() {
            return Err(format!("there is a score set `{name}` already"));
        }
        if let Some(parent) = set.parent.as_ref().filter(|parent| self.score_set(parent).is_none()) {
            return Err(format!("there is no score set `{parent}` to make `{name}` from"));
        }
        self.score_sets.insert(name.clone(), set.clone());
        Ok(())
    }

    /// Scores in a set beside the run's own: of any batch, live or not, and no part of anybody's work on it. The first count.
    fn score_beside(&mut self, scores: &ScoreCommit) -> Result<(), String> {
        if scores.claims != Claims::default() {
            return Err(format!("scores in `{}`, a set beside the run's own, claim nothing", scores.score_set));
        }
        if let Some(batch) = self.batches.get_mut(&scores.batch) {
            batch.scores.entry(scores.score_set.clone()).or_insert_with(|| scores.object.clone());
        }
        Ok(())
    }

    fn step(&mut self, step: &StepCommit, incarnation: &str) -> Result<(), String> {
        if step.step != self.version.0 + 1 {
            return Err(format!("step {} was expected, not {}", self.version.0 + 1, step.step));
        }
        for BatchRows { batch, rows } in &step.consumed {
            let state = self.end_rows(batch, rows)?;
            if !state.scores.contains_key(&step.score_set) {
                return Err(format!("batch `{batch}` has no scores in `{}`", step.score_set));
            }
            let sampled = state.policy_version;
            self.count_trained(step.step, sampled, rows);
        }
        self.replay(step)?;
        step.dropped.iter().try_for_each(|rows| self.drop_rows(rows))?;
        self.version = PolicyVersion(step.step);
        self.weights_digest = step.weights_digest;
        self.learner = Some(incarnation.into());
        self.last_metrics = step.metrics.clone();
        if let Some(policy) = &step.policy {
            if policy.version != self.version || policy.weights.digest != step.weights_digest {
                return Err(format!("the policy published is not that of step {}", step.step));
            }
            self.policies.insert(policy.version, policy.clone());
        }
        self.steps_after_checkpoint.push(step.clone());
        if let Some(moments) = &step.moments {
            self.moments.insert(self.version, moments.clone());
            if step.policy.is_some() {
                self.checkpoint = self.version;
                self.steps_after_checkpoint.clear();
            }
        }
        // Not before: a batch whose last rows this step dropped is still needed to execute it again.
        self.forget_spent_batches();
        Ok(())
    }

    /// Rows of the parent's. What a replay makes of them continues the versions that sampled them; beside rows of the run's own
    /// those versions are of another learner.
    fn replay(&mut self, step: &StepCommit) -> Result<(), String> {
        let is_whole = match &self.run.parent {
            None if step.replayed.is_empty() => return Ok(()),
            None => return Err("it replays rows of a parent, and the run has none".into()),
            Some(parent) => parent.is_replayed_whole(),
        };
        for replayed in &step.replayed {
            if is_whole {
                self.count_trained(step.step, replayed.policy_version, &replayed.of.rows);
            } else {
                let rows = u64::from(replayed.of.rows.len());
                self.ended.consumed += rows;
                self.ended.foreign += rows;
            }
        }
        Ok(())
    }

    fn count_trained(&mut self, step: u64, sampled: PolicyVersion, rows: &RowSet) {
        let (rows, staleness) = (u64::from(rows.len()), PolicyVersion(step - 1).checked_staleness_of(sampled));
        self.ended.train(rows, staleness);
    }

    /// Takes `rows` out of what is pending; returns the batch.
    fn end_rows(&mut self, id: &str, rows: &RowSet) -> Result<&Batch, String> {
        let batch = self.batches.get_mut(id).ok_or_else(|| format!("there is no live batch `{id}`"))?;
        if rows.is_empty() || !batch.pending.contains_all(rows) {
            return Err(format!("rows {rows:?} of batch `{id}` are not pending: {:?} are", batch.pending));
        }
        batch.pending = batch.pending.minus(rows);
        Ok(batch)
    }

    fn drop_rows(&mut self, dropped: &Dropped) -> Result<(), String> {
        let Dropped { of: BatchRows { batch, rows }, reason, reissue } = dropped;
        let of = self.end_rows(batch, rows)?.of.clone();
        *self.ended.dropped.entry(*reason).or_default() += u64::from(rows.len());
        if *reissue {
            let again: RowSet =
                of.rows.iter().enumerate().filter(|(i, _)| rows.contains(*i as u32)).map(|(_, row)| row).collect();
            let entry = self.reissue.entry(of.unit).or_default();
            *entry = entry.union(&again);
        }
        Ok(())
    }

    fn forget_spent_batches(&mut self) {
        let steps = &self.steps_after_checkpoint;
        let needed = |id: &str| steps.iter().flat_map(|step| &step.consumed).any(|rows| rows.batch == id);
        self.batches.retain(|id, batch| !batch.pending.is_empty() || needed(id));
    }

    fn evaluate(&mut self, eval: &EvalCommit) {
        if self.evaluated.entry(eval.eval_set.clone()).or_default().insert(eval.policy_version) {
            let newest = self.newest_eval.entry(eval.eval_set.clone()).or_insert_with(|| eval.clone());
            if newest.policy_version <= eval.policy_version {
                *newest = eval.clone();
            }
        }
    }

    fn credit(&mut self, commit: &Commit) {
        let work = &commit.work;
        let worker = self.workers.entry(work.worker.clone()).or_insert_with(|| Worker {
            job: work.job,
            incarnation: String::new(),
            commits: 0,
            last_seq: 0,
            last_at: 0,
            tokens: 0,
            busy_s: 0.0,
            waited_s: 0.0,
        });
        worker.incarnation.clone_from(&work.incarnation);
        worker.commits += 1;
        worker.last_seq = commit.seq;
        worker.last_at = commit.at;
        worker.tokens += work.tokens;
        worker.busy_s += work.busy_s;
        worker.waited_s += work.waited_s;
    }

    /// What a score set holds, of the run's own or beside them.
    pub fn score_set(&self, name: &str) -> Option<&ScoreSet> {
        self.run.score_sets.get(name).or_else(|| Some(&self.score_sets.get(name)?.holds))
    }

    /// The newest published version.
    pub fn newest_policy(&self) -> &Policy {
        // Version 0 is there from the start, and `retire` never takes the newest.
        self.policies.last_key_value().expect("a run always has a policy").1
    }

    /// Batches with rows that have not ended, in the order rows are taken: by unit, then by the batch's first row in it.
    pub fn pending(&self) -> impl Iterator<Item = (&BatchId, &Batch)> {
        let mut batches: Vec<_> = self.batches.iter().filter(|(_, batch)| !batch.pending.is_empty()).collect();
        batches.sort_by_key(|(id, batch)| (batch.of.unit, batch.of.rows.iter().next(), *id));
        batches.into_iter()
    }

    /// Rows ahead of the learner: claimed, or stored and not yet ended.
    pub fn rows_ahead(&self) -> u64 {
        let claimed: u64 = self.unit_claims.iter().map(|claim| u64::from(claim.of.rows.len())).sum();
        claimed + self.pending().map(|(_, batch)| u64::from(batch.pending.len())).sum::<u64>()
    }
}
