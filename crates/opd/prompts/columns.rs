//! Rows from Parquet.

use super::{Record, place};
use crate::error::{CommandError, Result};
use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Field, Float64Type, Int64Type, UInt64Type},
    error::ArrowError,
};
use model::template::Value;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use std::{collections::BTreeSet, fs::File, path::Path, sync::Arc};

/// Reads each row, of its columns only those that are `wanted`. `take` is also given the names of all columns.
///
/// # Errors
/// A file that is damaged or no Parquet, a wanted column of a type that has no value in a template, and what `take`
/// returns.
pub(super) fn read(
    path: &Path,
    wanted: &BTreeSet<String>,
    mut take: impl FnMut(Record, &[String]) -> Result<()>,
) -> Result<()> {
    let fault = |what: String| CommandError::new(format!("prompts `{}`: {what}", path.display()));
    let file = File::open(path).map_err(|error| fault(error.to_string()))?;
    let damaged = |what: String, error: &dyn std::fmt::Display| {
        CommandError::new(format!("{what}: {error}")).hint("write the file again, or copy it again")
    };
    let damaged_at = |line: usize, error: &dyn std::fmt::Display| damaged(place(path, line), error);
    let damaged = |error: &dyn std::fmt::Display| {
        damaged(format!("prompts `{}`: not a whole Parquet file", path.display()), error)
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(&error))?;
    let fields = reader.schema().fields().clone();
    let columns: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
    let read: Vec<usize> = (0..columns.len()).filter(|&i| wanted.contains(&columns[i])).collect();
    let mut types = Vec::new();
    for &i in &read {
        types.push(plain_type(fields[i].data_type()).map_err(|found| {
            let what = format!("column `{}` is {}, and {found} cannot be read", columns[i], fields[i].data_type());
            fault(what).hint("a column is text, a number, a truth, or a list or struct of such")
        })?);
    }
    let mask = ProjectionMask::roots(reader.parquet_schema(), read.iter().copied());
    let reader = reader.with_projection(mask).build().map_err(|error| damaged(&error))?;
    let mut line = 0;
    for batch in reader {
        let batch = batch.map_err(|error| damaged_at(line + 1, &error))?;
        // Columns come in the file's order, as `read` has them.
        let arrays: Result<Vec<ArrayRef>, ArrowError> =
            batch.columns().iter().zip(&types).map(|(array, to)| cast(array, to)).collect();
        let arrays = arrays.map_err(|error| damaged_at(line + 1, &error))?;
        for row in 0..batch.num_rows() {
            line += 1;
            let names = read.iter().map(|&i| columns[i].as_str());
            let fields = Value::from_pairs(names.zip(arrays.iter().map(|array| value(array, row))));
            take(Record { line, fields }, &columns)?;
        }
    }
    Ok(())
}

/// The type that a column is read as, of the few that [`value`] knows; the type that it cannot be read for otherwise.
fn plain_type(found: &DataType) -> Result<DataType, DataType> {
    use DataType::*;
    let inner = |field: &Field| -> Result<Arc<Field>, DataType> {
        Ok(Arc::new(Field::new(field.name(), plain_type(field.data_type())?, true)))
    };
    Ok(match found {
        Null | Boolean => found.clone(),
        Utf8 | LargeUtf8 | Utf8View => Utf8,
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => Int64,
        UInt64 => UInt64,
        Float16 | Float32 | Float64 => Float64,
        Dictionary(_, values) => plain_type(values)?,
        List(item) | LargeList(item) | FixedSizeList(item, _) => List(inner(item)?),
        Struct(fields) => Struct(fields.iter().map(|field| inner(field)).collect::<Result<_, _>>()?),
        other => return Err(other.clone()),
    })
}

/// One value of a column of a [`plain_type`]. In a struct, what is null is left out: Parquet has no other word for a key
/// that is not there.
fn value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::from(());
    }
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|item| value(&items, item)).collect::<Vec<Value>>().into()
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let there = fields.iter().zip(columns).filter(|(_, column)| !column.is_null(row));
            Value::from_pairs(there.map(|(field, column)| (field.name().as_str(), value(column, row))))
        }
        _ => Value::from(()),
    }
}
