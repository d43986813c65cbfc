//! The log with what its tables look up: which commit delivered a batch, what was retired, which evaluations count.

use crate::QueryError;
use record::{
    BatchId, BatchRows, Commit, Event, PolicyVersion, Retirement, RolloutCommit, Run, ScoreCommit, ScoreSet,
    ScoreSetCommit, StepCommit, What,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A prefix of a log.
///
/// Invariant: it begins with the run's identity, and every batch that a commit names was delivered by an earlier one, but for those
/// that a replay's steps name of its parent's.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    run: Box<Run>,
    commits: Vec<Commit>,
    /// The parent's deliveries and scores of the batches that steps of this run replayed.
    borrowed: Vec<Commit>,
    delivered: HashMap<BatchId, Place>,
    given_up: Retired,
    /// (eval set, version) of every evaluation; the first of each counts.
    evaluated: HashSet<(String, PolicyVersion)>,
    counted_evals: HashSet<u64>,
    /// Those beside the run's own, by name.
    score_sets: BTreeMap<String, ScoreSetCommit>,
    /// (score set, batch) of every scoring; the first of each counts.
    scored: HashSet<(String, BatchId)>,
    /// Places of the scores that count.
    scorings: Vec<Place>,
}

/// Where a commit is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Own(usize),
    /// In `borrowed`.
    Parents(usize),
}

/// What the log gives up or moves, up to its last commit: what is gone is gone for every question, whichever moment it asks about.
#[derive(Clone, Debug, Default)]
struct Retired {
    policies: BTreeSet<PolicyVersion>,
    moments: BTreeSet<PolicyVersion>,
    batches: HashSet<BatchId>,
    steps: BTreeSet<u64>,
    /// The archive that the rows of an object were moved to, both by their keys; the first counts.
    moved: HashMap<String, String>,
}

impl Retired {
    fn by(commits: &[Commit]) -> Self {
        let mut all = Self::default();
        commits.iter().for_each(|commit| all.learn(&commit.event));
        all
    }

    fn learn(&mut self, event: &Event) {
        match event {
            Event::Retire(retired) => self.add(retired),
            Event::Archive(archive) => {
                for of in &archive.moves {
                    self.moved.entry(of.key.clone()).or_insert_with(|| archive.object.key.clone());
                }
            }
            _ => {}
        }
    }

    fn add(&mut self, retired: &Retirement) {
        self.policies.extend(&retired.policies);
        self.moments.extend(&retired.moments);
        self.batches.extend(retired.batches.iter().cloned());
        self.steps.extend(&retired.steps);
    }
}

impl Log {
    /// Looks through `commits` once: a whole log, of which what follows commit `at` tells only what is not kept any more.
    pub fn new(mut commits: Vec<Commit>, at: Option<u64>) -> Result<Self, QueryError> {
        let given_up = Retired::by(&commits);
        commits.retain(|commit| at.is_none_or(|at| commit.seq <= at));
        let run = match commits.first().map(|commit| &commit.event) {
            Some(Event::Run(run)) => run.clone(),
            Some(other) => return Err(damaged(0, format!("it is `{}`, not the identity of a run", other.kind()))),
            None => return Err(damaged(0, "it is missing".into())),
        };
        let mut log = Self {
            run,
            commits: Vec::new(),
            borrowed: Vec::new(),
            delivered: HashMap::new(),
            given_up,
            evaluated: HashSet::new(),
            counted_evals: HashSet::new(),
            score_sets: BTreeMap::new(),
            scored: HashSet::new(),
            scorings: Vec::new(),
        };
        log.extend(commits)?;
        Ok(log)
    }

    /// Looks through the commits that follow, once.
    pub fn extend(&mut self, commits: Vec<Commit>) -> Result<(), QueryError> {
        for commit in commits {
            match &commit.event {
                Event::Rollouts(rollouts) => {
                    self.delivered.insert(rollouts.batch.clone(), Place::Own(self.commits.len()));
                }
                Event::Retire(_) | Event::Archive(_) => self.given_up.learn(&commit.event),
                Event::ScoreSet(set) => {
                    self.score_sets.insert(set.score_set.clone(), set.clone());
                }
                Event::Scores(of) if self.scored.insert((of.score_set.clone(), of.batch.clone())) => {
                    self.scorings.push(Place::Own(self.commits.len()));
                }
                Event::Eval(eval) if self.evaluated.insert((eval.eval_set.clone(), eval.policy_version)) => {
                    self.counted_evals.insert(commit.seq);
                }
                _ => {}
            }
            if let Some(batch) = batches_named(&commit.event).find(|batch| !self.delivered.contains_key(*batch)) {
                return Err(damaged(commit.seq, format!("no commit before it delivered the batch `{batch}`")));
            }
            self.commits.push(commit);
        }
        Ok(())
    }

    /// The number of its last commit.
    pub fn last_seq(&self) -> u64 {
        self.commits.last().map_or(0, |commit| commit.seq)
    }

    /// Takes of the parent's log the batches that steps of this one replayed, in place of those it has of it.
    pub fn borrow_from(&mut self, parent: &Log) {
        let steps = self.commits.iter().filter_map(step_of);
        let replayed: HashSet<&BatchId> = steps.flat_map(|step| &step.replayed).map(|rows| &rows.of.batch).collect();
        let is_there = |batch: &BatchId| replayed.contains(batch) && !parent.batch_is_retired(batch);
        let is_borrowed = |commit: &&Commit| match &commit.event {
            Event::Rollouts(rollouts) => is_there(&rollouts.batch),
            Event::Scores(scores) => is_there(&scores.batch),
            _ => false,
        };
        self.borrowed = parent.commits.iter().filter(is_borrowed).cloned().collect();
        self.scorings.retain(|place| matches!(place, Place::Own(_)));
        let mut scored = HashSet::new();
        for (i, commit) in self.borrowed.iter().enumerate() {
            match &commit.event {
                Event::Rollouts(rollouts) => drop(self.delivered.insert(rollouts.batch.clone(), Place::Parents(i))),
                Event::Scores(of) if scored.insert((&of.score_set, &of.batch)) => self.scorings.push(Place::Parents(i)),
                _ => {}
            }
        }
    }

