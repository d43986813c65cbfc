//! Fewer entries and fewer draws than were stored, as a reader may ask for.

use crate::{DrawColumn, Layout, TopColumn};

impl TopColumn {
    /// Row `row` as a column of its own.
    pub(crate) fn only_row(&self, row: usize) -> Self {
        let mut one = Self::default();
        for t in self.layout.row(row) {
            let range = self.layout.list(t);
            one.layout.push_list(range.len());
            one.ids.extend(&self.ids[range.clone()]);
            one.logprobs.extend(&self.logprobs[range]);
            one.tails.push(self.tails[t]);
        }
        one.layout.end_row();
        one
    }
}

impl DrawColumn {
    /// Row `row` as a column of its own.
    pub(crate) fn only_row(&self, row: usize) -> Self {
        let mut one = Self::default();
        for t in self.layout.row(row) {
            let range = self.layout.list(t);
            one.layout.push_list(range.len());
            one.ids.extend(&self.ids[range.clone()]);
            one.counts.extend(&self.counts[range.clone()]);
            one.logprobs.extend(&self.logprobs[range]);
        }
        one.layout.end_row();
        one
    }
}

/// The first `keep` entries of each list; the mass of the others goes to the tail. What is kept keeps its bits.
pub fn truncate(column: TopColumn, keep: usize) -> TopColumn {
    if column.layout.longest() <= keep {
        return column;
    }
    let mut out = TopColumn::default();
    for row in 0..column.layout.rows() {
        for t in column.layout.row(row) {
            let range = column.layout.list(t);
            let (kept, dropped) = column.logprobs[range.clone()].split_at(range.len().min(keep));
            let outside: f64 = dropped.iter().map(|x| f64::from(*x).exp()).sum();
            let tail = column.tails[t];
            let sum = || (f64::from(tail).exp() + outside).ln().min(0.0) as f32;
            out.tails.push(if dropped.is_empty() { tail } else { sum() });
            out.layout.push_list(kept.len());
            out.logprobs.extend(kept);
            out.ids.extend(&column.ids[range][..kept.len()]);
        }
        out.layout.end_row();
    }
    out
}

/// Thins draws to `m` a position: the first draw, which is the sampled token, stays, and of the others `m - 1` are drawn without
/// replacement, every subset alike (multivariate hypergeometric counts). Positions with at most `m` draws stay whole.
///
/// A position's choice hangs on `seed`, on its row's key in `keys` and on its number in the row, not on what else is read.
///
/// # Panics
/// If `m` is 0 or `keys` does not have a key a row.
pub fn thin(column: &DrawColumn, m: u32, seed: u64, keys: &[u64]) -> DrawColumn {
    assert!(m > 0 && keys.len() == column.layout.rows(), "{m} draws, {} keys", keys.len());
    let mut out = DrawColumn { layout: Layout::new(), ..DrawColumn::default() };
    for (row, key) in keys.iter().enumerate() {
        for (position, t) in column.layout.row(row).enumerate() {
            let range = column.layout.list(t);
            let mut chance = Chance::new([seed, *key, position as u64]);
            // Of `left` draws not yet looked at, `wanted` are still to be taken.
            let mut left: u64 = column.counts[range.clone()].iter().map(|n| *n as u64).sum();
            let mut wanted = u64::from(m).min(left);
            let mut kept = 0;
            for (i, at) in range.enumerate() {
                let mut count = 0;
                for draw in 0..column.counts[at] {
                    let first = i == 0 && draw == 0;
                    if wanted > 0 && (first || chance.below(left) < wanted) {
                        count += 1;
                        wanted -= 1;
                    }
                    left -= 1;
                }
                if count > 0 {
                    out.ids.push(column.ids[at]);
                    out.counts.push(count);
                    out.logprobs.push(column.logprobs[at]);
                    kept += 1;
                }
            }
            out.layout.push_list(kept);
        }
        out.layout.end_row();
    }
    out
}

/// SplitMix64 (Steele, Lea, Flood, 2014), begun from a mix of some numbers.
struct Chance(u64);

impl Chance {
    fn new(numbers: [u64; 3]) -> Self {
        let mut chance = Self(0);
        for number in numbers {
            chance.0 ^= number;
            chance.0 = chance.next();
        }
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `end`; uneven by less than `end / 2^64`.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}
