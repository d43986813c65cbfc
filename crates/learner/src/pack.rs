//! Rows to microbatches, and microbatches to tensors.

mod head_and_draws;

use crate::{
    Result,
    estimator::{Head, Support},
    head::{Columns, Positions, Proximal},
    row::{CandidateLists, TrainRow},
};
use tch::{Device, Tensor};

/// Cuts rows into microbatches of at most `tokens` tokens, padding included; a longer row goes alone. Rows of a microbatch are
/// neighbours in length, so little is padding. Returns indices of rows; each row is in one microbatch, and the cut is a pure
/// function of the lengths.
pub(crate) fn microbatches(lengths: &[usize], tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    // Longest first: what does not fit the memory fails at once. The sort is stable, so equal lengths keep their order.
    order.sort_by_key(|row| std::cmp::Reverse(lengths[*row]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for row in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * lengths[batch[0]] <= tokens => batch.push(row),
            _ => batches.push(vec![row]),
        }
    }
    batches
}

/// A trained position: response position `t` of row `row`, predicted by `hidden` in the flattened `[B * T]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub row: usize,
    pub t: usize,
    pub hidden: i64,
}

/// The trained positions of a microbatch whose rows are padded to `width` tokens. The distribution of response token t comes
/// from the hidden state of the token before it.
pub(crate) fn places(rows: &[TrainRow], batch: &[usize], width: usize) -> Vec<Place> {
    let mut places = Vec::new();
    for (line, &row) in batch.iter().enumerate() {
        let first = line * width + rows[row].prompt_ids.len() - 1;
        let trained = (0..rows[row].response_ids.len()).filter(|t| rows[row].is_trained(*t));
        places.extend(trained.map(|t| Place { row, t, hidden: (first + t) as i64 }));
    }
    places
}

/// The cached columns at `places`, for an estimator with this support.
pub(crate) fn positions(rows: &[TrainRow], places: &[Place], support: Support, device: Device) -> Result<Positions> {
    let tokens: Vec<i64> = places.iter().map(|at| i64::from(rows[at.row].response_ids[at.t])).collect();
    let temperatures: Vec<f32> = places.iter().map(|at| rows[at.row].temperature).collect();
    let draws = |row: &'_ TrainRow<'_>| row.has_draws();
    let top_k = |row: &'_ TrainRow<'_>| !row.teacher_top_k.ids.is_empty();
    let report =
        |wanted: bool, of: Support| (wanted && of != support).then(|| columns(rows, places, of, device)).transpose();
    // Where a row has only draws outside the sampler's top-k, they say something together with it alone.
    let reported = match rows.iter().any(|row| !row.draws_taken.is_empty()) {
        true => Support::HeadAndDraws { head: Head::StudentTopK, k: usize::MAX },
        false => Support::Draws,
    };
    Ok(Positions {
        token_ids: Tensor::f_from_slice(&tokens)?.f_to_device(device)?,
        temperature: Tensor::f_from_slice(&temperatures)?.f_to_device(device)?,
        support: columns(rows, places, support, device)?,
        draws: report(rows.iter().any(draws), reported)?,
        teacher_top_k: report(rows.iter().any(top_k), Support::TeacherTopK { k: usize::MAX })?,
        proximal: Proximal::Unknown,
    })
}

/// What a position has of a support, on its way into a tensor.
#[derive(Clone, Copy)]
struct Candidate {
    id: i64,
    in_head: bool,
    count: f32,
    teacher: f32,
    sampler: f32,
}

