//! A batch of rollouts: one unit's rows, of one policy version and one teacher, as a checked view over Arrow columns.

mod whole;

use crate::{
    Finish, Lists, PolicyVersion, RecordError, RowSet, Sample, column,
    column::{Floats, Ints, Longs, NestedFloats, NestedInts},
    schema,
};
use arrow::{
    array::{ArrayRef, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray},
    buffer::ScalarBuffer,
    datatypes::{Float32Type, Int32Type, Int64Type},
};
use std::sync::Arc;

/// A rollout on its way into a batch: what was asked for, and what the sampler gave.
#[derive(Clone, Debug)]
pub struct NewRollout {
    /// The unit it was sampled for.
    pub unit: u64,
    /// The prompt's line in the prompt set.
    pub prompt_id: u64,
    /// Which of the prompt's samples.
    pub sample_index: u32,
    /// The prompt's `data_source`.
    pub source: String,
    /// The prompt's tokens.
    pub prompt_ids: Vec<i32>,
    /// The row's own seed.
    pub seed: u64,
    /// What was sampled.
    pub sample: Sample,
}

/// What all rows of a rollout batch share.
#[derive(Clone, Debug)]
pub struct RolloutBatchInfo {
    /// The batch's id; rollout ids are made from it.
    pub batch: String,
    /// The policy version whose weights sampled every row.
    pub policy_version: PolicyVersion,
    /// The teacher that is to score the rows.
    pub teacher_id: String,
    /// Sampling temperature.
    pub temperature: f32,
    /// Nucleus; 1 is the whole distribution.
    pub top_p: f32,
    /// Milliseconds since 1970.
    pub started_at: i64,
    /// Milliseconds since 1970.
    pub finished_at: i64,
}

/// A checked batch of rollouts. Invariant: it follows `schemas/rollouts.toml`, all rows have one policy version and one
/// teacher, and every per-position list has its response's length.
#[derive(Clone, Debug)]
pub struct RolloutBatch {
    batch: RecordBatch,
    policy_version: PolicyVersion,
    teacher_id: String,
    rollout_id: StringArray,
    unit: ScalarBuffer<i64>,
    prompt_id: ScalarBuffer<i64>,
    sample: ScalarBuffer<i32>,
    source: StringArray,
    prompt_ids: Ints,
    response_ids: Ints,
    loss_mask: Ints,
    sampler_logprobs: Floats,
    draw_ids: NestedInts,
    draw_counts: NestedInts,
    draw_logprobs: NestedFloats,
    sampler_top_ids: NestedInts,
    sampler_top_logprobs: NestedFloats,
    sampler_tail_logprobs: Floats,
    temperature: ScalarBuffer<f32>,
    finish: StringArray,
    seed: ScalarBuffer<i64>,
    draws_taken: Ints,
}

/// One row of a [`RolloutBatch`], borrowed; fields as in `schemas/rollouts.toml`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "schemas/rollouts.toml describes each column")]
pub struct Rollout<'a> {
    pub rollout_id: &'a str,
    pub unit: u64,
    pub prompt_id: u64,
    pub sample: u32,
    pub source: &'a str,
    pub policy_version: PolicyVersion,
    pub prompt_ids: &'a [i32],
    pub response_ids: &'a [i32],
    pub loss_mask: &'a [i32],
    pub sampler_logprobs: &'a [f32],
    pub draw_ids: Lists<'a, i32>,
    pub draw_counts: Lists<'a, i32>,
    pub draw_logprobs: Lists<'a, f32>,
    pub sampler_top_ids: Lists<'a, i32>,
    pub sampler_top_logprobs: Lists<'a, f32>,
    pub sampler_tail_logprobs: &'a [f32],
    pub temperature: f32,
    pub finish: &'a str,
    pub seed: u64,
    pub draws_taken: Option<&'a [i32]>,
}

