//! A predicate over rollouts and their scores, row by row: which of the rows that are there a learner takes.

use crate::{QueryError, Result, hint::did_you_mean, repeatable::varying};
use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray},
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef},
};
use datafusion::{
    common::{
        DFSchema,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    error::DataFusionError,
    logical_expr::{Expr, utils},
    physical_expr::PhysicalExpr,
    prelude::SessionContext,
    sql::sqlparser::ast,
};
use record::{
    RowSet,
    schema::{ROLLOUTS, SCORES},
};
use std::{ops::ControlFlow, sync::Arc};

/// Columns of which a batch has one value, which the log knows.
const TOLD: [&str; 3] = ["unit", "policy_version", "teacher_id"];
/// Columns that are packed together with a top-k, though they have one value a position.
const PACKED_TAILS: [&str; 2] = ["sampler_tail_logprobs", "teacher_tail_logprobs"];

/// A condition on one rollout and its scores, such as `finish = 'stop' and source = 'gsm8k'`.
///
/// Invariant: what it says of a row depends on that row alone, so that it says the same whenever it is asked.
#[derive(Clone, Debug)]
pub struct Predicate {
    text: String,
    columns: SchemaRef,
    rows: Arc<dyn PhysicalExpr>,
    /// The part of it that columns of [`TOLD`] decide, which every row must pass.
    told: Option<Arc<dyn PhysicalExpr>>,
    /// Whether that is all of it.
    is_told: bool,
}

impl Predicate {
    /// Reads a predicate over the plain columns of `schemas/rollouts.toml` and `schemas/scores.toml`: those that have a
    /// value a row or a position.
    ///
    /// # Errors
    /// [`QueryError::Column`] with the nearest name for a column that does not exist; [`QueryError::Predicate`] for one that
    /// is not plain, for what is no condition, and for what a row alone does not decide: aggregates, subqueries, functions
    /// that give another value each time.
    pub fn parse(text: &str) -> Result<Self> {
        let state = SessionContext::new().state();
        let all = of_fields(plain_columns())?;
        let fault = |what: &str| QueryError::Predicate { text: text.into(), what: what.into() };
        let dialect = state.config().options().sql_parser.dialect;
        let parsed = state.sql_to_expr(text, &dialect).map_err(|error| fault(&words(&error)))?;
        if has_subquery(&parsed) {
            return Err(fault("it has a subquery; a row alone has to decide"));
        }
        let expr = state.create_logical_expr(text, &all).map_err(|error| unplanned(text, &error))?.unalias();
        if let Some(what) = beyond_a_row(&expr).map_err(|error| fault(&words(&error)))? {
            return Err(fault(&what));
        }
        // Only what is read.
        let read = expr.column_refs();
        let columns: Vec<FieldRef> =
            plain_columns().filter(|field| read.iter().any(|column| column.name() == field.name())).collect();
        let compile = |expr: Expr, fields: Vec<FieldRef>| {
            let physical = state.create_physical_expr(expr, &of_fields(fields.into_iter())?);
            physical.map_err(|error| fault(&words(&error)))
        };
        let rows = compile(expr.clone(), columns.clone())?;
        let columns = Arc::new(Schema::new(columns));
        match rows.data_type(&columns).map_err(|error| fault(&words(&error)))? {
            DataType::Boolean => {}
            other => {
                return Err(fault(&format!(
                    "it gives {}, no truth; compare it with something",
                    other.to_string().to_lowercase()
                )));
            }
        }
        let is_told = |expr: &Expr| {
            let columns = expr.column_refs();
            !columns.is_empty() && columns.iter().all(|column| TOLD.contains(&column.name()))
        };
        let (told, others): (Vec<Expr>, Vec<Expr>) =
            utils::split_conjunction_owned(expr).into_iter().partition(is_told);
        let told = utils::conjunction(told).map(|told| compile(told, told_columns().collect())).transpose()?;
        Ok(Self { text: text.into(), columns, rows, told, is_told: others.is_empty() })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The columns that it reads.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.fields().iter().map(|field| field.name().as_str())
    }

    /// Whether it reads a column that only scores have.
    pub fn reads_scores(&self) -> bool {
        self.columns().any(|name| ROLLOUTS.field_with_name(name).is_err())
    }

    /// What the log says of all rows of a batch: whether they pass, or nothing, where the rows themselves have to be asked.
    ///
    /// # Errors
    /// [`QueryError::Run`] if it fails on these values.
    pub fn of_batch(&self, unit: u64, policy_version: u64, teacher_id: &str) -> Result<Option<bool>> {
        let Some(told) = &self.told else { return Ok(None) };
        // Numbers of the log are far below 2^63.
        let number = |value: u64| Arc::new(Int64Array::from(vec![value as i64])) as ArrayRef;
        let columns = vec![number(unit), number(policy_version), Arc::new(StringArray::from(vec![teacher_id])) as _];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(told_columns().collect::<Vec<_>>())), columns)?;
        let passes = !selected(told.as_ref(), &batch)?.is_empty();
        Ok((!passes || self.is_told).then_some(passes))
    }

    /// The rows of `batch` that pass; it has the columns that the predicate reads, among others or not.
    ///
    /// # Errors
    /// [`QueryError::Run`] if a column is not there, or it fails on a value.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<RowSet> {
        self.evaluate_side_by_side(&[batch])
    }

    /// As [`Predicate::evaluate`], of batches whose rows lie side by side: rollouts and their scores. The first that has a
    /// column gives it.
    ///
    /// # Errors
    /// As [`Predicate::evaluate`].
    pub fn evaluate_side_by_side(&self, batches: &[&RecordBatch]) -> Result<RowSet> {
        let column = |name: &str| {
            let column = batches.iter().find_map(|batch| batch.column_by_name(name)).cloned();
            column.ok_or_else(|| QueryError::Run(format!("`{}` reads `{name}`, which the rows do not have", self.text)))
        };
        let columns = self.columns().map(column).collect::<Result<Vec<_>>>()?;
        let rows = batches.first().map_or(0, |batch| batch.num_rows());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        selected(self.rows.as_ref(), &RecordBatch::try_new_with_options(self.columns.clone(), columns, &options)?)
    }
}

