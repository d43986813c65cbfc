//! The checks of `check_row` over whole columns at once, which is many times quicker. What passes is right in every row; what does not
//! may be right all the same, as positions that are not trained may hold anything, and is looked at row by row.

use super::ScoredBatch;
use crate::{column::all_hold, rollouts::is_logprob};

/// As `check_row` has it; NaN is none.
fn is_at_most_0(logprob: f32) -> bool {
    logprob <= 1e-4
}

impl ScoredBatch {
    /// Whether all rows pass at a glance.
    pub(super) fn is_whole(&self) -> bool {
        let (rows, draws, support) = self.rollouts.layouts();
        let is_along = |offsets: &[i32]| offsets == rows;
        // Where the rollouts kept no top-k, there is no support and so no tail.
        let has_support = support[0] < support[support.len() - 1];
        [self.teacher_logprobs.offsets(), self.teacher_tail_logprobs.offsets()].into_iter().all(is_along)
            && (!has_support || is_along(self.sampler_top_teacher_tail_logprobs.offsets()))
            && [self.teacher_top_ids.rows(), self.teacher_top_logprobs.rows()].into_iter().all(is_along)
            && [self.draw_teacher_logprobs.rows(), self.sampler_top_teacher_logprobs.rows()].into_iter().all(is_along)
            && self.teacher_top_ids.offsets() == self.teacher_top_logprobs.offsets()
            && self.draw_teacher_logprobs.offsets() == draws
            && self.sampler_top_teacher_logprobs.offsets() == support
            && all_hold(self.teacher_logprobs.all(), is_logprob)
            && all_hold(self.teacher_top_logprobs.all(), is_at_most_0)
            && all_hold(self.teacher_tail_logprobs.all(), is_at_most_0)
            && all_hold(self.draw_teacher_logprobs.all(), is_at_most_0)
            && all_hold(self.sampler_top_teacher_logprobs.all(), is_at_most_0)
            && all_hold(self.sampler_top_teacher_tail_logprobs.all(), is_at_most_0)
            && (self.teacher_entropy.is_all_null()
                || !self.teacher_entropy.has_nulls() && is_along(self.teacher_entropy.offsets()))
            && self.teacher_draws_are_whole(rows)
    }

