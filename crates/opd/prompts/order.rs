//! The endless order in which a run takes its prompts.

use record::{UnitRows, Units};

/// A row to be sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitRow {
    /// The prompt's number in its set.
    pub prompt_id: u64,
    /// Which of the prompt's samples, counted over all epochs: (prompt, sample) occurs once in a run.
    pub sample: u32,
}

/// The rows of a unit: prompts come in epochs, each a shuffle of the whole set by the run's seed.
///
/// A pure function, so that every worker, and every start of it, cuts the same units.
pub fn unit_rows(seed: u64, prompts: u64, units: Units, of: &UnitRows) -> Vec<UnitRow> {
    let mut shuffled: Option<(u64, Vec<u64>)> = None;
    let mut rows = Vec::with_capacity(of.rows.len() as usize);
    for row in of.rows.iter() {
        let place = of.unit * u64::from(units.prompts) + u64::from(row / units.samples);
        let epoch = place / prompts;
        if shuffled.as_ref().is_none_or(|(of_epoch, _)| *of_epoch != epoch) {
            shuffled = Some((epoch, shuffle(seed, epoch, prompts)));
        }
        let order = shuffled.as_ref().map_or(&[][..], |(_, order)| order);
        let sample = epoch as u32 * units.samples + row % units.samples;
        rows.push(UnitRow { prompt_id: order[(place % prompts) as usize], sample });
    }
    rows
}

/// A permutation of `0..n`: Fisher-Yates with counter-based chance.
pub fn shuffle(seed: u64, epoch: u64, n: u64) -> Vec<u64> {
    let row_seed = model::chance::row_seed(seed, epoch, 0, u64::MAX);
    let mut order: Vec<u64> = (0..n).collect();
    for i in (1..n as usize).rev() {
        let j = (model::chance::uniform(row_seed, i as u64, 0) * (i + 1) as f64) as usize;
        order.swap(i, j.min(i));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::RowSet;
    use std::collections::BTreeMap;

    const UNITS: Units = Units { prompts: 4, samples: 2 };

    fn unit(unit: u64, rows: RowSet) -> Vec<UnitRow> {
        unit_rows(7, 10, UNITS, &UnitRows { unit, rows })
    }

    #[test]
    fn an_epoch_takes_every_prompt_once_with_all_its_samples() {
        let mut seen: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        // Five units of four prompts are two epochs of ten.
        for row in (0..5).flat_map(|u| unit(u, RowSet::first(8))) {
            seen.entry(row.prompt_id).or_default().push(row.sample);
        }
        assert_eq!(seen.len(), 10);
        assert!(seen.values().all(|samples| *samples == [0, 1, 2, 3]), "{seen:?}");
    }

    #[test]
    fn some_rows_of_a_unit_are_the_same_rows() {
        let all = unit(3, RowSet::first(8));
        let some: RowSet = [1, 2, 7].into_iter().collect();
        assert_eq!(unit(3, some), [all[1], all[2], all[7]]);
    }

    #[test]
    fn epochs_and_seeds_differ() {
        assert_ne!(shuffle(7, 0, 50), shuffle(7, 1, 50));
        assert_ne!(shuffle(7, 0, 50), shuffle(8, 0, 50));
    }
}
