//! The log with what its tables look up: which commit delivered a batch, what was retired, which evaluations count.

use crate::QueryError;
use record::{BatchId, BatchRows, Commit, Event, PolicyVersion, RolloutCommit, Run, StepCommit};
use std::collections::{BTreeSet, HashMap, HashSet};

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
    /// Places in `commits`, and behind them in `borrowed`.
    delivered: HashMap<BatchId, usize>,
    retired: BTreeSet<PolicyVersion>,
    retired_moments: BTreeSet<PolicyVersion>,
    counted_evals: HashSet<u64>,
}

impl Log {
    /// Looks through `commits` once.
    pub fn new(commits: Vec<Commit>) -> Result<Self, QueryError> {
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
            retired: BTreeSet::new(),
            retired_moments: BTreeSet::new(),
            counted_evals: HashSet::new(),
        };
        let mut evaluated = HashSet::new();
        for (i, commit) in commits.iter().enumerate() {
            match &commit.event {
                Event::Rollouts(rollouts) => {
                    log.delivered.insert(rollouts.batch.clone(), i);
                }
                Event::Retire(retired) => {
                    log.retired.extend(&retired.policies);
                    log.retired_moments.extend(&retired.moments);
                }
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
    pub fn with_parent(mut self, parent: Vec<Commit>) -> Self {
        let steps = self.commits.iter().filter_map(step_of);
        let replayed: HashSet<BatchId> =
            steps.flat_map(|step| &step.replayed).map(|replayed| replayed.of.batch.clone()).collect();
        let is_replayed = |commit: &Commit| match &commit.event {
            Event::Rollouts(rollouts) => replayed.contains(&rollouts.batch),
            Event::Scores(scores) => replayed.contains(&scores.batch),
            _ => false,
        };
        self.borrowed = parent.into_iter().filter(is_replayed).collect();
        for (i, commit) in self.borrowed.iter().enumerate() {
            if let Event::Rollouts(rollouts) = &commit.event {
                self.delivered.insert(rollouts.batch.clone(), self.commits.len() + i);
            }
        }
        self
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
        let place = self.delivered[batch];
        let commit = self.commits.get(place).unwrap_or_else(|| &self.borrowed[place - self.commits.len()]);
        match &commit.event {
            Event::Rollouts(rollouts) => rollouts,
            _ => unreachable!("`delivered` holds the places of rollout commits"),
        }
    }

    /// Whether the weights of `version` were given up.
    pub fn is_retired(&self, version: PolicyVersion) -> bool {
        self.retired.contains(&version)
    }

    /// Whether the moments at `version` were given up.
    pub fn moments_are_retired(&self, version: PolicyVersion) -> bool {
        self.retired_moments.contains(&version)
    }

    /// The run's identity.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Whether the evaluation of commit `seq` is the first of its eval set and version.
    pub fn counts(&self, seq: u64) -> bool {
        self.counted_evals.contains(&seq)
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
