//! Fewer entries and fewer draws than were stored: a choice of whoever reads.

use crate::{
    RecordError, RolloutBatch, ScoredBatch, column,
    packed::{self, DRAWS, Plain, TEACHER_DRAWS},
};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{Float32Type, Int32Type},
};
use codec::{DrawColumn, Layout, TopColumn, thin, truncate};
use serde::{Deserialize, Serialize};

/// How much of what was stored is read at a position. `None` is all of it, 0 is nothing; what is stored in fewer entries stays as it is.
///
/// Lists of a top-k are cut, and the mass of what is left out goes to the tail. Of draws the sampled token stays and the others are
/// thinned: so many of them, every subset alike, by the row's own seed. Both give what a store of that budget would have held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Draws of the sampler, m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draws: Option<u32>,
    /// Draws of the teacher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_draws: Option<u32>,
    /// Ids of the teacher's top-k.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_top_k: Option<u32>,
    /// Ids of the sampler's top-k. Where only draws outside it are kept, it is read whole with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler_top_k: Option<u32>,
}

/// What the choice of draws hangs on beside the row's seed, which the draws themselves were made from.
const CHANCE: [u64; 2] = [u64::from_be_bytes(*b"draws\0\0\0"), u64::from_be_bytes(*b"teacher\0")];
/// Stands for the draws that are not kept one by one, those inside the sampler's top-k.
const INSIDE: i32 = -1;

impl Budget {
    /// What it means for a batch of rollouts: draws outside a top-k say nothing without the whole of it.
    pub(crate) fn of(&self, batch: &RecordBatch) -> Self {
        let has_tail_draws = batch.column_by_name("draws_taken").is_some_and(|taken| taken.null_count() < taken.len());
        match has_tail_draws && self.draws != Some(0) {
            true => Self { sampler_top_k: None, ..*self },
            false => *self,
        }
    }
}

impl ScoredBatch {
    /// As [`ScoredBatch::zip`], within a budget. Both batches come from [`crate::unpack_within`] with the same one, or hold less.
    ///
    /// # Errors
    /// As [`ScoredBatch::zip`].
    pub fn zip_within(rollouts: RolloutBatch, scores: RecordBatch, budget: &Budget) -> Result<Self, RecordError> {
        let of_batch = budget.of(rollouts.as_record_batch());
        let scores = along_rollouts(&rollouts, scores, &of_batch)?;
        let scored = Self::zip(rollouts, scores)?;
        let scored = match budget.draws.filter(|m| *m > 0) {
            Some(m) => thin_draws(scored, m)?,
            None => scored,
        };
        match budget.teacher_draws.filter(|m| *m > 0) {
            Some(m) => thin_teacher_draws(scored, m),
            None => Ok(scored),
        }
    }
}

/// `scores` with what the teacher says of the sampler's draws and top-k cut to what `rollouts` have of those.
fn along_rollouts(rollouts: &RolloutBatch, scores: RecordBatch, budget: &Budget) -> Result<RecordBatch, RecordError> {
    let mut columns = Vec::new();
    if budget.draws == Some(0) {
        // There are no draws, so their ids are the empty lists that are due.
        let [_, logprobs, _] = DRAWS.columns();
        columns.extend(
            rollouts.as_record_batch().column_by_name(logprobs).map(|none| ("draw_teacher_logprobs", none.clone())),
        );
    }
    if let Some(k) = budget.sampler_top_k {
        let (logprobs, tails) = ("sampler_top_teacher_logprobs", "sampler_top_teacher_tail_logprobs");
        let column = |name| scores.column_by_name(name).ok_or_else(|| packed::wrong_type(name));
        let (layout, values) = packed::nested::<Float32Type>(column(logprobs)?, logprobs)?;
        let of_tails = column(tails)?.as_list_opt::<i32>().ok_or_else(|| packed::wrong_type(tails))?;
        let floats = of_tails.values().as_primitive_opt::<Float32Type>().ok_or_else(|| packed::wrong_type(tails))?;
        // Without a top-k there may be no tails either; whatever else does not fit is found when the two are zipped.
        if layout.longest() > k as usize && floats.len() == layout.positions() {
            let column =
                TopColumn { layout, ids: vec![0; values.len()], logprobs: values, tails: floats.values().to_vec() };
            let [_, cut, cut_tails] = packed::top_arrays(truncate(column, k as usize));
            columns.extend([(logprobs, cut), (tails, cut_tails)]);
        }
    }
    with_columns(scores, columns)
}

