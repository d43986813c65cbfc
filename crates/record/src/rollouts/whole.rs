//! The checks of `check_row` over whole columns at once, which is many times quicker. What passes is right in every row; what does not
//! may be right all the same, as positions that are not trained may hold anything, and is looked at row by row.

use super::{RolloutBatch, is_logprob};
use crate::column::all_hold;

impl RolloutBatch {
    /// Whether all rows pass at a glance.
    pub(super) fn is_whole(&self) -> bool {
        let rows = self.response_ids.offsets();
        let is_along = |offsets: &[i32]| offsets == rows;
        let has_tokens = |offsets: &[i32]| offsets.windows(2).all(|row| row[0] < row[1]);
        self.draws_taken.is_all_null()
            && has_tokens(rows)
            && has_tokens(self.prompt_ids.offsets())
            && [self.loss_mask.offsets(), self.sampler_logprobs.offsets(), self.sampler_tail_logprobs.offsets()]
                .into_iter()
                .all(is_along)
            && [self.draw_ids.rows(), self.draw_counts.rows(), self.draw_logprobs.rows()].into_iter().all(is_along)
            && [self.sampler_top_ids.rows(), self.sampler_top_logprobs.rows()].into_iter().all(is_along)
            && self.draw_ids.offsets() == self.draw_counts.offsets()
            && self.draw_ids.offsets() == self.draw_logprobs.offsets()
            && self.sampler_top_ids.offsets() == self.sampler_top_logprobs.offsets()
            && all_hold(self.prompt_ids.all(), |id| id >= 0)
            && all_hold(self.response_ids.all(), |id| id >= 0)
            && all_hold(self.sampler_logprobs.all(), is_logprob)
            && all_hold(self.draw_logprobs.all(), is_logprob)
            && all_hold(self.draw_counts.all(), |count| count >= 1)
            && all_hold(self.sampler_top_logprobs.all(), |x| !x.is_nan())
            && all_hold(self.sampler_tail_logprobs.all(), |x| !x.is_nan())
            && self.sampled_comes_first()
    }

    /// Where rows' positions begin, and where positions' draws and lists of the sampler's top-k do.
    pub(crate) fn layouts(&self) -> (&[i32], &[i32], &[i32]) {
        (self.response_ids.offsets(), self.draw_ids.offsets(), self.sampler_top_ids.offsets())
    }

