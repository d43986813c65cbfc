//! Monte-Carlo forward KL over draws with counts n_j: `c_j = -(n_j / m) v_j`. Draws from the teacher count as they are, v = 1;
//! draws a_j ~ b of the sampler are weighted to the teacher, v = q / b. Unbiased for grad KL(q || p), the first always, the second
//! wherever b covers q; both at any staleness.

use super::{Candidates, Estimator, Needs, Ruling, Support, at_least_one, reverse_kl_mc::Draws};
use crate::Result;
use serde::{Deserialize, Serialize};

/// `forward_kl_mc`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardKlMc {
    /// Draws a position (m). The rollout or the score job takes them; the rule works with however many are there.
    pub draws: usize,
    /// Who drew.
    #[serde(default)]
    pub from: DrawnFrom,
}

/// Whose draws they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrawnFrom {
    /// The student's that sampled.
    #[default]
    Student,
    /// The teacher's.
    Teacher,
}

impl Estimator for ForwardKlMc {
    fn name(&self) -> &'static str {
        "forward_kl_mc"
    }

    fn support(&self) -> Support {
        match self.from {
            DrawnFrom::Student => Support::Draws,
            DrawnFrom::Teacher => Support::TeacherDraws,
        }
    }

    fn needs(&self) -> Needs {
        match self.from {
            DrawnFrom::Student => {
                Needs { draws: self.draws, whole_distribution: true, all_draws: true, ..Needs::default() }
            }
            DrawnFrom::Teacher => Needs { teacher_draws: self.draws, ..Needs::default() },
        }
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.draws", self.draws)
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        let Candidates { mask, learner_logprobs: log_p, teacher_logprobs: log_q, sampler_logprobs: log_b, .. } =
            candidates;
        let draws = Draws::of(candidates);
        // Whoever drew: for the teacher's own draws the ratio is 1, and b is unknown.
        let drawn_by = if self.from == DrawnFrom::Teacher { log_q } else { log_b };
        let (weights, clamped) = draws.ratio(log_q, drawn_by);
        let weights = &draws.share * weights;
        let terms = (&weights * (log_q - log_p)).where_self(mask, &weights.zeros_like());
        Ruling {
            value: terms.sum_dim_intlist([1i64].as_slice(), false, None),
            coefficients: -weights,
            tallies: if self.from == DrawnFrom::Teacher { Vec::new() } else { vec![clamped] },
            faults: draws.faults(candidates, drawn_by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::{
        Fault,
        oracle::{Position, assert_close, d_logits, expectation, faults, over_all_draws},
    };
    use proptest::prelude::*;
    use tch::{Device, Kind, Tensor};

    const RULE: ForwardKlMc = ForwardKlMc { draws: 2, from: DrawnFrom::Student };
    const OF_TEACHER: ForwardKlMc = ForwardKlMc { from: DrawnFrom::Teacher, ..RULE };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn unbiased_as_an_identity_over_all_draws(
            seed in 0u64..1 << 40, vocab in 2i64..6, m in 1u32..=2, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
        ) {
            tch::set_num_threads(1);
            // p, q and b are three distributions: the rollout is stale.
            let position = Position::random(seed, vocab, temperature);
            let (value, gradient) = expectation(&RULE, &position, m);
            prop_assert!((value - position.forward_kl()).abs() < 1e-9, "{} {}", value, position.forward_kl());
            // grad of KL(q || p) in the logits is (p - q) / T.
            assert_close(&gradient, &((position.p() - position.q()) / position.temperature), 1e-9);
        }

        /// b does not occur: it is unknown at what the teacher drew.
        #[test]
        fn so_it_is_over_all_draws_of_the_teacher(
            seed in 0u64..1 << 40, vocab in 2i64..6, m in 1u32..=2, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
        ) {
            tch::set_num_threads(1);
            let position = Position::random(seed, vocab, temperature);
            let (value, gradient) = over_all_draws(&position, &position.q(), m, |ids, counts| {
                let plain = position.candidates(ids, counts);
                let sampler_logprobs = plain.sampler_logprobs.full_like(f64::NAN);
                let ruling = OF_TEACHER.rule(&Candidates { sampler_logprobs, ..plain });
                assert_eq!(faults(&ruling), []);
                (ruling.value.double_value(&[0]), d_logits(&position, &ruling, ids))
            });
            prop_assert!((value - position.forward_kl()).abs() < 1e-9, "{} {}", value, position.forward_kl());
            assert_close(&gradient, &((position.p() - position.q()) / position.temperature), 1e-9);
        }
    }

    #[test]
    fn at_the_optimum_the_gradient_vanishes_in_expectation_only() {
        tch::set_num_threads(1);
        let mut position = Position::random(5, 4, 0.7);
        position.teacher_logits = position.learner_logits.copy();
        position.sampler_logits = position.learner_logits.copy();
        let (value, gradient) = expectation(&RULE, &position, 2);
        assert!(value.abs() < 1e-12);
        assert_close(&gradient, &Tensor::zeros([4], (Kind::Double, Device::Cpu)), 1e-12);
        let ruling = RULE.rule(&position.candidates(&[1, 2], &[1, 1]));
        assert!(ruling.value.double_value(&[0]).abs() < 1e-12, "the value is 0 for each draw");
        assert!(d_logits(&position, &ruling, &[1, 2]).norm().double_value(&[]) > 0.1);
    }

    #[test]
    fn weights_beyond_the_limit_are_held_and_counted() {
        tch::set_num_threads(1);
        let row = |x: [f64; 2]| Tensor::from_slice(&x).unsqueeze(0);
        let c = Candidates {
            learner_logprobs: row([-2.0, -1.0]),
            teacher_logprobs: row([-1.0, -1.5]),
            sampler_logprobs: row([-31.0, -1.5]),
            ..Position::random(2, 5, 1.0).candidates(&[1, 3], &[3, 1])
        };
        let ruling = RULE.rule(&c);
        assert_close(&ruling.coefficients, &row([-0.75 * 20f64.exp(), -0.25]), 1e-3);
        let [clamped] = &ruling.tallies[..] else { panic!("{:?}", ruling.tallies) };
        assert_eq!((clamped.numerator.double_value(&[]), clamped.denominator.double_value(&[])), (3.0, 4.0));
    }

    #[test]
    fn zeros() {
        tch::set_num_threads(1);
        let position = Position::random(2, 5, 1.0);
        let plain = || position.candidates(&[1, 3], &[1, 1]);
        let impossible = || Tensor::from_slice(&[-1.0, f64::NEG_INFINITY]).unsqueeze(0);
        for rule in [RULE, OF_TEACHER] {
            let fault = |c: &Candidates| faults(&rule.rule(c));
            assert_eq!(fault(&plain().padded(2)), [], "padding holds NaN and is selected out");
            assert_eq!(fault(&Candidates { learner_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
            assert_eq!(fault(&Candidates { teacher_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
            assert_eq!(fault(&position.candidates(&[], &[]).padded(1)), [Fault::NoDraw]);
            let (padded, ruling) = (rule.rule(&plain().padded(2)), rule.rule(&plain()));
            assert_close(&padded.value, &ruling.value, 0.0);
            assert_close(&padded.coefficients.narrow(1, 0, 2), &ruling.coefficients, 0.0);
            assert_eq!(padded.coefficients.narrow(1, 2, 2).abs().sum(None).double_value(&[]), 0.0);
        }
        let by_nobody = Candidates { sampler_logprobs: impossible(), ..plain() };
        assert_eq!(faults(&RULE.rule(&by_nobody)), [Fault::ImpossibleDraw]);
        assert_eq!(faults(&OF_TEACHER.rule(&by_nobody)), [], "b is not read");
    }
}
