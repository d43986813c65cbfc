//! Monte-Carlo reverse KL over draws a_j ~ b with counts n_j, importance-weighted to the current student:
//! `c_j = -(n_j / m) rho_j A_j`, `A = log q - log p`, `rho = p / b`. Unbiased for grad KL(p || q) at any staleness.
//! (arXiv 2606.24143: the reverse KL recomputed under the current student, unclipped.)

use super::{Candidates, Divergence, Estimator, Fault, Needs, Ruling, Support, Tally, at_least_one};
use crate::Result;
use serde::{Deserialize, Serialize};

/// |log rho| beyond which an importance weight is held; e^20 is past any use, and finite in float32.
pub(crate) const LOG_RHO_LIMIT: f64 = 20.0;

/// `reverse_kl_mc`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseKlMc {
    /// Draws a position (m). The rollout job takes them; the rule works with however many are there.
    pub draws: usize,
    /// Whose student the advantage is taken under.
    #[serde(default)]
    pub advantage: Advantage,
    /// What makes up for b not being p.
    #[serde(default)]
    pub correction: Correction,
}

/// Whose student the advantage is taken under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// The learner's current one: `log q - log p`, recomputed at each step.
    #[default]
    Current,
}

/// What makes up for the draws being the sampler's and not the learner's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// The importance ratio rho, unclipped (its log held to +-20).
    #[default]
    Importance,
}