    /// Whether the first draw at each position that has any is the token that was sampled there.
    fn sampled_comes_first(&self) -> bool {
        let (offsets, draws) = (self.draw_ids.offsets(), self.draw_ids.all());
        let first = offsets[0];
        offsets
            .windows(2)
            .zip(self.response_ids.all())
            .all(|(list, sampled)| list[0] == list[1] || draws.get((list[0] - first) as usize) == Some(sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::Ragged;
    use arrow::array::{Array, AsArray, ListArray, PrimitiveArray};
    use proptest::prelude::*;

    /// Rows of these many positions, with these many draws at each.
    fn batch(rows: &[Vec<usize>], mask: i32) -> RecordBatch {
        let info = RolloutBatchInfo {
            batch: "u0".into(),
            policy_version: PolicyVersion(3),
            teacher_id: "t".into(),
            temperature: 1.0,
            top_p: 1.0,
            started_at: 0,
            finished_at: 0,
        };
        let rollout = |draws: &Vec<usize>| {
            let n = draws.len();
            let lists = |value: f32| draws.iter().map(|m| vec![value; *m]).collect::<Ragged<f32>>();
            let sample = Sample {
                response_ids: (0..n as i32).collect(),
                sampler_logprobs: vec![-0.5; n],
                draw_ids: draws.iter().enumerate().map(|(t, m)| vec![t as i32; *m]).collect(),
                draw_counts: draws.iter().map(|m| vec![1; *m]).collect(),
                draw_logprobs: lists(-0.5),
                draws_taken: None,
                sampler_top_ids: draws.iter().map(|m| vec![1; *m]).collect(),
                sampler_top_logprobs: lists(f32::NEG_INFINITY),
                sampler_tail_logprobs: vec![0.0; n],
                finish: None,
            };
            let (source, prompt_ids) = ("s".into(), vec![1, 2]);
            NewRollout { unit: 0, prompt_id: 0, sample_index: 0, source, prompt_ids, seed: 1, sample }
        };
        let batch = RolloutBatch::encode(&info, &rows.iter().map(rollout).collect::<Vec<_>>()).unwrap();
        let masks: Vec<Vec<i32>> = rows.iter().map(|row| vec![mask; row.len()]).collect();
        with(batch.as_record_batch(), "loss_mask", column::list::<Int32Type>(masks.iter().map(Vec::as_slice)))
    }

    fn with(batch: &RecordBatch, name: &str, array: ArrayRef) -> RecordBatch {
        let mut columns = batch.columns().to_vec();
        columns[batch.schema().index_of(name).unwrap()] = array;
        RecordBatch::try_new(batch.schema(), columns).unwrap()
    }

    /// One leaf value of a list column is another.
    fn changed(array: &ArrayRef, at: usize, float: f32, int: i32) -> ArrayRef {
        if let Some(list) = array.as_list_opt::<i32>() {
            let values = changed(list.values(), at, float, int);
            let field = crate::schema::item_field(values.data_type().clone());
            return Arc::new(ListArray::new(field, list.offsets().clone(), values, list.nulls().cloned()));
        }
        match array.as_primitive_opt::<Float32Type>() {
            Some(floats) => {
                let values = floats.values().iter().enumerate().map(|(i, x)| if i == at { float } else { *x });
                Arc::new(PrimitiveArray::<Float32Type>::from_iter_values(values))
            }
            None => {
                let ints = array.as_primitive::<Int32Type>();
                let values = ints.values().iter().enumerate().map(|(i, x)| if i == at { int } else { *x });
                Arc::new(PrimitiveArray::<Int32Type>::from_iter_values(values))
            }
        }
    }

    const COLUMNS: [&str; 10] = [
        "prompt_ids",
        "response_ids",
        "loss_mask",
        "sampler_logprobs",
        "draw_ids",
        "draw_counts",
        "draw_logprobs",
        "sampler_top_ids",
        "sampler_top_logprobs",
        "sampler_tail_logprobs",
    ];

    fn row_by_row(view: &RolloutBatch) -> bool {
        view.rows().enumerate().all(|(row, rollout)| check_row(row, &rollout).is_ok())
    }

    proptest! {
        /// Values, and lists of other lengths: what passes at a glance passes row by row, and what is trained does so both ways or neither.
        #[test]
        fn a_glance_passes_nothing_that_a_close_look_does_not(
            rows in prop::collection::vec(prop::collection::vec(0usize..4, 1..5), 1..5),
            others in prop::collection::vec(prop::collection::vec(0usize..4, 1..5), 1..5),
            name in prop::sample::select(COLUMNS.to_vec()),
            (at, float, int) in (0usize..12, prop::sample::select(vec![f32::NAN, f32::NEG_INFINITY, -1.0, 0.1]), -1i32..3),
            is_other: bool,
        ) {
            let good = batch(&rows, 1);
            prop_assert!(RolloutBatch::over(good.clone()).unwrap().is_whole());
            let column = match is_other && others.len() == rows.len() {
                true => batch(&others, 1).column_by_name(name).unwrap().clone(),
                false => changed(good.column_by_name(name).unwrap(), at, float, int),
            };
            let view = RolloutBatch::over(with(&good, name, column)).unwrap();
            if view.is_whole() {
                prop_assert!(row_by_row(&view));
            } else if view.loss_mask.all().iter().all(|mask| *mask != 0) {
                prop_assert!(!row_by_row(&view), "{name}");
            }
        }
    }

    #[test]
    fn positions_that_are_not_trained_are_looked_at_closely() {
        let logprobs = |batch: &RecordBatch| changed(batch.column_by_name("sampler_logprobs").unwrap(), 0, 9.0, 0);
        let (trained, not) = (batch(&[vec![1, 2]], 1), batch(&[vec![1, 2]], 0));
        let not = with(&not, "sampler_logprobs", logprobs(&not));
        assert!(!RolloutBatch::over(not.clone()).unwrap().is_whole());
        RolloutBatch::try_new(not).unwrap();
        let trained = with(&trained, "sampler_logprobs", logprobs(&trained));
        let error = RolloutBatch::try_new(trained).unwrap_err().to_string();
        assert!(error.contains("9 at position 0"), "{error}");
    }
}
