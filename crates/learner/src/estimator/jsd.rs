//! Generalised Jensen-Shannon divergence `beta KL(q || M) + (1 - beta) KL(p || M)`, `M = beta q + (1 - beta) p`, over a top-k,
//! and a bucket for the rest. Bounded, so no token that one of the two holds impossible can blow it up.

use super::{Candidates, Estimator, Ruling, Support, Tail, TopKOf, at_least_one, over_support::Phi, share};
use crate::Result;
use serde::{Deserialize, Serialize};

/// `jsd`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jsd {
    /// Most ids of the top-k to read.
    pub top_k: usize,
    /// Whose top-k.
    #[serde(default)]
    pub support: TopKOf,
    /// The teacher's share of the mixture, above 0 and below 1.
    #[serde(default = "super::half")]
    pub beta: f64,
    /// What becomes of the mass outside.
    #[serde(default)]
    pub tail: Tail,
}

impl Estimator for Jsd {
    fn name(&self) -> &'static str {
        "jsd"
    }

    fn support(&self) -> Support {
        self.support.support(self.top_k)
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.top_k", self.top_k)?;
        share("estimator.beta", self.beta, "at 0 and 1 the divergence is 0 whatever the student does")
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        Phi::Jsd { beta: self.beta }.rule(self.tail, candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::oracle::{Position, numbers};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn with_the_whole_vocabulary_it_is_exact_symmetric_and_bounded(
            seed in 0u64..1 << 40, vocab in 2i64..20, beta in 0.01f64..0.99,
        ) {
            tch::set_num_threads(1);
            let mut position = Position::random(seed, vocab, 0.3);
            let ids: Vec<i64> = (0..vocab).collect();
            let value = |beta: f64, position: &Position| {
                let rule = Jsd { top_k: 64, support: TopKOf::TeacherTopK, beta, tail: Tail::Bucket };
                rule.rule(&position.candidates(&ids, &vec![1; ids.len()])).value.double_value(&[0])
            };
            let found = value(beta, &position);
            let (p, q) = (position.p(), position.q());
            let m = &q * beta + &p * (1.0 - beta);
            let entropy = |x: &tch::Tensor| -(x * x.log()).sum(None).double_value(&[]);
            // Entropy of the mixture less the mixture of the entropies; at most the entropy of the coin.
            let expected = entropy(&m) - beta * entropy(&q) - (1.0 - beta) * entropy(&p);
            prop_assert!((found - expected).abs() < 1e-9, "{} {}", found, expected);
            prop_assert!(found <= -beta * beta.ln() - (1.0 - beta) * (1.0 - beta).ln() + 1e-12);
            std::mem::swap(&mut position.learner_logits, &mut position.teacher_logits);
            prop_assert!((value(1.0 - beta, &position) - found).abs() < 1e-12);
        }
    }

    #[test]
    fn disjoint_distributions_have_a_finite_value_and_gradient() {
        tch::set_num_threads(1);
        let inf = f64::INFINITY;
        let mut position = Position::random(3, 4, 1.0);
        let half = numbers(4, 2);
        position.learner_logits = tch::Tensor::from_slice(&[half[0], half[1], -inf, -inf]);
        position.teacher_logits = tch::Tensor::from_slice(&[-inf, -inf, half[0], half[1]]);
        let rule = Jsd { top_k: 64, support: TopKOf::StudentTopK, beta: 0.5, tail: Tail::Bucket };
        for ids in [vec![0, 1, 2, 3], vec![0, 1], vec![2, 3]] {
            let ruling = rule.rule(&position.candidates(&ids, &vec![1; ids.len()]));
            assert!((ruling.value.double_value(&[0]) - 2f64.ln()).abs() < 1e-12, "{ids:?}");
            assert_eq!(ruling.coefficients.isfinite().all().int64_value(&[]), 1);
            assert!(ruling.faults.is_empty());
        }
    }
}
