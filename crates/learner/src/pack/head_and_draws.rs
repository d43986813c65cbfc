//! The candidates of a head and of the draws outside it.

use super::{Candidate, merged, read, top};
use crate::{estimator::Head, row::TrainRow};

/// Where a difference of tails is less than this part of them, float32 no longer tells it from rounding.
const ROUNDING: f64 = 1e-6;

/// The head at position `t`, then the draws outside it, each id once, and the log of the teacher's mass outside the head. A draw
/// inside the head is counted at its entry there. Where no top-k was kept, the head is empty and everything is outside.
pub(super) fn candidates(row: &TrainRow, t: usize, head: Head, k: usize) -> (Vec<Candidate>, f32) {
    let (mut candidates, tail) = match head {
        Head::StudentTopK => top(&row.sampler_top_k, t, k),
        Head::TeacherTopK => top(&row.teacher_top_k, t, k),
        Head::Union => union(top(&row.sampler_top_k, t, k), top(&row.teacher_top_k, t, k)),
    };
    let tail = if candidates.is_empty() { 0.0 } else { tail };
    candidates.iter_mut().for_each(|candidate| candidate.count = 0.0);
    for draw in merged(read(&row.draws, t)) {
        match candidates.iter_mut().find(|other| other.id == draw.id) {
            Some(entry) => entry.count += draw.count,
            None => candidates.push(draw),
        }
    }
    (candidates, tail)
}

/// All of `a`, then what only `b` has. The teacher's tail of the union is that of either less what the other adds; the smaller
/// of the two tails loses less to rounding, and what rounding would make of nothing is held above 0.
///
/// So this tail, unlike the others, is exact only down to [`ROUNDING`] of the smaller one. It is read as part of a baseline,
/// where a constant other than the best one costs variance, and no bias.
fn union((a, a_tail): (Vec<Candidate>, f32), (b, b_tail): (Vec<Candidate>, f32)) -> (Vec<Candidate>, f32) {
    let mass_beside = |of: &[Candidate], beside: &[Candidate]| -> f64 {
        let only = of.iter().filter(|entry| beside.iter().all(|other| other.id != entry.id));
        only.map(|entry| f64::from(entry.teacher).exp()).sum()
    };
    let (tail, added) = if a_tail <= b_tail { (a_tail, mass_beside(&b, &a)) } else { (b_tail, mass_beside(&a, &b)) };
    let all = f64::from(tail).exp();
    let rest = (all - added).max(ROUNDING * all).ln() as f32;
    let tail = if added == 0.0 { tail } else { rest };
    let only_b: Vec<Candidate> = b.into_iter().filter(|entry| a.iter().all(|other| other.id != entry.id)).collect();
    ([a, only_b].concat(), tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::CandidateLists;

    /// q = 1/2, 1/4, 1/8, 1/16, 1/16 over five ids.
    fn log_q(ids: &[i32]) -> Vec<f32> {
        ids.iter().map(|id| [0.5f32, 0.25, 0.125, 0.0625, 0.0625][*id as usize].ln()).collect()
    }

    fn tail(ids: &[i32]) -> f32 {
        (1.0 - log_q(ids).iter().map(|x| x.exp()).sum::<f32>()).ln()
    }

    fn found(head: Head, k: usize, drawn: &[i32], counts: &[i32]) -> (Vec<(i64, bool, f32)>, f32) {
        let (of_student, of_teacher) = ([2, 0], [0, 1]);
        let lists = [log_q(&of_student), log_q(&of_teacher), log_q(drawn)];
        let tails = [[tail(&of_student)], [tail(&of_teacher)]];
        let row = TrainRow {
            sampler_top_k: CandidateLists {
                ids: vec![&of_student],
                teacher_logprobs: vec![&lists[0]],
                teacher_tail: &tails[0],
                ..CandidateLists::default()
            },
            teacher_top_k: CandidateLists {
                ids: vec![&of_teacher],
                teacher_logprobs: vec![&lists[1]],
                teacher_tail: &tails[1],
                ..CandidateLists::default()
            },
            draws: CandidateLists {
                ids: vec![drawn],
                counts: vec![counts],
                teacher_logprobs: vec![&lists[2]],
                sampler_logprobs: vec![&lists[2]],
                teacher_tail: &[],
            },
            ..TrainRow::completion(&[1], &[3])
        };
        let (candidates, tail) = candidates(&row, 0, head, k);
        (candidates.iter().map(|c| (c.id, c.in_head, c.count)).collect(), tail.exp())
    }

    #[test]
    fn a_draw_inside_the_head_is_counted_there() {
        let (head, tail) = found(Head::StudentTopK, 9, &[3, 0], &[1, 2]);
        assert_eq!(head, [(2, true, 0.0), (0, true, 2.0), (3, false, 1.0)]);
        assert!((tail - 0.375).abs() < 1e-6);
        let (head, tail) = found(Head::TeacherTopK, 1, &[1], &[4]);
        assert_eq!(head, [(0, true, 0.0), (1, false, 4.0)]);
        assert!((tail - 0.5).abs() < 1e-6, "a smaller k moves mass to the tail: {tail}");
    }

    #[test]
    fn a_union_has_each_id_once_and_the_tail_of_both() {
        let (head, tail) = found(Head::Union, 9, &[4], &[1]);
        assert_eq!(head, [(2, true, 0.0), (0, true, 0.0), (1, true, 0.0), (4, false, 1.0)]);
        assert!((tail - 0.125).abs() < 1e-6, "{tail}");
        let (head, tail) = found(Head::Union, 1, &[4], &[1]);
        assert_eq!(head, [(2, true, 0.0), (0, true, 0.0), (4, false, 1.0)]);
        assert!((tail - 0.375).abs() < 1e-6, "{tail}");
    }

    /// Both lists together are the vocabulary, but float32 tails do not say so.
    #[test]
    fn a_tail_that_rounding_would_make_negative_is_held() {
        let entry = |id, q: f32| Candidate { id, in_head: true, count: 1.0, teacher: q.ln(), sampler: f32::NAN };
        let (all, tail) = union((vec![entry(0, 0.7)], 0.3f32.ln()), (vec![entry(1, 0.300_000_1)], 0.7f32.ln()));
        assert_eq!(all.len(), 2);
        assert!(tail.is_finite() && tail.exp() < 1e-6, "{tail}");
        let (_, tail) = union((vec![entry(0, 0.7)], 0.3f32.ln()), (vec![entry(0, 0.7)], 0.3f32.ln()));
        assert_eq!(tail, 0.3f32.ln(), "nothing is added: nothing is taken away");
    }

    #[test]
    fn without_a_top_k_everything_is_outside() {
        let row = TrainRow {
            draws: CandidateLists { ids: vec![&[3]], counts: vec![&[2]], ..CandidateLists::default() },
            ..TrainRow::completion(&[1], &[3])
        };
        let (candidates, tail) = candidates(&row, 0, Head::StudentTopK, 4);
        assert_eq!((candidates.len(), candidates[0].in_head, candidates[0].count, tail), (1, false, 2.0, 0.0));
    }
}
