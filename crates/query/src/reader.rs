//! The rows of one part of a table: from its objects, and only if a column is wanted that the log does not tell.

use crate::{
    QueryError, Result,
    parts::{Part, Source},
    tokenizer::RunTokenizer,
};
use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray},
    datatypes::{Field, SchemaRef},
};
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
    pub tokenizer: Arc<RunTokenizer>,
}

impl Opener {
    /// The columns of `schema` for the rows of `part`; `known` names the columns whose value `part` brings along.
    pub async fn read(self, part: Part, schema: SchemaRef, known: SchemaRef) -> Result<RecordBatch> {
        if let Source::Tokens(of) = &part.source {
            return of.read(&self, &part, schema, &known).await;
        }
        let told = schema.fields().iter().map(|field| told_by_the_log(&part, field, &known));
        let mut columns = told.collect::<Result<Vec<_>>>()?;
        if columns.iter().any(Option::is_none) {
            self.count();
            let halves = self.open(&part.source, part.borrowed).await?;
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

    /// The rows of `source`, in the parent's store if it is borrowed: one batch, or two whose rows lie side by side.
    pub async fn open(&self, source: &Source, borrowed: bool) -> Result<Vec<RecordBatch>> {
        let store = self.parent.as_ref().filter(|_| borrowed).unwrap_or(&self.store);
        Ok(match source {
            Source::Rollouts(object) => vec![store.get_rollouts(object).await?.as_record_batch().clone()],
            Source::Scores(object) => vec![store.get_scores(object).await?],
            Source::Scored { rollouts, scores } => {
                let scored = store.get_scored(rollouts, scores).await?;
                vec![scored.rollouts().as_record_batch().clone(), scored.scores().clone()]
            }
            Source::StepRecord(object) => vec![store.get_step_record(object).await?],
            // Its reader opens what it wants as the sources above.
            Source::Tokens(_) => vec![],
        })
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
