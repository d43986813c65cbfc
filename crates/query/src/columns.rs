//! Columns made from iterators, each with the sentence that says what it holds.

use arrow::{
    array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringBuilder, TimestampMillisecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use record::schema::COMMENT;
use std::{collections::HashMap, sync::Arc};

/// The metadata that carries a sentence.
pub(crate) fn comment(text: &str) -> HashMap<String, String> {
    HashMap::from([(COMMENT.to_string(), text.to_string())])
}

/// A field that is never null, with its sentence.
pub(crate) fn field(name: &str, data_type: DataType, text: &str) -> Field {
    Field::new(name, data_type, false).with_metadata(comment(text))
}

/// `schema` without any sentence, as queries see it: joins merge the metadata of their sides in one way when a query is planned
/// and in another when it runs, and DataFusion refuses what differs.
pub(crate) fn bare(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone().with_metadata(HashMap::new()));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Columns of one length, put down one after another; of those that nobody wants no values are made.
pub(crate) struct Columns {
    /// Places of those that are wanted, ascending; none is all.
    wanted: Option<Vec<usize>>,
    next: usize,
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    /// None yet; all that come are wanted.
    pub fn all() -> Self {
        Self { wanted: None, next: 0, fields: Vec::new(), arrays: Vec::new() }
    }

    /// None yet; of those that come, counted from 0, these are wanted.
    pub fn only(wanted: Vec<usize>) -> Self {
        Self { wanted: Some(wanted), ..Self::all() }
    }

    fn put(mut self, name: &str, text: &str, nullable: bool, array: impl FnOnce() -> ArrayRef) -> Self {
        let is_wanted = self.wanted.as_ref().is_none_or(|wanted| wanted.contains(&self.next));
        self.next += 1;
        if is_wanted {
            let array = array();
            self.fields.push(field(name, array.data_type().clone(), text).with_nullable(nullable));
            self.arrays.push(array);
        }
        self
    }

    /// Integers. Counts and numbers of the log are far below 2^63, where i64 ends.
    pub fn int(self, name: &str, text: &str, values: impl Iterator<Item = u64>) -> Self {
        self.signed(name, text, values.map(|value| value as i64))
    }

    /// Integers that may be negative.
    pub fn signed(self, name: &str, text: &str, values: impl Iterator<Item = i64>) -> Self {
        self.put(name, text, false, || Arc::new(Int64Array::from_iter_values(values)))
    }

    /// Text.
    pub fn text<S: AsRef<str>>(self, name: &str, text: &str, values: impl Iterator<Item = S>) -> Self {
        self.put(name, text, false, || {
            // `from_iter_values` panics where an iterator does not know its length.
            let mut builder = StringBuilder::new();
            values.for_each(|value| builder.append_value(value));
            Arc::new(builder.finish())
        })
    }

    /// Floats.
    pub fn real(self, name: &str, text: &str, values: impl Iterator<Item = f64>) -> Self {
        self.put(name, text, false, || Arc::new(Float64Array::from_iter_values(values)))
    }

    /// Floats, some of which are not known.
    pub fn maybe_real(self, name: &str, text: &str, values: impl Iterator<Item = Option<f64>>) -> Self {
        self.put(name, text, true, || Arc::new(values.collect::<Float64Array>()))
    }

    /// Integers, some of which are not known.
    pub fn maybe_int(self, name: &str, text: &str, values: impl Iterator<Item = Option<u64>>) -> Self {
        self.maybe_signed(name, text, values.map(|value| value.map(|value| value as i64)))
    }

    /// Integers that may be negative, some of which are not known.
    pub fn maybe_signed(self, name: &str, text: &str, values: impl Iterator<Item = Option<i64>>) -> Self {
        self.put(name, text, true, || Arc::new(values.collect::<Int64Array>()))
    }

    /// Text, some of which is not known.
    pub fn maybe_text<S: AsRef<str>>(self, name: &str, text: &str, values: impl Iterator<Item = Option<S>>) -> Self {
        self.put(name, text, true, || {
            let mut builder = StringBuilder::new();
            values.for_each(|value| builder.append_option(value));
            Arc::new(builder.finish())
        })
    }

    /// Truths.
    pub fn flag(self, name: &str, text: &str, values: impl Iterator<Item = bool>) -> Self {
        self.put(name, text, false, || Arc::new(BooleanArray::from(values.collect::<Vec<_>>())))
    }

    /// Points in time, from milliseconds since 1970.
    pub fn time(self, name: &str, text: &str, values: impl Iterator<Item = i64>) -> Self {
        self.put(name, text, false, || {
            Arc::new(TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC"))
        })
    }

    /// Those that are wanted, in their order, as a batch whose schema says what the table holds.
    pub fn into_batch(self, text: &str) -> Result<RecordBatch, ArrowError> {
        let schema = Schema::new_with_metadata(self.fields, comment(text));
        RecordBatch::try_new(Arc::new(schema), self.arrays)
    }
}
