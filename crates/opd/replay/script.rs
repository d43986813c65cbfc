//! Which rows each step of a replay trains on: a pure function of the parent's log, so that it depends on nothing that happens
//! while they are read.

use crate::{
    error::{CommandError, Result},
    learn::Unread,
    prompts::shuffle,
};
use futures::TryStreamExt;
use record::{BatchId, BatchRows, Budget, Commit, Event, ObjectRef, PolicyVersion, ReplayOrder, Replayed, RowSet};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
};
use store::{Scored, SelectedBatch, Store};

/// The rows of each step, and where they lie.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// Of step 1 and on.
    pub steps: Vec<Vec<Replayed>>,
    /// The batches that hold them, whole.
    pub batches: BTreeMap<BatchId, SelectedBatch>,
}

/// Rows that meet a condition, by batch.
pub(super) type Chosen = BTreeMap<BatchId, BTreeSet<u32>>;

/// A batch of the parent's.
#[derive(Clone, Debug)]
struct Recorded {
    unit: u64,
    whole: SelectedBatch,
    /// Its place among the scored ones, in the order of the log.
    place: usize,
    /// Somebody found it damaged, or it was given up.
    gone: bool,
}

/// Every scored batch of a log, and what its steps consumed.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    batches: BTreeMap<BatchId, Recorded>,
    /// What each step consumed, with the step.
    pub steps: Vec<(u64, Vec<BatchRows>)>,
}

/// How rows become steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cut {
    /// As the parent's steps, of each the rows that are chosen: none, perhaps.
    Recorded,
    /// So many a step; those that are left over at the end are left out.
    Rows(u32),
}

impl Recording {
    /// What `commits` say of the batches with scores in `score_set`; those that are `gone` are known, for steps that took rows of them
    /// while they were there.
    pub fn of(commits: &[Commit], score_set: &str, gone: &BTreeSet<BatchId>) -> Self {
        let mut sampled = BTreeMap::new();
        let mut recording = Self { batches: BTreeMap::new(), steps: Vec::new() };
        for commit in commits {
            match &commit.event {
                Event::Rollouts(rollouts) => drop(sampled.insert(&rollouts.batch, rollouts)),
                Event::Scores(scores) if scores.score_set == score_set => {
                    let Some(rollouts) = sampled.get(&scores.batch) else { continue };
                    let whole = SelectedBatch {
                        batch: scores.batch.clone(),
                        rows: RowSet::first(rollouts.of.rows.len()),
                        policy_version: rollouts.policy_version,
                        rollouts: rollouts.object.clone(),
                        scores: scores.object.clone(),
                    };
                    let place = recording.batches.len();
                    let gone = gone.contains(&scores.batch);
                    let recorded = Recorded { unit: rollouts.of.unit, whole, place, gone };
                    recording.batches.entry(scores.batch.clone()).or_insert(recorded);
                }
                Event::Step(step) => recording.steps.push((step.step, step.consumed.clone())),
                _ => {}
            }
        }
        recording
    }

    /// The rows of each step; with `chosen`, of those alone.
    ///
    /// # Errors
    /// A step of the parent's on a batch without scores.
    pub fn script(&self, order: ReplayOrder, seed: u64, cut: Cut, chosen: Option<&Chosen>) -> Result<Script> {
        let steps: Vec<Vec<BatchRows>> = match (order, cut) {
            (ReplayOrder::Recorded, Cut::Recorded) => {
                let of_step =
                    |(_, rows): &(u64, Vec<BatchRows>)| rows.iter().filter_map(|of| kept(chosen, of)).collect();
                self.steps.iter().map(of_step).collect()
            }
            (ReplayOrder::Recorded, Cut::Rows(count)) => {
                let consumed = self.steps.iter().flat_map(|(_, rows)| rows).flat_map(|of| each(&of.batch, &of.rows));
                let rows: Vec<_> = consumed.filter(|(id, row)| is_chosen(chosen, id, *row)).collect();
                rows.chunks_exact(count as usize).map(grouped).collect()
            }
            (ReplayOrder::Seeded, cut) => {
                let rows = self.rows(chosen);
                let order = shuffle(seed, 0, rows.len() as u64);
                let count = if let Cut::Rows(count) = cut { count as usize } else { rows.len().max(1) };
                // Within a step the order is that of the log: it means nothing there, and each batch is opened once.
                let step = |places: &[u64]| {
                    let mut places = places.to_vec();
                    places.sort_unstable();
                    grouped(&places.iter().map(|place| rows[*place as usize]).collect::<Vec<_>>())
                };
                order.chunks_exact(count).map(step).collect()
            }
        };
        let named: BTreeSet<&BatchId> = steps.iter().flatten().map(|of| &of.batch).collect();
        let whole = |id: &BatchId| self.find(id).map(|batch| (id.clone(), batch.whole.clone()));
        let batches = named.into_iter().map(whole).collect::<Result<_>>()?;
        let replayed = |of: BatchRows| {
            let batch = self.find(&of.batch)?;
            Ok(Replayed { of, unit: batch.unit, policy_version: batch.whole.policy_version, epoch: 0 })
        };
        let steps = steps.into_iter().map(|rows| rows.into_iter().map(replayed).collect()).collect::<Result<_>>()?;
        Ok(Script { steps, batches })
    }

