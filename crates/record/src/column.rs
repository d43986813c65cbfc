//! Typed columns: list columns made from slices, and read back as slices without a copy.

use crate::{Ragged, RecordError, RowSet, schema::item_field};
use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, AsArray, ListArray, PrimitiveArray, RecordBatch, StringArray, UInt32Array,
    },
    buffer::{NullBuffer, OffsetBuffer, ScalarBuffer},
    compute::take_record_batch,
    datatypes::ArrowNativeType,
};
use std::sync::Arc;

/// One row of a `list<list<T>>` column: a list at each position, borrowed from the batch.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a, T> {
    offsets: &'a [i32],
    values: &'a [T],
}

impl<'a, T> Lists<'a, T> {
    /// Number of positions.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The list at position `t`.
    ///
    /// # Panics
    /// If `t >= len()`, like a slice.
    pub fn get(&self, t: usize) -> &'a [T] {
        &self.values[self.offsets[t] as usize..self.offsets[t + 1] as usize]
    }

    /// The lists in order of position.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [T]> + use<'a, T> {
        let values = self.values;
        self.offsets.windows(2).map(move |w| &values[w[0] as usize..w[1] as usize])
    }

    /// All lists of the row end to end.
    pub fn values(&self) -> &'a [T] {
        &self.values[self.offsets[0] as usize..self.offsets[self.len()] as usize]
    }

    /// An owned copy.
    pub fn to_ragged(&self) -> Ragged<T>
    where
        T: Copy,
    {
        self.iter().map(|list| list.iter().copied()).collect()
    }
}

/// A `list<T>` column.
#[derive(Clone, Debug)]
pub(crate) struct ListColumn<T: ArrowNativeType> {
    offsets: OffsetBuffer<i32>,
    values: ScalarBuffer<T>,
    nulls: Option<NullBuffer>,
}

impl<T: ArrowNativeType> ListColumn<T> {
    /// The column of that name.
    pub fn of<P: ArrowPrimitiveType<Native = T>>(batch: &RecordBatch, name: &str) -> Result<Self, RecordError> {
        let list = column(batch, name)?.as_list_opt::<i32>().ok_or_else(|| wrong_type(name))?;
        let values = list.values().as_primitive_opt::<P>().ok_or_else(|| wrong_type(name))?;
        Ok(Self { offsets: list.offsets().clone(), values: values.values().clone(), nulls: list.nulls().cloned() })
    }

    pub fn row(&self, i: usize) -> &[T] {
        &self.values[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    pub fn optional_row(&self, i: usize) -> Option<&[T]> {
        self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(i)).then(|| self.row(i))
    }

    /// Where each row's list begins, and the last ends.
    pub fn offsets(&self) -> &[i32] {
        &self.offsets
    }

    /// The lists of all rows end to end.
    pub fn all(&self) -> &[T] {
        within(&self.offsets, &self.values)
    }

    pub fn is_all_null(&self) -> bool {
        is_all_null(self.nulls.as_ref())
    }

    pub fn has_nulls(&self) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.null_count() > 0)
    }
}

/// A `list<list<T>>` column.
#[derive(Clone, Debug)]
pub(crate) struct NestedColumn<T: ArrowNativeType> {
    rows: OffsetBuffer<i32>,
    offsets: OffsetBuffer<i32>,
    values: ScalarBuffer<T>,
    nulls: Option<NullBuffer>,
}

impl<T: ArrowNativeType> NestedColumn<T> {
    pub fn of<P: ArrowPrimitiveType<Native = T>>(batch: &RecordBatch, name: &str) -> Result<Self, RecordError> {
        let outer = column(batch, name)?.as_list_opt::<i32>().ok_or_else(|| wrong_type(name))?;
        let inner = outer.values().as_list_opt::<i32>().ok_or_else(|| wrong_type(name))?;
        let values = inner.values().as_primitive_opt::<P>().ok_or_else(|| wrong_type(name))?;
        let (rows, nulls) = (outer.offsets().clone(), outer.nulls().cloned());
        Ok(Self { rows, offsets: inner.offsets().clone(), values: values.values().clone(), nulls })
    }

    pub fn optional_row(&self, i: usize) -> Option<Lists<'_, T>> {
        self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(i)).then(|| self.row(i))
    }

    pub fn row(&self, i: usize) -> Lists<'_, T> {
        let (start, end) = (self.rows[i] as usize, self.rows[i + 1] as usize);
        Lists { offsets: &self.offsets[start..=end], values: &self.values }
    }

    /// Where each row's positions begin, and the last ends.
    pub fn rows(&self) -> &[i32] {
        &self.rows
    }

    /// Where each position's list begins, and the last ends, of all rows.
    pub fn offsets(&self) -> &[i32] {
        &self.offsets[self.rows[0] as usize..=self.rows[self.rows.len() - 1] as usize]
    }

    /// The lists of all positions end to end.
    pub fn all(&self) -> &[T] {
        within(self.offsets(), &self.values)
    }

    pub fn is_all_null(&self) -> bool {
        is_all_null(self.nulls.as_ref())
    }

    pub fn has_nulls(&self) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.null_count() > 0)
    }
}

fn within<'a, T>(offsets: &[i32], values: &'a [T]) -> &'a [T] {
    &values[offsets[0] as usize..offsets[offsets.len() - 1] as usize]
}

