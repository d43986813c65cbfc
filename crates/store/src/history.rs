//! What spares a reader the whole log: snapshots of live state, and history segments that hold thousands of commits each.
//!
//! Neither is needed for anything but speed. A snapshot is two lines of JSON: a header with the digest of the second, and
//! the state. A history segment is Parquet; its `json` column holds the entries as they are in the log, byte for byte.

use crate::{Result, Snapshot, Store, StoreError, keys, log};
use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema},
    error::ArrowError,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use record::{Commit, Digest, ObjectRef};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};

/// The newest version of a snapshot's JSON that is read. One that is later is passed over: the log has it all. 2 has pins, 3 archives; a
/// program that does not know them must not begin behind them.
const FORMAT: u32 = 3;
/// The version of a snapshot without archives.
const COMMON: u32 = 2;
/// Segments that are read at once: parsing them is most of the work, and a machine has several cores.
const SEGMENTS_AT_ONCE: usize = 4;

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    seq: u64,
    digest: Digest,
}

/// The newest snapshot that can be read, of those not after `upto`. A damaged one is passed over.
pub(crate) async fn newest_snapshot(store: &Store, upto: Option<u64>) -> Result<Option<Snapshot>> {
    let listed: Vec<_> = store.backend().list(keys::SNAPSHOTS).try_collect().await?;
    let mut seqs: Vec<u64> = listed.iter().filter_map(|object| keys::parse_snapshot(&object.key)).collect();
    seqs.sort_unstable();
    for seq in seqs.into_iter().rev().filter(|seq| upto.is_none_or(|upto| *seq <= upto)) {
        let key = keys::snapshot(seq);
        let Some(bytes) = store.backend().read(&key).await? else { continue };
        match read_snapshot(seq, &bytes) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(reason) => tracing::warn!(%key, %reason, "a snapshot is passed over"),
        }
    }
    Ok(None)
}

/// Keys of the segments that any snapshot names; none if one cannot be read, as it may name others.
pub(crate) async fn named_segments(store: &Store) -> Result<Option<BTreeSet<String>>> {
    let listed: Vec<_> = store.backend().list(keys::SNAPSHOTS).try_collect().await?;
    let mut segments = BTreeSet::new();
    for seq in listed.iter().filter_map(|object| keys::parse_snapshot(&object.key)) {
        let Some(bytes) = store.backend().read(&keys::snapshot(seq)).await? else { continue };
        match read_snapshot(seq, &bytes) {
            Ok(snapshot) => segments.extend(snapshot.history.into_iter().map(|segment| segment.key)),
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(segments))
}

pub(crate) fn read_snapshot(seq: u64, bytes: &[u8]) -> Result<Snapshot, String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no header")?;
    let (header, state) = (&bytes[..end], &bytes[end + 1..]);
    let header: Header = serde_json::from_slice(header).map_err(|error| error.to_string())?;
    if header.format > FORMAT {
        return Err(format!("its format is {}, this program reads up to {FORMAT}", header.format));
    }
    if header.digest != Digest::of(state) {
        return Err(format!("its state has not the digest {}", header.digest));
    }
    let snapshot: Snapshot = serde_json::from_slice(state).map_err(|error| error.to_string())?;
    if snapshot.seq != seq || header.seq != seq {
        return Err(format!("it is that of commit {}", snapshot.seq));
    }
    Ok(snapshot)
}

fn snapshot_bytes(snapshot: &Snapshot) -> Result<Bytes, serde_json::Error> {
    let state = serde_json::to_vec(snapshot)?;
    let format = if snapshot.archives.is_empty() { COMMON } else { FORMAT };
    let header = Header { format, seq: snapshot.seq, digest: Digest::of(&state) };
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.push(b'\n');
    bytes.extend(state);
    Ok(bytes.into())
}

/// Writes what is missing of history up to the snapshot's commit, then the snapshot. Returns the segments.
pub(crate) async fn write(store: &Store, snapshot: &Snapshot) -> Result<Vec<ObjectRef>> {
    let mut history = newest_snapshot(store, Some(snapshot.seq)).await?.map_or_else(Vec::new, |older| older.history);
    let mut from = history.iter().filter_map(|segment| keys::parse_history(&segment.key)).map(|(_, to)| to + 1).max();
    let every = store.options().snapshot_every.max(1);
    // Usually one segment; more where a mark before this one was missed.
    while from.unwrap_or(0) <= snapshot.seq {
        let first = from.unwrap_or(0);
        let last = (first + every - 1).min(snapshot.seq);
        history.push(write_segment(store, first, last).await?);
        from = Some(last + 1);
    }
    let snapshot = Snapshot { history, ..snapshot.clone() };
    let key = keys::snapshot(snapshot.seq);
    let broken = |error: serde_json::Error| store.backend().refused("write", &key, error.to_string());
    let bytes = snapshot_bytes(&snapshot).map_err(broken)?;
    match store.backend().put_new(&key, bytes).await {
        Ok(()) => Ok(snapshot.history),
        Err(failure) => Err(store.backend().refused("write", &key, format!("{failure:?}"))),
    }
}

