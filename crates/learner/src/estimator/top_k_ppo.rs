//! The PPO rule over all of the sampling student's top-k K_b, without a tail: `c_j = -w_j A_j` with
//! `A_j = s_j (log q_j - log p_j)`, where s is b renormalised to K_b. Biased: what is outside K_b is not compared.

use super::{
    Advantage, Candidates, Clip, Estimator, Fault, Needs, Ruling, Support, Tally, at_least_one, ppo::a_fifth,
    reverse_kl_mc::LOG_RHO_LIMIT,
};
use crate::Result;
use serde::{Deserialize, Serialize};

/// `top_k_ppo`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopKPpo {
    /// Most ids of the sampling student's top-k to read.
    pub top_k: usize,
    /// Whose student the advantage is taken under.
    #[serde(default)]
    pub advantage: Advantage,
    /// A candidate with a negative advantage counts down to r = 1 - eps_low.
    #[serde(default = "a_fifth")]
    pub eps_low: f64,
    /// A candidate with a positive advantage counts up to r = 1 + eps_high.
    #[serde(default = "a_fifth")]
    pub eps_high: f64,
    /// A candidate with a negative advantage counts up to this r.
    #[serde(default = "three")]
    pub dual_clip: f64,
}

fn three() -> f64 {
    3.0
}

impl TopKPpo {
    fn clip(&self) -> Clip {
        Clip { eps_low: self.eps_low, eps_high: self.eps_high, dual_clip: Some(self.dual_clip) }
    }
}

