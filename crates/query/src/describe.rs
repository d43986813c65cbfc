//! What there is to ask about, tables, columns and functions, each with its sentence; and how it will be answered.

use crate::functions::FUNCTIONS;
use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, StringArray},
    datatypes::{DataType, Schema, SchemaRef},
    error::ArrowError,
};
use record::schema::COMMENT;
use std::{collections::HashMap, sync::Arc};

fn texts<S: Into<String>>(columns: [(&str, Vec<S>); 2]) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter(columns.map(|(name, values)| (name, column(values))))
}

fn column<S: Into<String>>(values: Vec<S>) -> ArrayRef {
    Arc::new(StringArray::from(values.into_iter().map(Into::into).collect::<Vec<String>>()))
}

fn sentence(metadata: &HashMap<String, String>) -> String {
    metadata.get(COMMENT).cloned().unwrap_or_default()
}

/// `show tables`.
pub(crate) fn tables<'a>(tables: impl Iterator<Item = (String, &'a SchemaRef)>) -> Result<RecordBatch, ArrowError> {
    let (names, comments) = tables.map(|(name, schema)| (name, sentence(schema.metadata()))).unzip();
    texts([("table_name", names), ("comment", comments)])
}

/// `show functions`.
pub(crate) fn functions() -> Result<RecordBatch, ArrowError> {
    let (calls, comments) = FUNCTIONS.into_iter().unzip();
    texts([("function", calls), ("comment", comments)])
}

/// `describe TABLE`.
pub(crate) fn columns(schema: &Schema) -> Result<RecordBatch, ArrowError> {
    let fields = || schema.fields().iter();
    RecordBatch::try_from_iter([
        ("column_name", column(fields().map(|field| field.name().clone()).collect())),
        ("data_type", column(fields().map(|field| words(field.data_type())).collect())),
        ("is_nullable", column(fields().map(|field| if field.is_nullable() { "yes" } else { "no" }).collect())),
        ("comment", column(fields().map(|field| sentence(field.metadata())).collect())),
    ])
}

/// The answer to `explain`, columns `plan_type` and `plan`, with a row for each line of each plan.
pub(crate) fn plan_lines(plans: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let (mut types, mut lines) = (Vec::new(), Vec::new());
    for plans in plans {
        let [kinds, plans] = [plans.column(0).as_string::<i32>(), plans.column(1).as_string::<i32>()];
        for (kind, plan) in kinds.iter().zip(plans) {
            for line in plan.unwrap_or_default().lines() {
                types.push(kind.unwrap_or_default());
                lines.push(line);
            }
        }
    }
    texts([("plan_type", types), ("plan", lines)])
}

/// A type as `schemas/` writes it.
fn words(data_type: &DataType) -> String {
    match data_type {
        DataType::List(item) => format!("list<{}>", words(item.data_type())),
        DataType::Timestamp(..) => "timestamp".into(),
        plain => plain.to_string().to_lowercase(),
    }
}
