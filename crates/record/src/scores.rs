//! A batch of teacher scores, and the zip of it with the rollouts it scores.

mod whole;

use crate::{
    Lists, RecordError, Rollout, RolloutBatch, RowSet, Score, column,
    column::{Floats, NestedFloats, NestedInts},
    rollouts::is_logprob,
    schema,
};
use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    datatypes::{Float32Type, Int32Type},
};
use std::sync::Arc;

/// Rollouts with their scores: row i of the one is row i of the other.
///
/// Invariant: the ids agree row by row, and every list has the length of what it scores.
#[derive(Clone, Debug)]
pub struct ScoredBatch {
    rollouts: RolloutBatch,
    scores: RecordBatch,
    teacher_logprobs: Floats,
    teacher_top_ids: NestedInts,
    teacher_top_logprobs: NestedFloats,
    teacher_tail_logprobs: Floats,
    draw_teacher_logprobs: NestedFloats,
    sampler_top_teacher_logprobs: NestedFloats,
    sampler_top_teacher_tail_logprobs: Floats,
    teacher_entropy: Floats,
    teacher_draw_ids: NestedInts,
    teacher_draw_counts: NestedInts,
    teacher_draw_logprobs: NestedFloats,
}

/// One scored rollout, borrowed; fields as in `schemas/scores.toml`.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "schemas/scores.toml describes each column")]
pub struct ScoredRollout<'a> {
    pub rollout: Rollout<'a>,
    pub teacher_logprobs: &'a [f32],
    pub teacher_top_ids: Lists<'a, i32>,
    pub teacher_top_logprobs: Lists<'a, f32>,
    pub teacher_tail_logprobs: &'a [f32],
    pub draw_teacher_logprobs: Lists<'a, f32>,
    pub sampler_top_teacher_logprobs: Lists<'a, f32>,
    pub sampler_top_teacher_tail_logprobs: &'a [f32],
    pub teacher_entropy: Option<&'a [f32]>,
    pub teacher_draw_ids: Option<Lists<'a, i32>>,
    pub teacher_draw_counts: Option<Lists<'a, i32>>,
    pub teacher_draw_logprobs: Option<Lists<'a, f32>>,
}

impl ScoredBatch {
    /// Makes a score batch for `rollouts`, one score a row.
    ///
    /// # Errors
    /// As [`ScoredBatch::zip`]: scores that do not fit their rollouts.
    pub fn encode(rollouts: RolloutBatch, scores: &[Score]) -> Result<Self, RecordError> {
        if scores.len() != rollouts.len() {
            return Err(rows_differ(rollouts.len(), scores.len()));
        }
        let scores = columns(&rollouts, scores)?;
        Self::zip(rollouts, scores)
    }

    /// Checks that `scores` scores `rollouts` row by row, and puts the two side by side.
    ///
    /// # Errors
    /// [`RecordError::Schema`] or [`RecordError::Row`] with the first thing that does not hold.
    pub fn zip(rollouts: RolloutBatch, scores: RecordBatch) -> Result<Self, RecordError> {
        let view = Self::over(rollouts, scores)?;
        view.check()?;
        Ok(view)
    }

    /// The columns side by side, as many rows of each and of its schema's types; what they say is not checked.
    fn over(rollouts: RolloutBatch, scores: RecordBatch) -> Result<Self, RecordError> {
        let scores = schema::up_to_date(scores, &schema::SCORES)?;
        if scores.num_rows() != rollouts.len() {
            return Err(rows_differ(rollouts.len(), scores.num_rows()));
        }
        Ok(Self {
            teacher_logprobs: Floats::of::<Float32Type>(&scores, "teacher_logprobs")?,
            teacher_top_ids: NestedInts::of::<Int32Type>(&scores, "teacher_top_ids")?,
            teacher_top_logprobs: NestedFloats::of::<Float32Type>(&scores, "teacher_top_logprobs")?,
            teacher_tail_logprobs: Floats::of::<Float32Type>(&scores, "teacher_tail_logprobs")?,
            draw_teacher_logprobs: NestedFloats::of::<Float32Type>(&scores, "draw_teacher_logprobs")?,
            sampler_top_teacher_logprobs: NestedFloats::of::<Float32Type>(&scores, "sampler_top_teacher_logprobs")?,
            sampler_top_teacher_tail_logprobs: Floats::of::<Float32Type>(&scores, "sampler_top_teacher_tail_logprobs")?,
            teacher_entropy: Floats::of::<Float32Type>(&scores, "teacher_entropy")?,
            teacher_draw_ids: NestedInts::of::<Int32Type>(&scores, "teacher_draw_ids")?,
            teacher_draw_counts: NestedInts::of::<Int32Type>(&scores, "teacher_draw_counts")?,
            teacher_draw_logprobs: NestedFloats::of::<Float32Type>(&scores, "teacher_draw_logprobs")?,
            rollouts,
            scores,
        })
    }

