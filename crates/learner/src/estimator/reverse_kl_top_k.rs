//! Reverse KL over a top-k: `sum_j p_j log(p_j / q_j)`, and a bucket for the rest. The support is the teacher's K_q or the
//! sampling student's K_b; p is the learner's current student in both.

use super::{Candidates, Estimator, Ruling, Support, Tail, at_least_one, over_support::Phi};
use crate::Result;
use serde::{Deserialize, Serialize};

/// `reverse_kl_teacher_top_k`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseKlTeacherTopK {
    /// Most ids of the teacher's top-k to read.
    pub top_k: usize,
    /// What becomes of the mass outside.
    #[serde(default)]
    pub tail: Tail,
}

/// `reverse_kl_student_top_k`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseKlStudentTopK {
    /// Most ids of the sampling student's top-k to read.
    pub top_k: usize,
    /// What becomes of the mass outside.
    #[serde(default)]
    pub tail: Tail,
}

impl Estimator for ReverseKlTeacherTopK {
    fn name(&self) -> &'static str {
        "reverse_kl_teacher_top_k"
    }

    fn support(&self) -> Support {
        Support::TeacherTopK { k: self.top_k }
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.top_k", self.top_k)
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        Phi::Reverse.rule(self.tail, candidates)
    }
}

impl Estimator for ReverseKlStudentTopK {
    fn name(&self) -> &'static str {
        "reverse_kl_student_top_k"
    }

    fn support(&self) -> Support {
        Support::SamplerTopK { k: self.top_k }
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.top_k", self.top_k)
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        Phi::Reverse.rule(self.tail, candidates)
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
            let position = Position::random(seed, vocab, 0.7);
            let ids: Vec<i64> = (0..vocab).collect();
            for tail in [Tail::Bucket, Tail::Drop] {
                let rules: [&dyn Estimator; 2] =
                    [&ReverseKlTeacherTopK { top_k: 64, tail }, &ReverseKlStudentTopK { top_k: 64, tail }];
                for rule in rules {
                    let ruling = rule.rule(&position.candidates(&ids, &vec![1; ids.len()]));
                    prop_assert!((ruling.value.double_value(&[0]) - position.reverse_kl()).abs() < 1e-9);
                    assert_close(&d_logits(&position, &ruling, &ids), &position.d_reverse_kl(), 1e-9);
                }
            }
        }
    }
}