    /// Every scored row that is kept, of `chosen` those alone, in the order of the log; none of a batch that is gone.
    pub fn rows(&self, chosen: Option<&Chosen>) -> Vec<(&BatchId, u32)> {
        let mut batches: Vec<&Recorded> = self.batches.values().filter(|batch| !batch.gone).collect();
        batches.sort_by_key(|batch| batch.place);
        let rows = batches.iter().flat_map(|batch| each(&batch.whole.batch, &batch.whole.rows));
        rows.filter(|(id, row)| is_chosen(chosen, id, *row)).collect()
    }

    /// The unit of a batch, and all of it; none without scores.
    pub fn whole(&self, id: &BatchId) -> Option<(u64, &SelectedBatch)> {
        self.batches.get(id).map(|batch| (batch.unit, &batch.whole))
    }

    fn find(&self, id: &BatchId) -> Result<&Recorded> {
        let lacks = || {
            CommandError::new(format!("a step consumed rows of batch `{id}`, which has no scores in this set"))
                .hint("take the score set that the steps were trained with: score.set")
        };
        self.batches.get(id).ok_or_else(lacks)
    }
}

fn is_chosen(chosen: Option<&Chosen>, id: &BatchId, row: u32) -> bool {
    chosen.is_none_or(|chosen| chosen.get(id).is_some_and(|rows| rows.contains(&row)))
}

/// Of rows of a batch those that are chosen, if any is.
fn kept(chosen: Option<&Chosen>, of: &BatchRows) -> Option<BatchRows> {
    let rows: RowSet = of.rows.iter().filter(|row| is_chosen(chosen, &of.batch, *row)).collect();
    (!rows.is_empty()).then(|| BatchRows { batch: of.batch.clone(), rows })
}

fn each<'a>(batch: &'a BatchId, rows: &'a RowSet) -> impl Iterator<Item = (&'a BatchId, u32)> {
    rows.iter().map(move |row| (batch, row))
}

/// Rows in their order, neighbours of one batch together.
fn grouped(rows: &[(&BatchId, u32)]) -> Vec<BatchRows> {
    rows.chunk_by(|(a, i), (b, j)| a == b && i < j)
        .map(|of| BatchRows { batch: of[0].0.clone(), rows: of.iter().map(|(_, row)| *row).collect() })
        .collect()
}

/// The parent's rows, for a learner.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where they lie.
    pub store: Store,
    batches: BTreeMap<BatchId, SelectedBatch>,
}

impl Origin {
    pub(super) fn new(store: Store, batches: BTreeMap<BatchId, SelectedBatch>) -> Self {
        Self { store, batches }
    }

    /// Where these rows lie.
    ///
    /// # Errors
    /// A batch that the script does not know: the store was begun with another.
    pub fn select<'a>(&self, rows: impl Iterator<Item = &'a BatchRows>) -> Result<Vec<SelectedBatch>> {
        let select = |of: &BatchRows| {
            let whole = self.batches.get(&of.batch).filter(|whole| of.rows.end() <= whole.rows.end());
            let lacks =
                || CommandError::new(format!("`{}` has no such rows of batch `{}`", self.store.url(), of.batch));
            Ok(SelectedBatch { rows: of.rows.clone(), ..whole.ok_or_else(lacks)?.clone() })
        };
        rows.map(select).collect()
    }

    /// These rows, as much of each as `budget` says. Of a batch no other rows are held: a step may take one row each of as many batches.
    pub(crate) async fn read<'a>(
        &self,
        rows: impl Iterator<Item = &'a BatchRows>,
        budget: Budget,
    ) -> Result<Vec<Scored>, Unread> {
        let selected = self.select(rows).map_err(Unread::Fatal)?;
        let alone = |read: Scored| {
            let batch = read.batch.clone();
            let fault = |error| CommandError::new(format!("batch `{batch}` of `{}`: {error}", self.store.url()));
            ready(read.alone().map_err(|error| Unread::Fatal(fault(error))))
        };
        self.store.stream_within(selected, None, budget).map_err(Unread::from).and_then(alone).try_collect().await
    }
}

impl Script {
    /// The batches that hold its rows.
    pub fn names(&self) -> BTreeSet<&BatchId> {
        self.steps.iter().flatten().map(|replayed| &replayed.of.batch).collect()
    }

    /// The objects that hold its rows.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        let batches = self.names().into_iter().filter_map(|id| self.batches.get(id));
        batches.flat_map(|batch| [&batch.rollouts, &batch.scores])
    }

    /// The first and the last policy version that sampled its rows.
    pub fn versions(&self) -> Option<(PolicyVersion, PolicyVersion)> {
        let versions = || self.steps.iter().flatten().map(|replayed| replayed.policy_version);
        versions().min().zip(versions().max())
    }
}

#[cfg(test)]
#[path = "script_tests.rs"]
mod tests;
