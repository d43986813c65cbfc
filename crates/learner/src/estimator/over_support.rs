//! Divergences `sum_j phi(p_j, q_j)` over a support and, where the mass outside it is kept as a bucket, that bucket: one rule
//! for all of them.
//!
//! With phi' = d phi / d p the coefficients are `c_j = p_j (phi'(p_j, q_j) - phi'(p_T, q_T))`; without the bucket the second
//! term is missing. No draw occurs in it, nor does b: staleness changes which prefixes are trained on, not the gradient there.

use super::{Candidates, Fault, Ruling, Support};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// What becomes of the mass outside a support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tail {
    /// It is one more outcome: the value is a divergence, at most the true one.
    #[default]
    Bucket,
    /// It is left out: the value may be negative, and p = q is no minimum (except for `jsd`).
    Drop,
}

/// Whose top-k is the support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopKOf {
    /// The teacher's most likely ids.
    #[default]
    TeacherTopK,
    /// The most likely ids of the student that sampled.
    StudentTopK,
}

impl TopKOf {
    pub(super) fn support(self, k: usize) -> Support {
        match self {
            Self::TeacherTopK => Support::TeacherTopK { k },
            Self::StudentTopK => Support::SamplerTopK { k },
        }
    }
}

/// The integrand of a divergence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phi {
    /// q log(q / p)
    Forward,
    /// p log(p / q)
    Reverse,
    /// alpha forward + (1 - alpha) reverse
    Skewed { alpha: f64 },
    /// beta q log(q / M) + (1 - beta) p log(p / M), M = beta q + (1 - beta) p
    Jsd { beta: f64 },
}

impl Phi {
    /// phi and p phi' from logs; a term whose weight is 0 is 0, whatever its logarithm.
    fn terms(self, log_p: &Tensor, log_q: &Tensor) -> (Tensor, Tensor) {
        let (p, q) = (log_p.exp(), log_q.exp());
        match self {
            Self::Forward => (weighted(&q, &(log_q - log_p)), -q),
            Self::Reverse => {
                let log_ratio = log_p - log_q;
                (weighted(&p, &log_ratio), weighted(&p, &(&log_ratio + 1.0)))
            }
            Self::Skewed { alpha } => {
                let (forward, reverse) = (Self::Forward.terms(log_p, log_q), Self::Reverse.terms(log_p, log_q));
                (forward.0 * alpha + reverse.0 * (1.0 - alpha), forward.1 * alpha + reverse.1 * (1.0 - alpha))
            }
            Self::Jsd { beta } => {
                let log_m = log_mixture(beta, log_p, log_q);
                let of_p = weighted(&p, &(log_p - &log_m)) * (1.0 - beta);
                (weighted(&q, &(log_q - log_m)) * beta + &of_p, of_p)
            }
        }
    }

    /// phi', from logs; for p > 0.
    fn slope(self, log_p: &Tensor, log_q: &Tensor) -> Tensor {
        match self {
            Self::Forward => -(log_q - log_p).exp(),
            Self::Reverse => log_p - log_q + 1.0,
            Self::Skewed { alpha } => {
                Self::Forward.slope(log_p, log_q) * alpha + Self::Reverse.slope(log_p, log_q) * (1.0 - alpha)
            }
            Self::Jsd { beta } => (log_p - log_mixture(beta, log_p, log_q)) * (1.0 - beta),
        }
    }

    /// Whether it is infinite at p = 0 < q.
    fn needs_p(self) -> bool {
        matches!(self, Self::Forward | Self::Skewed { .. })
    }

    /// Whether it is infinite at q = 0 < p.
    fn needs_q(self) -> bool {
        matches!(self, Self::Reverse | Self::Skewed { .. })
    }

    /// The divergence's rule.
    pub(super) fn rule(self, tail: Tail, candidates: &Candidates) -> Ruling {
        let mask = &candidates.mask;
        // Padding becomes p = q = 0, where every term is 0.
        let minus_infinity = candidates.learner_logprobs.full_like(f64::NEG_INFINITY);
        let log_p = candidates.learner_logprobs.where_self(mask, &minus_infinity);
        let log_q = candidates.teacher_logprobs.where_self(mask, &minus_infinity);
        let (terms, p_slopes) = self.terms(&log_p, &log_q);
        let mut ruling = Ruling {
            value: terms.sum_dim_intlist([1i64].as_slice(), false, None),
            coefficients: p_slopes,
            tallies: Vec::new(),
            faults: Vec::new(),
        };
        let at = |log: &Tensor| mask.logical_and(&log.eq(f64::NEG_INFINITY)).any_dim(1, false);
        if self.needs_p() {
            ruling.faults.push((Fault::ImpossibleToLearner, at(&log_p)));
        }
        if self.needs_q() {
            ruling.faults.push((Fault::ImpossibleToTeacher, at(&log_q)));
        }
        if tail == Tail::Bucket {
            self.add_bucket(candidates, &log_p, &mut ruling);
        }
        ruling
    }

    /// The tail bucket's part of value, coefficients and faults; none where the support is empty.
    fn add_bucket(self, candidates: &Candidates, log_p: &Tensor, ruling: &mut Ruling) {
        let (log_p_tail, log_q_tail) = (&candidates.learner_tail, &candidates.teacher_tail);
        let (p_tail, q_tail) = (log_p_tail.exp(), log_q_tail.exp());
        let zero = p_tail.zeros_like();
        let supported = candidates.mask.any_dim(1, false);

        let (term, _) = self.terms(log_p_tail, log_q_tail);
        ruling.value += term.where_self(&supported, &zero);
        // At p_T = 0 the bucket pulls on nothing: p_T phi' -> 0 (reverse, jsd), q_T = 0 or it is a fault (forward, skewed).
        let slope = self.slope(log_p_tail, log_q_tail);
        let slope = slope.where_self(&supported.logical_and(&p_tail.ne(0.0)), &zero);
        let of_tail = log_p.exp() * slope.unsqueeze(1);
        ruling.coefficients = &ruling.coefficients - of_tail;

        let lost = |holder: &Tensor, other: &Tensor| {
            supported.logical_and(&holder.eq(f64::NEG_INFINITY)).logical_and(&other.ne(0.0))
        };
        if self.needs_p() {
            ruling.faults.push((Fault::NoLearnerTail, lost(log_p_tail, &q_tail)));
        }
        if self.needs_q() {
            ruling.faults.push((Fault::NoTeacherTail, lost(log_q_tail, &p_tail)));
        }
    }
}

/// `weight * log`, and 0 where the weight is 0. A NaN is not 0, and so is found out.
fn weighted(weight: &Tensor, log: &Tensor) -> Tensor {
    (weight * log).where_self(&weight.ne(0.0), &weight.zeros_like())
}

/// log(beta q + (1 - beta) p).
fn log_mixture(beta: f64, log_p: &Tensor, log_q: &Tensor) -> Tensor {
    (log_q + beta.ln()).logaddexp(&(log_p + (1.0 - beta).ln()))
}

#[cfg(test)]
#[path = "over_support_tests.rs"]
mod tests;
