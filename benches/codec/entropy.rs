//! What bounds the bytes: the entropy of what a packed column consists of, counted in each batch by itself, bits an entry.
//! Tables are not in it, so no coder of these models gets there.

use crate::material::Set;
use codec::TopColumn;
use std::collections::HashMap;

#[derive(Default)]
struct Counts<K>(HashMap<K, u32>);

impl<K: std::hash::Hash + Eq> Counts<K> {
    fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    /// Bits of everything counted.
    fn bits(&self) -> f64 {
        let total: f64 = self.0.values().map(|n| f64::from(*n)).sum();
        self.0.values().map(|n| f64::from(*n) * (total / f64::from(*n)).log2()).sum()
    }
}

/// 0, 1, 2-3, 4-7 ...
fn class(rank: usize) -> u32 {
    usize::BITS - rank.leading_zeros()
}

/// Values in 1/64 nat, in rank order.
fn steps(column: &TopColumn, t: usize) -> impl Iterator<Item = (usize, i64)> {
    let mut before = 0;
    column.logprobs[column.layout.list(t)].iter().enumerate().map(move |(rank, x)| {
        let value = (-f64::from(*x) * 64.0).round() as i64;
        (rank, value - std::mem::replace(&mut before, value))
    })
}

pub fn print(set: &Set) {
    let (mut ids, mut values, mut exact, mut lengths, mut distinct) = (0.0, 0.0, 0.0, 0.0, 0);
    for batch in &set.batches {
        let (mut id, mut length) = (Counts::default(), Counts::default());
        let mut value: HashMap<u32, Counts<i64>> = HashMap::new();
        let mut planes: [Counts<u8>; 4] = Default::default();
        for t in 0..batch.layout.positions() {
            batch.ids[batch.layout.list(t)].iter().for_each(|i| id.add(*i));
            length.add(batch.layout.list(t).len());
            steps(batch, t).for_each(|(rank, step)| value.entry(class(rank)).or_default().add(step));
            let floats = &batch.logprobs[batch.layout.list(t)];
            floats.iter().for_each(|x| planes.iter_mut().zip(x.to_bits().to_le_bytes()).for_each(|(p, b)| p.add(b)));
        }
        ids += id.bits();
        distinct += id.0.len();
        lengths += length.bits();
        values += value.values().map(Counts::bits).sum::<f64>();
        exact += planes.iter().map(Counts::bits).sum::<f64>();
    }
    let entries = set.entries() as f64;
    let tails = 16.0 * set.positions() as f64;
    println!(
        "bits an entry: ids {:.2} (by frequency; {:.0} distinct a batch), values {:.2} (1/64 nat, by rank), lengths {:.2}, tails {:.2} (raw);\n\
         together {:.2} bits = {:.2} bytes, and exact float32 by plane {:.2} bits",
        ids / entries,
        distinct as f64 / set.batches.len() as f64,
        values / entries,
        lengths / entries,
        tails / entries,
        (ids + values + lengths + tails) / entries,
        (ids + values + lengths + tails) / entries / 8.0,
        exact / entries
    );
}
