//! How many rows operators hand on at once: few where a row may weigh a megabyte, many where it is a few numbers.

use datafusion::{common::tree_node::TreeNodeRecursion, error::Result, logical_expr::LogicalPlan};

/// Where rows have lists or text: a list may have hundreds of thousands of entries, and a commit's JSON be as long.
pub(crate) const FEW: usize = 512;
/// Where they have neither.
const MANY: usize = 8192;

/// For a plan that is optimised. Scans and projections hand on what they are given, and what an unnest is given it cuts to size itself.
pub(crate) fn rows_at_once(plan: &LogicalPlan) -> Result<usize> {
    let mut is_heavy = false;
    plan.apply_with_subqueries(|node| {
        let passes_on =
            matches!(node, LogicalPlan::TableScan(_) | LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_));
        is_heavy |=
            !passes_on && node.schema().fields().iter().any(|field| field.data_type().primitive_width().is_none());
        Ok(if is_heavy { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(if is_heavy { FEW } else { MANY })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::{Int32Array, ListArray, RecordBatch, StringArray},
        datatypes::Int32Type,
    };
    use datafusion::prelude::SessionContext;
    use std::sync::Arc;

    #[tokio::test]
    async fn few_rows_where_lists_or_texts_are_gathered() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), Some(2)])]);
        let (numbers, texts) = (Int32Array::from(vec![1]), StringArray::from(vec!["a"]));
        let columns = [("n", Arc::new(numbers) as _), ("l", Arc::new(lists) as _), ("s", Arc::new(texts) as _)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let context = SessionContext::new();
        context.register_batch("t", batch).unwrap();
        for (sql, rows) in [
            ("select n from t", MANY),
            ("select l from t", MANY),
            ("select n, count(*) from t group by n", MANY),
            ("select n, avg(x) from (select n, unnest(l) as x from t) group by n", MANY),
            ("select n from t order by n", MANY),
            ("select s from t", MANY),
            ("select s, n from t order by n", FEW),
            ("select s, count(*) from t group by s", FEW),
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