async fn write_segment(store: &Store, from: u64, to: u64) -> Result<ObjectRef> {
    let key = keys::history(from, to);
    let entries = store.entries(from, Some(to)).await?;
    let damaged = |error: ArrowError| store.backend().refused("write", key.as_str(), error.to_string());
    if entries.len() as u64 != to - from + 1 {
        return Err(store.backend().refused("read", &keys::commit(from + entries.len() as u64), "it is gone".into()));
    }
    let bytes = encode(&entries).map_err(damaged)?;
    store.put(key, bytes).await
}

fn schema() -> Arc<Schema> {
    let column = |name: &str, of: DataType| Field::new(name, of, false);
    Arc::new(Schema::new(vec![
        column("seq", DataType::Int64),
        column("kind", DataType::Utf8),
        column("at", DataType::Int64),
        column("worker", DataType::Utf8),
        column("job", DataType::Utf8),
        column("json", DataType::Utf8),
    ]))
}

fn encode(entries: &[log::Entry]) -> Result<Bytes, ArrowError> {
    fn text<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }
    let commits = || entries.iter().map(|entry| &entry.commit);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(commits().map(|commit| commit.seq as i64))),
        text(commits().map(|commit| commit.event.kind())),
        Arc::new(Int64Array::from_iter_values(commits().map(|commit| commit.at))),
        text(commits().map(|commit| commit.work.worker.as_str())),
        text(commits().map(|commit| commit.work.job.as_str())),
        // An entry was parsed as JSON, which is UTF-8.
        text(entries.iter().map(|entry| std::str::from_utf8(&entry.json).unwrap_or_default())),
    ];
    let batch = RecordBatch::try_new(schema(), columns)?;
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?.into())
}

fn decode(bytes: Bytes) -> Result<Vec<(u64, String)>, ArrowError> {
    let mut rows = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
        let batch = batch?;
        let column = |name: &str| batch.column_by_name(name).cloned().ok_or(ArrowError::SchemaError(name.into()));
        let (seqs, jsons) = (column("seq")?, column("json")?);
        let (Some(seqs), Some(jsons)) = (seqs.as_primitive_opt::<Int64Type>(), jsons.as_string_opt::<i32>()) else {
            return Err(ArrowError::SchemaError("`seq` is not int64 or `json` is not utf8".into()));
        };
        rows.extend((0..batch.num_rows()).map(|i| (seqs.value(i) as u64, jsons.value(i).to_string())));
    }
    Ok(rows)
}

/// Every commit from 0 to `upto`: from the history segments that the newest snapshot names, then one by one. A segment
/// that cannot be read is made up for by the entries it repeats.
pub(crate) async fn commits(store: &Store, upto: Option<u64>) -> Result<Vec<Commit>> {
    let named = newest_snapshot(store, None).await?.map_or_else(Vec::new, |snapshot| snapshot.history);
    let mut next = 0;
    let mut segments = Vec::new();
    for segment in named {
        let Some((from, to)) = keys::parse_history(&segment.key) else { continue };
        if from != next || upto.is_some_and(|upto| upto < from) {
            break;
        }
        segments.push((segment, from, to));
        next = to + 1;
    }
    let read = stream::iter(segments).map(|(segment, from, to)| async move {
        match read_segment(store, &segment, from, to).await {
            Err(error) if error.is_of_one_object() => {
                tracing::warn!(key = segment.key, %error, "a history segment is passed over");
                Ok(store.entries(from, Some(to)).await?.into_iter().map(|entry| entry.commit).collect())
            }
            read => read,
        }
    });
    let mut commits = read.buffered(SEGMENTS_AT_ONCE).try_concat().await?;
    commits.extend(store.entries(commits.len() as u64, upto).await?.into_iter().map(|entry| entry.commit));
    commits.truncate(upto.map_or(usize::MAX, |upto| upto as usize + 1));
    Ok(commits)
}

pub(crate) async fn read_segment(store: &Store, segment: &ObjectRef, from: u64, to: u64) -> Result<Vec<Commit>> {
    let key = segment.key.clone();
    let bytes = store.get(segment).await?;
    let commits: Vec<Commit> = store
        .blocking(&segment.key, move || {
            let corrupt = |found: String| {
                let expected = format!("commits {from} to {to}");
                StoreError::Corrupt { key: key.clone(), expected, found }
            };
            let rows = decode(bytes).map_err(|error| corrupt(error.to_string()))?;
            if !rows.iter().map(|(seq, _)| *seq).eq(from..=to) {
                return Err(corrupt(format!("{} rows that are not those", rows.len())));
            }
            rows.iter().map(|(seq, json)| log::parse(&key, *seq, json.as_bytes())).collect()
        })
        .await?;
    commits.iter().for_each(|commit| store.places().learn(commit));
    Ok(commits)
}
