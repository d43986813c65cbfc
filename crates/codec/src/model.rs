//! Contexts with a static table each, numbers as symbols with raw bits, and the two passes over a column that this takes:
//! one that counts, one that codes.

use crate::{
    DecodeError,
    bytes::Reader,
    rans::{Coder, Decoder, Share, Slots},
    table::Table,
};

/// Numbers below this are symbols of their own.
const DIRECT: u32 = 32;
/// The symbol for what is no number: minus infinity.
pub(crate) const INFINITE: u8 = 141;

/// Takes what a column consists of, symbol by symbol.
pub(crate) trait Sink {
    /// A symbol of `context`, for stream `stream`.
    fn symbol(&mut self, stream: usize, context: usize, symbol: u8);

    /// The low `bits` of `value`, at most 16, as they are.
    fn raw(&mut self, stream: usize, value: u32, bits: u32);

    /// Any number: small ones as symbols; above them the power of two and its quarter as a symbol, the rest as raw bits.
    fn number(&mut self, stream: usize, context: usize, value: u32) {
        if value < DIRECT {
            return self.symbol(stream, context, value as u8);
        }
        let exponent = value.ilog2();
        let bits = exponent - 2;
        let quarter = value >> bits & 3;
        self.symbol(stream, context, (DIRECT + (exponent - 5) * 4 + quarter) as u8);
        let rest = value & ((1 << bits) - 1);
        self.raw(stream, rest & 0xffff, bits.min(16));
        if bits > 16 {
            self.raw(stream, rest >> 16, bits - 16);
        }
    }
}

/// The number that begins with `symbol`; its other bits are taken from `decoder`.
#[inline(always)]
pub(crate) fn number(decoder: &mut Decoder<'_>, symbol: u8) -> u32 {
    let symbol = u32::from(symbol);
    if symbol < DIRECT { symbol } else { large(decoder, symbol) }
}

fn large(decoder: &mut Decoder<'_>, symbol: u32) -> u32 {
    // Symbols that no number has, in damaged bytes, give some number.
    let exponent = (5 + (symbol - DIRECT) / 4).min(31);
    let bits = exponent - 2;
    let low = decoder.raw(bits.min(16));
    let high = if bits > 16 { decoder.raw(bits - 16) } else { 0 };
    (4 + (symbol & 3)) << bits | high << 16 | low
}

/// The first pass: how often each symbol occurs in each context.
pub(crate) struct Counter<const CONTEXTS: usize> {
    counts: Box<[[u32; 256]; CONTEXTS]>,
}

impl<const CONTEXTS: usize> Counter<CONTEXTS> {
    pub fn new() -> Self {
        Self { counts: Box::new([[0; 256]; CONTEXTS]) }
    }

    pub fn tables(&self) -> [Table; CONTEXTS] {
        std::array::from_fn(|context| Table::from_counts(&self.counts[context]))
    }
}

impl<const CONTEXTS: usize> Sink for Counter<CONTEXTS> {
    fn symbol(&mut self, _: usize, context: usize, symbol: u8) {
        self.counts[context][usize::from(symbol)] += 1;
    }

    fn raw(&mut self, _: usize, _: u32, _: u32) {}
}

/// The second pass: a coder a stream.
pub(crate) struct Writer<'a, const STREAMS: usize> {
    shares: &'a [[Share; 256]],
    coders: [Coder; STREAMS],
}

impl<'a, const STREAMS: usize> Writer<'a, STREAMS> {
    pub fn new(shares: &'a [[Share; 256]]) -> Self {
        Self { shares, coders: std::array::from_fn(|_| Coder::default()) }
    }

    pub fn finish(self) -> [Vec<u8>; STREAMS] {
        self.coders.map(Coder::finish)
    }
}

impl<const STREAMS: usize> Sink for Writer<'_, STREAMS> {
    fn symbol(&mut self, stream: usize, context: usize, symbol: u8) {
        self.coders[stream].symbol(self.shares[context][usize::from(symbol)]);
    }

    fn raw(&mut self, stream: usize, value: u32, bits: u32) {
        self.coders[stream].raw(value as u16, bits);
    }
}

/// All tables, one after another.
pub(crate) fn put_tables(out: &mut Vec<u8>, tables: &[Table]) {
    tables.iter().for_each(|table| table.put(out));
}

/// As many tables, laid out to decode by.
pub(crate) fn get_tables<const CONTEXTS: usize>(
    reader: &mut Reader<'_>,
) -> Result<[Box<Slots>; CONTEXTS], DecodeError> {
    let tables: Vec<Table> = (0..CONTEXTS).map(|_| Table::get(reader)).collect::<Result<_, _>>()?;
    Ok(std::array::from_fn(|context| tables[context].slots()))
}

/// The context of a rank: 0, 1, 2-3, 4-7, 8-15, 16-31, 32-63, from 64.
#[inline(always)]
pub(crate) fn rank_context(rank: usize) -> usize {
    (usize::BITS - rank.leading_zeros()).min(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_of_every_size_come_back(numbers in prop::collection::vec((any::<u32>(), 0_u32..32), 1..100)) {
            let numbers: Vec<u32> = numbers.iter().map(|(n, shift)| n >> shift).collect();
            let mut counter = Counter::<1>::new();
            numbers.iter().for_each(|n| counter.number(0, 0, *n));
            let [table] = counter.tables();
            let shares = [table.shares()];
            let mut writer = Writer::<1>::new(&shares);
            numbers.iter().for_each(|n| writer.number(0, 0, *n));
            let [bytes] = writer.finish();
            let (slots, mut decoder) = (table.slots(), Decoder::new(&bytes));
            for n in &numbers {
                let symbol = decoder.symbol(&slots);
                prop_assert!(symbol < INFINITE);
                prop_assert_eq!(number(&mut decoder, symbol), *n);
            }
            prop_assert_eq!(decoder.end(&Reader::new(&bytes, 0, "test")), Ok(()));
        }
    }
}
