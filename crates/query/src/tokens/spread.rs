//! Lists along responses as one row a position.

use arrow::{
    array::{Array, ArrayRef, AsArray, Int32Array, ListArray, RecordBatch, UInt32Array},
    compute::{take, take_record_batch},
    error::ArrowError,
};

/// Some rows of a batch, and how long the response of each is.
pub(super) struct Rows {
    lengths: Vec<usize>,
}

impl Rows {
    /// `rows` of `batch`; the batch itself where these are all of its rows.
    pub fn of(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch, ArrowError> {
        let all = rows.len() == batch.num_rows() && rows.iter().zip(0..).all(|(row, i)| *row == i);
        match all {
            true => Ok(batch.clone()),
            false => take_record_batch(batch, &UInt32Array::from(rows.to_vec())),
        }
    }

    /// The responses of `ids`, one list of token ids a row.
    pub fn new(ids: &ListArray) -> Self {
        Self { lengths: (0..ids.len()).map(|row| ids.value_length(row) as usize).collect() }
    }

    /// Positions of all rows.
    pub fn positions(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// The position of each row of the table, from 0 in each response.
    pub fn numbered(&self) -> Int32Array {
        Int32Array::from_iter_values(self.lengths.iter().flat_map(|length| 0..*length as i32))
    }

    /// One value a row, repeated along its response.
    pub fn repeated(&self, column: &dyn Array) -> Result<ArrayRef, ArrowError> {
        let row_of = (0u32..).zip(&self.lengths).flat_map(|(row, length)| std::iter::repeat_n(row, *length));
        take(column, &UInt32Array::from_iter_values(row_of), None)
    }

    /// One entry a position; none where a row's list is null. `None` where a list is not as long as its response: the
    /// row, and the length found.
    pub fn spread(&self, column: &ArrayRef) -> Result<Result<ArrayRef, (usize, usize)>, ArrowError> {
        let lists = column.as_list::<i32>();
        let found = |row: usize| if lists.is_null(row) { self.lengths[row] } else { lists.value_length(row) as usize };
        if let Some(row) = (0..lists.len()).find(|row| found(*row) != self.lengths[*row]) {
            return Ok(Err((row, found(row))));
        }
        if lists.null_count() == 0 {
            let start = lists.value_offsets().first().map_or(0, |start| *start as usize);
            return Ok(Ok(lists.values().slice(start, self.positions())));
        }
        let entries = (0..lists.len()).flat_map(|row| {
            let start = lists.value_offsets()[row] as u32;
            let valid = lists.is_valid(row);
            (0..self.lengths[row] as u32).map(move |i| valid.then_some(start + i))
        });
        take(lists.values(), &entries.collect::<UInt32Array>(), None).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::{
        array::Float32Array,
        datatypes::{Float32Type, Int32Type},
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn spreading_is_what_a_loop_gives(
            table in prop::collection::vec((prop::collection::vec(-9f32..0.0, 0..5), any::<bool>()), 1..9),
            skip in 0usize..4,
        ) {
            let skip = skip.min(table.len() - 1);
            let ids = ListArray::from_iter_primitive::<Int32Type, _, _>(
                table.iter().map(|(values, _)| Some((0..values.len() as i32).map(Some)))).slice(skip, table.len() - skip);
            let nullable = ListArray::from_iter_primitive::<Float32Type, _, _>(
                table.iter().map(|(values, null)| (!null).then(|| values.iter().copied().map(Some).collect::<Vec<_>>())));
            let nullable: ArrayRef = Arc::new(nullable.slice(skip, table.len() - skip));
            let rows = Rows::new(&ids);
            let kept = &table[skip..];
            let expected: Float32Array =
                kept.iter().flat_map(|(values, null)| values.iter().map(move |x| (!null).then_some(*x))).collect();
            let spread = rows.spread(&nullable).unwrap().unwrap();
            prop_assert_eq!(spread.as_primitive::<Float32Type>(), &expected);
            let ids: ArrayRef = Arc::new(ids);
            let spread = rows.spread(&ids).unwrap().unwrap();
            prop_assert_eq!(spread.as_primitive::<Int32Type>(), &rows.numbered());
            let index = UInt32Array::from_iter_values(0..kept.len() as u32);
            let repeated = rows.repeated(&index).unwrap();
            let expected: Vec<u32> =
                kept.iter().enumerate().flat_map(|(row, (values, _))| vec![row as u32; values.len()]).collect();
            prop_assert_eq!(repeated.as_ref(), &UInt32Array::from(expected) as &dyn Array);
        }
    }

    #[test]
    fn a_list_of_another_length_is_named() {
        let lists = |lengths: [usize; 2]| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lengths.map(|n| Some(vec![Some(1); n]))))
        };
        let rows = Rows::new(lists([2, 3]).as_list());
        assert_eq!(rows.spread(&lists([2, 2])).unwrap().unwrap_err(), (1, 2));
    }
}
