//! The weights draw by draw, and the two ends: proximal weights that are the learner's, and that are the sampler's.

use super::*;
use crate::estimator::{
    Advantage, Correction, Estimator, ReverseKlMc,
    oracle::{Position, assert_close},
};

fn rule(correction: Correction) -> ReverseKlMc {
    ReverseKlMc { draws: 4, advantage: Advantage::Current, correction }
}

const RULE: DecoupledPpo = DecoupledPpo { minibatches: 1, cap: 5.0, eps_low: 0.2, eps_high: 0.2, dual_clip: None };

#[test]
fn each_draw_by_hand() {
    tch::set_num_threads(1);
    // (p, p_prox, b, A), weight
    for (logs, weight) in [
        ([1.1, 1.0, 0.5, 1.0], 2.2),
        ([1.3, 1.0, 0.5, 1.0], 0.0),
        ([1.3, 1.0, 0.5, -1.0], 2.6),
        ([0.7, 1.0, 0.5, -1.0], 0.0),
        ([0.7, 1.0, 0.5, 1.0], 1.4),
        ([1.0, 1.0, 0.21, 1.0], 1.0 / 0.21),
        ([1.0, 1.0, 0.19, 1.0], 0.0),
        ([1.0, 1.0, 9.0, 1.0], 1.0 / 9.0),
    ] {
        let [p, proximal, b, advantage]: [f64; 4] = logs;
        let row = |x: f64| Tensor::from_slice(&[x]).unsqueeze(0);
        let candidates = Candidates {
            learner_logprobs: row(p.ln()),
            proximal_logprobs: row(proximal.ln()),
            sampler_logprobs: row(b.ln()),
            ..Position::random(2, 5, 1.0).candidates(&[1], &[1])
        };
        let (found, cut) = RULE.weights(&candidates, &Draws::of(&candidates), &row(advantage));
        assert!((found.double_value(&[0, 0]) - weight).abs() < 1e-12, "{logs:?}");
        assert_eq!(cut.int64_value(&[0, 0]) == 1, weight == 0.0, "{logs:?}");
    }
}

#[test]
fn with_the_learners_own_weights_it_is_rho_masked_at_the_cap_and_with_the_samplers_the_ppo_rule() {
    tch::set_num_threads(1);
    for seed in 0..20 {
        let position = Position::random(seed, 6, 0.8);
        let plain = || position.candidates(&[0, 2, 3, 5], &[1, 2, 3, 1]);
        let found = |proximal_logprobs, correction| rule(correction).rule(&Candidates { proximal_logprobs, ..plain() });
        let rho = (plain().learner_logprobs - plain().sampler_logprobs).exp();
        let own = found(plain().learner_logprobs, Correction::DecoupledPpo(DecoupledPpo { cap: 1.5, ..RULE }));
        let importance = rule(Correction::Importance {}).rule(&plain()).coefficients;
        assert_close(&own.coefficients, &importance.where_self(&rho.le(1.5), &rho.zeros_like()), 0.0);
        let samplers = found(plain().sampler_logprobs, Correction::DecoupledPpo(RULE));
        let ppo = Clip { eps_low: 0.2, eps_high: 0.2, dual_clip: None };
        assert_close(&samplers.coefficients, &rule(Correction::Ppo(ppo)).rule(&plain()).coefficients, 0.0);
    }
}

#[test]
fn proximal_weights_that_nobody_ran_are_found_out() {
    tch::set_num_threads(1);
    let plain = Position::random(2, 5, 1.0).candidates(&[1, 3], &[2, 1]);
    let proximal_logprobs = plain.learner_logprobs.full_like(f64::NAN);
    let ruling = rule(Correction::DecoupledPpo(RULE)).rule(&Candidates { proximal_logprobs, ..plain });
    assert!(ruling.coefficients.isnan().all().int64_value(&[]) == 1);
}
