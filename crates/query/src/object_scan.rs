//! A scan of objects within a plan, so that `explain` says how many it opens.

use datafusion::{
    common::internal_err,
    common::tree_node::TreeNodeRecursion,
    error::Result,
    execution::{SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_plan::{
        ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
        streaming::StreamingTableExec,
    },
};
use std::{fmt, sync::Arc};

/// Reads what `scan` reads.
#[derive(Debug)]
pub(crate) struct ObjectScan {
    pub scan: StreamingTableExec,
    pub table: &'static str,
    /// Objects that hold what is wanted.
    pub opens: usize,
    /// All objects of the table.
    pub of: usize,
}

impl DisplayAs for ObjectScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> =
            self.scan.projected_schema().fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "ObjectScan: {}, opens {} of {} objects, columns=[{}]",
            self.table,
            self.opens,
            self.of,
            columns.join(", ")
        )
    }
}

impl ExecutionPlan for ObjectScan {
    fn name(&self) -> &str {
        "ObjectScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn fetch(&self) -> Option<usize> {
        self.scan.fetch()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a scan has no children") }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.scan.execute(partition, context)
    }
}
