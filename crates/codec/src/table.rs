//! Static tables of symbol frequencies: counted, scaled to a sum of `1 << SCALE`, stored, and laid out to decode by.

use crate::{
    DecodeError,
    bytes::{Reader, put_varint},
    rans::{SCALE, Share, Slots},
};

const TOTAL: u32 = 1 << SCALE;

/// The shares of up to 256 symbols; no share where a symbol does not occur. Empty where none does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    frequencies: Vec<u16>,
}

impl Table {
    /// Scaled to the total, at least 1 for what occurs.
    pub fn from_counts(counts: &[u32; 256]) -> Self {
        let sum: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if sum == 0 {
            return Self { frequencies: Vec::new() };
        }
        let scaled = |count: u32| (u64::from(count) * u64::from(TOTAL) / sum).max(u64::from(count.min(1))) as u32;
        let mut frequencies: Vec<u32> = counts.iter().map(|count| scaled(*count)).collect();
        let mut total: u32 = frequencies.iter().sum();
        // What rounding lacks or has too much, the largest gives or takes: there it costs least.
        while total != TOTAL {
            let largest = (0..256).max_by_key(|i| (frequencies[*i], 256 - *i)).unwrap_or(0);
            let share = &mut frequencies[largest];
            let change = if total < TOTAL { TOTAL - total } else { (total - TOTAL).min(*share / 2) };
            (*share, total) = if total < TOTAL { (*share + change, TOTAL) } else { (*share - change, total - change) };
        }
        let length = frequencies.iter().rposition(|f| *f > 0).map_or(0, |last| last + 1);
        Self { frequencies: frequencies[..length].iter().map(|f| *f as u16).collect() }
    }

    /// Where each symbol lies in the range.
    pub fn shares(&self) -> [Share; 256] {
        let mut shares = [Share::default(); 256];
        let mut start = 0;
        for (share, frequency) in shares.iter_mut().zip(&self.frequencies) {
            *share = Share { start, frequency: *frequency };
            start += frequency;
        }
        shares
    }

    /// The layout to decode by. An empty table gives symbol 0, and its stream cannot end well.
    pub fn slots(&self) -> Box<Slots> {
        let mut slots = vec![0_u32; TOTAL as usize];
        let mut at = 0;
        for (symbol, frequency) in self.frequencies.iter().enumerate() {
            for distance in 0..u32::from(*frequency) {
                slots[at] = distance << 20 | (u32::from(*frequency) - 1) << 8 | symbol as u32;
                at += 1;
            }
        }
        let slots: Result<Box<Slots>, _> = slots.into_boxed_slice().try_into();
        slots.unwrap_or_else(|_| Box::new([0; TOTAL as usize]))
    }

    /// The number of symbols, then their frequencies; behind a 0 stands how many more zeros follow.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.frequencies.len() as u32);
        let mut i = 0;
        while i < self.frequencies.len() {
            put_varint(out, u32::from(self.frequencies[i]));
            if self.frequencies[i] == 0 {
                let zeros = self.frequencies[i + 1..].iter().take_while(|f| **f == 0).count();
                put_varint(out, zeros as u32);
                i += zeros;
            }
            i += 1;
        }
    }

    pub fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let symbols = reader.varint()? as usize;
        if symbols > 256 {
            return Err(reader.damaged("at most 256 symbols", symbols));
        }
        let mut frequencies: Vec<u16> = Vec::with_capacity(symbols);
        let mut total = 0;
        while frequencies.len() < symbols {
            let frequency = reader.varint()?;
            if frequency > TOTAL {
                return Err(reader.damaged(format!("frequencies of at most {TOTAL}"), frequency));
            }
            total += frequency;
            frequencies.push(frequency as u16);
            if frequency == 0 {
                let zeros = reader.varint()? as usize;
                if zeros > symbols - frequencies.len() {
                    return Err(reader.damaged(format!("{symbols} frequencies"), frequencies.len() + zeros));
                }
                frequencies.resize(frequencies.len() + zeros, 0);
            }
        }
        if symbols > 0 && total != TOTAL {
            return Err(reader.damaged(format!("frequencies that add up to {TOTAL}"), total));
        }
        Ok(Self { frequencies })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rans::{Coder, Decoder};
    use proptest::prelude::*;

    proptest! {
        /// Any counts, from one symbol to all of them, however uneven.
        #[test]
        fn symbols_and_raw_bits_come_back_in_order(
            weights in prop::collection::vec(0_u32..20, 1..257),
            picks in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..=16, any::<u16>()), 0..300),
        ) {
            let used: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] > 0).collect();
            prop_assume!(!used.is_empty());
            let mut counts = [0_u32; 256];
            for i in &used { counts[*i] = 1 << weights[*i]; }
            let table = Table::from_counts(&counts);
            let mut stored = Vec::new();
            table.put(&mut stored);
            let mut reader = Reader::new(&stored, 0, "test");
            prop_assert_eq!(Table::get(&mut reader), Ok(table.clone()));
            prop_assert_eq!(reader.left(), 0);

            let shares = table.shares();
            let mut coder = Coder::default();
            for (pick, bits, value) in &picks {
                coder.symbol(shares[used[pick.index(used.len())]]);
                coder.raw((u32::from(*value) & ((1 << bits) - 1)) as u16, *bits);
            }
            let bytes = coder.finish();
            let (slots, mut decoder) = (table.slots(), Decoder::new(&bytes));
            for (pick, bits, value) in &picks {
                prop_assert_eq!(usize::from(decoder.symbol(&slots)), used[pick.index(used.len())]);
                prop_assert_eq!(decoder.raw(*bits), u32::from(*value) & ((1 << bits) - 1));
            }
            prop_assert_eq!(decoder.end(&Reader::new(&bytes, 0, "test")), Ok(()));
        }
    }

    #[test]
    fn the_cost_is_the_entropy() {
        let counts: [u32; 256] = std::array::from_fn(|i| if i < 40 { 4000 / (i as u32 + 1) } else { 0 });
        let table = Table::from_counts(&counts);
        let (shares, total) = (table.shares(), f64::from(counts.iter().sum::<u32>()));
        let mut coder = Coder::default();
        let mut entropy = 0.0;
        for (symbol, count) in counts.iter().enumerate() {
            (0..*count).for_each(|_| coder.symbol(shares[symbol]));
            if *count > 0 {
                entropy += f64::from(*count) * (total / f64::from(*count)).log2() / 8.0;
            }
        }
        let bytes = coder.finish().len() as f64;
        assert!((entropy..entropy * 1.002).contains(&bytes), "{bytes} bytes, entropy {entropy}");
    }
}