/// The rows for which `expr` is true; unknown is not true.
fn selected(expr: &dyn PhysicalExpr, batch: &RecordBatch) -> Result<RowSet> {
    let rows = batch.num_rows();
    let passes = expr.evaluate(batch).and_then(|passes| passes.into_array(rows));
    let passes = passes.map_err(|error| QueryError::Run(words(&error)))?;
    let Some(passes) = passes.as_boolean_opt() else {
        return Err(QueryError::Run("a predicate gave no truths".into()));
    };
    Ok((0..rows).filter(|row| passes.is_valid(*row) && passes.value(*row)).map(|row| row as u32).collect())
}

/// What a predicate can read. Columns with a list at each position are packed, and unpacking them only to choose rows would
/// cost what choosing saves.
fn plain_columns() -> impl Iterator<Item = FieldRef> {
    all_columns().filter(|field| is_plain(field))
}

fn all_columns() -> impl Iterator<Item = FieldRef> {
    // Equal in both.
    let of_scores = SCORES.fields().iter().filter(|field| ROLLOUTS.field_with_name(field.name()).is_err());
    // An earlier version of a schema may lack a column, which then is null.
    ROLLOUTS.fields().iter().chain(of_scores).map(|field| Arc::new(field.as_ref().clone().with_nullable(true)))
}

fn is_plain(field: &Field) -> bool {
    let nested = matches!(field.data_type(), DataType::List(item) if matches!(item.data_type(), DataType::List(_)));
    !nested && !PACKED_TAILS.contains(&field.name().as_str())
}

fn told_columns() -> impl Iterator<Item = FieldRef> {
    TOLD.iter().filter_map(|name| all_columns().find(|field| field.name() == name))
}

fn of_fields(fields: impl Iterator<Item = FieldRef>) -> Result<DFSchema> {
    let schema = Schema::new(fields.collect::<Vec<_>>());
    DFSchema::try_from(schema).map_err(|error| QueryError::Run(error.to_string()))
}