fn columns(rows: &[TrainRow], places: &[Place], support: Support, device: Device) -> Result<Columns> {
    let mut lists = Vec::with_capacity(places.len());
    let mut tails = Vec::with_capacity(places.len());
    let mut draws = Vec::with_capacity(places.len());
    for at in places {
        let row = &rows[at.row];
        let (candidates, tail) = match support {
            // The teacher at hand says it all: the token stands for the rest.
            Support::Token | Support::Vocabulary => {
                let id = i64::from(row.response_ids[at.t]);
                (vec![Candidate { id, in_head: false, count: 1.0, teacher: f32::NAN, sampler: f32::NAN }], f32::NAN)
            }
            Support::Draws => (merged(read(&row.draws, at.t)), f32::NAN),
            Support::TeacherDraws => (merged(read(&row.teacher_draws, at.t)), f32::NAN),
            Support::TeacherTopK { k } => top(&row.teacher_top_k, at.t, k),
            Support::SamplerTopK { k } => top(&row.sampler_top_k, at.t, k),
            Support::HeadAndDraws { head, k } => head_and_draws::candidates(row, at.t, head, k),
        };
        draws.push(match support {
            Support::Draws | Support::HeadAndDraws { .. } => row.draws_at(at.t) as f32,
            Support::TeacherDraws => row.teacher_draws.total(at.t) as f32,
            Support::TeacherTopK { .. } | Support::SamplerTopK { .. } | Support::Vocabulary | Support::Token => {
                f32::NAN
            }
        });
        lists.push(candidates);
        tails.push(tail);
    }
    let (n, width) = (lists.len(), lists.iter().map(Vec::len).max().unwrap_or(0).max(1));
    let mut ids = vec![0i64; n * width];
    let mut mask = vec![false; n * width];
    let mut in_head = vec![false; n * width];
    let mut floats = [(); 3].map(|()| vec![f32::NAN; n * width]);
    for (i, list) in lists.iter().enumerate() {
        // Padding repeats the first candidate: the head writes the same number there twice, never to another token.
        ids[i * width..][..width].fill(list.first().map_or(0, |first| first.id));
        for (j, candidate) in list.iter().enumerate() {
            let at = i * width + j;
            (ids[at], mask[at], in_head[at]) = (candidate.id, true, candidate.in_head);
            (floats[0][at], floats[1][at], floats[2][at]) = (candidate.count, candidate.teacher, candidate.sampler);
        }
    }
    let shape = [n as i64, width as i64];
    let float = |values: &[f32]| Tensor::f_from_slice(values)?.f_view(shape.as_slice())?.f_to_device(device);
    let bool = |values: &[bool]| Tensor::f_from_slice(values)?.f_view(shape.as_slice())?.f_to_device(device);
    Ok(Columns {
        support,
        ids: Tensor::f_from_slice(&ids)?.f_view(shape.as_slice())?.f_to_device(device)?,
        mask: bool(&mask)?,
        in_head: bool(&in_head)?,
        counts: float(&floats[0])?,
        draws: Tensor::f_from_slice(&draws)?.f_to_device(device)?,
        teacher_logprobs: float(&floats[1])?,
        sampler_logprobs: float(&floats[2])?,
        teacher_tail: Tensor::f_from_slice(&tails)?.f_to_device(device)?,
    })
}

fn read(lists: &CandidateLists, t: usize) -> Vec<Candidate> {
    let at = |column: &[&[f32]], j: usize| column.get(t).map_or(f32::NAN, |list| list[j]);
    let ids = lists.ids.get(t).copied().unwrap_or_default();
    let candidate = |(j, id): (usize, &i32)| Candidate {
        id: i64::from(*id),
        in_head: false,
        count: lists.counts.get(t).map_or(1.0, |counts| counts[j] as f32),
        teacher: at(&lists.teacher_logprobs, j),
        sampler: at(&lists.sampler_logprobs, j),
    };
    ids.iter().enumerate().map(candidate).collect()
}

/// Draws with each id once: the counts of an id add.
fn merged(draws: Vec<Candidate>) -> Vec<Candidate> {
    let mut merged: Vec<Candidate> = Vec::with_capacity(draws.len());
    for draw in draws {
        match merged.iter_mut().find(|other| other.id == draw.id) {
            Some(other) => other.count += draw.count,
            None => merged.push(draw),
        }
    }
    merged
}

