//! How a query reads a table of objects: filters choose the objects by what the log knows of them, and they are opened
//! one after another while the answer is read.

use crate::{
    QueryError,
    columns::bare,
    object_scan::ObjectScan,
    parts::{ObjectTable, Part},
    reader::Opener,
};
use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::concat_batches,
    datatypes::{Schema, SchemaRef},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{DFSchema, ScalarValue},
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{collections::HashSet, fmt, sync::Arc};

/// Groups of objects opened at once by one partition: the next is fetched while one is worked on.
const PREFETCH: usize = 2;
/// Objects are read together, for operators to have enough rows at once, up to about so many bytes.
const GROUP: u64 = 1 << 20;

/// A table of objects as DataFusion sees it.
pub(crate) struct ObjectProvider {
    table: ObjectTable,
    schema: SchemaRef,
    opener: Opener,
}

impl fmt::Debug for ObjectProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} objects", self.table.name, self.table.parts.len())
    }
}

impl ObjectProvider {
    pub fn new(table: ObjectTable, opener: Opener) -> Self {
        let schema = bare(&table.schema);
        Self { table, schema, opener }
    }

    fn is_known(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        let known = columns.iter().all(|column| self.table.known.field_with_name(column.name()).is_ok());
        known && !columns.is_empty() && !filter.is_volatile()
    }

    /// How many objects hold the columns of `schema` for `parts`.
    fn objects(&self, parts: &[Part], schema: &Schema) -> usize {
        let keys = parts.iter().flat_map(|part| part.opens(schema, &self.table.known));
        keys.collect::<HashSet<_>>().len()
    }

    /// The parts that may hold rows that pass `filters`.
    fn choose(&self, state: &dyn Session, filters: &[Expr]) -> Result<Vec<Part>> {
        let mut parts = self.table.parts.clone();
        let schema = DFSchema::try_from(self.table.known.as_ref().clone())?;
        for filter in filters.iter().filter(|filter| self.is_known(filter)) {
            if parts.is_empty() {
                break;
            }
            let columns = (0..self.table.known.fields().len())
                .map(|i| ScalarValue::iter_to_array(parts.iter().map(|part| part.known[i].clone())))
                .collect::<Result<Vec<_>>>()?;
            let batch = RecordBatch::try_new(self.table.known.clone(), columns)?;
            let predicate = state.create_physical_expr(filter.clone(), &schema)?;
            // A filter that fails here, such as a division by 0 that another filter guards, fails or passes on the rows.
            let Ok(passes) = predicate.evaluate(&batch).and_then(|passes| passes.into_array(parts.len())) else {
                continue;
            };
            let Some(passes) = passes.as_boolean_opt() else { continue };
            let mut row = 0..;
            parts.retain(|_| row.next().is_some_and(|i| passes.is_valid(i) && passes.value(i)));
        }
        Ok(parts)
    }
}

#[async_trait]
impl TableProvider for ObjectProvider {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let known = |filter: &&Expr| match self.is_known(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(known).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let parts = self.choose(state, filters)?;
        self.opener.meter.plan(parts.iter().filter(|part| !part.opens(&schema, &self.table.known).is_empty()).count());
        let share = parts.len().div_ceil(state.config().target_partitions()).max(1);
        // One partition at least, or an empty table would have none to ask.
        let shares = parts.chunks(share).map(<[Part]>::to_vec).chain(parts.is_empty().then(Vec::new));
        // Who wants a few rows is not to wait for those of a whole group.
        let group = if limit.is_some() { 0 } else { GROUP };
        let partitions = shares.map(|parts| {
            let (schema, known, opener) = (schema.clone(), self.table.known.clone(), self.opener.clone());
            Arc::new(Share { schema, known, groups: grouped(parts, group), opener }) as Arc<dyn PartitionStream>
        });
        let scan = StreamingTableExec::try_new(schema.clone(), partitions.collect(), None, [], false, limit)?;
        let (opens, of) = (self.objects(&parts, &schema), self.objects(&self.table.parts, &self.table.schema));
        Ok(Arc::new(ObjectScan { scan, table: self.table.name, opens, of }))
    }
}

/// `parts` in groups of about `bytes`, each of one part at least.
fn grouped(parts: Vec<Part>, bytes: u64) -> Vec<Vec<Part>> {
    let mut groups: Vec<Vec<Part>> = Vec::new();
    let mut room = 0;
    for part in parts {
        let size = part.source.bytes();
        match groups.last_mut().filter(|_| size <= room) {
            Some(group) => {
                room -= size;
                group.push(part);
            }
            None => {
                room = bytes.saturating_sub(size);
                groups.push(vec![part]);
            }
        }
    }
    groups
}

/// Some of a table's objects, read one after another.
struct Share {
    schema: SchemaRef,
    known: SchemaRef,
    groups: Vec<Vec<Part>>,
    opener: Opener,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} objects", self.groups.iter().map(Vec::len).sum::<usize>())
    }
}

impl PartitionStream for Share {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (schema, known, opener) = (self.schema.clone(), self.known.clone(), self.opener.clone());
        let batches = stream::iter(self.groups.clone())
            .map(move |group| {
                let (opener, schema, known) = (opener.clone(), schema.clone(), known.clone());
                async move {
                    let mut batches = Vec::with_capacity(group.len());
                    for part in group {
                        let is_opened = !part.opens(&schema, &known).is_empty();
                        batches.push(opener.read(part, schema.clone(), known.clone()).await?);
                        if is_opened {
                            opener.meter.read();
                        }
                    }
                    match batches.as_slice() {
                        [alone] => Ok(alone.clone()),
                        batches => Ok(concat_batches(&schema, batches)?),
                    }
                }
            })
            .buffered(PREFETCH);
        let batches = batches.map_err(|error: QueryError| DataFusionError::from(error));
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::Source;
    use proptest::prelude::*;
    use record::{Digest, ObjectRef};

    proptest! {
        #[test]
        fn groups_keep_the_order_and_are_no_larger_than_they_must(sizes in prop::collection::vec(1u64..12, 0..40), most in 0u64..20) {
            let part = |(i, bytes): (usize, &u64)| {
                let object = ObjectRef { key: i.to_string(), bytes: *bytes, digest: Digest::of(b"") };
                Part { known: vec![], rows: 1, batch: None, borrowed: false, source: Source::StepRecord(object) }
            };
            let groups = grouped(sizes.iter().enumerate().map(part).collect(), most);
            let keys: Vec<String> = groups.iter().flatten().map(|part| part.source.key().to_string()).collect();
            prop_assert_eq!(keys, (0..sizes.len()).map(|i| i.to_string()).collect::<Vec<_>>());
            let size = |group: &[Part]| group.iter().map(|part| part.source.bytes()).sum::<u64>();
            prop_assert!(groups.iter().all(|group| group.len() == 1 || size(group) <= most));
            prop_assert!(groups.windows(2).all(|pair| size(&pair[0]) + pair[1][0].source.bytes() > most));
        }
    }
}
