//! The threshold against its definition, and the margins that follow from it.

use super::*;
use crate::estimator::{
    Advantage, Correction, Estimator, ReverseKlMc,
    oracle::{Position, assert_close, numbers as random},
};
use proptest::prelude::*;

const RULE: M2po = M2po { budget: 0.04 };

fn mean_of_min(harmful: &[(f64, f64)], tau: f64) -> f64 {
    let weight: f64 = harmful.iter().map(|(_, weight)| weight).sum();
    harmful.iter().map(|(delta, weight)| weight * (delta * delta).min(tau * tau)).sum::<f64>() / weight
}

proptest! {
    #[test]
    fn the_mean_of_min_is_the_budget_or_nothing_is_clipped(
        seed in 0u64..1 << 40, n in 0i64..60, spread in 0.0f64..2.0, budget in 1e-3f64..0.5,
    ) {
        // Counts as draws have them, and chances, with which the statistic is an expectation; some are 0.
        let draws = random(seed, n).into_iter().zip(random(seed + 1, n)).map(|(delta, w)| (delta * spread, w.max(0.0)));
        let mut harmful: Vec<(f64, f64)> = draws.collect();
        let rule = M2po { budget };
        match rule.threshold(&harmful) {
            Some(tau) => {
                prop_assert!(tau > 0.0 && (mean_of_min(&harmful, tau) - budget).abs() < 1e-12 * budget.max(1.0));
                prop_assert!(harmful.iter().any(|(delta, _)| delta.abs() > tau));
            }
            None => {
                prop_assert!(harmful.iter().all(|(_, w)| *w == 0.0) || mean_of_min(&harmful, f64::INFINITY) <= budget + 1e-15);
            }
        }
        // Neither the order of the draws nor how counts are split over entries says anything.
        let tau = rule.threshold(&harmful).unwrap_or(-1.0);
        harmful.reverse();
        let halves: Vec<(f64, f64)> = harmful.iter().flat_map(|(delta, w)| [(*delta, w / 2.0), (-delta, w / 2.0)]).collect();
        prop_assert!((rule.threshold(&halves).unwrap_or(-1.0) - tau).abs() < 1e-9);
    }
}

#[test]
fn the_threshold_by_hand() {
    // One of four draws is far off: (3 * 0.01 + tau^2) / 4 = 0.04.
    let tau = RULE.threshold(&[(0.1, 2.0), (-5.0, 1.0), (0.1, 1.0)]).unwrap();
    assert!((tau - 0.13f64.sqrt()).abs() < 1e-15);
    // All beyond tau: tau is the root of the budget.
    assert!((RULE.threshold(&[(3.0, 1.0), (-4.0, 7.0)]).unwrap() - 0.2).abs() < 1e-15);
    assert_eq!(RULE.threshold(&[]), None);
    assert_eq!(RULE.threshold(&[(9.0, 0.0)]), None);
    // At the budget is within it.
    assert_eq!(M2po { budget: 0.25 }.threshold(&[(0.5, 1.0), (-0.5, 3.0)]), None);
}

#[test]
fn margins_are_those_of_tau_with_their_floors() {
    // tau = 0.2: both are below their floors. tau = 1: neither.
    let clip = RULE.clip(&[(3.0, 1.0)]);
    assert_eq!((clip.eps_low, clip.eps_high, clip.dual_clip), (0.3, 0.5, None));
    let clip = M2po { budget: 1.0 }.clip(&[(3.0, 1.0)]);
    assert!((clip.eps_low - (1.0 - (-1f64).exp())).abs() < 1e-15 && (clip.eps_high - (1f64.exp() - 1.0)).abs() < 1e-15);
}

#[test]
fn harmful_is_further_than_the_advantage_asked_for() {
    for (delta, advantage, harmful) in [
        (-0.1, 1.0, true),
        (0.1, -1.0, true),
        (0.1, 1.0, false),
        (-0.1, -1.0, false),
        (0.0, 1.0, false),
        (1.0, 0.0, false),
    ] {
        assert_eq!(M2po::is_harmful(delta, advantage), harmful, "{delta} {advantage}");
    }
}

/// The public implementation has a margin of 0 where nothing is to be clipped, and then raises it to its floor of 0.3 or 0.5.
#[test]
fn m2po_within_budget_clips_nothing() {
    tch::set_num_threads(1);
    // 1 of 100 draws has rho = 3 and an advantage above 0: 1.2 / 100 is within 0.04, and rho is above 1 + 0.5.
    let row = |x: [f64; 2]| Tensor::from_slice(&x).unsqueeze(0);
    let candidates = Candidates {
        learner_logprobs: row([-1.0, -1.0]),
        teacher_logprobs: row([-0.5, -0.5]),
        sampler_logprobs: row([-1.0 - 3f64.ln(), -1.001]),
        ..Position::random(2, 5, 1.0).candidates(&[1, 3], &[1, 99])
    };
    let rule = |correction| ReverseKlMc { draws: 100, advantage: Advantage::Current, correction };
    let unsettled = rule(Correction::M2po(RULE));
    let (harmful, _) = (M2po::harmful(Advantage::Current, std::slice::from_ref(&candidates)), ());
    assert_eq!(harmful.len(), 2, "both have gone further than 1: {harmful:?}");
    assert_eq!(RULE.threshold(&harmful), None);
    let settled = unsettled.settle(std::slice::from_ref(&candidates)).unwrap().rule(&candidates);
    let importance = rule(Correction::Importance {}).rule(&candidates);
    assert_close(&settled.coefficients, &importance.coefficients, 0.0);
    let clipped = settled.tallies.iter().find(|tally| tally.name == "is/clip_frac").unwrap();
    assert_eq!(clipped.numerator.double_value(&[]), 0.0);
    // The floor would have clipped it; and a budget that it exceeds does.
    let floored = rule(Correction::Ppo(FLOOR)).rule(&candidates);
    assert_eq!(floored.coefficients.double_value(&[0, 0]), 0.0);
    let tight = rule(Correction::M2po(M2po { budget: 0.001 })).settle(std::slice::from_ref(&candidates)).unwrap();
    assert_eq!(tight.rule(&candidates).coefficients.double_value(&[0, 0]), 0.0);
}

#[test]
fn a_rule_without_its_pass_is_found_out_and_a_draw_that_is_not_finite_is_nobodys() {
    tch::set_num_threads(1);
    let rule = ReverseKlMc { draws: 2, advantage: Advantage::Current, correction: Correction::M2po(RULE) };
    let plain = || Position::random(2, 5, 1.0).candidates(&[1, 3], &[2, 1]);
    assert!(rule.rule(&plain()).coefficients.isnan().all().int64_value(&[]) == 1);
    let harmful = |c: Candidates| M2po::harmful(Advantage::Rollout, &[c]);
    assert_eq!(harmful(plain().padded(3)), harmful(plain()), "padding holds NaN");
    for bad in [f64::NAN, f64::NEG_INFINITY] {
        let sampler_logprobs = Tensor::from_slice(&[bad, -1.0]).unsqueeze(0);
        assert!(harmful(Candidates { sampler_logprobs, ..plain() }).iter().all(|(delta, _)| delta.is_finite()));
    }
}
