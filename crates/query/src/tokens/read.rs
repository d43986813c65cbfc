//! The positions of some rows of a batch, from its rollouts, and from its scores and its step record if they are wanted.

use super::{From, STORED, spread::Rows};
use crate::{
    QueryError, Result,
    parts::{Part, Source},
    reader::{Opener, unfit},
    tokenizer::Vocabulary,
};
use arrow::{
    array::{
        ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, StringArray, StringBuilder, new_null_array,
    },
    datatypes::{Field, Int32Type, Schema, SchemaRef},
};
use record::ObjectRef;
use std::{collections::HashMap, sync::Arc};

/// Rows of one batch, and the record of the step that trained on them.
#[derive(Clone, Debug)]
pub(crate) struct TokenRows {
    pub rollouts: ObjectRef,
    pub scores: ObjectRef,
    /// None where no step trained on them, or it was given up.
    pub record: Option<ObjectRef>,
    /// Ascending.
    pub rows: Vec<u32>,
}

/// The rows that a part's columns are made of.
struct Opened {
    rows: Rows,
    rollouts: RecordBatch,
    scores: Option<RecordBatch>,
    record: Option<RecordBatch>,
}

impl TokenRows {
    /// The columns of `schema` for every position of the rows; `known` names those whose value `part` brings along.
    pub async fn read(
        &self,
        opener: &Opener,
        part: &Part,
        schema: SchemaRef,
        known: &SchemaRef,
    ) -> Result<RecordBatch> {
        let opened = self.open(opener, part, &schema).await?;
        let positions = opened.rows.positions();
        let mut columns = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            columns.push(match (known.index_of(field.name()), field.name().as_str()) {
                (Ok(i), _) => {
                    let array = part.known[i].to_array_of_size(positions);
                    array.map_err(|error| QueryError::Run(error.to_string()))?
                }
                (_, "position") => Arc::new(opened.rows.numbered()),
                (_, "row") => {
                    opened.rows.repeated(&Int64Array::from_iter_values(self.rows.iter().map(|row| i64::from(*row))))?
                }
                (_, "rollout_id") => opened.rows.repeated(&self.rollout_ids(part))?,
                (_, "token") => {
                    let vocabulary = opener.tokenizer.load(&opener.store).await?;
                    opened.texts(&vocabulary)?
                }
                _ => opened.stored(self, part, field)?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(positions));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    /// The keys of the objects that hold the columns of `schema`. The rollouts' tell how many positions there are.
    pub fn opens(&self, schema: &Schema) -> Vec<&str> {
        let scores = wants(schema, From::Scores).then_some(&self.scores);
        let record = self.record.as_ref().filter(|_| wants(schema, From::Record));
        [Some(&self.rollouts), scores, record].into_iter().flatten().map(|object| object.key.as_str()).collect()
    }

    /// What the columns of `schema` need.
    async fn open(&self, opener: &Opener, part: &Part, schema: &SchemaRef) -> Result<Opened> {
        opener.count();
        let source = match wants(schema, From::Scores) {
            true => Source::Scored { rollouts: self.rollouts.clone(), scores: self.scores.clone() },
            false => Source::Rollouts(self.rollouts.clone()),
        };
        let mut halves = Vec::new();
        let wanted = |stored: &str| {
            stored == "response_ids"
                || STORED.iter().any(|of| of.2 == stored && schema.column_with_name(of.0).is_some())
        };
        for half in opener.open(&source, part, wanted).await? {
            if half.num_rows() != part.rows {
                return Err(unfit(part, format!("{} rows", part.rows), half.num_rows().to_string()));
            }
            halves.push(Rows::of(&half, &self.rows)?);
        }
        let record = match &self.record {
            Some(record) if wants(schema, From::Record) => Some(self.open_record(opener, part, record).await?),
            _ => None,
        };
        let scores = (halves.len() > 1).then(|| halves.remove(1));
        let rollouts = halves.remove(0);
        let ids = rollouts.column_by_name("response_ids").and_then(|column| column.as_list_opt::<i32>());
        let rows =
            Rows::new(ids.ok_or_else(|| unfit(part, "a column `response_ids`".into(), "none of that name".into()))?);
        Ok(Opened { rows, rollouts, scores, record })
    }

    /// The step record's rows for these rows, found by their ids.
    async fn open_record(&self, opener: &Opener, part: &Part, record: &ObjectRef) -> Result<RecordBatch> {
        let open = async {
            opener.count();
            Ok(opener.store.get_step_record(record).await?)
        };
        let batch = opener.records.get(&record.key, open).await?;
        let lacks = |found: String| QueryError::Rows {
            key: record.key.clone(),
            expected: format!("{} rows of the batch `{}`", self.rows.len(), part.batch.as_deref().unwrap_or_default()),
            found,
        };
        let ids = batch.column_by_name("rollout_id").and_then(|column| column.as_string_opt::<i32>());
        let ids = ids.ok_or_else(|| lacks("no column `rollout_id`".into()))?;
        let place: HashMap<&str, u32> = ids.iter().flatten().zip(0..).collect();
        let rollout_ids = self.rollout_ids(part);
        let rows =
            rollout_ids.iter().flatten().map(|id| place.get(id).copied().ok_or_else(|| lacks(format!("no `{id}`"))));
        Ok(Rows::of(&batch, &rows.collect::<Result<Vec<_>>>()?)?)
    }

    fn rollout_ids(&self, part: &Part) -> StringArray {
        let batch = part.batch.as_deref().unwrap_or_default();
        StringArray::from_iter_values(self.rows.iter().map(|row| record::rollout_id(batch, *row as usize)))
    }
}

/// Whether a column of `schema` comes from there.
fn wants(schema: &Schema, from: From) -> bool {
    STORED.iter().any(|of| of.1 == from && schema.column_with_name(of.0).is_some())
}

impl Opened {
    /// A column that comes from a stored one.
    fn stored(&self, of: &TokenRows, part: &Part, field: &Field) -> Result<ArrayRef> {
        let no_column = |key: &str, name: &str| QueryError::Rows {
            key: key.into(),
            expected: format!("a column `{name}`"),
            found: "none of that name".into(),
        };
        let Some((_, from, name, _)) = STORED.iter().find(|stored| stored.0 == field.name()) else {
            return Err(no_column(part.source.key(), field.name()));
        };
        let (batch, key) = match from {
            From::Row | From::Rollouts => (Some(&self.rollouts), &of.rollouts.key),
            From::Scores => (self.scores.as_ref(), &of.scores.key),
            From::Record => (self.record.as_ref(), of.record.as_ref().map_or(&of.rollouts.key, |record| &record.key)),
        };
        let Some(batch) = batch else { return Ok(new_null_array(field.data_type(), self.rows.positions())) };
        let column = batch.column_by_name(name).ok_or_else(|| no_column(key, name))?;
        match from {
            From::Row => Ok(self.rows.repeated(column)?),
            _ => self.rows.spread(column)?.map_err(|(row, found)| QueryError::Rows {
                key: key.clone(),
                expected: format!("a list as long as the response in `{name}` of row {}", of.rows[row]),
                found: format!("{found} entries"),
            }),
        }
    }

    /// The text of each sampled token.
    fn texts(&self, vocabulary: &Vocabulary) -> Result<ArrayRef> {
        let ids = self.rollouts.column_by_name("response_ids").map(|column| self.rows.spread(column));
        let Some(Ok(ids)) = ids.transpose()? else { return Ok(Arc::new(StringArray::new_null(self.rows.positions()))) };
        let mut known = HashMap::new();
        let mut texts = StringBuilder::new();
        for id in ids.as_primitive::<Int32Type>().values() {
            if !known.contains_key(id) {
                known.insert(*id, vocabulary.text(&[*id]));
            }
            texts.append_value(&known[id]);
        }
        Ok(Arc::new(texts.finish()))
    }
}
