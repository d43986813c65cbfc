//! The rows of one part of a table: from its objects, and only if a column is wanted that the log does not tell.

use crate::{
    QueryError, Result,
    meter::Meter,
    parts::{Part, Source},
    records::Records,
    tokenizer::RunTokenizer,
};
use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray},
    datatypes::{Field, SchemaRef},
};
use record::Budget;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use store::Store;

/// Opens objects, and counts the parts for which it had to.
#[derive(Clone)]
pub(crate) struct Opener {
    pub store: Store,
    /// The store of the run whose rows this one replays, where it can be reached.
    pub parent: Option<Store>,
    pub opened: Arc<AtomicU64>,
    pub meter: Arc<Meter>,
    pub tokenizer: Arc<RunTokenizer>,
    pub records: Records,
}

impl Opener {
    /// The columns of `schema` for the rows of `part`; `known` names the columns whose value `part` brings along.
    pub async fn read(&self, part: Part, schema: SchemaRef, known: SchemaRef) -> Result<RecordBatch> {
        if let Source::Tokens(of) = &part.source {
            return of.read(self, &part, schema, &known).await;
        }
        let told = schema.fields().iter().map(|field| told_by_the_log(&part, field, &known));
        let mut columns = told.collect::<Result<Vec<_>>>()?;
        if columns.iter().any(Option::is_none) {
            self.count();
            let wanted = |column: &str| schema.column_with_name(column).is_some();
            let halves = self.open(&part.source, part.borrowed, wanted).await?;
            if let Some(half) = halves.iter().find(|half| half.num_rows() != part.rows) {
                return Err(unfit(&part, format!("{} rows", part.rows), half.num_rows().to_string()));
            }
            for (column, field) in columns.iter_mut().zip(schema.fields()).filter(|(column, _)| column.is_none()) {
                *column = halves.iter().find_map(|half| half.column_by_name(field.name())).cloned();
            }
        }
        let found = columns.into_iter().zip(schema.fields()).map(|(column, field)| {
            column.ok_or_else(|| unfit(&part, format!("a column `{}`", field.name()), "none of that name".into()))
        });
        let options = RecordBatchOptions::new().with_row_count(Some(part.rows));
        Ok(RecordBatch::try_new_with_options(schema.clone(), found.collect::<Result<_>>()?, &options)?)
    }

    /// Counts a batch or step record that is opened.
    pub fn count(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// The rows of `source`, in the parent's store if it is borrowed: one batch, or two whose rows lie side by side. Of packed columns
    /// only those that are `wanted` are decoded; the others are empty.
    pub async fn open(
        &self,
        source: &Source,
        borrowed: bool,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<RecordBatch>> {
        let store = self.parent.as_ref().filter(|_| borrowed).unwrap_or(&self.store);
        let budget = packed_columns(wanted);
        Ok(match source {
            Source::Rollouts(object) => {
                vec![store.get_rollouts_within(object, budget).await?.as_record_batch().clone()]
            }
            Source::Scores(object) => vec![store.get_scores_within(object, budget).await?],
            Source::Scored { rollouts, scores } => {
                let scored = store.get_scored_within(rollouts, scores, budget).await?;
                vec![scored.rollouts().as_record_batch().clone(), scored.scores().clone()]
            }
            Source::StepRecord(object) => vec![store.get_step_record(object).await?],
            // Its reader opens what it wants as the sources above.
            Source::Tokens(_) => vec![],
        })
    }
}

/// Nothing of the groups of columns of which none is wanted. What a teacher says of draws or of a top-k goes with them.
fn packed_columns(wanted: impl Fn(&str) -> bool) -> Budget {
    let read = |columns: &[&str]| if columns.iter().any(|column| wanted(column)) { None } else { Some(0) };
    Budget {
        draws: read(&["draw_ids", "draw_counts", "draw_logprobs", "draw_teacher_logprobs"]),
        teacher_draws: read(&["teacher_draw_ids", "teacher_draw_counts", "teacher_draw_logprobs"]),
        teacher_top_k: read(&["teacher_top_ids", "teacher_top_logprobs", "teacher_tail_logprobs"]),
        sampler_top_k: read(&[
            "sampler_top_ids",
            "sampler_top_logprobs",
            "sampler_tail_logprobs",
            "sampler_top_teacher_logprobs",
            "sampler_top_teacher_tail_logprobs",
        ]),
    }
}

pub(crate) fn unfit(part: &Part, expected: String, found: String) -> QueryError {
    QueryError::Rows { key: part.source.key().into(), expected, found }
}

/// A column that needs no object: one value for all rows, the row's number, or the id made from both.
fn told_by_the_log(part: &Part, field: &Field, known: &SchemaRef) -> Result<Option<ArrayRef>> {
    if let Some((i, _)) = known.column_with_name(field.name()) {
        let array = part.known[i].to_array_of_size(part.rows);
        return array.map(Some).map_err(|error| QueryError::Run(error.to_string()));
    }
    let rows = 0..part.rows;
    Ok(match (field.name().as_str(), &part.batch) {
        ("row", Some(_)) => Some(Arc::new(Int64Array::from_iter_values(rows.map(|row| row as i64)))),
        ("rollout_id", Some(batch)) => {
            Some(Arc::new(StringArray::from_iter_values(rows.map(|row| record::rollout_id(batch, row)))))
        }
        _ => None,
    })
}
