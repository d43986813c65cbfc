//! Expectations over all draws of the hybrid, for each head and baseline.

use super::*;
use crate::estimator::{
    ReverseKlMc, Tail,
    oracle::{Position, assert_close, d_logits, expectation, faults, over_all_draws},
    over_support::Phi,
};
use proptest::prelude::*;
use tch::{Device, Kind};

const RULE: ReverseKlHybrid = rule(Baseline::Tail);
const BASELINES: [Baseline; 3] = [Baseline::Tail, Baseline::LeaveOneOut, Baseline::None];

const fn rule(baseline: Baseline) -> ReverseKlHybrid {
    ReverseKlHybrid { top_k: 64, draws: 2, head: Head::StudentTopK, baseline }
}

/// The ids of the head: of the student that sampled, of the teacher, or of both.
fn head(position: &Position, head: Head, k: i64) -> Vec<i64> {
    let mut ids = if head == Head::TeacherTopK { position.teacher_top(k) } else { position.sampler_top(k) };
    if head == Head::Union {
        ids.extend(position.teacher_top(k).into_iter().filter(|id| !position.sampler_top(k).contains(id)));
    }
    ids
}

fn expected(rule: &ReverseKlHybrid, position: &Position, head: &[i64], m: u32) -> (f64, Tensor) {
    over_all_draws(position, &position.b(), m, |draws, counts| {
        let (candidates, ids) = position.head_and_draws(head, draws, counts);
        let ruling = rule.rule(&candidates);
        assert_eq!(faults(&ruling), []);
        (ruling.value.double_value(&[0]), d_logits(position, &ruling, &ids))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn unbiased_as_an_identity_over_all_draws(
        seed in 0u64..1 << 40, vocab in 2i64..6, k in 0i64..4, m in 1u32..=2,
        temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
    ) {
        tch::set_num_threads(1);
        // p, q and b are three distributions: the rollout is stale.
        let position = Position::random(seed, vocab, temperature);
        for of in [Head::StudentTopK, Head::TeacherTopK, Head::Union] {
            let head = head(&position, of, k.min(vocab - 1));
            for baseline in BASELINES {
                let (value, gradient) = expected(&rule(baseline), &position, &head, m);
                prop_assert!((value - position.reverse_kl()).abs() < 1e-9, "{:?} {:?} {}", of, baseline, value);
                assert_close(&gradient, &position.d_reverse_kl(), 1e-9);
            }
        }
    }

    #[test]
    fn at_the_optimum_nothing_is_left_to_learn(seed in 0u64..1 << 40, k in 1i64..4) {
        tch::set_num_threads(1);
        let mut position = Position::random(seed, 4, 0.7);
        position.teacher_logits = position.learner_logits.copy();
        let head = head(&position, Head::StudentTopK, k);
        let nothing = Tensor::zeros([4], (Kind::Double, Device::Cpu));
        for sampler_is_learner in [false, true] {
            if sampler_is_learner {
                position.sampler_logits = position.learner_logits.copy();
            }
            for baseline in BASELINES {
                let (value, gradient) = expected(&rule(baseline), &position, &head, 2);
                prop_assert!(value.abs() < 1e-12);
                assert_close(&gradient, &nothing, 1e-12);
                // log p - log q is 0 everywhere, and so is every baseline: not in expectation only.
                let (candidates, ids) = position.head_and_draws(&head, &[0, 3], &[1, 1]);
                let ruling = rule(baseline).rule(&candidates);
                assert_close(&d_logits(&position, &ruling, &ids), &nothing, 1e-12);
            }
        }
    }

    /// Its head alone is the bucketed divergence; that is where the draws start from.
    #[test]
    fn without_a_draw_outside_it_is_the_bucketed_divergence(seed in 0u64..1 << 40, k in 1i64..6) {
        tch::set_num_threads(1);
        let position = Position::random(seed, 6, 1.2);
        let ids = position.sampler_top(k);
        let (candidates, _) = position.head_and_draws(&ids, &ids[..1], &[7]);
        let found = RULE.rule(&candidates);
        let bucketed = Phi::Reverse.rule(Tail::Bucket, &position.candidates(&ids, &vec![1; ids.len()]));
        assert_close(&found.coefficients, &bucketed.coefficients, 1e-9);
        assert_close(&found.value, &bucketed.value, 1e-9);
    }

    /// With a head of nothing it is `reverse_kl_mc`; a part of the draws has its part of the coefficients.
    #[test]
    fn it_is_linear_in_the_draws(seed in 0u64..1 << 40, k in 1i64..4) {
        tch::set_num_threads(1);
        let position = Position::random(seed, 6, 1.2);
        let mc = ReverseKlMc { draws: 3, advantage: Default::default(), correction: Default::default() };
        let draws = position.candidates(&[0, 4], &[2, 1]);
        let found = rule(Baseline::None).rule(&draws);
        assert_close(&found.coefficients, &mc.rule(&draws).coefficients, 1e-12);
        assert_close(&found.value, &mc.rule(&draws).value, 1e-12);

        let head = position.sampler_top(k);
        let (whole, ids) = position.head_and_draws(&head, &[0, 4], &[2, 1]);
        let whole = d_logits(&position, &RULE.rule(&whole), &ids);
        let (of_head, ids) = position.head_and_draws(&head, &[], &[]);
        let mut sum = d_logits(&position, &RULE.rule(&Candidates { draws: Tensor::from_slice(&[3.0]), ..of_head }), &ids);
        for (id, count) in [(0, 2.0), (4, 1.0)] {
            if !head.contains(&id) {
                // One draw, an empty list of head entries, and the tails of the head.
                let (with_tails, _) = position.head_and_draws(&head, &[], &[]);
                let Candidates { learner_tail, teacher_tail, .. } = with_tails;
                let one = Candidates { learner_tail, teacher_tail, ..position.candidates(&[id], &[1]) };
                sum += d_logits(&position, &RULE.rule(&one), &[id]) * count / 3.0;
            }
        }
        assert_close(&whole, &sum, 1e-12);
    }
}

/// Leave-one-out by hand: what a draw gets from the others, and the head from all.
#[test]
fn a_draw_is_no_part_of_its_own_baseline() {
    tch::set_num_threads(1);
    let position = Position::random(9, 6, 1.0);
    let log_ratio = Vec::<f64>::try_from(position.p().log() - position.q().log()).unwrap();
    let rho = Vec::<f64>::try_from(position.p() / position.b()).unwrap();
    let p = Vec::<f64>::try_from(position.p()).unwrap();
    let head = [0i64];
    // Five draws: one inside the head, one of 2, three of 4.
    let (candidates, ids) = position.head_and_draws(&head, &[0, 2, 4], &[1, 1, 3]);
    assert_eq!(ids, [0, 2, 4]);
    let ruling = rule(Baseline::LeaveOneOut).rule(&candidates);
    let (l2, l4) = (log_ratio[2], log_ratio[4]);
    let (c2, c4) = (l4, (l2 + 2.0 * l4) / 3.0);
    let c_head = ((l2 + 3.0 * l4) / 4.0 + c2 + 3.0 * c4) / 5.0;
    let coefficients = [p[0] * (log_ratio[0] - c_head), rho[2] * (l2 - c2) / 5.0, 3.0 * rho[4] * (l4 - c4) / 5.0];
    assert_close(&ruling.coefficients, &Tensor::from_slice(&coefficients).unsqueeze(0), 1e-12);
    assert!((ruling.value.double_value(&[0]) - c_head - coefficients.iter().sum::<f64>()).abs() < 1e-12);

    // Five draws of which one is outside: it has no other, and gets the gap of the tails; the four have it.
    let (candidates, _) = position.head_and_draws(&head, &[0, 2], &[4, 1]);
    let gap = (&candidates.learner_tail - &candidates.teacher_tail).double_value(&[0]);
    let ruling = rule(Baseline::LeaveOneOut).rule(&candidates);
    let c_head = (4.0 * l2 + gap) / 5.0;
    let coefficients = [p[0] * (log_ratio[0] - c_head), rho[2] * (l2 - gap) / 5.0];
    assert_close(&ruling.coefficients, &Tensor::from_slice(&coefficients).unsqueeze(0), 1e-12);
    // None outside: the bucketed divergence, as with `tail`; without a tail of the teacher's c = 0, and finite.
    let none = || position.head_and_draws(&head, &head, &[5]).0;
    let [found, tail] = [Baseline::LeaveOneOut, Baseline::Tail].map(|baseline| rule(baseline).rule(&none()));
    assert_close(&found.coefficients, &tail.coefficients, 0.0);
    let lost = Candidates { teacher_tail: Tensor::from_slice(&[f64::NEG_INFINITY]), ..none() };
    let found = rule(Baseline::LeaveOneOut).rule(&lost).coefficients;
    assert_close(&found, &Tensor::from_slice(&[p[0] * log_ratio[0]]).unsqueeze(0), 1e-12);
}

/// The variance that the head and the baseline take away, on one position: exact, over all draws.
#[test]
fn its_variance_is_below_that_of_draws_alone() {
    tch::set_num_threads(1);
    // Sampler and learner are near, as after a step or two.
    let mut position = Position::random(33, 6, 0.5);
    position.sampler_logits = &position.learner_logits + &position.sampler_logits * 0.1;
    let variance = |of: &dyn Fn(&[i64], &[i64]) -> Tensor| {
        let (mean_square, mean) = over_all_draws(&position, &position.b(), 2, |ids, counts| {
            let gradient = of(ids, counts);
            (gradient.square().sum(None).double_value(&[]), gradient)
        });
        mean_square - mean.square().sum(None).double_value(&[])
    };
    let mc = ReverseKlMc { draws: 2, advantage: Default::default(), correction: Default::default() };
    let of_mc = variance(&|ids, counts| d_logits(&position, &mc.rule(&position.candidates(ids, counts)), ids));
    let head = position.sampler_top(3);
    let of_hybrid = variance(&|draws, counts| {
        let (candidates, ids) = position.head_and_draws(&head, draws, counts);
        d_logits(&position, &RULE.rule(&candidates), &ids)
    });
    assert!(of_hybrid > 0.0 && of_mc > 5.0 * of_hybrid, "{of_mc} {of_hybrid}");
    let (value, _) = expectation(&mc, &position, 1);
    assert!((value - position.reverse_kl()).abs() < 1e-12);
}

#[test]
fn zeros() {
    tch::set_num_threads(1);
    let position = Position::random(2, 5, 1.0);
    // Head 1; draws: 1 inside, 3 outside.
    let plain = || position.head_and_draws(&[1], &[1, 3], &[1, 1]).0;
    let logs = |x: [f64; 2]| Tensor::from_slice(&x).unsqueeze(0);
    let (no_head, no_draw) = (|| logs([f64::NEG_INFINITY, -1.0]), || logs([-1.0, f64::NEG_INFINITY]));
    let number = |x: f64| Tensor::from_slice(&[x]);
    for baseline in BASELINES {
        let rule = rule(baseline);
        let fault = |c: &Candidates| faults(&rule.rule(c));
        assert_eq!(fault(&plain().padded(2)), [], "padding holds NaN and is selected out");
        assert_eq!(fault(&Candidates { learner_logprobs: no_draw(), ..plain() }), [Fault::ImpossibleDraw]);
        assert_eq!(fault(&Candidates { teacher_logprobs: no_draw(), ..plain() }), [Fault::ImpossibleDraw]);
        assert_eq!(fault(&Candidates { sampler_logprobs: no_draw(), ..plain() }), [Fault::ImpossibleDraw]);
        assert_eq!(fault(&Candidates { teacher_logprobs: no_head(), ..plain() }), [Fault::ImpossibleToTeacher]);
        let ruling = rule.rule(&Candidates { learner_logprobs: no_head(), ..plain() });
        assert_eq!((faults(&ruling), ruling.coefficients.double_value(&[0, 0])), (vec![], 0.0), "p log p is 0");
        // b is not read inside the head: a teacher's top-k has none.
        let unknown = Candidates { sampler_logprobs: logs([f64::NAN, -1.0]), ..plain() };
        assert!(rule.rule(&unknown).value.double_value(&[0]).is_finite());
        assert_eq!(fault(&position.head_and_draws(&[1], &[], &[]).0), [Fault::NoDraw]);

        let lost = if baseline == Baseline::Tail { vec![Fault::NoTeacherTail] } else { Vec::new() };
        assert_eq!(fault(&Candidates { teacher_tail: number(f64::NEG_INFINITY), ..plain() }), lost);
        let without = Candidates { learner_tail: number(f64::NEG_INFINITY), ..plain() };
        assert!(rule.rule(&without).value.double_value(&[0]).is_finite(), "p has no tail");

        let (padded, ruling) = (rule.rule(&plain().padded(2)), rule.rule(&plain()));
        assert_close(&padded.value, &ruling.value, 0.0);
        assert_close(&padded.coefficients.narrow(1, 0, 2), &ruling.coefficients, 0.0);
        assert_eq!(padded.coefficients.narrow(1, 2, 2).abs().sum(None).double_value(&[]), 0.0);
    }
    // The support is the vocabulary: exact.
    let all: Vec<i64> = (0..5).collect();
    for baseline in BASELINES {
        let (candidates, ids) = position.head_and_draws(&all, &[2], &[3]);
        let ruling = rule(baseline).rule(&candidates);
        assert_eq!(faults(&ruling), []);
        assert!((ruling.value.double_value(&[0]) - position.reverse_kl()).abs() < 1e-12);
        assert_close(&d_logits(&position, &ruling, &ids), &position.d_reverse_kl(), 1e-12);
    }
}

#[test]
fn weights_beyond_the_limit_are_held_and_counted() {
    tch::set_num_threads(1);
    let position = Position::random(2, 5, 1.0);
    let (plain, _) = position.head_and_draws(&[1], &[3, 4], &[3, 1]);
    let row = |x: [f64; 3]| Tensor::from_slice(&x).unsqueeze(0);
    let c = Candidates {
        learner_logprobs: row([-1.0, -1.0, -1.0]),
        teacher_logprobs: row([-1.0, -2.0, -1.5]),
        sampler_logprobs: row([-1.0, -31.0, -1.0]),
        ..plain
    };
    let ruling = rule(Baseline::None).rule(&c);
    assert_close(&ruling.coefficients, &row([0.0, 0.75 * 20f64.exp(), 0.25 * 0.5]), 1e-3);
    let [clamped] = &ruling.tallies[..] else { panic!("{:?}", ruling.tallies) };
    assert_eq!((clamped.numerator.double_value(&[]), clamped.denominator.double_value(&[])), (3.0, 4.0));
}
