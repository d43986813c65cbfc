//! The log with what its tables look up: which commit delivered a batch, what was retired, which evaluations count.

use crate::QueryError;
use record::{
    BatchId, BatchRows, Commit, Event, PolicyVersion, RolloutCommit, Run, ScoreCommit, ScoreSet, ScoreSetCommit,
    StepCommit,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A prefix of a log.
///
/// Invariant: it begins with the run's identity, and every batch that a commit names was delivered by an earlier one, but for those
/// that a replay's steps name of its parent's.
#[derive(Debug)]
pub(crate) struct Log {
    run: Box<Run>,
    commits: Vec<Commit>,
    /// The parent's deliveries and scores of the batches that steps of this run replayed.
    borrowed: Vec<Commit>,
    /// Places, as those of `scorings`, in `commits` and behind them in `borrowed`.
    delivered: HashMap<BatchId, usize>,
    given_up: Retired,
    counted_evals: HashSet<u64>,
    /// Those beside the run's own, by name.
    score_sets: BTreeMap<String, ScoreSetCommit>,
    /// Places of the scores that count.
    scorings: Vec<usize>,
}

/// What the log gives up, up to its last commit: what is gone is gone for every question, whichever moment it asks about.
#[derive(Debug, Default)]
struct Retired {
    policies: BTreeSet<PolicyVersion>,
    moments: BTreeSet<PolicyVersion>,
    batches: HashSet<BatchId>,
    steps: BTreeSet<u64>,
}

impl Retired {
    fn by(commits: &[Commit]) -> Self {
        let mut all = Self::default();
        for commit in commits {
            let Event::Retire(retired) = &commit.event else { continue };
            all.policies.extend(&retired.policies);
            all.moments.extend(&retired.moments);
            all.batches.extend(retired.batches.iter().cloned());
            all.steps.extend(&retired.steps);
        }
        all
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
            counted_evals: HashSet::new(),
            score_sets: BTreeMap::new(),
            scorings: Vec::new(),
        };
        let (mut evaluated, mut scored) = (HashSet::new(), HashSet::new());
        for (i, commit) in commits.iter().enumerate() {
            match &commit.event {
                Event::Rollouts(rollouts) => {
                    log.delivered.insert(rollouts.batch.clone(), i);
                }
                Event::ScoreSet(set) => {
                    log.score_sets.insert(set.score_set.clone(), set.clone());
                }
                Event::Scores(of) if scored.insert((of.score_set.as_str(), of.batch.as_str())) => log.scorings.push(i),
                Event::Eval(eval) if evaluated.insert((eval.eval_set.as_str(), eval.policy_version)) => {
                    log.counted_evals.insert(commit.seq);
                }
                _ => {}
            }
            if let Some(batch) = batches_named(&commit.event).find(|batch| !log.delivered.contains_key(*batch)) {
                return Err(damaged(commit.seq, format!("no commit before it delivered the batch `{batch}`")));
            }
        }
        Ok(Self { commits, ..log })
    }

    /// The same beside the log of its parent: of that the batches are taken that steps of this one replayed.
    pub fn with_parent(mut self, parent: Log) -> Self {
        let steps = self.commits.iter().filter_map(step_of);
        let replayed: HashSet<BatchId> =
            steps.flat_map(|step| &step.replayed).map(|replayed| replayed.of.batch.clone()).collect();
        let is_there = |batch: &BatchId| replayed.contains(batch) && !parent.batch_is_retired(batch);
        let is_borrowed = |commit: &&Commit| match &commit.event {
            Event::Rollouts(rollouts) => is_there(&rollouts.batch),
            Event::Scores(scores) => is_there(&scores.batch),
            _ => false,
        };
        self.borrowed = parent.commits.iter().filter(is_borrowed).cloned().collect();
        let mut scored = HashSet::new();
        for (i, commit) in self.borrowed.iter().enumerate() {
            let place = self.commits.len() + i;
            match &commit.event {
                Event::Rollouts(rollouts) => drop(self.delivered.insert(rollouts.batch.clone(), place)),
                Event::Scores(of) if scored.insert((of.score_set.as_str(), of.batch.as_str())) => {
                    self.scorings.push(place);
                }
                _ => {}
            }
        }
        self
    }

    /// The commit at a place, and whether it is the parent's.
    fn at(&self, place: usize) -> (&Commit, bool) {
        match self.commits.get(place) {
            Some(commit) => (commit, false),
            None => (&self.borrowed[place - self.commits.len()], true),
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

    /// The run's identity.
    pub fn run(&self) -> &Run {
        &self.run
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
