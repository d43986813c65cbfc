//! `alpha KL(q || p) + (1 - alpha) KL(p || q)` over a top-k, and a bucket for the rest.

use super::{Candidates, Estimator, Ruling, Support, Tail, TopKOf, at_least_one, over_support::Phi, share};
use crate::Result;
use serde::{Deserialize, Serialize};

/// `skewed_kl`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkewedKl {
    /// Most ids of the top-k to read.
    pub top_k: usize,
    /// Whose top-k.
    #[serde(default)]
    pub support: TopKOf,
    /// The forward divergence's share, above 0 and below 1.
    #[serde(default = "super::half")]
    pub alpha: f64,
    /// What becomes of the mass outside.
    #[serde(default)]
    pub tail: Tail,
}

impl Estimator for SkewedKl {
    fn name(&self) -> &'static str {
        "skewed_kl"
    }

    fn support(&self) -> Support {
        self.support.support(self.top_k)
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.top_k", self.top_k)?;
        share("estimator.alpha", self.alpha, "1 is `forward_kl`, 0 is `reverse_kl_teacher_top_k`")
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        Phi::Skewed { alpha: self.alpha }.rule(self.tail, candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::oracle::{Position, assert_close, d_logits};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn with_the_whole_vocabulary_it_is_the_mix(seed in 0u64..1 << 40, vocab in 2i64..20, alpha in 0.01f64..0.99) {
            tch::set_num_threads(1);
            let position = Position::random(seed, vocab, 1.2);
            let ids: Vec<i64> = (0..vocab).collect();
            let rule = SkewedKl { top_k: 64, support: TopKOf::TeacherTopK, alpha, tail: Tail::Bucket };
            let ruling = rule.rule(&position.candidates(&ids, &vec![1; ids.len()]));
            let value = alpha * position.forward_kl() + (1.0 - alpha) * position.reverse_kl();
            prop_assert!((ruling.value.double_value(&[0]) - value).abs() < 1e-9);
            let forward = (position.p() - position.q()) / position.temperature;
            let closed = forward * alpha + position.d_reverse_kl() * (1.0 - alpha);
            assert_close(&d_logits(&position, &ruling, &ids), &closed, 1e-9);
        }
    }
}
