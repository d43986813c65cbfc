//! Learner, teacher and sampler over the full vocabulary at some positions, and the exact gradients there.

use crate::estimator::{Candidates, Estimator, ForwardKl, Jsd, ReverseKlTeacherTopK, SkewedKl, Tail, TopKOf};
use tch::{Kind, Tensor};

/// Full distributions at N positions, each row at the row's temperature; float64, `[N, V]`.
#[derive(Debug)]
pub struct Distributions {
    pub(super) log_p: Tensor,
    pub(super) log_q: Tensor,
    pub(super) log_b: Tensor,
    pub(super) p: Tensor,
    pub(super) q: Tensor,
    pub(super) b: Tensor,
    /// |p|^2, `[N, 1]`.
    pub(super) p_square: Tensor,
    /// |e_a - p|^2 = 1 - 2 p_a + |p|^2, `[N, V]`.
    pub(super) score_square: Tensor,
    /// 1 / T^2, `[N]`: what a square of a gradient in the logits carries.
    pub(super) inverse_square: Tensor,
}

impl Distributions {
    /// From log-probabilities of the learner, the teacher and the sampler, and the temperatures `[N]`.
    pub fn new(log_p: Tensor, log_q: Tensor, log_b: Tensor, temperature: &Tensor) -> Self {
        let (p, q, b) = (log_p.exp(), log_q.exp(), log_b.exp());
        let p_square = over_vocabulary(&(&p * &p)).unsqueeze(1);
        let score_square = &p * -2.0 + (&p_square + 1.0);
        let inverse_square = temperature.to_kind(Kind::Double).square().reciprocal();
        Self { log_p, log_q, log_b, p, q, b, p_square, score_square, inverse_square }
    }

    /// Positions and vocabulary.
    pub(super) fn size(&self) -> (i64, i64) {
        let size = self.log_p.size();
        (size[0], size[1])
    }

    /// The exact gradient of `target` in the logits, times the temperature.
    pub(super) fn exact(&self, target: Target) -> Exact {
        let whole = |of: &Tensor| of.shallow_clone();
        let nothing = self.inverse_square.full_like(f64::NEG_INFINITY);
        let ruling = target.over_all().rule(&Candidates {
            mask: self.log_p.ones_like().to_kind(Kind::Bool),
            in_head: self.log_p.ones_like().to_kind(Kind::Bool),
            counts: self.log_p.ones_like(),
            draws: self.inverse_square.full_like(f64::NAN),
            learner_logprobs: whole(&self.log_p),
            proximal_logprobs: whole(&self.log_p),
            teacher_logprobs: whole(&self.log_q),
            sampler_logprobs: whole(&self.log_b),
            learner_tail: whole(&nothing),
            teacher_tail: nothing,
        });
        let gradient = self.gradient(&ruling.coefficients);
        Exact {
            square: over_vocabulary(&(&gradient * &gradient)),
            along_p: over_vocabulary(&(&gradient * &self.p)),
            gradient,
        }
    }

    /// `sum_a c_a (e_a - p)` for coefficients `[N, V]`.
    pub(super) fn gradient(&self, coefficients: &Tensor) -> Tensor {
        coefficients - &self.p * over_vocabulary(coefficients).unsqueeze(1)
    }

    /// Entropy of the sampler, nats, `[N]`.
    pub(super) fn sampler_entropy(&self) -> Tensor {
        -over_vocabulary(&(&self.b * &self.log_b))
    }
}

/// The sum of each row.
pub(super) fn over_vocabulary(of: &Tensor) -> Tensor {
    of.sum_dim_intlist([1i64].as_slice(), false, None)
}

/// A gradient in the logits, times the temperature, and what is asked of it again and again.
pub(super) struct Exact {
    /// `[N, V]`.
    pub gradient: Tensor,
    /// |g*|^2, `[N]`.
    pub square: Tensor,
    /// <p, g*>, `[N]`.
    pub along_p: Tensor,
}

/// The divergence that an estimator is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// KL(p || q)
    ReverseKl,
    /// KL(q || p)
    ForwardKl,
    /// Half of each.
    SkewedKl,
    /// With the half as the teacher's share.
    Jsd,
}

impl Target {
    pub const ALL: [Self; 4] = [Self::ReverseKl, Self::ForwardKl, Self::SkewedKl, Self::Jsd];

    /// The rule that is exact where its support is the vocabulary.
    fn over_all(self) -> Box<dyn Estimator> {
        let (top_k, tail, support) = (usize::MAX, Tail::Bucket, TopKOf::TeacherTopK);
        match self {
            Self::ReverseKl => Box::new(ReverseKlTeacherTopK { top_k, tail }),
            Self::ForwardKl => Box::new(ForwardKl { top_k, tail }),
            Self::SkewedKl => Box::new(SkewedKl { top_k, support, alpha: 0.5, tail }),
            Self::Jsd => Box::new(Jsd { top_k, support, beta: 0.5, tail }),
        }
    }
}
