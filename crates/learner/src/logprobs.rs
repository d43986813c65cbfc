//! What a score may be: at a trained position a number of at most 0. In a list of candidates -inf is one; what it means is the
//! estimator's to say (the table of zeros in docs/algorithm.md). A token that was sampled has more than that.

use crate::{LearnError, Result, TrainRow};

/// Float32 rounds near 0: what is this little above 0 is 0, nats.
const ROUNDING: f32 = 1e-4;

/// Refuses the first that is none, by column and position. The row's lists have the lengths that they should. `index`: the row's,
/// for messages.
pub(crate) fn check(row: &TrainRow, index: usize) -> Result<()> {
    let (draws, teacher, sampler) = (&row.draws, &row.teacher_top_k, &row.sampler_top_k);
    let lists = [
        ("draw_logprobs", &draws.sampler_logprobs),
        ("draw_teacher_logprobs", &draws.teacher_logprobs),
        ("teacher_draw_logprobs", &row.teacher_draws.teacher_logprobs),
        ("teacher_top_logprobs", &teacher.teacher_logprobs),
        ("sampler_top_logprobs", &sampler.sampler_logprobs),
        ("sampler_top_teacher_logprobs", &sampler.teacher_logprobs),
    ];
    let tails =
        [("teacher_tail_logprobs", teacher.teacher_tail), ("sampler_top_teacher_tail_logprobs", sampler.teacher_tail)];
    let tokens = [("sampler_logprobs", row.sampler_logprobs), ("teacher_logprobs", row.teacher_logprobs)];
    for t in (0..row.response_ids.len()).filter(|t| row.is_trained(*t)) {
        let refuse = |column, expected: &str, found: &f32| {
            let found = format!("{found} at position {t}");
            Err(LearnError::Row { row: index, column, expected: expected.into(), found })
        };
        for (column, values) in tokens {
            if let Some(value) = values.get(t).filter(|value| !(value.is_finite() && **value <= ROUNDING)) {
                return refuse(column, "a finite log-probability, at most 0", value);
            }
        }
        let of_lists = lists.iter().map(|(column, lists)| (*column, lists.get(t).copied().unwrap_or_default()));
        let of_tails = tails.iter().map(|(column, tails)| (*column, tails.get(t..=t).unwrap_or_default()));
        for (column, values) in of_lists.chain(of_tails) {
            if let Some(value) = values.iter().find(|value| value.is_nan() || **value > ROUNDING) {
                return refuse(column, "a log-probability, at most 0", value);
            }
        }
    }
    Ok(())
}