impl Estimator for TopKPpo {
    fn name(&self) -> &'static str {
        "top_k_ppo"
    }

    fn support(&self) -> Support {
        Support::SamplerTopK { k: self.top_k }
    }

    /// Ratios are of p to b at each id: rounding b would move them.
    fn needs(&self) -> Needs {
        Needs { sampler_top_k: self.top_k, exact_sampler_top_k: true, ..Needs::default() }
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.top_k", self.top_k)?;
        self.clip().validate(["estimator.eps_low", "estimator.eps_high", "estimator.dual_clip"])
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        let Candidates { mask, learner_logprobs: log_p, teacher_logprobs: log_q, sampler_logprobs: log_b, .. } =
            candidates;
        let zero = log_p.zeros_like();
        let b = log_b.exp().where_self(mask, &zero);
        let share = &b / b.sum_dim_intlist([1i64].as_slice(), true, None);
        // p = 0 makes a term 0: p log p -> 0.
        let live = mask.logical_and(&log_p.ne(f64::NEG_INFINITY));
        let log_ratio = (log_p - log_b).where_self(&live, &zero);
        let ratio = log_ratio.clamp(-LOG_RHO_LIMIT, LOG_RHO_LIMIT).exp();
        let advantage = (share * self.advantage.of(candidates)).where_self(&live, &zero);
        let (weights, clipped) = self.clip().weights(&ratio, &advantage);

        let number = |of: &tch::Tensor| of.to_kind(log_p.kind()).sum(None);
        let tally = |name, of: &tch::Tensor| Tally { name, numerator: number(of), denominator: number(mask) };
        let minus_infinity = |log: &tch::Tensor| mask.logical_and(&log.eq(f64::NEG_INFINITY)).any_dim(1, false);
        Ruling {
            value: -(ratio * &advantage).sum_dim_intlist([1i64].as_slice(), false, None),
            coefficients: -(weights * advantage),
            tallies: vec![
                tally("is/clamped_frac", &log_ratio.abs().gt(LOG_RHO_LIMIT)),
                tally("is/clip_frac", &clipped),
            ],
            faults: vec![
                (Fault::ImpossibleToTeacher, minus_infinity(log_q)),
                (Fault::ImpossibleToSampler, minus_infinity(log_b)),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::{
        oracle::{Position, assert_close, by_autograd, d_logits, faults},
        ppo,
    };
    use proptest::prelude::*;
    use tch::{Device, Kind, Tensor};

    const CURRENT: TopKPpo =
        TopKPpo { top_k: 64, advantage: Advantage::Current, eps_low: 0.2, eps_high: 0.2, dual_clip: 3.0 };
    const ROLLOUT: TopKPpo = TopKPpo { advantage: Advantage::Rollout, dual_clip: 1.5, ..CURRENT };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn value_and_gradient_are_those_of_the_clipped_objective(
            seed in 0u64..1 << 40, vocab in 3i64..40, k in 1i64..40, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
        ) {
            tch::set_num_threads(1);
            let position = Position::random(seed, vocab, temperature);
            let ids = position.sampler_top(k.min(vocab));
            let inside = |t: Tensor| t.index_select(0, &Tensor::from_slice(&ids));
            let (p, q, b) = (inside(position.p()), inside(position.q()), inside(position.b()));
            let share = &b / b.sum(None);
            for rule in [CURRENT, ROLLOUT] {
                let student = if rule.advantage == Advantage::Current { &p } else { &b };
                let advantage = &share * (q.log() - student.log());
                let ruling = rule.rule(&position.candidates(&ids, &vec![1; ids.len()]));
                let (_, gradient) = by_autograd(&position, |p| {
                    let ratio = p.index_select(0, &Tensor::from_slice(&ids)) / &b;
                    -ppo::objective(&rule.clip(), &ratio, &advantage).sum(None)
                });
                assert_close(&d_logits(&position, &ruling, &ids), &gradient, 1e-9);
                let value = -(&p / &b * advantage).sum(None);
                assert_close(&ruling.value, &value.unsqueeze(0), 1e-9);
            }
        }

        #[test]
        fn a_student_that_is_teacher_and_sampler_has_nothing_to_learn(seed in 0u64..1 << 40, k in 1i64..12) {
            tch::set_num_threads(1);
            let mut position = Position::random(seed, 12, 0.8);
            position.teacher_logits = position.learner_logits.copy();
            position.sampler_logits = position.learner_logits.copy();
            let ids = position.sampler_top(k);
            for rule in [CURRENT, ROLLOUT] {
                let ruling = rule.rule(&position.candidates(&ids, &vec![1; ids.len()]));
                prop_assert!(ruling.value.double_value(&[0]).abs() < 1e-12);
                assert_close(&d_logits(&position, &ruling, &ids), &Tensor::zeros([12], (Kind::Double, Device::Cpu)), 1e-12);
            }
        }
    }

    /// Over the whole vocabulary and without staleness it is exact; over less, short of what K_b leaves out.
    #[test]
    fn without_staleness_it_is_reverse_kl_inside_the_support() {
        tch::set_num_threads(1);
        let mut position = Position::random(4, 9, 1.3);
        position.sampler_logits = position.learner_logits.copy();
        for k in [3, 9] {
            let ids = position.sampler_top(k);
            let chosen = position.p().zeros_like().index_fill(0, &Tensor::from_slice(&ids), 1.0);
            let mass = (position.p() * &chosen).sum(None);
            let (_, expected) = by_autograd(&position, |p| {
                let weights = (p * (p.log() - position.q().log()) * &chosen / &mass).detach();
                (weights * p.log()).sum(None)
            });
            for rule in [CURRENT, ROLLOUT] {
                let ruling = rule.rule(&position.candidates(&ids, &vec![1; ids.len()]));
                assert_close(&d_logits(&position, &ruling, &ids), &expected, 1e-12);
            }
            if k == 9 {
                assert_close(&expected, &position.d_reverse_kl(), 1e-12);
            }
        }
    }

    #[test]
    fn zeros_padding_and_rates() {
        tch::set_num_threads(1);
        let position = Position::random(2, 5, 1.0);
        let ids = [1, 3];
        let plain = || position.candidates(&ids, &[1, 1]);
        let impossible = || Tensor::from_slice(&[-1.0, f64::NEG_INFINITY]).unsqueeze(0);
        for rule in [CURRENT, ROLLOUT] {
            let ruling = rule.rule(&Candidates { learner_logprobs: impossible(), ..plain() });
            assert_eq!(faults(&ruling), []);
            assert_eq!(ruling.coefficients.double_value(&[0, 1]), 0.0, "log p = -inf: the term is 0");
            assert!(ruling.value.double_value(&[0]).is_finite());
            let fault = |c: &Candidates| faults(&rule.rule(c));
            assert_eq!(fault(&Candidates { teacher_logprobs: impossible(), ..plain() }), [Fault::ImpossibleToTeacher]);
            assert_eq!(fault(&Candidates { sampler_logprobs: impossible(), ..plain() }), [Fault::ImpossibleToSampler]);
            let (padded, ruling) = (rule.rule(&plain().padded(2)), rule.rule(&plain()));
            assert_eq!(faults(&padded), []);
            assert_close(&padded.value, &ruling.value, 0.0);
            assert_close(&padded.coefficients.narrow(1, 0, 2), &ruling.coefficients, 0.0);
            assert_eq!(padded.coefficients.narrow(1, 2, 2).abs().sum(None).double_value(&[]), 0.0);
            let empty = rule.rule(&position.candidates(&[], &[]).padded(2));
            assert_eq!((faults(&empty), empty.value.double_value(&[0])), (vec![], 0.0));
            assert_eq!(empty.coefficients.abs().sum(None).double_value(&[]), 0.0);
        }
        // r = e^30, held to e^20, and A < 0: dual clip. r = 1 stays.
        let row = |x: [f64; 2]| Tensor::from_slice(&x).unsqueeze(0);
        let c = Candidates {
            learner_logprobs: row([-1.0, -0.5]),
            teacher_logprobs: row([-2.0, -0.75]),
            sampler_logprobs: row([-31.0, -0.5]),
            ..plain()
        };
        let ruling = CURRENT.rule(&c.padded(2));
        assert_close(&ruling.coefficients.narrow(1, 0, 2), &row([0.0, 0.25]), 1e-9);
        let rates: Vec<_> = ruling
            .tallies
            .iter()
            .map(|t| (t.name, t.numerator.double_value(&[]), t.denominator.double_value(&[])))
            .collect();
        assert_eq!(rates, [("is/clamped_frac", 1.0, 2.0), ("is/clip_frac", 1.0, 2.0)]);
    }
}
