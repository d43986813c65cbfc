//! Draws at the two levels by row. Their log-probabilities are importance weights and stay exact, so what is saved is ids and counts.

use crate::{
    DecodeError, DrawColumn,
    bytes::{Reader, get_bits, packed_size, put_bits, width},
    coded::{self, Coded},
    dictionary::Ranks,
    expansion,
    fast::{COUNTS, Lengths, get_lengths, put_lengths},
    header::Header,
    model::{Sink, number},
    rans::Decoder,
};

/// Counts of more bits than this are stored in 32.
const NARROW: u32 = 25;

/// A row of `fast`: lengths, the width of a count, then ids and counts bit by bit, then log-probabilities.
pub(crate) fn encode_fast(column: &DrawColumn, row: usize, header: &Header) -> Vec<u8> {
    let positions = column.layout.row(row);
    let (_, lists) = column.layout.offsets();
    let range = lists[positions.start] as usize..lists[positions.end] as usize;
    let mut out = Vec::new();
    put_lengths(&mut out, positions.clone().map(|t| column.layout.list(t).len()), header.longest);
    let counts = column.counts[range.clone()].iter().map(|count| *count as u32);
    let bits = width(counts.clone().max().map_or(0, |most| most + 1));
    out.push(if bits > NARROW { 32 } else { bits as u8 });
    put_bits(&mut out, column.ids[range.clone()].iter().map(|id| *id as u32), width(header.vocabulary));
    match bits > NARROW {
        true => counts.for_each(|count| out.extend(count.to_le_bytes())),
        false => put_bits(&mut out, counts, bits),
    }
    column.logprobs[range.clone()].iter().for_each(|x| out.extend(x.to_le_bytes()));
    expansion::pad(&mut out, COUNTS, positions.len().max(range.len()));
    out
}

pub(crate) fn decode_fast(mut section: Reader<'_>, header: &Header, out: &mut DrawColumn) -> Result<(), DecodeError> {
    let Lengths { lengths, entries } = get_lengths(&mut section, header)?;
    let bits = u32::from(section.byte()?);
    if bits > NARROW && bits != 32 {
        return Err(section.damaged(format!("counts of at most {NARROW} bits, or 32"), bits));
    }
    let id_width = width(header.vocabulary);
    let ids = section.take(packed_size(entries, id_width))?;
    let counts = section.take(packed_size(entries, bits))?;
    let logprobs = section.take(4 * entries)?;
    section.clone().end()?;

    let before = out.ids.len();
    out.ids.resize(before + entries, 0);
    let largest = get_bits(ids, 0, id_width, &mut out.ids[before..]);
    if largest as u32 >= header.vocabulary {
        return Err(section.damaged(format!("ids below {}", header.vocabulary), largest));
    }
    out.counts.resize(before + entries, 0);
    match bits {
        32 => {
            for (count, bytes) in out.counts[before..].iter_mut().zip(counts.as_chunks::<4>().0) {
                *count = i32::from_le_bytes(*bytes);
            }
        }
        _ => drop(get_bits(counts, 0, bits, &mut out.counts[before..])),
    }
    if let Some(count) = out.counts[before..].iter().find(|count| **count < 1) {
        return Err(section.damaged("counts from 1", count));
    }
    out.logprobs.extend(logprobs.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    lengths.iter().for_each(|n| out.layout.push_list(*n as usize));
    out.layout.end_row();
    Ok(())
}

const LENGTH: usize = 0;
const COUNT: usize = 1;
/// The high byte of a log-probability: its sign and most of its exponent.
const HIGH: usize = 2;
/// Ids: the token that was sampled, which comes first, and the others.
const ID: usize = 3;
const CONTEXTS: usize = 5;

impl Coded<CONTEXTS, 1> for DrawColumn {
    fn walk(&self, ranks: &Ranks, row: usize, sink: &mut impl Sink) {
        for t in self.layout.row(row) {
            let range = self.layout.list(t);
            sink.number(0, LENGTH, range.len() as u32);
            for (i, at) in range.enumerate() {
                ranks.put(sink, 0, ID + i.min(1), self.ids[at]);
                sink.number(0, COUNT, self.counts[at] as u32 - 1);
                let bits = self.logprobs[at].to_bits();
                sink.symbol(0, HIGH, (bits >> 24) as u8);
                sink.raw(0, bits & 0xfff, 12);
                sink.raw(0, bits >> 12 & 0xfff, 12);
            }
        }
    }
}

/// What all rows are decoded by.
pub(crate) type Tables = coded::Tables<CONTEXTS>;

impl Tables {
    pub fn decode_row(
        &self,
        mut section: Reader<'_>,
        header: &Header,
        out: &mut DrawColumn,
    ) -> Result<(), DecodeError> {
        let (positions, entries) = coded::counts(&mut section)?;
        let stream = section.slice()?;
        section.end()?;
        let mut decoder = Decoder::new(stream.rest());
        let mut left = entries;
        let mut known = true;
        for t in 0..positions {
            let symbol = decoder.symbol(&self.slots[LENGTH]);
            let n = number(&mut decoder, symbol);
            let most = left.min(u32::from(header.longest));
            if n > most {
                return Err(stream.damaged(format!("at most {most} entries at position {t}"), n));
            }
            left -= n;
            for i in 0..n {
                let symbol = decoder.symbol(&self.slots[ID + i.min(1) as usize]);
                let id = self.dictionary.take(&mut decoder, symbol);
                let symbol = decoder.symbol(&self.slots[COUNT]);
                let count = number(&mut decoder, symbol);
                let high = u32::from(decoder.symbol(&self.slots[HIGH]));
                let bits = decoder.raw(12) | decoder.raw(12) << 12 | high << 24;
                known &= id.is_some() && count < i32::MAX as u32;
                out.ids.push(id.unwrap_or(0));
                out.counts.push(count.wrapping_add(1) as i32);
                out.logprobs.push(f32::from_bits(bits));
            }
            out.layout.push_list(n as usize);
        }
        if left > 0 {
            return Err(stream.damaged(format!("{entries} entries"), entries - left));
        }
        if !known {
            return Err(stream.damaged("ids of the dictionary and counts of 31 bits", "others"));
        }
        out.layout.end_row();
        decoder.end(&stream)
    }
}