fn with_columns(batch: RecordBatch, columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, RecordError> {
    if columns.is_empty() {
        return Ok(batch);
    }
    let mut all = batch.columns().to_vec();
    for (name, column) in columns {
        all[batch.schema().index_of(name)?] = column;
    }
    Ok(RecordBatch::try_new(batch.schema(), all)?)
}

/// Thins the sampler's draws, and with them what the teacher says of each.
fn thin_draws(scored: ScoredBatch, m: u32) -> Result<ScoredBatch, RecordError> {
    let of_sampler = all_draws(&scored, |row, t| row.rollout.draw_logprobs.get(t));
    if most(&of_sampler) <= i64::from(m) {
        return Ok(scored);
    }
    let of_teacher = all_draws(&scored, |row, t| row.draw_teacher_logprobs.get(t));
    let seeds = seeds(&scored);
    // Ids and counts decide what is taken, so both give the same.
    let [of_sampler, of_teacher] = [of_sampler, of_teacher].map(|draws| thin(&draws, m, CHANCE[0], &seeds));
    // Each is `m` or what was taken before, which was such a number too.
    let totals = |row| of_sampler.layout.row(row).map(|t| total(&of_sampler, t) as i32).collect();
    let taken: Vec<Option<Vec<i32>>> =
        (0..scored.len()).map(|row| scored.rollouts().row(row).draws_taken.map(|_| totals(row))).collect();
    let taken = column::optional_list::<Int32Type>(taken.iter().map(Option::as_deref));
    let [_, teacher_logprobs, _] = packed::draw_arrays(without_inside(of_teacher));
    let mut columns: Vec<_> =
        DRAWS.columns().into_iter().zip(packed::draw_arrays(without_inside(of_sampler))).collect();
    columns.push(("draws_taken", taken));
    let rollouts = with_columns(scored.rollouts().as_record_batch().clone(), columns)?;
    let scores = with_columns(scored.scores().clone(), vec![("draw_teacher_logprobs", teacher_logprobs)])?;
    ScoredBatch::zip(RolloutBatch::try_new(rollouts)?, scores)
}

fn thin_teacher_draws(scored: ScoredBatch, m: u32) -> Result<ScoredBatch, RecordError> {
    // A batch has draws of the teacher in all of its rows, or there is no group to speak of.
    let Some(Plain::Draws(draws)) = Plain::of(scored.scores(), &TEACHER_DRAWS)? else { return Ok(scored) };
    if most(&draws) <= i64::from(m) {
        return Ok(scored);
    }
    let draws = thin(&draws, m, CHANCE[1], &seeds(&scored));
    let columns = TEACHER_DRAWS.columns().into_iter().zip(packed::draw_arrays(draws)).collect();
    let scores = with_columns(scored.scores().clone(), columns)?;
    ScoredBatch::zip(scored.rollouts().clone(), scores)
}

/// Every draw at the trained positions. Those that are not kept one by one, inside the sampler's top-k, are one entry, which comes
/// first where the sampled token is among them.
fn all_draws<'a>(
    scored: &'a ScoredBatch,
    logprobs: impl Fn(&crate::ScoredRollout<'a>, usize) -> &'a [f32],
) -> DrawColumn {
    let mut draws = DrawColumn::default();
    for row in scored.rows() {
        let r = &row.rollout;
        for t in 0..r.response_ids.len() {
            if r.loss_mask[t] == 0 {
                draws.layout.push_list(0);
                continue;
            }
            let (ids, counts) = (r.draw_ids.get(t), r.draw_counts.get(t));
            let kept: i64 = counts.iter().map(|count| i64::from(*count)).sum();
            // Between 0 and the draws taken, for the batch was checked.
            let inside = r.draws_taken.map_or(0, |taken| (i64::from(taken[t]) - kept) as i32);
            let sampled_is_inside = ids.first() != Some(&r.response_ids[t]);
            let entry = (inside > 0).then_some((INSIDE, inside, 0.0));
            let each = ids.iter().zip(counts).zip(logprobs(&row, t)).map(|((id, count), x)| (*id, *count, *x));
            let (first, last) = if sampled_is_inside { (entry, None) } else { (None, entry) };
            let before = draws.ids.len();
            for (id, count, logprob) in first.into_iter().chain(each).chain(last) {
                draws.ids.push(id);
                draws.counts.push(count);
                draws.logprobs.push(logprob);
            }
            draws.layout.push_list(draws.ids.len() - before);
        }
        draws.layout.end_row();
    }
    draws
}

fn without_inside(draws: DrawColumn) -> DrawColumn {
    let mut kept = DrawColumn { layout: Layout::new(), ..DrawColumn::default() };
    for row in 0..draws.layout.rows() {
        for t in draws.layout.row(row) {
            let before = kept.ids.len();
            for at in draws.layout.list(t).filter(|at| draws.ids[*at] != INSIDE) {
                kept.ids.push(draws.ids[at]);
                kept.counts.push(draws.counts[at]);
                kept.logprobs.push(draws.logprobs[at]);
            }
            kept.layout.push_list(kept.ids.len() - before);
        }
        kept.layout.end_row();
    }
    kept
}

/// The draws at position `t` of all.
fn total(draws: &DrawColumn, t: usize) -> i64 {
    draws.counts[draws.layout.list(t)].iter().map(|count| i64::from(*count)).sum()
}

/// The most draws at a position.
fn most(draws: &DrawColumn) -> i64 {
    (0..draws.layout.positions()).map(|t| total(draws, t)).max().unwrap_or(0)
}

fn seeds(scored: &ScoredBatch) -> Vec<u64> {
    scored.rollouts().rows().map(|row| row.seed).collect()
}