impl Estimator for ReverseKlMc {
    fn name(&self) -> &'static str {
        "reverse_kl_mc"
    }

    fn support(&self) -> Support {
        Support::Draws
    }

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ReverseKl)
    }

    fn needs(&self) -> Needs {
        Needs { draws: self.draws, whole_distribution: true, ..Needs::default() }
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.draws", self.draws)
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        let Candidates { mask, learner_logprobs: log_p, teacher_logprobs: log_q, sampler_logprobs: log_b, .. } =
            candidates;
        let zero = log_p.zeros_like();
        let counts = candidates.counts.where_self(mask, &zero);
        let m = counts.sum_dim_intlist([1i64].as_slice(), true, None);
        let share = (&counts / &m).where_self(mask, &zero);

        let log_rho = log_p - log_b;
        let rho = log_rho.clamp(-LOG_RHO_LIMIT, LOG_RHO_LIMIT).exp();
        // Both `importance` and the value weigh by rho, so c_j = -(n_j / m) rho_j A_j is also the value's term.
        let coefficients = (share * rho * (log_p - log_q)).where_self(mask, &zero);

        let clamped = counts.where_self(&log_rho.abs().gt(LOG_RHO_LIMIT), &zero).sum(None);
        let finite = log_p.isfinite().logical_and(&log_q.isfinite()).logical_and(&log_b.isfinite());
        let impossible = mask.logical_and(&finite.logical_not()).any_dim(1, false);
        Ruling {
            value: coefficients.sum_dim_intlist([1i64].as_slice(), false, None),
            coefficients,
            tallies: vec![Tally { name: "is/clamped_frac", numerator: clamped, denominator: counts.sum(None) }],
            faults: vec![(Fault::NoDraw, m.squeeze_dim(1).eq(0.0)), (Fault::ImpossibleDraw, impossible)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::oracle::{Position, assert_close, d_logits};
    use proptest::prelude::*;
    use tch::{Device, Kind, Tensor};

    const RULE: ReverseKlMc =
        ReverseKlMc { draws: 1, advantage: Advantage::Current, correction: Correction::Importance };

    /// Expectation over *all* outcomes of m draws from b of value and d logits.
    fn expectation(position: &Position, m: u32) -> (f64, Tensor) {
        let vocab = position.learner_logits.size()[0];
        let b = Vec::<f64>::try_from(position.b()).unwrap();
        let (mut value, mut gradient) = (0.0, Tensor::zeros([vocab], (Kind::Double, Device::Cpu)));
        for outcome in 0..vocab.pow(m) {
            let draws: Vec<i64> = (0..m).map(|i| outcome / vocab.pow(i) % vocab).collect();
            let chance: f64 = draws.iter().map(|a| b[*a as usize]).product();
            let (mut ids, mut counts) = (Vec::new(), Vec::<i64>::new());
            for a in draws {
                match ids.iter().position(|id| *id == a) {
                    Some(j) => counts[j] += 1,
                    None => {
                        ids.push(a);
                        counts.push(1);
                    }
                }
            }
            let ruling = RULE.rule(&position.candidates(&ids, &counts));
            value += chance * ruling.value.double_value(&[0]);
            gradient += d_logits(position, &ruling, &ids) * chance;
        }
        (value, gradient)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn unbiased_as_an_identity_over_all_draws(
            seed in 0u64..1 << 40, vocab in 2i64..6, m in 1u32..=2, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
        ) {
            tch::set_num_threads(1);
            // p, q and b are three distributions: the rollout is stale.
            let position = Position::random(seed, vocab, temperature);
            let (value, gradient) = expectation(&position, m);
            prop_assert!((value - position.reverse_kl()).abs() < 1e-9, "{} {}", value, position.reverse_kl());
            assert_close(&gradient, &position.d_reverse_kl(), 1e-9);
        }

        #[test]
        fn a_student_that_is_teacher_and_sampler_has_nothing_to_learn(seed in 0u64..1 << 40) {
            tch::set_num_threads(1);
            let mut position = Position::random(seed, 4, 0.7);
            position.teacher_logits = position.learner_logits.copy();
            position.sampler_logits = position.learner_logits.copy();
            let (value, gradient) = expectation(&position, 2);
            prop_assert!(value.abs() < 1e-12);
            assert_close(&gradient, &Tensor::zeros([4], (Kind::Double, Device::Cpu)), 1e-12);
        }
    }

    #[test]
    fn the_closed_form_is_what_autograd_gives() {
        tch::set_num_threads(1);
        let position = Position::random(8, 6, 1.4);
        let logits = position.learner_logits.copy().set_requires_grad(true);
        let log_p = (&logits / position.temperature).log_softmax(0, Kind::Double);
        let kl = (log_p.exp() * (&log_p - position.q().log())).sum(None);
        let gradient = Tensor::run_backward(&[kl], &[&logits], false, false).remove(0);
        assert_close(&position.d_reverse_kl(), &gradient, 1e-12);
    }

    #[test]
    fn weights_beyond_the_limit_are_held_and_counted() {
        tch::set_num_threads(1);
        let mut c = Position::random(2, 5, 1.0).candidates(&[1, 3], &[3, 1]);
        c.learner_logprobs = Tensor::from_slice(&[-1.0, -1.0]).unsqueeze(0);
        c.teacher_logprobs = Tensor::from_slice(&[-2.0, -1.5]).unsqueeze(0);
        c.sampler_logprobs = Tensor::from_slice(&[-31.0, -1.0]).unsqueeze(0);
        let ruling = RULE.rule(&c);
        let expected = Tensor::from_slice(&[0.75 * 20f64.exp(), 0.25 * 0.5]).unsqueeze(0);
        assert_close(&ruling.coefficients, &expected, 1e-3);
        assert_eq!(ruling.tallies[0].numerator.double_value(&[]), 3.0);
        assert_eq!(ruling.tallies[0].denominator.double_value(&[]), 4.0);
    }

    #[test]
    fn zeros() {
        tch::set_num_threads(1);
        let position = Position::random(2, 5, 1.0);
        let fault = |c: &Candidates| -> Vec<Fault> {
            let faults = RULE.rule(c).faults;
            faults.iter().filter(|(_, at)| at.int64_value(&[0]) != 0).map(|(fault, _)| *fault).collect()
        };
        let plain = || position.candidates(&[1, 3], &[1, 1]);
        let impossible = || Tensor::from_slice(&[-1.0, f64::NEG_INFINITY]).unsqueeze(0);
        assert_eq!(fault(&plain()), []);
        assert_eq!(fault(&plain().padded(2)), [], "padding holds NaN and is selected out");
        assert_eq!(fault(&Candidates { learner_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
        assert_eq!(fault(&Candidates { teacher_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
        assert_eq!(fault(&Candidates { sampler_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
        assert_eq!(fault(&position.candidates(&[], &[]).padded(1)), [Fault::NoDraw]);
        let padded = RULE.rule(&plain().padded(2));
        assert_close(&padded.value, &RULE.rule(&plain()).value, 0.0);
    }
}
