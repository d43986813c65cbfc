//! The Arrow schemas, built from the files in `schemas/`, and the check that a batch follows one.

use crate::{RecordError, packed};
use arrow::{
    array::{Array, RecordBatch, RecordBatchOptions, new_null_array},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

/// Metadata key under which an object names its schema.
pub const SCHEMA_NAME: &str = "opd.schema";
/// Metadata key under which an object gives its schema's version.
pub const SCHEMA_VERSION: &str = "opd.version";
/// Metadata key of a column's one-sentence description.
pub const COMMENT: &str = "comment";

/// `schemas/rollouts.toml` as an Arrow schema.
pub static ROLLOUTS: LazyLock<SchemaRef> = LazyLock::new(|| parse(include_str!("../../../schemas/rollouts.toml")));
/// `schemas/scores.toml` as an Arrow schema.
pub static SCORES: LazyLock<SchemaRef> = LazyLock::new(|| parse(include_str!("../../../schemas/scores.toml")));
/// `schemas/steps.toml` as an Arrow schema.
pub static STEPS: LazyLock<SchemaRef> = LazyLock::new(|| parse(include_str!("../../../schemas/steps.toml")));

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    version: u32,
    doc: String,
    column: Vec<Column>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    name: String,
    r#type: String,
    #[serde(default)]
    nullable: bool,
    doc: String,
}

/// Reads one file of `schemas/`. The files are part of the program and read by a test, so a fault in one is a bug here.
fn parse(text: &str) -> SchemaRef {
    let table: Table = toml::from_str(text).expect("a file of schemas/ is valid");
    let fields: Vec<Field> = table
        .column
        .into_iter()
        .map(|column| {
            let comment = HashMap::from([(COMMENT.to_string(), column.doc)]);
            Field::new(column.name, data_type(&column.r#type), column.nullable).with_metadata(comment)
        })
        .collect();
    let metadata = HashMap::from([
        (SCHEMA_NAME.to_string(), table.name),
        (SCHEMA_VERSION.to_string(), table.version.to_string()),
        (COMMENT.to_string(), table.doc),
    ]);
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

fn data_type(word: &str) -> DataType {
    match word {
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "float32" => DataType::Float32,
        "utf8" => DataType::Utf8,
        list => {
            let item = list.strip_prefix("list<").and_then(|rest| rest.strip_suffix('>'));
            let item = item.unwrap_or_else(|| panic!("schemas/ uses the unknown type `{list}`"));
            DataType::List(item_field(data_type(item)))
        }
    }
}

/// The field of a list's items: never null.
pub(crate) fn item_field(item: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", item, false))
}

/// `batch` as a batch of `expected`: packed columns are unpacked, and one of an earlier version gets the columns it lacks, full of nulls.
///
/// # Errors
/// As [`check`].
pub fn up_to_date(batch: RecordBatch, expected: &Schema) -> Result<RecordBatch, RecordError> {
    let batch = packed::unpack(batch)?;
    let found = batch.schema();
    let batch = match (version(&found), version(expected)) {
        (Some(theirs), Some(ours)) if theirs < ours => {
            // A column that may not be null is found to be so by the check.
            let lacking = expected.fields().iter().skip(batch.num_columns());
            let lacking: Vec<Field> = lacking.map(|field| field.as_ref().clone().with_nullable(true)).collect();
            let nulls = lacking.iter().map(|field| new_null_array(field.data_type(), batch.num_rows()));
            let columns = batch.columns().iter().cloned().chain(nulls).collect();
            let fields: Vec<Field> =
                found.fields().iter().map(|field| field.as_ref().clone()).chain(lacking.clone()).collect();
            let mut metadata = found.metadata().clone();
            metadata.insert(SCHEMA_VERSION.to_string(), ours.to_string());
            RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, metadata)), columns)?
        }
        _ => batch,
    };
    check(&batch, expected)?;
    Ok(batch)
}

