//! How many rows operators hand on at once: few where a row may weigh a megabyte, many where it is a few numbers.

use arrow::datatypes::DataType;
use datafusion::{common::tree_node::TreeNodeRecursion, error::Result, logical_expr::LogicalPlan};

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

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::{Int32Array, ListArray, RecordBatch},
        datatypes::Int32Type,
    };
    use datafusion::prelude::SessionContext;
    use std::sync::Arc;

    #[tokio::test]
    async fn few_rows_where_lists_are_gathered() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), Some(2)])]);
        let numbers = Int32Array::from(vec![1]);
        let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as _), ("l", Arc::new(lists) as _)]).unwrap();
        let context = SessionContext::new();
        context.register_batch("t", batch).unwrap();
        for (sql, rows) in [
            ("select n from t", MANY),
            ("select l from t", MANY),
            ("select n, count(*) from t group by n", MANY),
            ("select n, avg(x) from (select n, unnest(l) as x from t) group by n", MANY),
            ("select n from t order by n", MANY),
            ("select * from t order by n", FEW),
            ("select n, l from t where n > 0", FEW),
            ("select n, array_agg(n) from t group by n", FEW),
            ("select n from t where n in (select l[1] from t where n < 5)", FEW),
            ("select t.n, s.l from t join t s on t.n = s.n", FEW),
        ] {
            let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
            assert_eq!(rows_at_once(&plan).unwrap(), rows, "{sql}: {}", plan.display_indent());
        }
    }
}
