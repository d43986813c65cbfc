//! An archive as a Parquet file: a row group for each object, columns as they lie in the objects, every bit as it was.

use super::encodings;
use crate::ipc::{Fault, check_name};
use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
};
use bytes::{Buf, Bytes, buf::Reader};
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
    },
    errors::{ParquetError, Result as ParquetResult},
    file::{
        metadata::ParquetMetaDataReader,
        reader::{ChunkReader, Length},
    },
};
use record::{
    Archive, Budget, Digest, Footer, Move,
    schema::{SCHEMA_NAME, SCHEMA_VERSION},
};
use std::sync::Arc;

/// What a Parquet file ends in: the length of its metadata and the magic word.
const TRAILER: usize = 8;

/// Writes an archive, row group by row group.
pub(super) struct Writer {
    file: ArrowWriter<Vec<u8>>,
    /// Bytes up to the end of the last row group.
    written: usize,
    moves: Vec<Move>,
}

impl Writer {
    /// For batches of `schema`.
    pub fn new(schema: &SchemaRef) -> ParquetResult<Self> {
        let properties = encodings::properties(schema)?;
        let file = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
        Ok(Self { file, written: Archive::FIRST as usize, moves: Vec::new() })
    }

    /// Adds all rows of the object at `key`; at least one.
    pub fn push(&mut self, key: &str, batch: &RecordBatch) -> ParquetResult<()> {
        self.file.write(batch)?;
        self.file.flush()?;
        self.file.sync()?;
        let bytes = &self.file.inner()[self.written..];
        self.moves.push(Move { key: key.into(), bytes: bytes.len() as u64, digest: Digest::of(bytes) });
        self.written += bytes.len();
        Ok(())
    }

    /// What is in it so far.
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// The file, its footer, and what is in it.
    pub fn finish(self) -> ParquetResult<(Bytes, Footer, Vec<Move>)> {
        let file = Bytes::from(self.file.into_inner()?);
        let footer = &file[self.written..];
        let footer = Footer { bytes: footer.len() as u64, digest: Digest::of(footer) };
        Ok((file, footer, self.moves))
    }
}

/// A footer that was read: how the row groups of an archive are to be read.
#[derive(Clone, Debug)]
pub(crate) struct Layout(ArrowReaderMetadata);

impl Layout {
    /// From the bytes of the footer.
    pub fn parse(footer: &[u8]) -> ParquetResult<Self> {
        let lengths = footer.len().checked_sub(TRAILER).map(|at| (at, footer[at..].first_chunk::<4>()));
        let Some((end, Some(length))) = lengths else { return Err(ParquetError::General("it is cut short".into())) };
        let start = end.checked_sub(u32::from_le_bytes(*length) as usize);
        let start = start.ok_or_else(|| ParquetError::General("its metadata are longer than itself".into()))?;
        let metadata = ParquetMetaDataReader::decode_metadata(&footer[start..end])?;
        Ok(Self(ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new())?))
    }

    /// How many row groups the file has.
    pub fn row_groups(&self) -> usize {
        self.0.metadata().num_row_groups()
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.0.metadata().memory_size()
    }

    /// The batch in row group `row_group`, whose bytes are `bytes` and begin at `offset`. Columns that `budget` asks nothing of are not
    /// decoded.
    pub fn read(
        &self,
        row_group: usize,
        (offset, bytes): (u64, Bytes),
        expected: &Schema,
        budget: &Budget,
    ) -> Result<RecordBatch, Fault> {
        let schema = self.0.schema();
        let of = |key: &str| schema.metadata().get(key).cloned().unwrap_or_default();
        check_name(&of(SCHEMA_NAME), &of(SCHEMA_VERSION), expected)?;
        let damaged = |error: ParquetError| Fault::Malformed(error.to_string());
        let groups = self.row_groups();
        if row_group >= groups {
            return Err(Fault::Malformed(format!("it has {groups} row groups, not {}", row_group + 1)));
        }
        let rows = self.0.metadata().row_group(row_group).num_rows() as usize;
        let unread = record::unread(schema, budget);
        let read = (0..schema.fields().len()).filter(|column| !unread.contains(column));
        let mask = ProjectionMask::roots(self.0.parquet_schema(), read);
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(Stretch { offset, bytes }, self.0.clone())
            .with_row_groups(vec![row_group])
            .with_projection(mask)
            .with_batch_size(rows.max(1))
            .build()
            .map_err(damaged)?;
        let batches = reader.collect::<Result<Vec<RecordBatch>, ArrowError>>()?;
        match batches.as_slice() {
            [batch] if batch.num_rows() == rows => Ok(record::fill_unread(batch, schema)?),
            other => Err(Fault::Malformed(format!("its {rows} rows come in {} pieces", other.len()))),
        }
    }
}

/// A file of which one stretch is in memory.
struct Stretch {
    offset: u64,
    bytes: Bytes,
}

impl Stretch {
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let at = start.checked_sub(self.offset).and_then(|at| usize::try_from(at).ok());
        match at.filter(|at| *at <= self.bytes.len()) {
            Some(at) => Ok(self.bytes.slice(at..)),
            None => Err(ParquetError::General(format!("byte {start} lies outside the row group"))),
        }
    }
}

impl Length for Stretch {
    fn len(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl ChunkReader for Stretch {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let bytes = self.from(start)?;
        match length <= bytes.len() {
            true => Ok(bytes.slice(..length)),
            false => Err(ParquetError::General(format!("{length} bytes from {start} on end outside the row group"))),
        }
    }
}