    fn teacher_draws_are_whole(&self, rows: &[i32]) -> bool {
        let (ids, counts, logprobs) = (&self.teacher_draw_ids, &self.teacher_draw_counts, &self.teacher_draw_logprobs);
        if ids.is_all_null() && counts.is_all_null() && logprobs.is_all_null() {
            return true;
        }
        !(ids.has_nulls() || counts.has_nulls() || logprobs.has_nulls())
            && [ids.rows(), counts.rows(), logprobs.rows()].into_iter().all(|offsets| offsets == rows)
            && ids.offsets() == counts.offsets()
            && ids.offsets() == logprobs.offsets()
            && ids.offsets().windows(2).all(|list| list[0] < list[1])
            && all_hold(counts.all(), |count| count >= 1)
            && all_hold(logprobs.all(), is_logprob)
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::{Draws, NewRollout, PolicyVersion, Ragged, RolloutBatchInfo, Sample};
    use proptest::prelude::*;

    /// Rollouts of these many positions with these many entries at each, and what a teacher says of them.
    fn scored(rows: &[Vec<usize>], has_support: bool) -> (RolloutBatch, Vec<Score>) {
        let info = RolloutBatchInfo {
            batch: "u0".into(),
            policy_version: PolicyVersion(3),
            teacher_id: "t".into(),
            temperature: 1.0,
            top_p: 1.0,
            started_at: 0,
            finished_at: 0,
        };
        let support = |m: &usize| if has_support { *m } else { 0 };
        let rollout = |entries: &Vec<usize>| {
            let n = entries.len();
            let sample = Sample {
                response_ids: vec![1; n],
                sampler_logprobs: vec![-0.5; n],
                draw_ids: entries.iter().map(|m| vec![1; *m]).collect(),
                draw_counts: entries.iter().map(|m| vec![1; *m]).collect(),
                draw_logprobs: entries.iter().map(|m| vec![-0.5; *m]).collect(),
                draws_taken: None,
                sampler_top_ids: entries.iter().map(|m| vec![1; support(m)]).collect(),
                sampler_top_logprobs: entries.iter().map(|m| vec![-0.5; support(m)]).collect(),
                sampler_tail_logprobs: vec![0.0; n],
                finish: None,
            };
            let (source, prompt_ids) = ("s".into(), vec![1, 2]);
            NewRollout { unit: 0, prompt_id: 0, sample_index: 0, source, prompt_ids, seed: 1, sample }
        };
        let score = |entries: &Vec<usize>| {
            let n = entries.len();
            let lists = |value: f32| entries.iter().map(|m| vec![value; *m]).collect::<Ragged<f32>>();
            Score {
                teacher_logprobs: vec![-0.25; n],
                teacher_top_ids: entries.iter().map(|m| vec![1; *m]).collect(),
                teacher_top_logprobs: lists(-1.0),
                teacher_tail_logprobs: vec![f32::NEG_INFINITY; n],
                draw_teacher_logprobs: lists(f32::NEG_INFINITY),
                sampler_top_teacher_logprobs: entries.iter().map(|m| vec![-1.0; support(m)]).collect(),
                sampler_top_teacher_tail_logprobs: if has_support { vec![-4.0; n] } else { vec![] },
                teacher_draws: Some(Draws {
                    ids: vec![[1]; n].into_iter().collect(),
                    counts: vec![[2]; n].into_iter().collect(),
                    logprobs: vec![[-0.5]; n].into_iter().collect(),
                }),
                teacher_entropy: Some(vec![1.0; n]),
            }
        };
        let rollouts = RolloutBatch::encode(&info, &rows.iter().map(rollout).collect::<Vec<_>>()).unwrap();
        (rollouts, rows.iter().map(score).collect())
    }

    fn row_by_row(view: &ScoredBatch) -> bool {
        view.rows().enumerate().all(|(row, scored)| check_row(row, &scored).is_ok())
    }

    proptest! {
        /// One column of another batch beside the others; its lists have other lengths, or one value in it is another.
        #[test]
        fn a_glance_passes_nothing_that_a_close_look_does_not(
            rows in prop::collection::vec(prop::collection::vec(0usize..4, 1..5), 1..5),
            (take, at) in (0usize..12, 0usize..12),
            bad in prop::sample::select(vec![f32::NAN, 0.1, f32::NEG_INFINITY, -1.0]),
            (is_longer, has_support) in any::<(bool, bool)>(),
        ) {
            let (rollouts, scores) = scored(&rows, has_support);
            let good = ScoredBatch::encode(rollouts.clone(), &scores).unwrap();
            prop_assert!(good.is_whole());
            let mut changed = rows.clone();
            if is_longer {
                changed[0].push(at % 4);
            }
            let (others, mut scores) = scored(&changed, has_support);
            if !is_longer {
                let score = &mut scores[0];
                let t = at % changed[0].len();
                let one = |ragged: &Ragged<f32>| -> Ragged<f32> {
                    ragged.iter().enumerate().map(|(i, list)| list.iter().map(|x| if i == t { bad } else { *x }).collect::<Vec<_>>()).collect()
                };
                score.teacher_logprobs[t] = bad;
                score.teacher_top_logprobs = one(&score.teacher_top_logprobs);
                score.teacher_tail_logprobs[t] = bad;
                score.draw_teacher_logprobs = one(&score.draw_teacher_logprobs);
                score.sampler_top_teacher_logprobs = one(&score.sampler_top_teacher_logprobs);
                score.sampler_top_teacher_tail_logprobs.iter_mut().for_each(|x| *x = bad);
                if let Some(draws) = &mut score.teacher_draws {
                    draws.logprobs = one(&draws.logprobs);
                    let counts: Vec<[i32; 1]> = (0..changed[0].len()).map(|i| [i32::from(i != t)]).collect();
                    draws.counts = counts.into_iter().collect();
                }
            }
            let other = columns(&others, &scores).unwrap();
            let mut columns = good.scores().columns().to_vec();
            columns[2 + take] = other.column(2 + take).clone();
            let scores = RecordBatch::try_new(good.scores().schema(), columns).unwrap();
            let view = ScoredBatch::over(rollouts, scores).unwrap();
            let name = view.scores.schema().field(2 + take).name().clone();
            let (glance, look) = (view.is_whole(), row_by_row(&view));
            prop_assert!(!glance || look, "{name}");
            // All positions are trained, so the two say the same; but a row without a top-k among rows with one may have tails of
            // any number, which a glance does not pass.
            let is_without = rows[0].iter().all(|entries| *entries == 0);
            prop_assert!(glance == look || is_without && name == "sampler_top_teacher_tail_logprobs", "{name}");
        }
    }
}
