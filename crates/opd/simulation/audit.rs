//! Who watches a simulated run: reads the log as it lies in the store, without faults, and holds every commit against what was
//! promised.

use super::{SET, Shape, jobs};
use crate::pace::WhenStale;
use record::{
    BatchId, BatchRows, Commit, Digest, DropReason, Dropped, EvalCommit, Event, Job, ObjectRef, PolicyVersion, Run,
    UnitRows,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use store::{
    Follower, Snapshot, Store,
    simulated::{Faulty, at_once},
};

/// What the log told a life of a worker.
pub struct Ledger {
    pub incarnation: String,
    /// Commits that it was told are its own.
    pub commits: u64,
}

impl Ledger {
    pub fn of(incarnation: String) -> Self {
        Self { incarnation, commits: 0 }
    }
}

/// What a batch was delivered as.
struct Delivered {
    of: UnitRows,
    version: PolicyVersion,
    rollouts: ObjectRef,
    scores: Option<ObjectRef>,
}

/// The run so far, and the first thing that was found wrong with it.
pub struct Audit {
    pub run: Run,
    pub fault: Option<String>,
    /// (unit, row of the unit) of each row trained on, in order.
    pub trained: Vec<(u64, u32)>,
    pub weights: Vec<u8>,
    shape: Shape,
    objects: Arc<Faulty>,
    reader: Store,
    follower: Option<Follower>,
    commits: Vec<Commit>,
    ids: BTreeSet<String>,
    batches: BTreeMap<BatchId, Delivered>,
    ended: BTreeSet<(BatchId, u32)>,
    /// The state before the commit that is checked.
    before: Option<Snapshot>,
    /// Lives of learners that committed something; those that another learner's step came after.
    learners: BTreeSet<String>,
    fenced: BTreeSet<String>,
    /// Published weights by version, and versions that were evaluated.
    published: BTreeMap<PolicyVersion, Vec<u8>>,
    evaluated: BTreeSet<PolicyVersion>,
}

impl Audit {
    pub fn new(shape: Shape, objects: &Arc<Faulty>, run: Run, weights: Vec<u8>) -> Self {
        let reader = Store::with_backend(objects.sound(), store::StoreOptions::default());
        let (commits, ids, trained) = (Vec::new(), BTreeSet::new(), Vec::new());
        let (batches, ended) = (BTreeMap::new(), BTreeSet::new());
        let published = BTreeMap::from([(run.policy.version, weights.clone())]);
        let objects = objects.clone();
        Self {
            run,
            fault: None,
            trained,
            weights,
            shape,
            objects,
            reader,
            follower: None,
            commits,
            ids,
            batches,
            ended,
            before: None,
            learners: BTreeSet::new(),
            fenced: BTreeSet::new(),
            published,
            evaluated: BTreeSet::new(),
        }
    }

    pub fn fail(&mut self, what: String) {
        self.fault.get_or_insert(what);
    }

    pub fn now(&self) -> Option<&Snapshot> {
        self.follower.as_ref().map(Follower::snapshot)
    }

    /// Holds what a worker was told of its commits against the log.
    pub fn compare(&mut self, ledger: &Ledger) {
        self.look();
        let made = self.commits.iter().filter(|commit| commit.work.incarnation == ledger.incarnation).count() as u64;
        if made != ledger.commits {
            self.fail(format!("{} has {made} commits, but was told of {}", ledger.incarnation, ledger.commits));
        }
    }

    /// Checks what is new, commit by commit.
    pub fn look(&mut self) {
        if let Err(what) = self.try_look() {
            self.fail(what);
        }
    }

    fn try_look(&mut self) -> Result<(), String> {
        let said = |error: store::StoreError| error.to_string();
        let follower = match &mut self.follower {
            Some(follower) => follower,
            None => match at_once(self.reader.snapshot(Some(0))) {
                // The log is folded from its first commit, whatever snapshots there are.
                Ok(_) => self.follower.insert(at_once(self.reader.follow()).map_err(said)?),
                Err(store::StoreError::NoRun { .. }) => return Ok(()),
                Err(error) => return Err(said(error)),
            },
        };
        if !at_once(follower.refresh()).map_err(said)? && !self.commits.is_empty() {
            return Ok(());
        }
        let commits = self.read_afresh()?;
        for commit in commits.into_iter().skip(self.commits.len()) {
            let found = |what: String| format!("commit {} ({}): {what}", commit.seq, commit.event.kind());
            self.check(&commit).map_err(found)?;
            self.check_learner(&commit).map_err(found)?;
            let after = match self.before.take() {
                None => Snapshot::start(&commit),
                Some(mut before) => before.apply(&commit).map(|()| before),
            };
            self.before = Some(after.map_err(|error| error.to_string())?);
            self.commits.push(commit);
        }
        self.check_kept()?;
        self.check_room()
    }

    /// The whole log, entry by entry. Whoever comes now reads the same, from its first commit and from the newest snapshot, and
    /// nothing that was read before has changed.
    fn read_afresh(&self) -> Result<Vec<Commit>, String> {
        let Some(now) = self.now() else { return Err("there is no run".into()) };
        let entries = self.objects.log().map_err(|error| error.to_string())?;
        let commits: Vec<Commit> = entries
            .iter()
            .map(|json| Commit::from_json(json))
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        let mut folded = Snapshot::start(&commits[0]).map_err(|error| error.to_string())?;
        commits[1..].iter().try_for_each(|commit| folded.apply(commit)).map_err(|error| error.to_string())?;
        folded.history.clone_from(&now.history);
        let mut fresh = at_once(self.reader.snapshot(None)).map_err(|error| error.to_string())?;
        fresh.history.clone_from(&now.history);
        match (commits.starts_with(&self.commits), fresh == *now, folded == *now) {
            (true, true, true) => Ok(commits),
            same => Err(format!("a fresh reader finds another log, snapshot or fold: {same:?}")),
        }
    }

    fn check_room(&self) -> Result<(), String> {
        let (Some(now), room) = (self.now(), self.shape.room()) else { return Ok(()) };
        let again: u64 = now.reissue.values().map(|rows| u64::from(rows.len())).sum();
        let ahead = now.rows_ahead() + again;
        if ahead > room { Err(format!("{ahead} rows ahead of the learner, {room} are allowed")) } else { Ok(()) }
    }

    fn check(&mut self, commit: &Commit) -> Result<(), String> {
        if commit.seq != self.commits.len() as u64 || !self.ids.insert(commit.id.clone()) {
            return Err(format!("number {} or id `{}` is there already", commit.seq, commit.id));
        }
        match &commit.event {
            Event::Rollouts(rollouts) => {
                self.object(&rollouts.object)?;
                let (of, version) = (rollouts.of.clone(), rollouts.policy_version);
                let delivered = Delivered { of, version, rollouts: rollouts.object.clone(), scores: None };
                if self.batches.insert(rollouts.batch.clone(), delivered).is_some() {
                    return Err(format!("batch `{}` is there already", rollouts.batch));
                }
            }
            Event::Scores(scores) => {
                self.object(&scores.object)?;
                let batch = self.batches.get_mut(&scores.batch).ok_or("scores of no batch")?;
                batch.scores = Some(scores.object.clone());
            }
            Event::Drop { dropped } | Event::Finish { dropped } => {
                dropped.iter().try_for_each(|rows| self.drop(rows))?;
            }
            Event::Step(step) => {
                let mut rows = String::new();
                for consumed in &step.consumed {
                    self.end(consumed)?;
                    rows += &self.train_on(consumed, PolicyVersion(step.step - 1))?;
                }
                step.dropped.iter().try_for_each(|rows| self.drop(rows))?;
                // Whoever made this step had made, or read, every step before it.
                self.weights = jobs::train(&self.weights, &rows);
                if Digest::of(&self.weights) != step.weights_digest {
                    return Err(format!("step {} does not follow from the steps before it and its rows", step.step));
                }
                let (record, moments) = (Some(&step.record), step.moments.as_ref());
                let weights = step.policy.as_ref().map(|policy| &policy.weights);
                for object in [record, moments, weights].into_iter().flatten() {
                    self.object(object)?;
                }
                if let Some(policy) = &step.policy {
                    self.published.insert(policy.version, self.weights.clone());
                }
            }
            Event::Eval(eval) => self.evaluate(eval)?,
            Event::Retire(retired) => self.check_unneeded(&retired.policies)?,
            _ => {}
        }
        Ok(())
    }

    /// A learner that another one's step came after makes, ends and gives up nothing more; and nobody but the maker of the last
    /// step gives anything up.
    fn check_learner(&mut self, commit: &Commit) -> Result<(), String> {
        let of_learner = match &commit.event {
            Event::Step(_) | Event::Finish { .. } | Event::Retire(_) => true,
            // That a batch is damaged may be said by anyone.
            Event::Drop { dropped } => dropped.iter().any(|rows| rows.reason != DropReason::Corrupt),
            _ => false,
        };
        if !of_learner || commit.work.job != Job::Learn {
            return Ok(());
        }
        let life = &commit.work.incarnation;
        if self.fenced.contains(life) {
            return Err(format!("the learner {life} goes on after another's step"));
        }
        if matches!(commit.event, Event::Retire(_)) {
            let last = self.before.as_ref().and_then(|before| before.learner.as_ref());
            if last != Some(life) {
                return Err(format!("{life} gives up what {last:?} made"));
            }
        }
        if matches!(commit.event, Event::Step(_)) {
            self.fenced.extend(self.learners.iter().filter(|other| *other != life).cloned());
        }
        self.learners.insert(life.clone());
        Ok(())
    }

    /// Weights that are given up wait for no evaluation, are not those that are sampled with next, and a resume needs them no more.
    fn check_unneeded(&self, policies: &[PolicyVersion]) -> Result<(), String> {
        let Some(before) = &self.before else { return Err("there is no run".into()) };
        for version in policies {
            let needs = [
                ("an evaluation", jobs::awaits_eval(before, *version, self.shape.pace.steps)),
                ("the sampler", self.shape.pace.sampling_version(before) == *version),
                ("a resume", before.checkpoint == *version),
                ("a comparison with the beginning", version.0 == 0),
            ];
            if let Some((who, _)) = needs.into_iter().find(|(_, needs)| *needs) {
                return Err(format!("{who} needs {version}, which is given up"));
            }
        }
        Ok(())
    }

    /// Weights and moments that the log keeps are there, whatever was given up and deleted.
    fn check_kept(&self) -> Result<(), String> {
        let Some(now) = self.now() else { return Ok(()) };
        let weights = now.policies.values().map(|policy| &policy.weights);
        weights.chain(now.moments.values()).try_for_each(|object| self.object(object).map(drop))
    }

    fn evaluate(&mut self, eval: &EvalCommit) -> Result<(), String> {
        let version = eval.policy_version;
        let weights = self.published.get(&version).ok_or_else(|| format!("{version} was never published"))?;
        if eval.accuracy != (jobs::measured(weights), 1.0) {
            return Err(format!("what was evaluated as {version} was something else"));
        }
        if !self.evaluated.insert(version) {
            return Err(format!("{version} was evaluated before"));
        }
        Ok(())
    }

    /// Whether every version that is due was evaluated.
    pub fn is_evaluated(&self) -> bool {
        let due = |version: &&PolicyVersion| jobs::is_eval_due(**version, self.shape.pace.steps);
        self.published.keys().filter(due).all(|version| self.evaluated.contains(version))
    }

    /// What a commit names is there, whole.
    fn object(&self, object: &ObjectRef) -> Result<bytes::Bytes, String> {
        at_once(self.reader.get(object)).map_err(|error| error.to_string())
    }

    fn drop(&mut self, Dropped { of, reason, reissue }: &Dropped) -> Result<(), String> {
        if *reason == DropReason::Stale && self.shape.pace.when_stale == WhenStale::Wait {
            return Err("a row is dropped as too stale by a learner that waits".into());
        }
        let passing = of.rows.iter().find(|row| self.shape.passes(&of.batch, *row));
        if let (DropReason::Selection, Some(row)) = (reason, passing) {
            return Err(format!("row {row} of batch `{}` meets the predicate and is rejected", of.batch));
        }
        if *reissue == matches!(reason, DropReason::Selection | DropReason::Finished) {
            return Err(format!("rows dropped as {} are sampled again: {reissue}", reason.as_str()));
        }
        self.end(of)
    }

    fn end(&mut self, BatchRows { batch, rows }: &BatchRows) -> Result<(), String> {
        match rows.iter().find(|row| !self.ended.insert((batch.clone(), *row))) {
            Some(row) => Err(format!("row {row} of batch `{batch}` ends a second time")),
            None => Ok(()),
        }
    }

    /// What a learner at `version` reads of the rows that a step names.
    fn train_on(&mut self, consumed: &BatchRows, version: PolicyVersion) -> Result<String, String> {
        let BatchRows { batch, rows } = consumed;
        let Delivered { of, version: of_version, rollouts, scores } = self.batches.get(batch).ok_or("no such batch")?;
        let (age, pace) = (version.staleness_of(*of_version), self.shape.pace);
        if let Some(row) = rows.iter().find(|row| !self.shape.passes(batch, *row)) {
            return Err(format!("row {row} of batch `{batch}` is trained on, and does not meet the predicate"));
        }
        if age > pace.max_staleness && pace.when_stale != WhenStale::Reweight {
            return Err(format!("a row of staleness {age} is trained on, {} is the most", pace.max_staleness));
        }
        let in_unit: Vec<u32> = of.rows.iter().collect();
        self.trained.extend(rows.iter().map(|row| (of.unit, in_unit[row as usize])));
        let mut text = String::new();
        for object in [rollouts, scores.as_ref().ok_or_else(|| format!("no scores in `{SET}`"))?] {
            let bytes = self.object(object)?;
            text += &rows.iter().filter_map(|row| jobs::lines(&bytes).nth(row as usize)).collect::<String>();
        }
        Ok(text)
    }

    /// What must hold of a run that has ended.
    pub fn check_end(&self) -> Result<(), String> {
        let Some(now) = self.now() else { return Err("there is no run".into()) };
        let (pace, dropped) = (self.shape.pace, now.ended.dropped.values().sum::<u64>());
        let delivered: u64 = self.batches.values().map(|batch| u64::from(batch.of.rows.len())).sum();
        let once: BTreeSet<_> = self.trained.iter().collect();
        let facts = [
            ("the run is finished", now.finished),
            ("all steps are made", now.version.0 == pace.steps),
            ("each step trained on whole minibatches", now.ended.consumed == pace.rows(pace.steps)),
            ("each row delivered ended", delivered == now.ended.consumed + dropped),
            ("each row ended once", delivered == self.ended.len() as u64),
            ("no row of a unit was trained on twice", once.len() == self.trained.len()),
            ("each version that was due was evaluated", self.is_evaluated()),
        ];
        match facts.into_iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err(format!("not so: {what}: {:?}", now.ended)),
            None if at_once(self.reader.history(None)).is_ok_and(|commits| commits == self.commits) => Ok(()),
            None => Err("history segments hold another log".into()),
        }
    }
}