fn has_subquery(expr: &ast::Expr) -> bool {
    ast::visit_expressions(expr, |expr| match expr {
        ast::Expr::Subquery(_) | ast::Expr::InSubquery { .. } | ast::Expr::Exists { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}

/// What in `expr` a row alone does not decide, if anything.
fn beyond_a_row(expr: &Expr) -> Result<Option<String>, DataFusionError> {
    let mut found = None;
    expr.apply(|node| {
        found = match node {
            Expr::AggregateFunction(of) => {
                Some(format!("`{}` is of many rows; a row alone has to decide", of.func.name()))
            }
            Expr::WindowFunction(of) => Some(format!("`{}` is of many rows; a row alone has to decide", of.fun.name())),
            Expr::Placeholder(of) => Some(format!("`{}` has no value here", of.id)),
            other => varying(other)
                .map(|function| format!("`{function}` gives another value each time; a row alone has to decide")),
        };
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn unplanned(text: &str, error: &DataFusionError) -> QueryError {
    use datafusion::common::SchemaError::FieldNotFound;
    let fault = |what: String| QueryError::Predicate { text: text.into(), what };
    let DataFusionError::SchemaError(missing, _) = error.find_root() else { return fault(words(error)) };
    let FieldNotFound { field, .. } = missing.as_ref() else { return fault(words(error)) };
    let name = field.name();
    if let Some(table) = &field.relation {
        return fault(format!("a selection names columns without a table: `{name}`, not `{table}.{name}`"));
    }
    if all_columns().any(|column| column.name() == name) {
        return fault(format!(
            "`{name}` has a list at each position; a selection reads columns with a value a row or position"
        ));
    }
    let columns: Vec<FieldRef> = plain_columns().collect();
    let hint = did_you_mean(name, "columns", columns.iter().map(|column| column.name().as_str()));
    QueryError::Column { name: name.into(), hint }
}

fn words(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::SQL(error, _) => error.to_string(),
        root => root.strip_backtrace(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::{Int32Array, ListArray},
        buffer::OffsetBuffer,
    };
    use proptest::prelude::*;

    /// Rows as rollouts have them, of the columns that the tests ask of.
    fn batch(rows: &[(i64, Option<&str>, i64, usize)]) -> RecordBatch {
        let ids = OffsetBuffer::from_lengths(rows.iter().map(|(.., length)| *length));
        let tokens = Arc::new(Int32Array::from_value(7, ids.last().map_or(0, |last| *last as usize)));
        let item = Arc::new(Field::new("item", DataType::Int32, false));
        RecordBatch::try_from_iter([
            ("prompt_id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef),
            ("source", Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>())),
            ("policy_version", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)))),
            ("response_ids", Arc::new(ListArray::new(item, ids, tokens, None))),
            ("sample", Arc::new(Int32Array::from_iter_values(0..rows.len() as i32))),
        ])
        .unwrap()
    }

    proptest! {
        #[test]
        fn rows_are_selected_as_a_loop_does(
            rows in prop::collection::vec((0i64..6, prop::option::of(0usize..3), 0i64..4, 0usize..5), 0..40),
            (least, most, version) in (0i64..6, 0usize..5, 0i64..4),
        ) {
            let sources = ["gsm8k", "math", ""];
            let rows: Vec<_> = rows.into_iter().map(|(id, source, v, n)| (id, source.map(|i| sources[i]), v, n)).collect();
            let text = format!(
                "(source = 'gsm8k' or prompt_id >= {least}) and cardinality(response_ids) <= {most} and policy_version <> {version}");
            let predicate = Predicate::parse(&text).unwrap();
            let expected: RowSet = (0u32..).zip(&rows).filter(|(_, (id, source, v, n))| {
                // An unknown source is not 'gsm8k', and cardinality of an empty list is 0.
                (*source == Some("gsm8k") || *id >= least) && *n <= most && *v != version
            }).map(|(row, _)| row).collect();
            prop_assert_eq!(predicate.evaluate(&batch(&rows)).unwrap(), expected);
            for v in 0..4 {
                let told = predicate.of_batch(0, v, "t").unwrap();
                prop_assert_eq!(told, if v as i64 == version { Some(false) } else { None });
            }
        }
    }

    #[test]
    fn what_the_log_knows_opens_nothing() {
        let whole = Predicate::parse("policy_version between 2 and 4 and teacher_id = 'math'").unwrap();
        for (version, teacher, passes) in [(1, "math", false), (2, "math", true), (4, "math", true), (3, "code", false)]
        {
            assert_eq!(whole.of_batch(0, version, teacher).unwrap(), Some(passes), "{version} {teacher}");
        }
        let part = Predicate::parse("finish = 'stop' and unit < 5").unwrap();
        assert_eq!((part.of_batch(5, 0, "").unwrap(), part.of_batch(4, 0, "").unwrap()), (Some(false), None));
        // An `or` is not decided by one side.
        assert_eq!(Predicate::parse("finish = 'stop' or unit < 5").unwrap().of_batch(9, 0, "").unwrap(), None);
        assert_eq!(Predicate::parse("finish = 'stop'").unwrap().of_batch(0, 0, "").unwrap(), None);
    }

    #[test]
    fn it_reads_what_it_names() {
        let predicate = Predicate::parse("finish = 'stop' and array_max(teacher_logprobs) < 0").unwrap();
        assert_eq!(predicate.columns().collect::<Vec<_>>(), ["finish", "teacher_logprobs"]);
        assert!(predicate.reads_scores() && !Predicate::parse("sample < 2").unwrap().reads_scores());
        let error = predicate.evaluate(&batch(&[])).unwrap_err().to_string();
        assert!(error.contains("reads `finish`, which the rows do not have"), "{error}");
    }

    #[test]
    fn what_a_row_alone_does_not_decide_is_refused() {
        for (text, says) in [
            ("finsh = 'stop'", "there is no column `finsh`\nhint: did you mean `finish`?"),
            ("rollouts.finish = 'stop'", "names columns without a table: `finish`, not `rollouts.finish`"),
            ("prompt_id + 1", "it gives int64, no truth"),
            ("finish", "it gives utf8, no truth"),
            ("count(*) > 1", "`count` is of many rows"),
            ("row_number() over () < 3", "is of many rows"),
            ("random() < 0.5", "`random` gives another value each time"),
            ("now() > to_timestamp(started_at)", "`now` gives another value each time"),
            ("prompt_id in (select 1)", "it has a subquery"),
            ("exists (select 1 from steps)", "it has a subquery"),
            ("prompt_id = (select max(step) from steps)", "it has a subquery"),
            ("cardinality(teacher_top_ids) > 0", "`teacher_top_ids` has a list at each position"),
            ("array_max(teacher_tail_logprobs) > 0", "`teacher_tail_logprobs` has a list at each position"),
            ("sample < 2; drop table x", "`sample < 2; drop table x`"),
            ("sample <", "sample <"),
            ("", "``"),
            ("nosuch(sample) = 1", "nosuch"),
            ("sample = $1", "`$1` has no value here"),
        ] {
            let error = Predicate::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text} should say {says:?}: {error}");
        }
    }
}
