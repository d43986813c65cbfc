//! Recorded rows to go round and round: which of them each step takes, as a function of seed and step alone.

use super::script::{Chosen, Recording};
use crate::{prompts::shuffle, share::Share};
use record::{BatchRows, Replayed};
use store::SelectedBatch;

/// The rows that are taken from: in each epoch all of them, in an order of its own. 8 bytes a row, whatever the row holds.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// With the unit of each, in the order of the log.
    batches: Vec<(u64, SelectedBatch)>,
    /// The place of its batch and the row in it, ascending.
    rows: Vec<(u32, u32)>,
    seed: u64,
    /// The last epoch that was asked about, and its order.
    order: Option<(u64, Vec<u64>)>,
}

impl Pool {
    /// Every scored row of a log that is kept; with `chosen`, of those alone.
    pub fn of(recording: &Recording, chosen: Option<&Chosen>, seed: u64) -> Self {
        let mut pool = Self { batches: Vec::new(), rows: Vec::new(), seed, order: None };
        for (id, row) in recording.rows(chosen) {
            let is_last = pool.batches.last().is_some_and(|(_, last)| last.batch == *id);
            if let Some((unit, whole)) = recording.whole(id).filter(|_| !is_last) {
                pool.batches.push((unit, whole.clone()));
            }
            // A log has far fewer than 2^32 batches.
            pool.rows.push((pool.batches.len() as u32 - 1, row));
        }
        pool
    }

    /// How many rows they are.
    pub fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The batches that hold them, whole.
    pub fn batches(&self) -> impl Iterator<Item = &SelectedBatch> {
        self.batches.iter().map(|(_, batch)| batch)
    }

    /// The rows of `step`, where each step takes `share` of `rows_per_step`: those of an earlier epoch first, within an epoch in the order
    /// of the log, which means nothing in a step and opens each batch once. The pool is not empty.
    pub fn step(&mut self, step: u64, share: Share, rows_per_step: u32) -> Vec<Replayed> {
        let all = u128::from(self.len());
        let (mut from, to) = (share.rows(step - 1, rows_per_step), share.rows(step, rows_per_step));
        let mut taken = Vec::new();
        while from < to {
            let epoch = from / all;
            let end = to.min((epoch + 1) * all);
            taken.extend(self.take(epoch as u64, (from - epoch * all) as usize, (end - epoch * all) as usize));
            from = end;
        }
        taken
    }

    /// The rows from place `from` to `to` in the order of `epoch`.
    fn take(&mut self, epoch: u64, from: usize, to: usize) -> Vec<Replayed> {
        if self.order.as_ref().is_none_or(|(of, _)| *of != epoch) {
            self.order = Some((epoch, shuffle(self.seed, epoch, self.len())));
        }
        let order = self.order.as_ref().map_or(&[][..], |(_, order)| order);
        let mut rows: Vec<(u32, u32)> = order[from..to].iter().map(|place| self.rows[*place as usize]).collect();
        rows.sort_unstable();
        let replayed = |rows: &[(u32, u32)]| {
            let (unit, batch) = &self.batches[rows[0].0 as usize];
            let of = BatchRows { batch: batch.batch.clone(), rows: rows.iter().map(|(_, row)| *row).collect() };
            Replayed { of, unit: *unit, policy_version: batch.policy_version, epoch }
        };
        rows.chunk_by(|a, b| a.0 == b.0).map(replayed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A pool of `count` rows, three a batch.
    fn pool(count: u32, seed: u64) -> Pool {
        let object = record::ObjectRef { key: "x".into(), bytes: 1, digest: record::Digest::of(b"x") };
        let batch = |i: u32| {
            let whole = SelectedBatch {
                batch: format!("b{i}"),
                rows: record::RowSet::first(3),
                policy_version: record::PolicyVersion(u64::from(i)),
                rollouts: object.clone(),
                scores: object.clone(),
            };
            (u64::from(i) + 100, whole)
        };
        let rows = (0..count).map(|row| (row / 3, row % 3)).collect();
        Pool { batches: (0..count.div_ceil(3)).map(batch).collect(), rows, seed, order: None }
    }

    fn each(replayed: &[Replayed]) -> Vec<(u64, String, u32)> {
        let rows =
            |of: &Replayed| of.of.rows.iter().map(|row| (of.epoch, of.of.batch.clone(), row)).collect::<Vec<_>>();
        replayed.iter().flat_map(rows).collect()
    }

    proptest! {
        #[test]
        fn an_epoch_takes_every_row_once_and_the_next_takes_them_anew(
            count in 1u32..60, rows in 1u32..20, percent in 1u32..100, seed: u64,
        ) {
            let share = Share::of(f64::from(percent) / 100.0).unwrap();
            let mut pool = pool(count, seed);
            let mut epochs: BTreeMap<u64, Vec<(String, u32)>> = BTreeMap::new();
            for step in 1..=200 {
                let taken = each(&pool.step(step, share, rows));
                prop_assert_eq!(taken.len() as u128, share.rows(step, rows) - share.rows(step - 1, rows));
                for (epoch, batch, row) in taken {
                    epochs.entry(epoch).or_default().push((batch, row));
                }
            }
            let last = epochs.keys().next_back().copied();
            prop_assert_eq!(epochs.len() as u64, last.map_or(0, |last| last + 1));
            for (epoch, mut rows) in epochs {
                rows.sort();
                let before = rows.len();
                rows.dedup();
                prop_assert_eq!(rows.len(), before, "epoch {}", epoch);
                prop_assert!(Some(epoch) == last || before == count as usize, "epoch {}: {}", epoch, before);
            }
        }

        #[test]
        fn a_steps_rows_are_the_same_whatever_was_asked_before(step in 1u64..10_000, other in 1u64..10_000, seed: u64) {
            let share = Share::of(0.3).unwrap();
            let (mut fresh, mut used) = (pool(50, seed), pool(50, seed));
            used.step(other, share, 16);
            prop_assert_eq!(fresh.step(step, share, 16), used.step(step, share, 16));
        }
    }

    #[test]
    fn rows_of_a_batch_stand_together_with_what_the_parent_says_of_it() {
        let taken = pool(6, 1).step(1, Share::of(0.5).unwrap(), 12);
        let said: Vec<_> =
            taken.iter().map(|of| (of.of.batch.as_str(), of.of.rows.len(), of.unit, of.policy_version.0)).collect();
        assert_eq!(said, [("b0", 3, 100, 0), ("b1", 3, 101, 1)]);
        // Six rows are all there are: the next step goes round again.
        let next = pool(6, 1).step(2, Share::of(0.5).unwrap(), 12);
        assert!(next.iter().all(|of| of.epoch == 1), "{next:?}");
        let orders: Vec<_> = (0..9).map(|epoch| pool(6, 1).step(2 * epoch + 1, Share::of(0.25).unwrap(), 12)).collect();
        assert!(orders.iter().any(|order| each(order).len() == 3 && order[0].of != orders[0][0].of), "{orders:?}");
    }
}