/// The columns of `batch` that are called `columns`, in that order, as columns of `expected`: unpacked, and full of nulls where the
/// batch is of an earlier version that lacks one. `batch` may be short of columns that [`packed::stored_columns`] does not name.
///
/// # Errors
/// [`RecordError::Schema`] with the first column that is not there or is another than `expected` says.
pub fn select(batch: RecordBatch, expected: &Schema, columns: &[String]) -> Result<RecordBatch, RecordError> {
    let batch = packed::unpack(batch)?;
    let found = batch.schema();
    let is_earlier = match (version(&found), version(expected)) {
        (Some(theirs), Some(ours)) => theirs < ours,
        _ => false,
    };
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for name in columns {
        let difference = |expected: &str, found: &str| RecordError::Schema {
            what: format!("column `{name}`"),
            expected: expected.into(),
            found: found.into(),
        };
        let unknown = || difference("a column of the schema", "no such column");
        let (_, field) = expected.fields().find(name).ok_or_else(unknown)?;
        let array = match batch.column_by_name(name) {
            Some(array) => array.clone(),
            None if is_earlier => new_null_array(field.data_type(), batch.num_rows()),
            None => return Err(difference("to be there", "nothing")),
        };
        if array.data_type() != field.data_type() {
            return Err(difference(&field.data_type().to_string(), &array.data_type().to_string()));
        }
        if !field.is_nullable() && array.null_count() > 0 {
            return Err(difference("no nulls", &format!("{} nulls", array.null_count())));
        }
        fields.push(field.clone());
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?)
}

fn version(schema: &Schema) -> Option<u32> {
    schema.metadata.get(SCHEMA_VERSION)?.parse().ok()
}

/// Checks that `batch` has the name, version, columns and types of `expected`, and nulls only where they are allowed.
///
/// # Errors
/// [`RecordError::Schema`] with the first difference.
pub fn check(batch: &RecordBatch, expected: &Schema) -> Result<(), RecordError> {
    let found = batch.schema();
    let difference = |what: String, expected: String, found: String| RecordError::Schema { what, expected, found };
    for key in [SCHEMA_NAME, SCHEMA_VERSION] {
        let (want, have) = (expected.metadata.get(key), found.metadata.get(key));
        if want != have {
            let text = |value: Option<&String>| value.cloned().unwrap_or_else(|| "nothing".into());
            return Err(difference(format!("metadata `{key}`"), text(want), text(have)));
        }
    }
    for (i, want) in expected.fields().iter().enumerate() {
        let name = want.name();
        let Some(have) = found.fields().get(i) else {
            return Err(difference(format!("column {i}"), format!("`{name}`"), "nothing".into()));
        };
        if have.name() != name || have.data_type() != want.data_type() {
            let text = |field: &Field| format!("`{}` {}", field.name(), field.data_type());
            return Err(difference(format!("column {i}"), text(want), text(have)));
        }
        let nulls = batch.column(i).null_count();
        if !want.is_nullable() && nulls > 0 {
            return Err(difference(format!("column `{name}`"), "no nulls".into(), format!("{nulls} nulls")));
        }
    }
    if found.fields().len() > expected.fields().len() {
        let extra = found.field(expected.fields().len());
        return Err(difference("columns".into(), "no more".into(), format!("`{}`", extra.name())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_parses_and_every_column_has_a_sentence() {
        for schema in [&*ROLLOUTS, &*SCORES, &*STEPS] {
            assert!(schema.metadata.contains_key(SCHEMA_NAME));
            for field in schema.fields() {
                let comment = &field.metadata()[COMMENT];
                assert!(comment.ends_with('.'), "{} lacks its sentence", field.name());
            }
        }
    }

    #[test]
    fn nested_lists_have_items_that_are_never_null() {
        let field = ROLLOUTS.field_with_name("draw_ids").unwrap();
        let DataType::List(outer) = field.data_type() else { panic!("{field}") };
        let DataType::List(inner) = outer.data_type() else { panic!("{outer}") };
        assert!(!outer.is_nullable() && !inner.is_nullable());
        assert_eq!(inner.data_type(), &DataType::Int32);
    }
}