    /// The commit at a place, and whether it is the parent's.
    fn at(&self, place: Place) -> (&Commit, bool) {
        match place {
            Place::Own(i) => (&self.commits[i], false),
            Place::Parents(i) => (&self.borrowed[i], true),
        }
    }

    /// The commits that deliver or score batches, the parent's first; with each whether it is the parent's.
    pub fn batches(&self) -> impl Iterator<Item = (&Commit, bool)> {
        self.borrowed.iter().map(|commit| (commit, true)).chain(self.commits.iter().map(|commit| (commit, false)))
    }

    /// Its commits, in order.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// The commit that delivered `batch`, one that some commit of this log names.
    pub fn delivered(&self, batch: &str) -> &RolloutCommit {
        match &self.at(self.delivered[batch]).0.event {
            Event::Rollouts(rollouts) => rollouts,
            _ => unreachable!("`delivered` holds the places of rollout commits"),
        }
    }

    /// Whether the weights of `version` were given up.
    pub fn is_retired(&self, version: PolicyVersion) -> bool {
        self.given_up.policies.contains(&version)
    }

    /// Whether the moments at `version` were given up.
    pub fn moments_are_retired(&self, version: PolicyVersion) -> bool {
        self.given_up.moments.contains(&version)
    }

    /// Whether the rollouts of `batch`, and with them its scores, were given up.
    pub fn batch_is_retired(&self, batch: &str) -> bool {
        self.given_up.batches.contains(batch)
    }

    /// Whether the record of `step` was given up.
    pub fn record_is_retired(&self, step: u64) -> bool {
        self.given_up.steps.contains(&step)
    }

    /// The key of the archive that the rows of the object at `key` were moved to.
    pub fn moved_to(&self, key: &str) -> Option<&str> {
        self.given_up.moved.get(key).map(String::as_str)
    }

    /// Whether what an object holds was given up.
    pub fn object_is_retired(&self, what: &What) -> bool {
        match what {
            What::Weights(version) => self.is_retired(*version),
            What::Moments(version) => self.moments_are_retired(*version),
            What::StepRecord(step) => self.record_is_retired(*step),
            What::Rollouts(batch) | What::Scores { batch, .. } => self.batch_is_retired(batch),
            What::File(_) | What::Archive => false,
        }
    }

    /// The run's identity.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Whether the policy versions of a parent's rows are those that this run's continue: so it is in a replay, while beside rows of the
    /// run's own they are another learner's.
    pub fn parents_versions_count(&self) -> bool {
        self.run.parent.as_ref().is_none_or(|parent| parent.is_replayed_whole())
    }

    /// Whether the evaluation of commit `seq` is the first of its eval set and version.
    pub fn counts(&self, seq: u64) -> bool {
        self.counted_evals.contains(&seq)
    }

    /// What a score set holds, of the run's own or beside them.
    pub fn holds(&self, score_set: &str) -> Option<&ScoreSet> {
        self.run.score_sets.get(score_set).or_else(|| Some(&self.score_sets.get(score_set)?.holds))
    }

    /// Every score set with what it holds and the one it was made from, the run's own first.
    pub fn score_sets(&self) -> impl Iterator<Item = (&str, &ScoreSet, Option<&str>)> {
        let own = self.run.score_sets.iter().map(|(name, holds)| (name.as_str(), holds, None));
        own.chain(self.score_sets.values().map(|set| (set.score_set.as_str(), &set.holds, set.parent.as_deref())))
    }

    /// Every scored batch of every score set that is kept, in the order of the log, with its rollouts; and whether both lie in the
    /// parent's store.
    pub fn scorings(&self) -> impl Iterator<Item = (&ScoreCommit, &RolloutCommit, bool)> {
        self.scorings.iter().filter_map(|place| match self.at(*place) {
            (Commit { event: Event::Scores(scores), .. }, borrowed) if !self.batch_is_retired(&scores.batch) => {
                Some((scores, self.delivered(&scores.batch), borrowed))
            }
            _ => None,
        })
    }

    /// The run's default score set: that of the newest step, and before there is one the first by name.
    pub fn score_set(&self) -> Option<&str> {
        let newest = self.commits.iter().rev().find_map(|commit| step_of(commit).map(|step| step.score_set.as_str()));
        newest.or_else(|| self.run.score_sets.keys().next().map(String::as_str))
    }
}

/// The step of a step's commit.
pub(crate) fn step_of(commit: &Commit) -> Option<&StepCommit> {
    match &commit.event {
        Event::Step(step) => Some(step),
        _ => None,
    }
}

fn batches_named(event: &Event) -> impl Iterator<Item = &BatchId> {
    let (consumed, dropped, scored) = match event {
        Event::Step(step) => (step.consumed.as_slice(), step.dropped.as_slice(), None),
        Event::Drop { dropped } | Event::Finish { dropped } => (&[][..], dropped.as_slice(), None),
        Event::Scores(scores) => (&[][..], &[][..], Some(&scores.batch)),
        _ => (&[][..], &[][..], None),
    };
    consumed.iter().chain(dropped.iter().map(|dropped| &dropped.of)).map(|BatchRows { batch, .. }| batch).chain(scored)
}

fn damaged(seq: u64, what: String) -> QueryError {
    QueryError::Log { seq, what }
}
