//! Level `lossless`: 32-bit columns split by byte plane, each plane through zstd where that helps.
//!
//! Log-probabilities go in as the difference of their bits to those of the entry before, which is small in rank order and loses nothing.

use crate::{
    DecodeError, DrawColumn, Layout, TopColumn,
    bytes::{Reader, put_slice},
    expansion,
    header::Header,
};

const ZSTD_LEVEL: i32 = 3;
const RAW: u8 = 0;
const ZSTD: u8 = 1;

fn put_planes(out: &mut Vec<u8>, numbers: impl ExactSizeIterator<Item = u32> + Clone) {
    for plane in 0..4 {
        let bytes: Vec<u8> = numbers.clone().map(|number| number.to_le_bytes()[plane]).collect();
        // zstd fails for want of memory only; then the plane is stored as it is.
        let packed = zstd::bulk::compress(&bytes, ZSTD_LEVEL).ok().filter(|packed| packed.len() < bytes.len());
        out.push(if packed.is_some() { ZSTD } else { RAW });
        put_slice(out, packed.as_deref().unwrap_or(&bytes));
    }
}

/// `n` numbers; the caller has checked that the section may hold as many.
fn get_planes(section: &mut Reader<'_>, n: usize) -> Result<Vec<u32>, DecodeError> {
    let mut numbers = vec![0; n];
    let mut unpacked = vec![0; n];
    for plane in 0..4 {
        let method = section.byte()?;
        let body = section.slice()?;
        let bytes = match method {
            RAW => body.rest(),
            ZSTD => {
                let size = zstd::bulk::decompress_to_buffer(body.rest(), &mut unpacked)
                    .map_err(|error| body.damaged(format!("a zstd frame of {n} bytes"), error))?;
                &unpacked[..size]
            }
            other => return Err(section.damaged("a plane stored raw (0) or by zstd (1)", other)),
        };
        if bytes.len() != n {
            return Err(body.damaged(format!("a plane of {n} bytes"), bytes.len()));
        }
        for (number, byte) in numbers.iter_mut().zip(bytes) {
            *number |= u32::from(*byte) << (8 * plane);
        }
    }
    Ok(numbers)
}

fn put_layout(out: &mut Vec<u8>, layout: &Layout) {
    let (rows, lists) = layout.offsets();
    for offsets in [rows, lists] {
        put_planes(out, offsets.windows(2).map(|w| w[1] - w[0]).collect::<Vec<_>>().into_iter());
    }
}

fn get_layout(section: &mut Reader<'_>, header: &Header) -> Result<Layout, DecodeError> {
    for (what, n) in [("rows", header.rows), ("positions", header.positions), ("entries", header.entries)] {
        expansion::check(section, what, n)?;
    }
    let rows = get_planes(section, header.rows as usize)?;
    let lists = get_planes(section, header.positions as usize)?;
    let sum = |numbers: &[u32]| numbers.iter().map(|n| u64::from(*n)).sum::<u64>();
    for (what, due, found) in [("positions", header.positions, sum(&rows)), ("entries", header.entries, sum(&lists))] {
        if found != u64::from(due) {
            return Err(section.damaged(format!("{due} {what}, as in the header"), found));
        }
    }
    if let Some(longest) = lists.iter().find(|n| **n > u32::from(header.longest)) {
        return Err(section.damaged(format!("lists of at most {} entries", header.longest), longest));
    }
    let mut layout = Layout::new();
    let mut lists = lists.into_iter();
    for row in rows {
        lists.by_ref().take(row as usize).for_each(|n| layout.push_list(n as usize));
        layout.end_row();
    }
    Ok(layout)
}

fn put_floats(out: &mut Vec<u8>, floats: &[f32]) {
    put_planes(out, floats.iter().map(|x| x.to_bits()));
}

fn get_floats(section: &mut Reader<'_>, n: usize) -> Result<Vec<f32>, DecodeError> {
    Ok(get_planes(section, n)?.into_iter().map(f32::from_bits).collect())
}

fn put_logprobs(out: &mut Vec<u8>, layout: &Layout, logprobs: &[f32]) {
    let mut bits: Vec<u32> = logprobs.iter().map(|x| x.to_bits()).collect();
    for t in 0..layout.positions() {
        let list = &mut bits[layout.list(t)];
        for j in (1..list.len()).rev() {
            list[j] = list[j].wrapping_sub(list[j - 1]);
        }
    }
    put_planes(out, bits.into_iter());
}

fn get_logprobs(section: &mut Reader<'_>, layout: &Layout) -> Result<Vec<f32>, DecodeError> {
    let mut bits = get_planes(section, layout.entries())?;
    for t in 0..layout.positions() {
        let list = &mut bits[layout.list(t)];
        for j in 1..list.len() {
            list[j] = list[j].wrapping_add(list[j - 1]);
        }
    }
    Ok(bits.into_iter().map(f32::from_bits).collect())
}

fn get_ids(section: &mut Reader<'_>, header: &Header) -> Result<Vec<i32>, DecodeError> {
    let ids = get_planes(section, header.entries as usize)?;
    match ids.iter().find(|id| **id >= header.vocabulary) {
        Some(id) => Err(section.damaged(format!("ids below {}", header.vocabulary), id)),
        None => Ok(ids.into_iter().map(|id| id as i32).collect()),
    }
}

fn padded(mut out: Vec<u8>, layout: &Layout) -> Vec<u8> {
    expansion::pad(&mut out, 0, layout.entries().max(layout.positions()).max(layout.rows()));
    out
}

pub(crate) fn encode_top(column: &TopColumn) -> Vec<u8> {
    let mut out = Vec::new();
    put_layout(&mut out, &column.layout);
    put_planes(&mut out, column.ids.iter().map(|id| *id as u32));
    put_logprobs(&mut out, &column.layout, &column.logprobs);
    put_floats(&mut out, &column.tails);
    padded(out, &column.layout)
}

pub(crate) fn decode_top(mut section: Reader<'_>, header: &Header) -> Result<TopColumn, DecodeError> {
    let layout = get_layout(&mut section, header)?;
    let ids = get_ids(&mut section, header)?;
    let logprobs = get_logprobs(&mut section, &layout)?;
    let tails = get_floats(&mut section, layout.positions())?;
    section.end()?;
    Ok(TopColumn { layout, ids, logprobs, tails })
}

pub(crate) fn encode_draws(column: &DrawColumn) -> Vec<u8> {
    let mut out = Vec::new();
    put_layout(&mut out, &column.layout);
    put_planes(&mut out, column.ids.iter().map(|id| *id as u32));
    put_planes(&mut out, column.counts.iter().map(|count| *count as u32));
    put_floats(&mut out, &column.logprobs);
    padded(out, &column.layout)
}

pub(crate) fn decode_draws(mut section: Reader<'_>, header: &Header) -> Result<DrawColumn, DecodeError> {
    let layout = get_layout(&mut section, header)?;
    let ids = get_ids(&mut section, header)?;
    let counts = get_planes(&mut section, layout.entries())?;
    let logprobs = get_floats(&mut section, layout.entries())?;
    if let Some(count) = counts.iter().find(|count| !(1..=i32::MAX as u32).contains(*count)) {
        return Err(section.damaged("counts from 1", count));
    }
    section.end()?;
    Ok(DrawColumn { layout, ids, counts: counts.into_iter().map(|count| count as i32).collect(), logprobs })
}
