//! Columns to pack, made from a seed, and the structure of a packed one.

use codec::{DrawColumn, Layout, TopColumn};
use proptest::prelude::*;

pub const VOCABULARY: u32 = 300;

/// A generator that needs no crate and gives the same numbers everywhere (xorshift64*).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Distinct ids, low ones more often.
fn ids(numbers: &mut Numbers, n: usize, vocabulary: u32) -> Vec<i32> {
    let mut ids = Vec::new();
    while ids.len() < n {
        let id = (numbers.unit().powi(2) * f64::from(vocabulary)) as i32;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// A distribution at each position: `lengths[row][position]` entries, of which some distributions are sharp and some flat.
pub fn top(seed: u64, lengths: &[Vec<usize>], vocabulary: u32) -> TopColumn {
    let mut numbers = Numbers::new(seed);
    let mut column = TopColumn::default();
    for row in lengths {
        for n in row {
            let sharpness = 0.1 + 8.0 * numbers.unit();
            let mut logits: Vec<f64> = (0..*n).map(|_| sharpness * numbers.unit()).collect();
            logits.sort_by(|a, b| b.total_cmp(a));
            let tail = sharpness * (numbers.unit() - 0.8);
            let sum = logits.iter().chain([&tail]).map(|x| x.exp()).sum::<f64>().ln();
            column.logprobs.extend(logits.iter().map(|x| ((x - sum) as f32).min(0.0)));
            column.tails.push(if *n == 0 { 0.0 } else { ((tail - sum) as f32).min(0.0) });
            column.ids.extend(ids(&mut numbers, *n, vocabulary));
            column.layout.push_list(*n);
        }
        column.layout.end_row();
    }
    column
}

pub fn draws(seed: u64, lengths: &[Vec<usize>], vocabulary: u32) -> DrawColumn {
    let mut numbers = Numbers::new(seed);
    let mut column = DrawColumn { layout: Layout::new(), ..DrawColumn::default() };
    for row in lengths {
        for n in row {
            column.ids.extend(ids(&mut numbers, *n, vocabulary));
            column.counts.extend((0..*n).map(|_| 1 + numbers.below(5) as i32));
            column.logprobs.extend((0..*n).map(|_| (-20.0 * numbers.unit()) as f32));
            column.layout.push_list(*n);
        }
        column.layout.end_row();
    }
    column
}

/// Shapes of columns: rows of positions of entries, any of them none.
pub fn lengths() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let list = prop_oneof![Just(0_usize), 1_usize..4, Just(64), 0_usize..150];
    prop::collection::vec(prop::collection::vec(list, 0..8), 0..5)
}

/// The checksum, bit by bit: another program than the one that is tested.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Makes the checksums of a column fit again, as far as its sizes lead: so damage gets past them.
pub fn reseal(bytes: &mut [u8]) {
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().unwrap()) as usize)
    };
    let Some(sections) = number(bytes, 28) else { return };
    let sizes: Vec<usize> = (0..sections).map_while(|i| number(bytes, 32 + 4 * i)).collect();
    let mut at = 32 + 4 * sizes.len();
    let (mut tables, mut shift) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        tables |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if *byte < 0x80 || shift > 28 {
            break;
        }
    }
    at = at.saturating_add(tables);
    seal(bytes, 0, at);
    at = at.saturating_add(4);
    for size in sizes {
        let end = at.saturating_add(size);
        seal(bytes, at, end.saturating_sub(4));
        at = end;
    }
}

fn seal(bytes: &mut [u8], start: usize, end: usize) {
    if start <= end && end.checked_add(4).is_some_and(|after| after <= bytes.len()) {
        let sum = crc32c(&bytes[start..end]);
        bytes[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    }
}
