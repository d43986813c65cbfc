//! The rows of one part of a table: from its objects, and only if a column is wanted that the log does not tell.

use crate::{
    QueryError, Result,
    meter::Meter,
    parts::{Part, Source},
    records::Records,
    tokenizer::RunTokenizer,
};
use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray},
    datatypes::{Field, Schema, SchemaRef},
};
use record::schema::{ROLLOUTS, SCORES, STEPS};
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
            let wanted = |column: &str| schema.index_of(column).is_ok_and(|i| columns[i].is_none());
            let halves = self.open(&part.source, &part, wanted).await?;
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

    /// The rows of `source`, in the parent's store if `part` is borrowed: one batch, or two whose rows lie side by side. They have the
    /// columns that are `wanted`, and no others are looked at but those that say which rollout a row is.
    pub async fn open(&self, source: &Source, part: &Part, wanted: impl Fn(&str) -> bool) -> Result<Vec<RecordBatch>> {
        let store = self.parent.as_ref().filter(|_| part.borrowed).unwrap_or(&self.store);
        let names = |schema: &Schema| -> Vec<String> {
            schema.fields().iter().map(|field| field.name().clone()).filter(|name| wanted(name)).collect()
        };
        Ok(match source {
            Source::Rollouts(object) => vec![store.get_some(object, &ROLLOUTS, names(&ROLLOUTS)).await?],
            Source::Scores(object) => vec![store.get_some(object, &SCORES, names(&SCORES)).await?],
            Source::StepRecord(object) => vec![store.get_some(object, &STEPS, names(&STEPS)).await?],
            Source::Scored { rollouts, scores } => {
                let (mut of_rollouts, mut of_scores) = (names(&ROLLOUTS), names(&SCORES));
                for columns in [&mut of_rollouts, &mut of_scores] {
                    columns.retain(|column| column != ROW_ID);
                    columns.push(ROW_ID.into());
                }
                let of_rollouts = store.get_some(rollouts, &ROLLOUTS, of_rollouts);
                let (of_rollouts, of_scores) =
                    futures::future::try_join(of_rollouts, store.get_some(scores, &SCORES, of_scores)).await?;
                check_pairs(part, &of_rollouts, &of_scores)?;
                vec![of_rollouts, of_scores]
            }
            // Its reader opens what it wants as the sources above.
            Source::Tokens(_) => vec![],
        })
    }
}

/// Says in a batch of rollouts and in one of scores which rollout a row is.
const ROW_ID: &str = "rollout_id";

/// That each row of `scores` scores the rollout beside it.
fn check_pairs(part: &Part, rollouts: &RecordBatch, scores: &RecordBatch) -> Result<()> {
    fn ids(batch: &RecordBatch) -> impl Iterator<Item = Option<&str>> {
        batch.column_by_name(ROW_ID).and_then(|column| column.as_string_opt::<i32>()).into_iter().flatten()
    }
    if rollouts.num_rows() != scores.num_rows() {
        return Err(unfit(part, format!("{} rows", rollouts.num_rows()), scores.num_rows().to_string()));
    }
    match ids(rollouts).zip(ids(scores)).find(|(rollout, scored)| rollout != scored) {
        None => Ok(()),
        Some((rollout, scored)) => {
            let text = |id: Option<&str>| format!("`{}`", id.unwrap_or_default());
            Err(unfit(part, format!("scores of {}", text(rollout)), text(scored)))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Digest, ObjectRef};

    fn ids(ids: &[&str]) -> RecordBatch {
        RecordBatch::try_from_iter([(ROW_ID, Arc::new(StringArray::from(ids.to_vec())) as ArrayRef)]).unwrap()
    }

    #[test]
    fn scores_of_other_rollouts_are_told_of() {
        let object = ObjectRef { key: "scores/x".into(), bytes: 0, digest: Digest::of(b"") };
        let source = Source::Scores(object);
        let part = Part { known: vec![], rows: 2, batch: None, borrowed: false, source };
        check_pairs(&part, &ids(&["a-0", "a-1"]), &ids(&["a-0", "a-1"])).unwrap();
        let error = |scores: &[&str]| check_pairs(&part, &ids(&["a-0", "a-1"]), &ids(scores)).unwrap_err().to_string();
        let swapped = error(&["a-1", "a-0"]);
        assert!(swapped.contains("scores/x") && swapped.contains("`a-0`") && swapped.contains("`a-1`"), "{swapped}");
        let fewer = error(&["a-0"]);
        assert!(fewer.contains("2 rows") && fewer.contains("1"), "{fewer}");
    }
}
