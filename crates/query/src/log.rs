//! The log with what its tables look up: which commit delivered a batch, what was retired, which evaluations count.

use crate::QueryError;
use record::{BatchId, BatchRows, Commit, Event, PolicyVersion, RolloutCommit, Run, StepCommit};
use std::collections::{BTreeSet, HashMap, HashSet};

/// A prefix of a log.
///
/// Invariant: it begins with the run's identity, and every batch that a commit names was delivered by an earlier one.
#[derive(Debug)]
pub(crate) struct Log {
    run: Box<Run>,
    commits: Vec<Commit>,
    delivered: HashMap<BatchId, usize>,
    given_up: Retired,
    counted_evals: HashSet<u64>,
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
        let mut log =
            Self { run, commits: Vec::new(), delivered: HashMap::new(), given_up, counted_evals: HashSet::new() };
        let mut evaluated = HashSet::new();
        for (i, commit) in commits.iter().enumerate() {
            match &commit.event {
                Event::Rollouts(rollouts) => {
                    log.delivered.insert(rollouts.batch.clone(), i);
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
