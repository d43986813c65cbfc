//! Columns that a budget asks nothing of. Whoever can read a batch column by column leaves them out.

use crate::{
    Budget,
    packed::{GROUPS, empty_lists},
};
use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
};

/// Which columns of `schema`, by their place, [`crate::unpack_within`] does not look at within `budget`.
pub fn unread(schema: &Schema, budget: &Budget) -> Vec<usize> {
    // Draws outside a top-k need the whole of it, and only the batch tells whether they are such.
    let budget = match budget.draws {
        Some(0) => *budget,
        _ => Budget { sampler_top_k: None, ..*budget },
    };
    let groups = GROUPS.iter().filter(|group| group.is_left_out(&budget));
    groups.flat_map(|group| group.stored()).filter_map(|name| schema.index_of(name).ok()).collect()
}

/// `read`, some columns of a batch, as a batch of `schema`: lists that were not read are empty, other columns null.
///
/// # Errors
/// If a column that may not be null is lacking, or one has another type.
pub fn fill_unread(read: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| match read.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => empty_lists(field.data_type(), read.num_rows()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
}
