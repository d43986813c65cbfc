//! How a query reads a table of the log: some commits at a time become the columns that it wants, so that a long log is never all of it
//! in memory as rows.

use crate::{
    columns::{Columns, bare},
    kept::{CHUNK, Kept},
    log::Log,
    tables::LogTable,
};
use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::SchemaRef,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableType},
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures::stream;
use std::sync::Arc;

/// A table of the log as DataFusion sees it.
#[derive(Clone, Debug)]
pub(crate) struct LogProvider {
    table: LogTable,
    described: SchemaRef,
    schema: SchemaRef,
    log: Arc<Log>,
    kept: Kept,
}

impl LogProvider {
    pub fn new(table: LogTable, log: Arc<Log>, kept: Kept) -> Result<Self> {
        let described = (table.rows)(&log, &[], Columns::all())?.schema();
        Ok(Self { table, schema: bare(&described), described, log, kept })
    }

    /// The schema with its sentences.
    pub fn described(&self) -> SchemaRef {
        self.described.clone()
    }
}

#[async_trait]
impl TableProvider for LogProvider {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&columns)?);
        let all: Arc<dyn PartitionStream> = Arc::new(LogScan { of: self.clone(), schema: schema.clone(), columns });
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![all], None, [], false, limit)?))
    }
}

/// Some columns of a table, all its rows.
#[derive(Debug)]
struct LogScan {
    of: LogProvider,
    schema: SchemaRef,
    columns: Vec<usize>,
}

impl PartitionStream for LogScan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (of, schema, columns) = (self.of.clone(), self.schema.clone(), self.columns.clone());
        // Where rows are only counted, there is no column to say how many there are.
        let made = if columns.is_empty() { vec![0] } else { columns.clone() };
        let batches = (0..of.log.commits().len()).step_by(CHUNK).map(move |start| {
            let end = of.log.commits().len().min(start + CHUNK);
            let mut arrays = of.kept.columns(&of.table, &of.log, start..end, &made)?;
            let rows = arrays.first().map(|array| array.len());
            arrays.truncate(columns.len());
            let options = RecordBatchOptions::new().with_row_count(rows);
            Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream::iter(batches)))
    }
}
