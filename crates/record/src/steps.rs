//! What the learner saw in one step: a row for each rollout it consumed.

use crate::{RecordError, column, schema};
use arrow::{
    array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::Float32Type,
};
use std::sync::Arc;

/// One consumed rollout as the learner saw it; fields as in `schemas/steps.toml`.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "schemas/steps.toml describes each column")]
pub struct ConsumedRollout {
    pub rollout_id: String,
    pub staleness: Option<u32>,
    pub learner_logprobs: Vec<f32>,
    pub reverse_kl: Option<Vec<f32>>,
    pub forward_kl: Option<Vec<f32>>,
    pub entropy: Vec<f32>,
}

/// The step record of `step` as columns.
///
/// # Errors
/// [`RecordError::Row`] if a list does not have its row's length.
pub fn encode_step(step: u64, rows: &[ConsumedRollout]) -> Result<RecordBatch, RecordError> {
    for (row, r) in rows.iter().enumerate() {
        let positions = r.learner_logprobs.len();
        for (column, length) in [
            ("reverse_kl", r.reverse_kl.as_ref().map_or(positions, Vec::len)),
            ("forward_kl", r.forward_kl.as_ref().map_or(positions, Vec::len)),
            ("entropy", r.entropy.len()),
        ] {
            if length != positions {
                let expected = format!("{positions} positions, as in `learner_logprobs`");
                return Err(RecordError::Row { row, column, expected, found: length.to_string() });
            }
        }
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_value(step as i64, rows.len())),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.rollout_id))),
        Arc::new(Int32Array::from_iter(rows.iter().map(|r| Some(r.staleness? as i32)))),
        column::list::<Float32Type>(rows.iter().map(|r| r.learner_logprobs.as_slice())),
        column::optional_list::<Float32Type>(rows.iter().map(|r| r.reverse_kl.as_deref())),
        column::optional_list::<Float32Type>(rows.iter().map(|r| r.forward_kl.as_deref())),
        column::list::<Float32Type>(rows.iter().map(|r| r.entropy.as_slice())),
    ];
    Ok(RecordBatch::try_new(schema::STEPS.clone(), columns)?)
}
