//! Every divergence, with and without the bucket, against full-vocabulary float64 and autograd.

use super::*;
use crate::estimator::oracle::{Position, assert_close, by_autograd, d_logits, faults, numbers};
use proptest::prelude::*;
use tch::{Device, Kind};

const ALL: [Phi; 5] =
    [Phi::Forward, Phi::Reverse, Phi::Skewed { alpha: 0.3 }, Phi::Jsd { beta: 0.5 }, Phi::Jsd { beta: 0.2 }];
const INF: f64 = f64::INFINITY;

/// phi as a textbook writes it, of probabilities above 0.
fn textbook(phi: Phi, p: &Tensor, q: &Tensor) -> Tensor {
    let forward = q * (q / p).log();
    let reverse = p * (p / q).log();
    match phi {
        Phi::Forward => forward,
        Phi::Reverse => reverse,
        Phi::Skewed { alpha } => forward * alpha + reverse * (1.0 - alpha),
        Phi::Jsd { beta } => {
            let m = q * beta + p * (1.0 - beta);
            q * beta * (q / &m).log() + p * (1.0 - beta) * (p / &m).log()
        }
    }
}

/// The divergence over `ids` as a function of logits, left to autograd.
fn expected(phi: Phi, tail: Tail, position: &Position, ids: &[i64]) -> (f64, Tensor) {
    let (q, ids) = (position.q(), Tensor::from_slice(ids));
    let outside = q.ones_like().index_fill(0, &ids, 0.0);
    by_autograd(position, |p| {
        let inside = textbook(phi, &p.index_select(0, &ids), &q.index_select(0, &ids)).sum(None);
        if tail == Tail::Drop || ids.size()[0] == q.size()[0] {
            return inside;
        }
        inside + textbook(phi, &(p * &outside).sum(None), &(&q * &outside).sum(None))
    })
}

fn found(phi: Phi, tail: Tail, position: &Position, ids: &[i64]) -> (f64, Tensor) {
    let ruling = phi.rule(tail, &position.candidates(ids, &vec![1; ids.len()]));
    assert_eq!(faults(&ruling), [], "{phi:?}");
    (ruling.value.double_value(&[0]), d_logits(position, &ruling, ids))
}

fn zeros(n: i64) -> Tensor {
    Tensor::zeros([n], (Kind::Double, Device::Cpu))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn value_and_gradient_are_those_of_the_divergence_over_the_support(
        seed in 0u64..1 << 40, vocab in 3i64..40, k in 1i64..40, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
    ) {
        tch::set_num_threads(1);
        let position = Position::random(seed, vocab, temperature);
        let k = k.min(vocab);
        for ids in [position.teacher_top(k), position.sampler_top(k)] {
            for phi in ALL {
                let whole = expected(phi, Tail::Bucket, &position, &(0..vocab).collect::<Vec<_>>()).0;
                for tail in [Tail::Bucket, Tail::Drop] {
                    let (value, gradient) = found(phi, tail, &position, &ids);
                    let (by_hand, autograd) = expected(phi, tail, &position, &ids);
                    prop_assert!((value - by_hand).abs() < 1e-9, "{:?} {:?}: {} {}", phi, tail, value, by_hand);
                    assert_close(&gradient, &autograd, 1e-9);
                    if tail == Tail::Bucket {
                        prop_assert!((-1e-12..=whole + 1e-12).contains(&value), "{:?}: {} of {}", phi, value, whole);
                    }
                }
            }
        }
    }

    #[test]
    fn a_student_that_is_the_teacher_has_nothing_to_learn(seed in 0u64..1 << 40, k in 1i64..12) {
        tch::set_num_threads(1);
        let mut position = Position::random(seed, 12, 0.8);
        position.teacher_logits = position.learner_logits.copy();
        position.sampler_logits = position.learner_logits.copy();
        let ids = position.teacher_top(k);
        for phi in ALL {
            let (value, gradient) = found(phi, Tail::Bucket, &position, &ids);
            prop_assert!(value.abs() < 1e-12);
            assert_close(&gradient, &zeros(12), 1e-12);
            let (value, gradient) = found(phi, Tail::Drop, &position, &ids);
            prop_assert!(value.abs() < 1e-12);
            // Of what a step down the gradient does to the mass of the support: forward pulls it in, reverse pushes it out.
            let pull = -gradient.index_select(0, &Tensor::from_slice(&ids)).sum(None).double_value(&[]);
            match phi {
                Phi::Forward => prop_assert!(pull > 1e-6),
                Phi::Reverse => prop_assert!(pull < -1e-6),
                Phi::Skewed { .. } => {}
                Phi::Jsd { .. } => assert_close(&gradient, &zeros(12), 1e-12),
            }
        }
    }
}

