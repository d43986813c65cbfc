//! SQL over rows that are no store's: the results of many runs, one row each.

use crate::{Answer, QueryError, Result, statement::only_reads};
use arrow::array::RecordBatch;
use datafusion::{error::DataFusionError, prelude::SessionContext};

/// The answer to `sql` over one table `name` of `rows`.
///
/// # Errors
/// [`QueryError::Sql`] for a query that is not understood or would write.
pub async fn ask(name: &str, rows: RecordBatch, sql: &str) -> Result<Answer> {
    let failed = |error: DataFusionError| QueryError::Sql(error.find_root().to_string());
    let context = SessionContext::new();
    context.register_batch(name, rows).map_err(failed)?;
    let frame = context.sql_with_options(sql, only_reads()).await.map_err(failed)?;
    Ok(Answer::new(frame.execute_stream().await.map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, render};
    use arrow::array::{ArrayRef, Float64Array};
    use std::sync::Arc;

    #[tokio::test]
    async fn one_table_is_asked_and_not_changed() {
        let rows = || {
            let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 3.0]));
            RecordBatch::try_from_iter([("accuracy", column)]).unwrap()
        };
        let answer = ask("results", rows(), "select avg(accuracy) as mean, stddev(accuracy) as sd from results").await;
        assert_eq!(render(answer.unwrap(), Format::Csv).await.unwrap(), "mean,sd\n2,1.4142135623730951\n");
        for (sql, says) in [
            ("select acuracy from results", "acuracy"),
            ("select * from others", "others"),
            ("create table t as select 1", "DDL not supported"),
        ] {
            let error = ask("results", rows(), sql).await.err().unwrap().to_string();
            assert!(error.contains(says), "{sql}: {error}");
        }
    }
}
