//! The log with what its tables look up: which commit delivered a batch, what was retired, which evaluations count.

use crate::QueryError;
use record::{BatchId, BatchRows, Commit, Event, PolicyVersion, RolloutCommit, Run, StepCommit};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A prefix of a log.
///
/// Invariant: it begins with the run's identity, and every batch that a commit names was delivered by an earlier one.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    run: Box<Run>,
    commits: Vec<Commit>,
    delivered: HashMap<BatchId, usize>,
    retired: BTreeSet<PolicyVersion>,
    retired_moments: BTreeSet<PolicyVersion>,
    /// (eval set, version) of every evaluation; the first of each counts.
    evaluated: HashSet<(String, PolicyVersion)>,
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
            delivered: HashMap::new(),
            retired: BTreeSet::new(),
            retired_moments: BTreeSet::new(),
            evaluated: HashSet::new(),
            counted_evals: HashSet::new(),
        };
        log.extend(commits)?;
        Ok(log)
    }

    /// Looks through the commits that follow, once.
    pub fn extend(&mut self, commits: Vec<Commit>) -> Result<(), QueryError> {
        for commit in commits {
            match &commit.event {
                Event::Rollouts(rollouts) => {
                    self.delivered.insert(rollouts.batch.clone(), self.commits.len());
                }
                Event::Retire { policies, moments } => {
                    self.retired.extend(policies);
                    self.retired_moments.extend(moments);
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

    /// Its commits, in order.
    pub fn commits(&self) -> &[Commit] {
        &self.commits
    }

    /// The commit that delivered `batch`, one that some commit of this log names.
    pub fn delivered(&self, batch: &str) -> &RolloutCommit {
        match &self.commits[self.delivered[batch]].event {
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
