//! Rows into Parquet files of bounded size, each put as soon as it is full.

use super::{
    delta::{Add, stored_type},
    stats::Stats,
};
use crate::error::{CommandError, Result};
use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    compute::cast,
    datatypes::{Field, Schema, SchemaRef},
};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use std::{collections::BTreeMap, sync::Arc};
use store::Folder;

/// Encoded bytes at which a row group is ended.
const GROUP: usize = 16 << 20;
/// Bytes at which a file is ended: one request to a bucket, and what an export holds in memory beside a row group.
const FILE: usize = 48 << 20;

/// The schema of a table's files: names, types and sentences, but for the column that the folders' names give.
pub fn file_schema(table: &Schema, partition: Option<&str>) -> Schema {
    let kept = table.fields().iter().filter(|field| Some(field.name().as_str()) != partition);
    let fields = kept.map(|field| delta_field(field));
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), table.metadata().clone())
}

/// `field` with the type that it has in a Delta table.
pub fn delta_field(field: &Field) -> Field {
    field.clone().with_data_type(stored_type(field.data_type()))
}

/// Files of one table and one partition.
pub struct Parts<'a> {
    folder: &'a Folder,
    table: &'static str,
    partition: Option<(&'static str, u64)>,
    schema: SchemaRef,
    open: Option<Part>,
    adds: Vec<Add>,
    rows: u64,
}

struct Part {
    writer: ArrowWriter<Vec<u8>>,
    stats: Stats,
}

impl<'a> Parts<'a> {
    /// No file yet.
    pub fn new(
        folder: &'a Folder,
        table: &'static str,
        partition: Option<(&'static str, u64)>,
        schema: SchemaRef,
    ) -> Self {
        Self { folder, table, partition, schema, open: None, adds: Vec::new(), rows: 0 }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes rows in, whose columns are those of the schema in its order.
    ///
    /// # Errors
    /// If a file that is full cannot be put.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<Vec<_>, _>>();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = columns
            .and_then(|columns| RecordBatch::try_new_with_options(self.schema.clone(), columns, &options))
            .map_err(|error| self.fault(&error))?;
        let mut part = match self.open.take() {
            Some(part) => part,
            None => Part { writer: self.writer()?, stats: Stats::default() },
        };
        part.stats.add(&batch);
        part.writer.write(&batch).map_err(|error| self.fault(&error))?;
        if part.writer.in_progress_size() >= GROUP {
            part.writer.flush().map_err(|error| self.fault(&error))?;
        }
        self.rows += batch.num_rows() as u64;
        match part.writer.bytes_written() >= FILE {
            true => self.put(part).await?,
            false => self.open = Some(part),
        }
        Ok(())
    }

    /// Puts the last file; what there is now.
    ///
    /// # Errors
    /// If it cannot be put.
    pub async fn finish(mut self) -> Result<Vec<Add>> {
        if let Some(part) = self.open.take() {
            self.put(part).await?;
        }
        Ok(self.adds)
    }

    async fn put(&mut self, part: Part) -> Result<()> {
        let stats = part.stats.to_json().to_string();
        let bytes = part.writer.into_inner().map_err(|error| self.fault(&error))?;
        let within = self.partition.map_or(String::new(), |(name, value)| format!("{name}={value}/"));
        let path = format!("{within}part-{}.parquet", store::unique_id());
        let size = bytes.len() as u64;
        // The name is nobody else's.
        self.folder.put_new(&format!("{}/{path}", self.table), bytes).await?;
        let partition_values: BTreeMap<String, Option<String>> =
            self.partition.map(|(name, value)| (name.to_string(), Some(value.to_string()))).into_iter().collect();
        let modification_time = store::now_ms();
        self.adds.push(Add { path, partition_values, size, modification_time, data_change: true, stats: Some(stats) });
        Ok(())
    }

    /// Plain Parquet, as its specification has lists, with nothing of Arrow in it.
    fn writer(&self) -> Result<ArrowWriter<Vec<u8>>> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_coerce_types(true)
            .set_created_by(concat!("opd ", env!("CARGO_PKG_VERSION")).into())
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let plain: Vec<Field> =
            self.schema.fields().iter().map(|field| field.as_ref().clone().with_metadata(Default::default())).collect();
        ArrowWriter::try_new_with_options(Vec::new(), Arc::new(Schema::new(plain)), options)
            .map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &dyn std::fmt::Display) -> CommandError {
        CommandError::new(format!("rows of `{}` cannot be written as Parquet: {error}", self.table))
    }
}
