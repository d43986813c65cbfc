//! Level `fast`: fixed widths, so that a row is found and read without what stands before it.
//!
//! A row: its positions and entries; then arrays, each of whole bytes: lengths of lists, bit by bit; first log-probabilities as
//! 16-bit units; tails as binary16; a code an entry but the first of each list; ids, bit by bit.

use crate::{
    DecodeError, TopColumn,
    bytes::{Reader, get_bits, packed_size, put_bits, put_varint, width},
    expansion,
    half::{from_half, to_half},
    header::Header,
    values::{FAST_STEPS, Normaliser, SILENT, fast_code, fast_head, fast_head_units},
};

/// Two numbers before the arrays take at most as many bytes.
pub(crate) const COUNTS: usize = 10;

/// Lists of a row: their lengths as stored, all of which a decoder needs before anything else.
pub(crate) struct Lengths {
    pub lengths: Vec<i32>,
    pub entries: usize,
}

pub(crate) fn put_lengths(out: &mut Vec<u8>, lengths: impl ExactSizeIterator<Item = usize> + Clone, longest: u16) {
    put_varint(out, lengths.len() as u32);
    put_varint(out, lengths.clone().sum::<usize>() as u32);
    put_bits(out, lengths.map(|n| n as u32), width(u32::from(longest) + 1));
}

pub(crate) fn get_lengths(section: &mut Reader<'_>, header: &Header) -> Result<Lengths, DecodeError> {
    let (positions, entries) = (section.varint()?, section.varint()?);
    expansion::check(section, "positions", positions)?;
    expansion::check(section, "entries", entries)?;
    let width = width(u32::from(header.longest) + 1);
    let mut lengths = vec![0; positions as usize];
    let longest = get_bits(section.take(packed_size(lengths.len(), width))?, 0, width, &mut lengths);
    if longest > i32::from(header.longest) {
        return Err(section.damaged(format!("lists of at most {} entries", header.longest), longest));
    }
    let sum: u64 = lengths.iter().map(|n| *n as u64).sum();
    match sum == u64::from(entries) {
        true => Ok(Lengths { lengths, entries: entries as usize }),
        false => Err(section.damaged(format!("lists of {entries} entries in all"), sum)),
    }
}

pub(crate) fn encode_row(column: &TopColumn, row: usize, header: &Header) -> Vec<u8> {
    let positions = column.layout.row(row);
    let lists = positions.clone().map(|t| &column.logprobs[column.layout.list(t)]);
    let mut out = Vec::new();
    put_lengths(&mut out, positions.clone().map(|t| column.layout.list(t).len()), header.longest);
    let (mut codes, mut entries) = (Vec::new(), 0);
    for list in lists {
        let head = list.first().map_or(0, |first| fast_head(*first));
        out.extend(head.to_le_bytes());
        let mut before = fast_head_units(head);
        for logprob in list.iter().skip(1) {
            let (code, units) = fast_code(*logprob, before);
            codes.push(code);
            before = units;
        }
        entries += list.len();
    }
    for t in positions.clone() {
        out.extend(to_half(column.tails[t].min(0.0)).to_le_bytes());
    }
    out.extend(codes);
    let first = column.layout.offsets().1[positions.start] as usize;
    put_bits(&mut out, column.ids[first..first + entries].iter().map(|id| *id as u32), width(header.vocabulary));
    expansion::pad(&mut out, COUNTS, positions.len().max(entries));
    out
}

/// Appends a row to `out`, of each list the first `keep` entries.
pub(crate) fn decode_row(
    mut section: Reader<'_>,
    header: &Header,
    keep: usize,
    out: &mut TopColumn,
) -> Result<(), DecodeError> {
    let Lengths { lengths, entries } = get_lengths(&mut section, header)?;
    let occupied = lengths.iter().filter(|n| **n > 0).count();
    let heads = section.take(2 * lengths.len())?;
    let tails = section.take(2 * lengths.len())?;
    let mut codes = section.take(entries - occupied)?;
    let id_width = width(header.vocabulary);
    let ids = section.take(packed_size(entries, id_width))?;
    section.clone().end()?;

    let normaliser = Normaliser::new();
    let kept = lengths.iter().map(|n| keep.min(*n as usize)).sum::<usize>();
    out.logprobs.reserve(kept);
    out.tails.reserve(lengths.len());
    let mut units = vec![0; usize::from(header.longest).min(entries)];
    for ((n, head), tail) in lengths.iter().zip(heads.as_chunks::<2>().0).zip(tails.as_chunks::<2>().0) {
        let n = *n as usize;
        let units = &mut units[..n];
        if let Some((first, others)) = units.split_first_mut() {
            let mut sum = fast_head_units(u16::from_le_bytes(*head));
            *first = sum;
            let (list, rest) = codes.split_at(n - 1);
            codes = rest;
            for (unit, code) in others.iter_mut().zip(list) {
                // What follows minus infinity is minus infinity too.
                let step = FAST_STEPS.get(usize::from(*code)).copied().unwrap_or(SILENT);
                sum = sum.saturating_add(step);
                *unit = sum;
            }
        }
        let tail = from_half(u16::from_le_bytes(*tail));
        if tail.is_nan() || tail > 0.0 {
            return Err(section.damaged("tails of at most 0", tail));
        }
        let tail = normaliser.finish(units, tail, keep, &mut out.logprobs);
        out.tails.push(tail);
        out.layout.push_list(n.min(keep));
    }
    out.layout.end_row();

    let before = out.ids.len();
    out.ids.resize(before + kept, 0);
    let mut largest = 0;
    if kept == entries {
        largest = get_bits(ids, 0, id_width, &mut out.ids[before..]);
    } else {
        let (mut from, mut to) = (0, before);
        for n in lengths {
            let n = n as usize;
            largest = largest.max(get_bits(ids, from, id_width, &mut out.ids[to..to + n.min(keep)]));
            (from, to) = (from + n, to + n.min(keep));
        }
    }
    match (largest as u32) < header.vocabulary {
        true => Ok(()),
        false => Err(section.damaged(format!("ids below {}", header.vocabulary), largest)),
    }
}