#[test]
fn with_the_bucket_the_value_grows_with_k() {
    tch::set_num_threads(1);
    let position = Position::random(3, 30, 1.0);
    for phi in ALL {
        let values: Vec<f64> =
            (1..=30).map(|k| found(phi, Tail::Bucket, &position, &position.teacher_top(k)).0).collect();
        assert!(values.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12), "{phi:?} {values:?}");
    }
}

/// A divergence used as the reward of the sampled token does not depend on that token, so that its expected gradient is 0.
/// The rules here differentiate the divergence itself.
#[test]
fn top_k_kl_used_as_a_reward_has_no_gradient() {
    tch::set_num_threads(1);
    let mut position = Position::random(9, 8, 1.0);
    position.sampler_logits = position.learner_logits.copy();
    let ids = position.teacher_top(3);
    for phi in ALL {
        let (value, gradient) = found(phi, Tail::Bucket, &position, &ids);
        let p = position.p();
        let as_reward = (0..8).fold(zeros(8), |sum, y| {
            let one_hot = zeros(8).index_fill(0, &Tensor::from_slice(&[y]), 1.0);
            sum + (one_hot - &p) * value * p.double_value(&[y])
        });
        assert_close(&as_reward, &zeros(8), 1e-12);
        assert_close(&gradient, &expected(phi, Tail::Bucket, &position, &ids).1, 1e-9);
        assert!(gradient.norm().double_value(&[]) > 1e-2, "{phi:?}");
    }
}

#[test]
fn a_clamp_does_not_hide_a_negative_truncated_kl() {
    tch::set_num_threads(1);
    let logs = |x: [f64; 3]| Tensor::from_slice(&x).log();
    // The holder of less mass inside the support makes the truncated sum negative.
    for (phi, p, q) in
        [(Phi::Forward, [0.55, 0.4, 0.05], [0.3, 0.2, 0.5]), (Phi::Reverse, [0.3, 0.2, 0.5], [0.55, 0.4, 0.05])]
    {
        let mut position = Position::random(1, 3, 1.0);
        (position.learner_logits, position.teacher_logits) = (logs(p), logs(q));
        let (value, gradient) = found(phi, Tail::Drop, &position, &[0, 1]);
        let (by_hand, autograd) = expected(phi, Tail::Drop, &position, &[0, 1]);
        assert!(value < -0.1 && (value - by_hand).abs() < 1e-12, "{phi:?}: {value}");
        assert_close(&gradient, &autograd, 1e-12);
        assert!(gradient.abs().max().double_value(&[]) > 1e-2);
    }
}

/// Inside the support the student has the teacher's proportions; all that is wrong is its mass outside.
#[test]
fn the_tail_is_penalised() {
    tch::set_num_threads(1);
    let mut position = Position::random(1, 4, 1.0);
    position.teacher_logits = Tensor::from_slice(&[0.5f64, 0.4, 0.06, 0.04]).log();
    position.learner_logits = Tensor::from_slice(&[0.25f64, 0.2, 0.33, 0.22]).log();
    for phi in ALL {
        let (value, gradient) = found(phi, Tail::Bucket, &position, &[0, 1]);
        assert!(value > 0.05, "{phi:?}");
        let gradient = Vec::<f64>::try_from(gradient).unwrap();
        // A step goes against the gradient: up inside, down outside.
        assert!(gradient[..2].iter().all(|g| *g < -1e-3) && gradient[2..].iter().all(|g| *g > 1e-3), "{gradient:?}");
    }
}

/// Candidates with these logs at one position.
fn given(log_p: &[f64], log_q: &[f64], tails: (f64, f64)) -> Candidates {
    let row = |x: &[f64]| Tensor::from_slice(x).unsqueeze(0);
    let mask = row(log_p).ones_like().to_kind(Kind::Bool);
    Candidates {
        mask: mask.copy(),
        in_head: mask,
        draws: Tensor::from_slice(&[f64::NAN]),
        counts: row(log_p).ones_like(),
        learner_logprobs: row(log_p),
        proximal_logprobs: row(log_p).full_like(f64::NAN),
        teacher_logprobs: row(log_q),
        sampler_logprobs: row(log_p).full_like(f64::NAN),
        learner_tail: Tensor::from_slice(&[tails.0]),
        teacher_tail: Tensor::from_slice(&[tails.1]),
    }
}

