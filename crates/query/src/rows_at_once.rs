//! How many rows operators hand on at once: few where a row may weigh a megabyte, many where it is a few numbers.

use arrow::datatypes::DataType;
use datafusion::{
    common::tree_node::{TreeNode, TreeNodeRecursion},
    error::Result,
    logical_expr::LogicalPlan,
};

/// Where rows have lists: of a long response, each may have hundreds of thousands of entries.
pub(crate) const FEW: usize = 512;
/// Where they have none.
const MANY: usize = 8192;

/// For a plan that is optimised. Scans and projections hand on what they are given, and what an unnest is given it cuts to size itself.
pub(crate) fn rows_at_once(plan: &LogicalPlan) -> Result<usize> {
    let mut has_lists = false;
    plan.apply_with_subqueries(|node| {
        let passes_on =
            matches!(node, LogicalPlan::TableScan(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_));
        has_lists |= !passes_on && node.schema().fields().iter().any(|field| is_list(field.data_type()));
        Ok(if has_lists { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(if has_lists { FEW } else { MANY })
}

fn is_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_))
}