    fn check(&self) -> Result<(), RecordError> {
        let (ids, teachers) = (column::text(&self.scores, "rollout_id")?, column::text(&self.scores, "teacher_id")?);
        let is_whole = self.is_whole();
        for row in 0..self.len() {
            let scored = self.row(row);
            if ids.value(row) != scored.rollout.rollout_id {
                let expected = format!("`{}`, as in the rollout batch", scored.rollout.rollout_id);
                return Err(RecordError::Row { row, column: "rollout_id", expected, found: ids.value(row).into() });
            }
            let (expected, found) = (self.rollouts.teacher_id(), teachers.value(row));
            if expected != found {
                let expected = format!("`{expected}`, as in the rollout batch");
                return Err(RecordError::Row { row, column: "teacher_id", expected, found: found.into() });
            }
            if !is_whole {
                check_row(row, &scored)?;
            }
        }
        Ok(())
    }

    /// As [`RolloutBatch::only`], of rollouts and scores.
    ///
    /// # Errors
    /// As there.
    pub fn only(&self, rows: &RowSet) -> Result<Self, RecordError> {
        Self::over(self.rollouts.only(rows)?, column::rows(&self.scores, rows)?)
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rollouts.len()
    }

    /// Never: a batch has at least one row.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The rollouts.
    pub fn rollouts(&self) -> &RolloutBatch {
        &self.rollouts
    }