impl RolloutBatch {
    /// Makes a batch of rows.
    ///
    /// # Errors
    /// As [`RolloutBatch::try_new`]: a sample whose parts do not fit each other.
    pub fn encode(info: &RolloutBatchInfo, rows: &[NewRollout]) -> Result<Self, RecordError> {
        let n = rows.len();
        let ids = (0..n).map(|row| rollout_id(&info.batch, row));
        let samples = || rows.iter().map(|row| &row.sample);
        let masks: Vec<Vec<i32>> = samples().map(|s| vec![1; s.response_ids.len()]).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(ids)),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.unit as i64))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.prompt_id as i64))),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.sample_index as i32))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.source))),
            Arc::new(StringArray::from_iter_values((0..n).map(|_| &info.teacher_id))),
            Arc::new(Int64Array::from_value(info.policy_version.0 as i64, n)),
            column::optional_list::<Int32Type>((0..n).map(|_| None)),
            column::optional_list::<Int64Type>((0..n).map(|_| None)),
            column::list::<Int32Type>(rows.iter().map(|row| row.prompt_ids.as_slice())),
            column::list::<Int32Type>(samples().map(|s| s.response_ids.as_slice())),
            column::list::<Int32Type>(masks.iter().map(Vec::as_slice)),
            column::list::<Float32Type>(samples().map(|s| s.sampler_logprobs.as_slice())),
            column::nested::<Int32Type>(samples().map(|s| &s.draw_ids)),
            column::nested::<Int32Type>(samples().map(|s| &s.draw_counts)),
            column::nested::<Float32Type>(samples().map(|s| &s.draw_logprobs)),
            column::nested::<Int32Type>(samples().map(|s| &s.sampler_top_ids)),
            column::nested::<Float32Type>(samples().map(|s| &s.sampler_top_logprobs)),
            column::list::<Float32Type>(samples().map(|s| s.sampler_tail_logprobs.as_slice())),
            Arc::new(Float32Array::from_value(info.temperature, n)),
            Arc::new(Float32Array::from_value(info.top_p, n)),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.seed as i64))),
            Arc::new(StringArray::from_iter_values(samples().map(|s| s.finish.unwrap_or(Finish::Length).as_str()))),
            Arc::new(Int64Array::from_value(info.started_at, n)),
            Arc::new(Int64Array::from_value(info.finished_at, n)),
            column::optional_list::<Int32Type>(samples().map(|s| s.draws_taken.as_deref())),
        ];
        Self::try_new(RecordBatch::try_new(schema::ROLLOUTS.clone(), columns)?)
    }

    /// Checks `batch` and takes it over.
    ///
    /// # Errors
    /// [`RecordError::Schema`] or [`RecordError::Row`] with the first thing that does not hold.
    pub fn try_new(batch: RecordBatch) -> Result<Self, RecordError> {
        let view = Self::over(batch)?;
        view.check()?;
        Ok(view)
    }

    /// Its columns, each of its schema's type; what they say is not checked.
    fn over(batch: RecordBatch) -> Result<Self, RecordError> {
        let batch = schema::up_to_date(batch, &schema::ROLLOUTS)?;
        if batch.num_rows() == 0 {
            return Err(RecordError::Schema { what: "rows".into(), expected: "at least 1".into(), found: "0".into() });
        }
        let versions = column::primitive::<Int64Type>(&batch, "policy_version")?;
        let teachers = column::text(&batch, "teacher_id")?;
        Ok(Self {
            policy_version: PolicyVersion(versions[0] as u64),
            teacher_id: teachers.value(0).to_string(),
            rollout_id: column::text(&batch, "rollout_id")?,
            unit: column::primitive::<Int64Type>(&batch, "unit")?,
            prompt_id: column::primitive::<Int64Type>(&batch, "prompt_id")?,
            sample: column::primitive::<Int32Type>(&batch, "sample")?,
            source: column::text(&batch, "source")?,
            prompt_ids: Ints::of::<Int32Type>(&batch, "prompt_ids")?,
            response_ids: Ints::of::<Int32Type>(&batch, "response_ids")?,
            loss_mask: Ints::of::<Int32Type>(&batch, "loss_mask")?,
            sampler_logprobs: Floats::of::<Float32Type>(&batch, "sampler_logprobs")?,
            draw_ids: NestedInts::of::<Int32Type>(&batch, "draw_ids")?,
            draw_counts: NestedInts::of::<Int32Type>(&batch, "draw_counts")?,
            draw_logprobs: NestedFloats::of::<Float32Type>(&batch, "draw_logprobs")?,
            sampler_top_ids: NestedInts::of::<Int32Type>(&batch, "sampler_top_ids")?,
            sampler_top_logprobs: NestedFloats::of::<Float32Type>(&batch, "sampler_top_logprobs")?,
            sampler_tail_logprobs: Floats::of::<Float32Type>(&batch, "sampler_tail_logprobs")?,
            temperature: column::primitive::<Float32Type>(&batch, "temperature")?,
            finish: column::text(&batch, "finish")?,
            seed: column::primitive::<Int64Type>(&batch, "seed")?,
            draws_taken: Ints::of::<Int32Type>(&batch, "draws_taken")?,
            batch,
        })
    }

    fn check(&self) -> Result<(), RecordError> {
        let versions = column::primitive::<Int64Type>(&self.batch, "policy_version")?;
        let teachers = column::text(&self.batch, "teacher_id")?;
        let spans = Longs::of::<Int64Type>(&self.batch, "span_versions")?;
        let is_whole = self.is_whole();
        for row in 0..self.len() {
            let fault =
                |column, expected: String, found: String| Err(RecordError::Row { row, column, expected, found });
            if versions[row] != versions[0] || versions[row] < 0 {
                return fault("policy_version", format!("{}, as in row 0", versions[0]), versions[row].to_string());
            }
            if teachers.value(row) != self.teacher_id {
                return fault("teacher_id", format!("`{}`, as in row 0", self.teacher_id), teachers.value(row).into());
            }
            if let Some(oldest) = spans.optional_row(row).and_then(|spans| spans.iter().min())
                && *oldest != versions[row]
            {
                return fault("span_versions", format!("{} as the oldest", versions[row]), oldest.to_string());
            }
            if !(self.temperature[row] > 0.0 && self.temperature[row].is_finite()) {
                return fault("temperature", "a number above 0".into(), self.temperature[row].to_string());
            }
            if !is_whole {
                check_row(row, &self.row(row))?;
            }
        }
        Ok(())
    }

    /// A batch of these rows alone, copied: it holds nothing of the others. What its rows say was checked.
    ///
    /// # Errors
    /// [`RecordError::Schema`] if there are none, or a row is not there.
    pub fn only(&self, rows: &RowSet) -> Result<Self, RecordError> {
        Self::over(column::rows(&self.batch, rows)?)
    }

    /// Number of rollouts.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Never: a batch has at least one row.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The policy version that sampled every row.
    pub fn policy_version(&self) -> PolicyVersion {
        self.policy_version
    }

    /// The teacher that is to score every row.
    pub fn teacher_id(&self) -> &str {
        &self.teacher_id
    }

    /// The columns.
    pub fn as_record_batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i >= len()`, like a slice.
    pub fn row(&self, i: usize) -> Rollout<'_> {
        Rollout {
            rollout_id: self.rollout_id.value(i),
            unit: self.unit[i] as u64,
            prompt_id: self.prompt_id[i] as u64,
            sample: self.sample[i] as u32,
            source: self.source.value(i),
            policy_version: self.policy_version,
            prompt_ids: self.prompt_ids.row(i),
            response_ids: self.response_ids.row(i),
            loss_mask: self.loss_mask.row(i),
            sampler_logprobs: self.sampler_logprobs.row(i),
            draw_ids: self.draw_ids.row(i),
            draw_counts: self.draw_counts.row(i),
            draw_logprobs: self.draw_logprobs.row(i),
            sampler_top_ids: self.sampler_top_ids.row(i),
            sampler_top_logprobs: self.sampler_top_logprobs.row(i),
            sampler_tail_logprobs: self.sampler_tail_logprobs.row(i),
            temperature: self.temperature[i],
            finish: self.finish.value(i),
            seed: self.seed[i] as u64,
            draws_taken: self.draws_taken.optional_row(i),
        }
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Rollout<'_>> {
        (0..self.len()).map(|i| self.row(i))
    }

    /// Response tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.rows().map(|row| row.response_ids.len()).sum()
    }
}

/// The id of row `row` of batch `batch`.
pub fn rollout_id(batch: &str, row: usize) -> String {
    format!("{batch}-{row}")
}

fn check_row(row: usize, r: &Rollout<'_>) -> Result<(), RecordError> {
    let positions = r.response_ids.len();
    let fault = |column, expected: String, found: String| Err(RecordError::Row { row, column, expected, found });
    for (column, length) in [
        ("loss_mask", r.loss_mask.len()),
        ("sampler_logprobs", r.sampler_logprobs.len()),
        ("draw_ids", r.draw_ids.len()),
        ("draw_counts", r.draw_counts.len()),
        ("draw_logprobs", r.draw_logprobs.len()),
        ("sampler_top_ids", r.sampler_top_ids.len()),
        ("sampler_top_logprobs", r.sampler_top_logprobs.len()),
        ("sampler_tail_logprobs", r.sampler_tail_logprobs.len()),
        ("draws_taken", r.draws_taken.map_or(positions, <[i32]>::len)),
    ] {
        if length != positions {
            return fault(column, format!("{positions} positions, one a response token"), length.to_string());
        }
    }
    if r.prompt_ids.is_empty() || positions == 0 {
        let column = if positions == 0 { "response_ids" } else { "prompt_ids" };
        return fault(column, "at least one token".into(), "none".into());
    }
    if let Some(id) = r.prompt_ids.iter().chain(r.response_ids).find(|id| **id < 0) {
        return fault("response_ids", "ids from 0".into(), id.to_string());
    }
    for t in (0..positions).filter(|t| r.loss_mask[*t] != 0) {
        if !is_logprob(r.sampler_logprobs[t]) {
            let found = format!("{} at position {t}", r.sampler_logprobs[t]);
            return fault("sampler_logprobs", "a finite number, at most 0".into(), found);
        }
        let draws = r.draw_ids.get(t);
        let (counts, logprobs) = (r.draw_counts.get(t).len(), r.draw_logprobs.get(t).len());
        if draws.len() != counts || draws.len() != logprobs {
            let found = format!("{counts} counts and {logprobs} logprobs at position {t}");
            return fault("draw_counts", format!("{} of each, as in `draw_ids`", draws.len()), found);
        }
        if let Some(x) = r.draw_logprobs.get(t).iter().find(|x| !is_logprob(**x)) {
            return fault("draw_logprobs", "finite numbers, at most 0".into(), format!("{x} at position {t}"));
        }
        let inside = |id: &i32| r.draws_taken.is_some() && r.sampler_top_ids.get(t).contains(id);
        if draws.first().is_some_and(|first| *first != r.response_ids[t]) && !inside(&r.response_ids[t]) {
            let found = format!("{} at position {t}", draws[0]);
            return fault("draw_ids", format!("the sampled token {} first", r.response_ids[t]), found);
        }
        if let Some(n) = r.draw_counts.get(t).iter().find(|n| **n < 1) {
            return fault("draw_counts", "counts from 1".into(), format!("{n} at position {t}"));
        }
        if let Some(taken) = r.draws_taken {
            if let Some(id) = draws.iter().find(|id| inside(id)) {
                let expected = "only ids outside `sampler_top_ids`, where `draws_taken` is not null".into();
                return fault("draw_ids", expected, format!("{id} at position {t}"));
            }
            let kept: i64 = r.draw_counts.get(t).iter().map(|n| i64::from(*n)).sum();
            if i64::from(taken[t]) < kept.max(1) {
                let expected = format!("{} or more, as `draw_counts` add up to {kept}", kept.max(1));
                return fault("draws_taken", expected, format!("{} at position {t}", taken[t]));
            }
        }
        let (ids, tops) = (r.sampler_top_ids.get(t).len(), r.sampler_top_logprobs.get(t).len());
        if ids != tops {
            return fault("sampler_top_logprobs", format!("{ids} at position {t}"), tops.to_string());
        }
        if r.sampler_top_logprobs.get(t).iter().chain([&r.sampler_tail_logprobs[t]]).any(|x| x.is_nan()) {
            return fault("sampler_top_logprobs", "numbers".into(), format!("NaN at position {t}"));
        }
    }
    Ok(())
}

/// Finite and at most 0, but for the rounding of float32 near 0.
pub(crate) fn is_logprob(x: f32) -> bool {
    x.is_finite() && x <= 1e-4
}
