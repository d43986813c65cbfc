//! A divergence over the whole vocabulary, teacher and student both at hand: `c_a = p_a phi'_a`. No support, no draw, no tail, no
//! bias and no variance at a prefix; what every other estimator is compared with.

use super::{Candidates, Divergence, Estimator, Needs, Ruling, Support, Tail, half, over_support::Phi, share};
use crate::{LearnError, Result};
use serde::{Deserialize, Serialize};

/// `exact`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exact {
    /// What is minimised.
    pub divergence: ExactDivergence,
    /// The forward divergence's share of `skewed_kl`, above 0 and below 1; 0.5 where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The teacher's share of the mixture of `jsd`, above 0 and below 1; 0.5 where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
}

/// A divergence of student and teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExactDivergence {
    /// KL(teacher || student).
    ForwardKl,
    /// KL(student || teacher).
    ReverseKl,
    /// `alpha` of the forward and the rest of the reverse one.
    SkewedKl,
    /// Generalised Jensen-Shannon divergence.
    Jsd,
}

impl Estimator for Exact {
    fn name(&self) -> &'static str {
        "exact"
    }

    fn support(&self) -> Support {
        Support::Vocabulary
    }

    fn divergence(&self) -> Option<Divergence> {
        match self.divergence {
            ExactDivergence::ForwardKl => Some(Divergence::ForwardKl),
            ExactDivergence::ReverseKl => Some(Divergence::ReverseKl),
            ExactDivergence::SkewedKl | ExactDivergence::Jsd => None,
        }
    }

    fn needs(&self) -> Needs {
        Needs { teacher: true, ..Needs::default() }
    }

    fn validate(&self) -> Result<()> {
        let of = |key, is_of: bool, number: Option<f64>, why: &str| match number {
            Some(number) if is_of => share(key, number, why),
            Some(number) => {
                let expected = "left out: this divergence has no such share".into();
                Err(LearnError::Setting { key, expected, found: number.to_string() })
            }
            None => Ok(()),
        };
        let (skewed, jsd) = (ExactDivergence::SkewedKl, ExactDivergence::Jsd);
        let why = "1 is `forward_kl`, 0 is `reverse_kl`";
        of("estimator.alpha", self.divergence == skewed, self.alpha, why)?;
        of("estimator.beta", self.divergence == jsd, self.beta, "at its ends there is no divergence left")
    }

    /// The candidates are the vocabulary.
    fn rule(&self, candidates: &Candidates) -> Ruling {
        let phi = match self.divergence {
            ExactDivergence::ForwardKl => Phi::Forward,
            ExactDivergence::ReverseKl => Phi::Reverse,
            ExactDivergence::SkewedKl => Phi::Skewed { alpha: self.alpha.unwrap_or_else(half) },
            ExactDivergence::Jsd => Phi::Jsd { beta: self.beta.unwrap_or_else(half) },
        };
        phi.rule(Tail::Drop, candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::{
        ForwardKl,
        oracle::{Position, assert_close, by_autograd, d_logits},
    };
    use proptest::prelude::*;
    use tch::Tensor;

    fn exact(divergence: ExactDivergence) -> Exact {
        Exact { divergence, alpha: None, beta: None }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn value_and_gradient_are_those_of_autograd(
            seed in 0u64..1 << 40, vocab in 2i64..20, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
        ) {
            tch::set_num_threads(1);
            let position = Position::random(seed, vocab, temperature);
            let q = position.q();
            let kl = |a: &Tensor, b: &Tensor| (a * (a.log() - b.log())).sum(None);
            let jsd = |p: &Tensor, beta: f64| {
                let m = &q * beta + p * (1.0 - beta);
                kl(&q, &m) * beta + kl(p, &m) * (1.0 - beta)
            };
            type OfP<'a> = &'a dyn Fn(&Tensor) -> Tensor;
            let of: [(Exact, OfP); 5] = [
                (exact(ExactDivergence::ForwardKl), &|p| kl(&q, p)),
                (exact(ExactDivergence::ReverseKl), &|p| kl(p, &q)),
                (exact(ExactDivergence::SkewedKl), &|p| (kl(&q, p) + kl(p, &q)) * 0.5),
                (exact(ExactDivergence::Jsd), &|p| jsd(p, 0.5)),
                (Exact { beta: Some(0.2), ..exact(ExactDivergence::Jsd) }, &|p| jsd(p, 0.2)),
            ];
            let ids: Vec<i64> = (0..vocab).collect();
            for (rule, divergence) in of {
                let ruling = rule.rule(&position.candidates(&ids, &vec![1; ids.len()]));
                let (value, gradient) = by_autograd(&position, divergence);
                prop_assert!((ruling.value.double_value(&[0]) - value).abs() < 1e-9, "{:?}", rule);
                assert_close(&d_logits(&position, &ruling, &ids), &gradient, 1e-9);
            }
            let whole = ForwardKl { top_k: vocab as usize, tail: Tail::Bucket };
            let (found, expected) = (
                exact(ExactDivergence::ForwardKl).rule(&position.candidates(&ids, &vec![1; ids.len()])),
                whole.rule(&position.candidates(&ids, &vec![1; ids.len()])),
            );
            assert_close(&found.coefficients, &expected.coefficients, 1e-9);
        }
    }

    #[test]
    fn shares_of_another_divergence_are_refused() {
        for (rule, says) in [
            (Exact { alpha: Some(0.5), ..exact(ExactDivergence::Jsd) }, ["estimator.alpha", "no such share"]),
            (Exact { beta: Some(0.5), ..exact(ExactDivergence::ForwardKl) }, ["estimator.beta", "no such share"]),
            (Exact { alpha: Some(1.0), ..exact(ExactDivergence::SkewedKl) }, ["estimator.alpha", "1 is `forward_kl`"]),
            (Exact { beta: Some(0.0), ..exact(ExactDivergence::Jsd) }, ["estimator.beta", "above 0 and below 1"]),
        ] {
            let said = rule.validate().unwrap_err().to_string();
            assert!(says.iter().all(|words| said.contains(words)), "{said}");
        }
        assert!(exact(ExactDivergence::SkewedKl).validate().is_ok());
    }
}