/// The first `k` of a top-k, and the log of the teacher's mass outside them: what is left out goes to the tail.
fn top(lists: &CandidateLists, t: usize, k: usize) -> (Vec<Candidate>, f32) {
    let mut candidates = read(lists, t);
    candidates.iter_mut().for_each(|candidate| candidate.in_head = true);
    let tail = lists.teacher_tail.get(t).copied().unwrap_or(f32::NAN);
    if candidates.len() <= k {
        return (candidates, tail);
    }
    let dropped = candidates.split_off(k);
    let mass: f64 = dropped.iter().map(|candidate| f64::from(candidate.teacher).exp()).sum();
    (candidates, (f64::from(tail).exp() + mass).ln() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tch::Kind;

    proptest! {
        #[test]
        fn every_row_is_in_one_microbatch_that_fits(
            lengths in prop::collection::vec(1usize..60, 0..40), tokens in 1usize..300,
        ) {
            let batches = microbatches(&lengths, tokens);
            let mut rows: Vec<usize> = batches.concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let longest = batch.iter().map(|row| lengths[*row]).max().unwrap();
                prop_assert!(batch.len() == 1 || batch.len() * longest <= tokens);
            }
        }
    }

    #[test]
    fn first_and_last_response_tokens_have_the_hidden_state_before_them() {
        let (a, b) = (TrainRow::completion(&[5, 6], &[7, 8, 9]), TrainRow::completion(&[5], &[6]));
        let found: Vec<_> = places(&[a, b], &[0, 1], 4).iter().map(|at| (at.row, at.t, at.hidden)).collect();
        assert_eq!(found, [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 4)]);
    }

    fn floats(t: &Tensor) -> Vec<f64> {
        Vec::try_from(t.to_kind(Kind::Double).reshape([-1])).unwrap()
    }

    #[test]
    fn counts_of_a_repeated_draw_add() {
        let draws = CandidateLists {
            ids: vec![&[3, 1, 3]],
            counts: vec![&[1, 2, 4]],
            teacher_logprobs: vec![&[-1.0, -2.0, -1.0]],
            sampler_logprobs: vec![&[-3.0, -4.0, -3.0]],
            teacher_tail: &[],
        };
        let row = TrainRow { draws, ..TrainRow::completion(&[1], &[3]) };
        let places = places(std::slice::from_ref(&row), &[0], 1);
        let columns = columns(&[row], &places, Support::Draws, Device::Cpu).unwrap();
        assert_eq!((floats(&columns.ids), floats(&columns.counts)), (vec![3.0, 1.0], vec![5.0, 2.0]));
    }

    #[test]
    fn a_smaller_k_moves_what_is_left_out_to_the_tail() {
        let q = [0.5f32, 0.25, 0.125];
        let logs = q.map(f32::ln);
        let tail = [0.125f32.ln()];
        let lists = || CandidateLists {
            ids: vec![&[4, 2, 0]],
            teacher_logprobs: vec![&logs],
            teacher_tail: &tail,
            ..CandidateLists::default()
        };
        let rows = [TrainRow { teacher_top_k: lists(), sampler_top_k: lists(), ..TrainRow::completion(&[1], &[3]) }];
        let places = places(&rows, &[0], 1);
        for support in [Support::TeacherTopK { k: 1 }, Support::SamplerTopK { k: 1 }] {
            let columns = columns(&rows, &places, support, Device::Cpu).unwrap();
            assert_eq!(floats(&columns.ids), [4.0]);
            assert!((floats(&columns.teacher_tail)[0].exp() - 0.5).abs() < 1e-6);
        }
        let all = columns(&rows, &places, Support::TeacherTopK { k: 9 }, Device::Cpu).unwrap();
        assert!((floats(&all.teacher_tail)[0].exp() - 0.125).abs() < 1e-6);
        assert!(floats(&all.sampler_logprobs).iter().all(|x| x.is_nan()), "nobody gave these");
    }

    #[test]
    fn padding_repeats_the_first_candidate() {
        let lists = CandidateLists {
            ids: vec![&[4, 2], &[], &[1]],
            teacher_logprobs: vec![&[-1.0, -1.0], &[], &[-0.5]],
            teacher_tail: &[-2.0, 0.0, -1.0],
            ..CandidateLists::default()
        };
        let rows = [TrainRow { teacher_top_k: lists, ..TrainRow::completion(&[1], &[3, 3, 3]) }];
        let places = places(&rows, &[0], 3);
        let columns = columns(&rows, &places, Support::TeacherTopK { k: 8 }, Device::Cpu).unwrap();
        assert_eq!(floats(&columns.ids), [4.0, 2.0, 0.0, 0.0, 1.0, 1.0]);
        assert_eq!(floats(&columns.mask), [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    }
}