    /// The score columns.
    pub fn scores(&self) -> &RecordBatch {
        &self.scores
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i >= len()`, like a slice.
    pub fn row(&self, i: usize) -> ScoredRollout<'_> {
        ScoredRollout {
            rollout: self.rollouts.row(i),
            teacher_logprobs: self.teacher_logprobs.row(i),
            teacher_top_ids: self.teacher_top_ids.row(i),
            teacher_top_logprobs: self.teacher_top_logprobs.row(i),
            teacher_tail_logprobs: self.teacher_tail_logprobs.row(i),
            draw_teacher_logprobs: self.draw_teacher_logprobs.row(i),
            sampler_top_teacher_logprobs: self.sampler_top_teacher_logprobs.row(i),
            sampler_top_teacher_tail_logprobs: self.sampler_top_teacher_tail_logprobs.row(i),
            teacher_entropy: self.teacher_entropy.optional_row(i),
            teacher_draw_ids: self.teacher_draw_ids.optional_row(i),
            teacher_draw_counts: self.teacher_draw_counts.optional_row(i),
            teacher_draw_logprobs: self.teacher_draw_logprobs.optional_row(i),
        }
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = ScoredRollout<'_>> {
        (0..self.len()).map(|i| self.row(i))
    }
}

/// `scores` as columns, one score a row of `rollouts`; whether they fit is not checked.
fn columns(rollouts: &RolloutBatch, scores: &[Score]) -> Result<RecordBatch, RecordError> {
    let n = rollouts.len();
    let draws = || scores.iter().map(|s| s.teacher_draws.as_ref());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rollouts.rows().map(|row| row.rollout_id))),
        Arc::new(StringArray::from_iter_values((0..n).map(|_| rollouts.teacher_id()))),
        column::optional_list::<Int32Type>((0..n).map(|_| None)),
        column::list::<Float32Type>(scores.iter().map(|s| s.teacher_logprobs.as_slice())),
        column::nested::<Int32Type>(scores.iter().map(|s| &s.teacher_top_ids)),
        column::nested::<Float32Type>(scores.iter().map(|s| &s.teacher_top_logprobs)),
        column::list::<Float32Type>(scores.iter().map(|s| s.teacher_tail_logprobs.as_slice())),
        column::nested::<Float32Type>(scores.iter().map(|s| &s.draw_teacher_logprobs)),
        column::nested::<Float32Type>(scores.iter().map(|s| &s.sampler_top_teacher_logprobs)),
        column::list::<Float32Type>(scores.iter().map(|s| s.sampler_top_teacher_tail_logprobs.as_slice())),
        column::optional_list::<Float32Type>(scores.iter().map(|s| s.teacher_entropy.as_deref())),
        column::optional_nested::<Int32Type>(draws().map(|draws| draws.map(|draws| &draws.ids))),
        column::optional_nested::<Int32Type>(draws().map(|draws| draws.map(|draws| &draws.counts))),
        column::optional_nested::<Float32Type>(draws().map(|draws| draws.map(|draws| &draws.logprobs))),
    ];
    Ok(RecordBatch::try_new(schema::SCORES.clone(), columns)?)
}

fn rows_differ(rollouts: usize, scores: usize) -> RecordError {
    RecordError::Schema {
        what: "rows of the score batch".into(),
        expected: format!("{rollouts}, as in the rollout batch"),
        found: scores.to_string(),
    }
}

fn check_row(row: usize, s: &ScoredRollout<'_>) -> Result<(), RecordError> {
    let fault = |column, expected: String, found: String| Err(RecordError::Row { row, column, expected, found });
    let positions = s.rollout.response_ids.len();
    // Where the rollout kept no top-k, there is no support and so no tail.
    let support = !s.rollout.sampler_top_ids.values().is_empty();
    let support_tails = s.sampler_top_teacher_tail_logprobs.len();
    for (column, length) in [
        ("teacher_logprobs", s.teacher_logprobs.len()),
        ("teacher_top_ids", s.teacher_top_ids.len()),
        ("teacher_top_logprobs", s.teacher_top_logprobs.len()),
        ("teacher_tail_logprobs", s.teacher_tail_logprobs.len()),
        ("draw_teacher_logprobs", s.draw_teacher_logprobs.len()),
        ("sampler_top_teacher_logprobs", s.sampler_top_teacher_logprobs.len()),
        ("sampler_top_teacher_tail_logprobs", if support { support_tails } else { positions }),
        ("teacher_entropy", s.teacher_entropy.map_or(positions, <[f32]>::len)),
    ] {
        if length != positions {
            return fault(column, format!("{positions} positions, one a response token"), length.to_string());
        }
    }
    check_teacher_draws(row, s)?;
    for t in (0..positions).filter(|t| s.rollout.loss_mask[*t] != 0) {
        for (column, expected, found) in [
            ("teacher_top_logprobs", s.teacher_top_ids.get(t).len(), s.teacher_top_logprobs.get(t).len()),
            ("draw_teacher_logprobs", s.rollout.draw_ids.get(t).len(), s.draw_teacher_logprobs.get(t).len()),
            (
                "sampler_top_teacher_logprobs",
                s.rollout.sampler_top_ids.get(t).len(),
                s.sampler_top_teacher_logprobs.get(t).len(),
            ),
        ] {
            if expected != found {
                return fault(column, format!("{expected} entries at position {t}"), found.to_string());
            }
        }
        if !is_logprob(s.teacher_logprobs[t]) {
            let found = format!("{} at position {t}", s.teacher_logprobs[t]);
            return fault("teacher_logprobs", "a finite number, at most 0".into(), found);
        }
        let tail = |tails: &[f32]| tails.get(t).copied();
        for (column, logprobs, tail) in [
            ("teacher_top_logprobs", s.teacher_top_logprobs.get(t), tail(s.teacher_tail_logprobs)),
            ("draw_teacher_logprobs", s.draw_teacher_logprobs.get(t), None),
            (
                "sampler_top_teacher_logprobs",
                s.sampler_top_teacher_logprobs.get(t),
                tail(s.sampler_top_teacher_tail_logprobs),
            ),
        ] {
            if let Some(x) = logprobs.iter().chain(&tail).find(|x| x.is_nan() || **x > 1e-4) {
                let expected = "logprobs and their tail, at most 0".into();
                return fault(column, expected, format!("{x} at position {t}"));
            }
        }
    }
    Ok(())
}

/// Draws from the teacher are whole or not there at all.
fn check_teacher_draws(row: usize, s: &ScoredRollout<'_>) -> Result<(), RecordError> {
    let fault = |column, expected: String, found: String| Err(RecordError::Row { row, column, expected, found });
    let positions = s.rollout.response_ids.len();
    let (Some(ids), Some(counts), Some(logprobs)) =
        (s.teacher_draw_ids, s.teacher_draw_counts, s.teacher_draw_logprobs)
    else {
        let there = [s.teacher_draw_ids.is_some(), s.teacher_draw_counts.is_some(), s.teacher_draw_logprobs.is_some()];
        let found = there.iter().filter(|is_there| **is_there).count();
        let expected = "ids, counts and logprobs, or null in all three".into();
        return if found == 0 { Ok(()) } else { fault("teacher_draw_ids", expected, format!("{found} of the three")) };
    };
    for (column, length) in [
        ("teacher_draw_ids", ids.len()),
        ("teacher_draw_counts", counts.len()),
        ("teacher_draw_logprobs", logprobs.len()),
    ] {
        if length != positions {
            return fault(column, format!("{positions} positions, one a response token"), length.to_string());
        }
    }
    for t in (0..positions).filter(|t| s.rollout.loss_mask[*t] != 0) {
        let lengths = [ids.get(t).len(), counts.get(t).len(), logprobs.get(t).len()];
        if lengths[0] == 0 || lengths[1..] != [lengths[0]; 2] {
            let found = format!("{} ids, {} counts, {} logprobs at position {t}", lengths[0], lengths[1], lengths[2]);
            return fault("teacher_draw_counts", "as many of each, one at least".into(), found);
        }
        if let Some(n) = counts.get(t).iter().find(|n| **n < 1) {
            return fault("teacher_draw_counts", "counts from 1".into(), format!("{n} at position {t}"));
        }
        if let Some(x) = logprobs.get(t).iter().find(|x| !is_logprob(**x)) {
            return fault("teacher_draw_logprobs", "finite numbers, at most 0".into(), format!("{x} at position {t}"));
        }
    }
    Ok(())
}