#[test]
fn the_table_of_zeros() {
    tch::set_num_threads(1);
    let finite = |ruling: &Ruling| (ruling.coefficients.sum(None) + &ruling.value).isfinite().int64_value(&[0]) == 1;
    let (logs, no_first) = ([0.3f64.ln(), 0.4f64.ln()], [-INF, 0.4f64.ln()]);
    let (tail, no_tail) = (0.3f64.ln(), -INF);
    for phi in ALL {
        let skewed = matches!(phi, Phi::Skewed { .. });
        let (forward, reverse) = (matches!(phi, Phi::Forward) || skewed, matches!(phi, Phi::Reverse) || skewed);
        let only = |wrong: bool, fault: Fault| if wrong { vec![fault] } else { Vec::new() };
        for (c, expected) in [
            (given(&no_first, &logs, (tail, tail)), only(forward, Fault::ImpossibleToLearner)),
            (given(&logs, &no_first, (tail, tail)), only(reverse, Fault::ImpossibleToTeacher)),
            (given(&logs, &logs, (tail, no_tail)), only(reverse, Fault::NoTeacherTail)),
            (given(&logs, &logs, (no_tail, tail)), only(forward, Fault::NoLearnerTail)),
            (given(&logs, &logs, (no_tail, no_tail)), Vec::new()),
        ] {
            let ruling = phi.rule(Tail::Bucket, &c);
            assert_eq!(faults(&ruling), expected, "{phi:?} {c:?}");
            assert_eq!(finite(&ruling), expected.is_empty(), "{phi:?} {c:?}");
        }
        // A tail that is dropped is not read.
        let dropped = phi.rule(Tail::Drop, &given(&logs, &logs, (f64::NAN, f64::NAN)));
        assert!(finite(&dropped) && faults(&dropped).is_empty());
        assert!(!finite(&phi.rule(Tail::Bucket, &given(&logs, &logs, (tail, f64::NAN)))), "a tail nobody gave");
    }
    // Forward at q_T = 0 < p_T: no tail term.
    let ruling = Phi::Forward.rule(Tail::Bucket, &given(&logs, &logs, (tail, no_tail)));
    assert_close(&ruling.coefficients, &-Tensor::from_slice(&[0.3, 0.4]).unsqueeze(0), 1e-15);
}

/// Where a term is 0 by the table, the gradient is the limit of those with a little mass there.
#[test]
fn what_is_zero_is_the_limit() {
    tch::set_num_threads(1);
    let inside = numbers(8, 3);
    for phi in [Phi::Reverse, Phi::Jsd { beta: 0.3 }] {
        // Id 1 is in the support, 3 in the tail: either may vanish from p.
        for gone in [1, 3] {
            let at = |logit: f64| {
                let mut position = Position::random(8, 4, 1.0);
                let mut logits = vec![inside[0], inside[1], inside[2], 0.2];
                logits[gone] = logit;
                // The tail is id 3 alone, or ids 2 and 3 where one of the support goes.
                position.learner_logits = Tensor::from_slice(&logits);
                let ids: &[i64] = if gone == 3 { &[0, 1, 2] } else { &[0, 1] };
                found(phi, Tail::Bucket, &position, ids)
            };
            let ((value, gradient), (near, near_gradient)) = (at(-INF), at(-40.0));
            assert!((value - near).abs() < 1e-12, "{phi:?} {value} {near}");
            assert_close(&gradient, &near_gradient, 1e-12);
        }
    }
}

#[test]
fn padding_is_selected_out_and_an_empty_support_is_zero() {
    tch::set_num_threads(1);
    let position = Position::random(6, 9, 1.0);
    let ids = position.teacher_top(4);
    for phi in ALL {
        for tail in [Tail::Bucket, Tail::Drop] {
            let plain = phi.rule(tail, &position.candidates(&ids, &[1; 4]));
            let padded = phi.rule(tail, &position.candidates(&ids, &[1; 4]).padded(3));
            assert_close(&padded.value, &plain.value, 0.0);
            assert_close(&padded.coefficients.narrow(1, 0, 4), &plain.coefficients, 0.0);
            assert_eq!(padded.coefficients.narrow(1, 4, 3).abs().sum(None).double_value(&[]), 0.0);
            assert_eq!(faults(&padded), []);
            let mut empty = position.candidates(&[], &[]).padded(2);
            empty.teacher_tail = Tensor::from_slice(&[f64::NAN]);
            let ruling = phi.rule(tail, &empty);
            assert_eq!(ruling.value.double_value(&[0]), 0.0);
            assert_eq!(ruling.coefficients.abs().sum(None).double_value(&[]), 0.0);
            assert_eq!(faults(&ruling), []);
        }
    }
}
