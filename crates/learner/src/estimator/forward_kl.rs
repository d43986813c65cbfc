//! Forward KL over the teacher's top-k K_q: `sum_j q_j log(q_j / p_j)`, and a bucket for the rest.

use super::{Candidates, Divergence, Estimator, Ruling, Support, Tail, at_least_one, over_support::Phi};
use crate::Result;
use serde::{Deserialize, Serialize};

/// `forward_kl`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardKl {
    /// Most ids of the teacher's top-k to read.
    pub top_k: usize,
    /// What becomes of the mass outside.
    #[serde(default)]
    pub tail: Tail,
}

impl Estimator for ForwardKl {
    fn name(&self) -> &'static str {
        "forward_kl"
    }

    fn support(&self) -> Support {
        Support::TeacherTopK { k: self.top_k }
    }

    fn divergence(&self) -> Option<Divergence> {
        (self.tail == Tail::Bucket).then_some(Divergence::ForwardKl)
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.top_k", self.top_k)
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        Phi::Forward.rule(self.tail, candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::oracle::{Position, assert_close, d_logits};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn with_the_whole_vocabulary_it_is_exact(seed in 0u64..1 << 40, vocab in 2i64..20) {
            tch::set_num_threads(1);
            let position = Position::random(seed, vocab, 1.3);
            let ids: Vec<i64> = (0..vocab).collect();
            // Nothing is left for a tail to say.
            for tail in [Tail::Bucket, Tail::Drop] {
                let ruling = ForwardKl { top_k: 64, tail }.rule(&position.candidates(&ids, &vec![1; ids.len()]));
                prop_assert!((ruling.value.double_value(&[0]) - position.forward_kl()).abs() < 1e-9);
                // grad of KL(q || p) in the logits is (p - q) / T.
                let closed = (position.p() - position.q()) / position.temperature;
                assert_close(&d_logits(&position, &ruling, &ids), &closed, 1e-9);
            }
        }
    }
}
