//! Cross-entropy on given tokens, for cold starts: `L = -log p(y)`.

use super::{Candidates, Estimator, Ruling, Support};

/// The one candidate is the token itself, with coefficient -1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrossEntropy;

impl Estimator for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn support(&self) -> Support {
        Support::Token
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        let log_p = &candidates.learner_logprobs;
        let terms = (-log_p).where_self(&candidates.mask, &log_p.zeros_like());
        let coefficients = log_p.full_like(-1.0).where_self(&candidates.mask, &log_p.zeros_like());
        Ruling {
            value: terms.sum_dim_intlist([1i64].as_slice(), false, None),
            coefficients,
            tallies: Vec::new(),
            faults: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::oracle::{Position, assert_close, d_logits};
    use tch::Tensor;

    #[test]
    fn gradient_is_softmax_less_one_hot() {
        tch::set_num_threads(1);
        let position = Position::random(5, 7, 1.0);
        for token in 0..7 {
            let ruling = CrossEntropy.rule(&position.candidates(&[token], &[1]));
            let p = position.p();
            assert_close(&ruling.value, &-p.log().narrow(0, token, 1), 1e-12);
            let one_hot = Tensor::zeros([7], (tch::Kind::Double, tch::Device::Cpu)).index_fill(
                0,
                &Tensor::from_slice(&[token]),
                1.0,
            );
            assert_close(&d_logits(&position, &ruling, &[token]), &(p - one_hot), 1e-12);
        }
    }
}
