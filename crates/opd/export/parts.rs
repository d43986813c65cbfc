//! Rows into Parquet files of bounded size, each put as soon as it is full.

use super::{
    delta::{Add, stored_type},
    stats::Stats,
};
use crate::error::{CommandError, Result};
use arrow::{
    array::{AsArray, Int64Array, RecordBatch},
    compute::cast,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
    schema::types::ColumnPath,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use store::Folder;

/// Encoded bytes at which a row group is ended.
const GROUP: usize = 16 << 20;
/// Bytes at which a file is ended: one request to a bucket, and what an export holds in memory beside a row group.
const FILE: usize = 48 << 20;

/// `field` with the type that it has in a Delta table.
pub fn delta_field(field: &Field) -> Field {
    field.clone().with_data_type(stored_type(field.data_type()))
}

/// Files of one table.
pub struct Parts<'a> {
    folder: &'a Folder,
    table: &'static str,
    partition: Option<&'static str>,
    /// Of the rows, the partition's column included.
    rows: SchemaRef,
    /// Of the files.
    schema: SchemaRef,
    /// Files that are not full yet, by the value of the partition's column; one without a value where there is none.
    open: BTreeMap<Option<i64>, Part>,
    adds: Vec<Add>,
}

struct Part {
    writer: ArrowWriter<Vec<u8>>,
    stats: Stats,
}

impl<'a> Parts<'a> {
    /// No file yet, for rows of the table's `schema`.
    pub fn new(folder: &'a Folder, table: &'static str, schema: &Schema, partition: Option<&'static str>) -> Self {
        let plain = |field: &Arc<Field>| field.as_ref().clone().with_metadata(HashMap::new());
        let rows: Vec<Field> = schema.fields().iter().map(plain).collect();
        let kept: Vec<Field> = rows.iter().filter(|field| Some(field.name().as_str()) != partition).cloned().collect();
        let (rows, schema) = (Arc::new(Schema::new(rows)), Arc::new(Schema::new(kept)));
        Self { folder, table, partition, rows, schema, open: BTreeMap::new(), adds: Vec::new() }
    }

    /// Takes rows in, whose columns are those of the table's schema in its order.
    ///
    /// # Errors
    /// If a file that is full cannot be put.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns = batch.columns().iter().zip(self.rows.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<Vec<_>, _>>();
        let batch = columns.and_then(|columns| RecordBatch::try_new(self.rows.clone(), columns));
        let mut batch = batch.map_err(|error| self.fault(&error))?;
        let Some(at) = self.partition.and_then(|name| self.rows.index_of(name).ok()) else {
            return self.write_to(None, &batch).await;
        };
        let values = batch.remove_column(at);
        let values: Int64Array = values.as_primitive::<Int64Type>().clone();
        let mut start = 0;
        // Rows of one version come together.
        for run in values.values().chunk_by(|a, b| a == b) {
            self.write_to(run.first().copied(), &batch.slice(start, run.len())).await?;
            start += run.len();
        }
        Ok(())
    }

    async fn write_to(&mut self, value: Option<i64>, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut part = match self.open.remove(&value) {
            Some(part) => part,
            None => Part { writer: self.writer()?, stats: Stats::default() },
        };
        part.stats.add(batch);
        part.writer.write(batch).map_err(|error| self.fault(&error))?;
        if part.writer.in_progress_size() >= GROUP {
            part.writer.flush().map_err(|error| self.fault(&error))?;
        }
        match part.writer.bytes_written() >= FILE {
            true => self.put(value, part).await?,
            false => drop(self.open.insert(value, part)),
        }
        Ok(())
    }

    /// Opens a file that may stay without rows, so that readers of bare files find a table's columns.
    ///
    /// # Errors
    /// If the columns cannot be written.
    pub fn begin(&mut self) -> Result<()> {
        let part = Part { writer: self.writer()?, stats: Stats::default() };
        self.open.insert(None, part);
        Ok(())
    }

    /// Puts the files that are open; all that there are now.
    ///
    /// # Errors
    /// If one cannot be put.
    pub async fn finish(mut self) -> Result<Vec<Add>> {
        while let Some((value, part)) = self.open.pop_first() {
            self.put(value, part).await?;
        }
        Ok(self.adds)
    }

    async fn put(&mut self, value: Option<i64>, part: Part) -> Result<()> {
        let stats = part.stats.to_json().to_string();
        let bytes = part.writer.into_inner().map_err(|error| self.fault(&error))?;
        let partition = self.partition.zip(value);
        let within = partition.map_or(String::new(), |(name, value)| format!("{name}={value}/"));
        let path = format!("{within}part-{}.parquet", store::unique_id());
        let size = bytes.len() as u64;
        // The name is nobody else's.
        self.folder.put_new(&format!("{}/{path}", self.table), bytes).await?;
        let partition_values: BTreeMap<String, Option<String>> =
            partition.map(|(name, value)| (name.to_string(), Some(value.to_string()))).into_iter().collect();
        let modification_time = store::now_ms();
        self.adds.push(Add { path, partition_values, size, modification_time, data_change: true, stats: Some(stats) });
        Ok(())
    }

    /// Plain Parquet, as its specification has lists, with nothing of Arrow in it.
    fn writer(&self) -> Result<ArrowWriter<Vec<u8>>> {
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_coerce_types(true)
            .set_created_by(concat!("opd ", env!("CARGO_PKG_VERSION")).into());
        // Few logprobs are the same: a dictionary of them takes twice the time and a sixth more bytes.
        for path in self.schema.fields().iter().filter_map(|field| float_leaf(field)) {
            properties = properties.set_column_dictionary_enabled(path, false);
        }
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        ArrowWriter::try_new_with_options(Vec::new(), self.schema.clone(), options).map_err(|error| self.fault(&error))
    }

    fn fault(&self, error: &dyn std::fmt::Display) -> CommandError {
        CommandError::new(format!("rows of `{}` cannot be written as Parquet: {error}", self.table))
    }
}

/// Where the numbers of a column of floats, or of lists of them, lie in a file.
fn float_leaf(field: &Field) -> Option<ColumnPath> {
    let (mut path, mut data_type) = (vec![field.name().clone()], field.data_type());
    while let DataType::List(item) = data_type {
        path.extend(["list".to_string(), "element".to_string()]);
        data_type = item.data_type();
    }
    data_type.is_floating().then(|| ColumnPath::new(path))
}
