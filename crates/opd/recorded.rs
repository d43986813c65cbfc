//! What a store has recorded and keeps, whatever became of it: every rollout with scores in a set, consumed or not.

use record::{BatchId, Codec, Commit, DropReason, Event, ObjectRef, RolloutCommit, RowSet, ScoreSet, StepCommit};
use std::collections::{BTreeMap, BTreeSet};
use store::{SelectedBatch, Versions};

/// A recorded batch with scores.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// All its rows, and where they lie.
    pub selected: SelectedBatch,
    /// Response tokens.
    pub tokens: u64,
    /// How its draws and the sampler's top-k are packed, where the log says so.
    pub codec: Option<Codec>,
}

/// Every batch of `commits` that has scores in `score_set` and was sampled by one of `versions`, in the order of the log;
/// without those that somebody found damaged, and those that were given up. Of several
/// scores of a batch the first count.
pub fn scored(commits: &[Commit], score_set: &str, versions: &Versions) -> Vec<Recorded> {
    let gone = gone(commits);
    let mut sampled: BTreeMap<&BatchId, &RolloutCommit> = BTreeMap::new();
    let (mut recorded, mut seen) = (Vec::new(), BTreeSet::new());
    for commit in commits {
        match &commit.event {
            Event::Rollouts(rollouts) if versions.contains(rollouts.policy_version) => {
                sampled.insert(&rollouts.batch, rollouts);
            }
            Event::Scores(scores) if scores.score_set == score_set && !gone.contains(&scores.batch) => {
                let rollouts = sampled.get(&scores.batch).filter(|_| seen.insert(&scores.batch));
                recorded.extend(rollouts.map(|rollouts| of(rollouts, &scores.object)));
            }
            _ => {}
        }
    }
    recorded
}

/// Batches that nobody is to read any more: somebody found them damaged, or gave them up.
pub fn gone(commits: &[Commit]) -> BTreeSet<&BatchId> {
    commits.iter().flat_map(|commit| damaged(&commit.event).chain(given_up(&commit.event))).collect()
}

/// Of these, the batches that somebody gave up: what gc has not deleted yet, it will.
pub fn given_up_batches(commits: &[Commit]) -> BTreeSet<&BatchId> {
    commits.iter().flat_map(|commit| given_up(&commit.event)).collect()
}

/// The steps of a log, in order.
pub fn steps(commits: &[Commit]) -> Vec<&StepCommit> {
    let steps = commits.iter().filter_map(|commit| match &commit.event {
        Event::Step(step) => Some(step.as_ref()),
        _ => None,
    });
    steps.collect()
}

/// The score sets of a log, the run's own and those beside them, by name.
pub fn score_sets(commits: &[Commit]) -> BTreeMap<&str, &ScoreSet> {
    let mut sets = BTreeMap::new();
    for commit in commits {
        match &commit.event {
            Event::Run(run) => sets.extend(run.score_sets.iter().map(|(name, set)| (name.as_str(), set))),
            Event::ScoreSet(set) => drop(sets.insert(set.score_set.as_str(), &set.holds)),
            _ => {}
        }
    }
    sets
}

fn of(rollouts: &RolloutCommit, scores: &ObjectRef) -> Recorded {
    let selected = SelectedBatch {
        batch: rollouts.batch.clone(),
        rows: RowSet::first(rollouts.of.rows.len()),
        policy_version: rollouts.policy_version,
        rollouts: rollouts.object.clone(),
        scores: scores.clone(),
    };
    Recorded { selected, tokens: rollouts.tokens, codec: rollouts.codec }
}

/// Batches that are dropped because an object of theirs is damaged.
fn damaged(event: &Event) -> impl Iterator<Item = &BatchId> {
    let dropped = match event {
        Event::Drop { dropped } | Event::Finish { dropped } => dropped.as_slice(),
        Event::Step(step) => &step.dropped,
        _ => &[],
    };
    dropped.iter().filter(|rows| rows.reason == DropReason::Corrupt).map(|rows| &rows.of.batch)
}

/// Batches whose objects are kept no more.
fn given_up(event: &Event) -> &[BatchId] {
    match event {
        Event::Retire(retired) => &retired.batches,
        _ => &[],
    }
}
