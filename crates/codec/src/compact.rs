//! Level `compact`: static tables for the whole column, and for each row five streams coded by them.
//!
//! The first stream holds the lengths of lists, the tails and the log-probabilities as differences in rank order; the other
//! four hold the ids of ranks 0-7, 8-31, 32-127 and the rest, so that a reader of few ids leaves the later ones alone.

use crate::{
    DecodeError, TopColumn,
    bytes::Reader,
    coded::{self, Coded},
    dictionary::Ranks,
    half::{from_half, to_half},
    header::Header,
    model::{INFINITE, Sink, number, rank_context},
    rans::Decoder,
    values::{COMPACT_STEPS, NAT, Normaliser, SILENT, compact_value},
};

const LENGTH: usize = 0;
/// The high byte of a tail; the low one is as good as random.
const TAIL: usize = 1;
/// Values of 8 contexts by rank, of which rank 0 is not a difference.
const VALUE: usize = 2;
/// Buckets of ids, by rank too: frequent ids come first more often.
const ID: usize = 10;
const CONTEXTS: usize = 18;
/// Ranks at which an id stream ends.
const GROUPS: [usize; 4] = [8, 32, 128, usize::MAX];
const STREAMS: usize = 1 + GROUPS.len();

impl Coded<CONTEXTS, STREAMS> for TopColumn {
    fn walk(&self, ranks: &Ranks, row: usize, sink: &mut impl Sink) {
        for t in self.layout.row(row) {
            let range = self.layout.list(t);
            sink.number(0, LENGTH, range.len() as u32);
            let [low, high] = to_half(self.tails[t].min(0.0)).to_le_bytes();
            sink.symbol(0, TAIL, high);
            sink.raw(0, u32::from(low), 8);
            let mut before = 0;
            let mut group = 0;
            for (rank, at) in range.enumerate() {
                match compact_value(self.logprobs[at]) {
                    Some(value) => {
                        sink.number(0, VALUE + rank_context(rank), value - before);
                        before = value;
                    }
                    None => sink.symbol(0, VALUE + rank_context(rank), INFINITE),
                }
                group += usize::from(rank == GROUPS[group]);
                ranks.put(sink, 1 + group, ID + rank_context(rank), self.ids[at]);
            }
        }
    }
}

/// What all rows are decoded by.
pub(crate) type Tables = coded::Tables<CONTEXTS>;

impl Tables {
    /// Appends a row to `out`, of each list the first `keep` entries.
    pub fn decode_row(
        &self,
        mut section: Reader<'_>,
        header: &Header,
        keep: usize,
        out: &mut TopColumn,
    ) -> Result<(), DecodeError> {
        let (positions, entries) = coded::counts(&mut section)?;
        let values = section.slice()?;
        let groups = [section.slice()?, section.slice()?, section.slice()?, section.slice()?];
        section.end()?;
        let lengths = self.values(&values, positions as usize, entries as usize, header, keep, out)?;
        self.ids(&groups, &lengths, keep, out)
    }

    /// Lengths, tails and log-probabilities; gives the lengths.
    fn values(
        &self,
        stream: &Reader<'_>,
        positions: usize,
        entries: usize,
        header: &Header,
        keep: usize,
        out: &mut TopColumn,
    ) -> Result<Vec<u32>, DecodeError> {
        let normaliser = Normaliser::new();
        let mut decoder = Decoder::new(stream.rest());
        let mut lengths = Vec::with_capacity(positions);
        let mut units = vec![0; usize::from(header.longest).min(entries)];
        let mut left = entries;
        out.logprobs.reserve(entries.min(positions.saturating_mul(keep)));
        out.tails.reserve(positions);
        for t in 0..positions {
            let symbol = decoder.symbol(&self.slots[LENGTH]);
            let n = number(&mut decoder, symbol);
            let most = left.min(units.len());
            if n as usize > most {
                return Err(stream.damaged(format!("at most {most} entries at position {t}"), n));
            }
            left -= n as usize;
            let high = decoder.symbol(&self.slots[TAIL]);
            let tail = from_half(u16::from_le_bytes([decoder.raw(8) as u8, high]));
            if tail.is_nan() || tail > 0.0 {
                return Err(stream.damaged(format!("a tail of at most 0 at position {t}"), tail));
            }
            let units = &mut units[..n as usize];
            let mut value = 0_u32;
            for (rank, units) in units.iter_mut().enumerate() {
                let symbol = decoder.symbol(&self.slots[VALUE + rank_context(rank)]);
                *units = if symbol == INFINITE {
                    SILENT
                } else {
                    value = value.wrapping_add(number(&mut decoder, symbol));
                    value.wrapping_mul(NAT / COMPACT_STEPS)
                };
            }
            lengths.push(n);
            let tail = normaliser.finish(units, tail, keep, &mut out.logprobs);
            out.tails.push(tail);
            out.layout.push_list(keep.min(n as usize));
        }
        if left > 0 {
            return Err(stream.damaged(format!("{entries} entries"), entries - left));
        }
        out.layout.end_row();
        decoder.end(stream)?;
        Ok(lengths)
    }

    fn ids(
        &self,
        groups: &[Reader<'_>; 4],
        lengths: &[u32],
        keep: usize,
        out: &mut TopColumn,
    ) -> Result<(), DecodeError> {
        let before = out.ids.len();
        out.ids.resize(out.logprobs.len(), 0);
        let mut first = 0;
        for (stream, end) in groups.iter().zip(GROUPS) {
            if first >= keep {
                break;
            }
            let mut decoder = Decoder::new(stream.rest());
            let mut rest = &mut out.ids[before..];
            let mut known = true;
            for n in lengths {
                let n = *n as usize;
                let (list, others) = rest.split_at_mut(n.min(keep));
                rest = others;
                for rank in first..n.min(end) {
                    let symbol = decoder.symbol(&self.slots[ID + rank_context(rank)]);
                    let id = self.dictionary.take(&mut decoder, symbol);
                    known &= id.is_some();
                    if let Some(slot) = list.get_mut(rank) {
                        *slot = id.unwrap_or(0);
                    }
                }
            }
            if !known {
                return Err(stream.damaged("ids of the dictionary", "a rank beyond it"));
            }
            decoder.end(stream)?;
            first = end;
        }
        Ok(())
    }
}
