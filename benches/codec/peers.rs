//! What scores are kept in elsewhere. Layouts are not coded: every one of these would need them besides for ragged lists, so for
//! those a 16-bit length a position is counted.

use crate::{AnyError, material::Set};
use arrow::{
    array::{ArrayRef, AsArray, Float32Array, Int32Array, RecordBatch},
    datatypes::{Float32Type, Int32Type},
};
use bytes::Bytes;
use codec::TopColumn;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, Encoding, ZstdLevel},
    file::properties::WriterProperties,
};
use serde_json::Value;
use std::sync::Arc;

fn lengths(set: &Set, batch: usize) -> impl Iterator<Item = u8> {
    let layout = &set.batches[batch].layout;
    let ragged = set.k.starts_with("mass");
    (0..layout.positions()).filter(move |_| ragged).flat_map(|t| (layout.list(t).len() as u16).to_le_bytes())
}

/// A decoded batch; `ids` and the others are of the same layout as what was coded.
fn column(set: &Set, batch: usize, ids: Vec<i32>, logprobs: Vec<f32>, tails: Vec<f32>) -> TopColumn {
    TopColumn { layout: set.batches[batch].layout.clone(), ids, logprobs, tails }
}

fn parts(column: &TopColumn) -> [Vec<u8>; 3] {
    [
        column.ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        column.logprobs.iter().flat_map(|x| x.to_le_bytes()).collect(),
        column.tails.iter().flat_map(|x| x.to_le_bytes()).collect(),
    ]
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()
}

/// The payload of a `torch.save` of an int32 and two float32 tensors.
pub fn encode_raw(set: &Set, batch: usize) -> Result<Vec<u8>, AnyError> {
    let mut out = parts(&set.batches[batch]).concat();
    out.extend(lengths(set, batch));
    Ok(out)
}

pub fn decode_raw(bytes: &[u8], set: &Set, batch: usize) -> Result<TopColumn, AnyError> {
    let layout = &set.batches[batch].layout;
    let (ids, rest) = bytes.split_at(4 * layout.entries());
    let (logprobs, rest) = rest.split_at(4 * layout.entries());
    Ok(column(set, batch, ints(ids), floats(logprobs), floats(&rest[..4 * layout.positions()])))
}

pub fn encode_zstd(set: &Set, batch: usize) -> Result<Vec<u8>, AnyError> {
    let [ids, logprobs, tails] = parts(&set.batches[batch]);
    let mut out = Vec::new();
    for part in [ids, logprobs, tails, lengths(set, batch).collect()] {
        let packed = zstd::bulk::compress(&part, 3)?;
        out.extend((packed.len() as u32).to_le_bytes());
        out.extend(packed);
    }
    Ok(out)
}

pub fn decode_zstd(mut bytes: &[u8], set: &Set, batch: usize) -> Result<TopColumn, AnyError> {
    let mut parts = Vec::new();
    while let Some((size, rest)) = bytes.split_first_chunk::<4>() {
        let (packed, rest) = rest.split_at(u32::from_le_bytes(*size) as usize);
        parts.push(zstd::bulk::decompress(packed, 4 * set.batches[batch].layout.entries())?);
        bytes = rest;
    }
    Ok(column(set, batch, ints(&parts[0]), floats(&parts[1]), floats(&parts[2])))
}

/// Flat columns, byte-stream split, zstd level 3, in one file of two row groups: entries, then positions.
pub fn encode_parquet(set: &Set, batch: usize) -> Result<Vec<u8>, AnyError> {
    let plain = &set.batches[batch];
    let entries = RecordBatch::try_from_iter([
        ("id", Arc::new(Int32Array::from(plain.ids.clone())) as ArrayRef),
        ("logprob", Arc::new(Float32Array::from(plain.logprobs.clone())) as ArrayRef),
    ])?;
    let tails = [("tail", Arc::new(Float32Array::from(plain.tails.clone())) as ArrayRef)];
    let mut out = Vec::new();
    for batch in [entries, RecordBatch::try_from_iter(tails)?] {
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_encoding(Encoding::BYTE_STREAM_SPLIT)
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        let file = writer.into_inner()?;
        out.extend((file.len() as u32).to_le_bytes());
        out.extend(file);
    }
    out.extend(lengths(set, batch));
    Ok(out)
}

pub fn decode_parquet(bytes: &[u8], set: &Set, batch: usize) -> Result<TopColumn, AnyError> {
    let mut rest = bytes;
    let mut columns: Vec<ArrayRef> = Vec::new();
    for _ in 0..2 {
        let (size, behind) = rest.split_first_chunk::<4>().ok_or("too few bytes")?;
        let (file, behind) = behind.split_at(u32::from_le_bytes(*size) as usize);
        let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::copy_from_slice(file))?;
        for read in reader.with_batch_size(usize::MAX >> 32).build()? {
            columns.extend(read?.columns().iter().cloned());
        }
        rest = behind;
    }
    let floats = |i: usize| columns[i].as_primitive::<Float32Type>().values().to_vec();
    Ok(column(set, batch, columns[0].as_primitive::<Int32Type>().values().to_vec(), floats(1), floats(2)))
}

/// As the `prompt_logprobs` of a completion: at each position an object from id to logprob, rank and text. The text is the id in
/// hexadecimal, about as long as a word piece. There is no tail: who needs it takes what is missing to 1.
pub fn encode_json(set: &Set, batch: usize) -> Result<Vec<u8>, AnyError> {
    let plain = &set.batches[batch];
    let mut positions = Vec::new();
    for t in 0..plain.layout.positions() {
        let entries = plain.layout.list(t).enumerate().map(|(rank, at)| {
            let (id, logprob) = (plain.ids[at], f64::from(plain.logprobs[at]));
            format!("\"{id}\": {{\"logprob\": {logprob}, \"rank\": {}, \"decoded_token\": \"{id:x}\"}}", rank + 1)
        });
        positions.push(format!("{{{}}}", entries.collect::<Vec<_>>().join(", ")));
    }
    Ok(format!("{{\"prompt_logprobs\": [{}]}}", positions.join(", ")).into_bytes())
}

pub fn decode_json(bytes: &[u8], set: &Set, batch: usize) -> Result<TopColumn, AnyError> {
    let answer: Value = serde_json::from_slice(bytes)?;
    let (mut ids, mut logprobs, mut tails) = (Vec::new(), Vec::new(), Vec::new());
    for position in answer["prompt_logprobs"].as_array().ok_or("no prompt_logprobs")? {
        let entries = position.as_object().ok_or("no object")?.iter().map(|(id, entry)| {
            let logprob = entry["logprob"].as_f64().ok_or("no logprob")?;
            Ok((entry["rank"].as_i64().ok_or("no rank")?, id.parse::<i32>()?, logprob))
        });
        let mut entries = entries.collect::<Result<Vec<_>, AnyError>>()?;
        entries.sort_by_key(|entry| entry.0);
        ids.extend(entries.iter().map(|entry| entry.1));
        logprobs.extend(entries.iter().map(|entry| entry.2 as f32));
        tails.push((1.0 - entries.iter().map(|entry| entry.2.exp()).sum::<f64>()).max(1e-9).ln() as f32);
    }
    Ok(column(set, batch, ids, logprobs, tails))
}