fn is_all_null(nulls: Option<&NullBuffer>) -> bool {
    nulls.is_some_and(|nulls| nulls.null_count() == nulls.len())
}

/// Whether all of `values` hold. Without a branch a value, so that many are compared at once; in pieces, to end soon where one does not.
pub(crate) fn all_hold<T: Copy>(values: &[T], holds: impl Fn(T) -> bool) -> bool {
    values.chunks(4096).all(|piece| piece.iter().fold(true, |all, value| all & holds(*value)))
}

/// These rows of a batch, copied: its buffers are not held.
pub(crate) fn rows(batch: &RecordBatch, rows: &RowSet) -> Result<RecordBatch, RecordError> {
    if rows.end() as usize > batch.num_rows() {
        let (expected, found) = (format!("at least {}", rows.end()), batch.num_rows().to_string());
        return Err(RecordError::Schema { what: "rows".into(), expected, found });
    }
    Ok(take_record_batch(batch, &UInt32Array::from_iter_values(rows.iter()))?)
}

/// A plain column of that name.
pub(crate) fn primitive<T: ArrowPrimitiveType>(
    batch: &RecordBatch,
    name: &str,
) -> Result<ScalarBuffer<T::Native>, RecordError> {
    let array = column(batch, name)?.as_primitive_opt::<T>().ok_or_else(|| wrong_type(name))?;
    Ok(array.values().clone())
}

/// A text column of that name.
pub(crate) fn text(batch: &RecordBatch, name: &str) -> Result<StringArray, RecordError> {
    column(batch, name)?.as_string_opt::<i32>().cloned().ok_or_else(|| wrong_type(name))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, RecordError> {
    batch.column_by_name(name).ok_or_else(|| RecordError::Schema {
        what: "columns".into(),
        expected: format!("`{name}`"),
        found: "no such column".into(),
    })
}

fn wrong_type(name: &str) -> RecordError {
    RecordError::Schema {
        what: format!("column `{name}`"),
        expected: "its schema's type".into(),
        found: "another".into(),
    }
}

/// Makes a `list<T>` column, one list a row.
pub(crate) fn list<'a, T: ArrowPrimitiveType>(rows: impl Iterator<Item = &'a [T::Native]>) -> ArrayRef {
    let mut values = Vec::new();
    let mut lengths = Vec::new();
    for row in rows {
        values.extend_from_slice(row);
        lengths.push(row.len());
    }
    let values = PrimitiveArray::<T>::new(values.into(), None);
    wrap(lengths, Arc::new(values), None)
}

/// Makes a nullable `list<T>` column; a missing list is null.
pub(crate) fn optional_list<'a, T: ArrowPrimitiveType>(
    rows: impl Iterator<Item = Option<&'a [T::Native]>>,
) -> ArrayRef {
    let mut values = Vec::new();
    let mut lengths = Vec::new();
    let mut valid = Vec::new();
    for row in rows {
        values.extend_from_slice(row.unwrap_or_default());
        lengths.push(row.map_or(0, <[T::Native]>::len));
        valid.push(row.is_some());
    }
    let values = PrimitiveArray::<T>::new(values.into(), None);
    wrap(lengths, Arc::new(values), Some(valid.into()))
}

/// Makes a `list<list<T>>` column, one [`Ragged`] a row.
pub(crate) fn nested<'a, T: ArrowPrimitiveType>(rows: impl Iterator<Item = &'a Ragged<T::Native>>) -> ArrayRef
where
    T::Native: 'a,
{
    nested_lists::<T>(rows.map(Some), false)
}

/// Makes a nullable `list<list<T>>` column; a missing [`Ragged`] is null.
pub(crate) fn optional_nested<'a, T: ArrowPrimitiveType>(
    rows: impl Iterator<Item = Option<&'a Ragged<T::Native>>>,
) -> ArrayRef
where
    T::Native: 'a,
{
    nested_lists::<T>(rows, true)
}

fn nested_lists<'a, T: ArrowPrimitiveType>(
    rows: impl Iterator<Item = Option<&'a Ragged<T::Native>>>,
    nullable: bool,
) -> ArrayRef
where
    T::Native: 'a,
{
    let mut values = Vec::new();
    let mut inner = Vec::new();
    let mut outer = Vec::new();
    let mut valid = Vec::new();
    for row in rows {
        values.extend_from_slice(row.map_or(&[][..], Ragged::values));
        inner.extend(row.into_iter().flat_map(Ragged::iter).map(<[T::Native]>::len));
        outer.push(row.map_or(0, Ragged::len));
        valid.push(row.is_some());
    }
    let values = PrimitiveArray::<T>::new(values.into(), None);
    wrap(outer, wrap(inner, Arc::new(values), None), nullable.then(|| valid.into()))
}

fn wrap(lengths: Vec<usize>, values: ArrayRef, nulls: Option<NullBuffer>) -> ArrayRef {
    let field = item_field(values.data_type().clone());
    Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), values, nulls))
}

pub(crate) type Ints = ListColumn<i32>;
pub(crate) type Longs = ListColumn<i64>;
pub(crate) type Floats = ListColumn<f32>;
pub(crate) type NestedInts = NestedColumn<i32>;
pub(crate) type NestedFloats = NestedColumn<f32>;
