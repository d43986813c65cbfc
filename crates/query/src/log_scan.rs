//! How a query reads a table of the log: some commits at a time become columns, so that a long log is never all of it in
//! memory as rows.

use crate::{columns::bare, log::Log, tables::LogTable};
use arrow::{array::RecordBatch, datatypes::SchemaRef};
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

/// Commits made into columns at once.
const CHUNK: usize = 512;

/// A table of the log as DataFusion sees it.
#[derive(Clone, Debug)]
pub(crate) struct LogProvider {
    table: LogTable,
    described: SchemaRef,
    schema: SchemaRef,
    log: Arc<Log>,
}

impl LogProvider {
    pub fn new(table: LogTable, log: Arc<Log>) -> Result<Self> {
        let described = (table.rows)(&log, &[])?.schema();
        Ok(Self { table, schema: bare(&described), described, log })
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
        let all: Arc<dyn PartitionStream> = Arc::new(self.clone());
        let plan = StreamingTableExec::try_new(self.schema.clone(), vec![all], projection, [], false, limit)?;
        Ok(Arc::new(plan))
    }
}

impl PartitionStream for LogProvider {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (log, rows, schema) = (self.log.clone(), self.table.rows, self.schema.clone());
        let starts = (0..log.commits().len()).step_by(CHUNK);
        let batches = starts.map(move |start| {
            let end = log.commits().len().min(start + CHUNK);
            let rows = rows(&log, &log.commits()[start..end])?;
            Ok(RecordBatch::try_new(schema.clone(), rows.columns().to_vec())?)
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), stream::iter(batches)))
    }
}
