//! Hybrid reverse KL: exact over a head H, Monte-Carlo outside it. H is fixed before the draws, and p is recomputed there, so the
//! sum over H is exact under the current student; the draws a_j ~ b outside H, weighed by rho = p / b, estimate the rest:
//!
//! ```text
//! c_j = p_j (L_j - c) in H,   (n_j / m) rho_j (L_j - c) outside,   L = log p - log q
//! ```
//!
//! m counts all draws of the position; one inside H adds nothing. The baseline c multiplies scores whose expectation over H and
//! draws together is 0, so that any c which does not depend on the draw it is taken from leaves the gradient unbiased.

use super::{
    Candidates, Divergence, Estimator, Fault, Needs, Ruling, Support, Tally, at_least_one, reverse_kl_mc::LOG_RHO_LIMIT,
};
use crate::Result;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// `reverse_kl_hybrid`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseKlHybrid {
    /// Most ids of the head; of each top-k where it is two.
    pub top_k: usize,
    /// Draws a position (m). The rollout job takes them; the rule works with however many are there.
    pub draws: usize,
    /// What the head is.
    #[serde(default)]
    pub head: Head,
    /// What is taken from log p - log q.
    #[serde(default)]
    pub baseline: Baseline,
}

/// The tokens over which the sum is exact. They are fixed before anything is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The most likely ids of the student that sampled.
    #[default]
    StudentTopK,
    /// The teacher's most likely ids.
    TeacherTopK,
    /// Both, without repeats.
    Union,
}

/// The baseline c, a constant: nothing flows back through it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// log p_T - log q_T: what the draws estimate is then how p and q differ within the tail.
    #[default]
    Tail,
    /// At a draw the mean of log p - log q over the other draws outside the head, that of `tail` where there is none; in the head
    /// the mean of those over all m.
    LeaveOneOut,
    /// 0.
    None,
}

impl Baseline {
    /// c of the head `[N, 1]` and of each draw `[N, J]`, from `counts` of the draws outside the head, 0 elsewhere, and their
    /// log p - log q, 0 elsewhere.
    fn of(self, candidates: &Candidates, counts: &Tensor, log_ratio: &Tensor) -> (Tensor, Tensor) {
        let sum = |x: Tensor| x.sum_dim_intlist([1i64].as_slice(), true, None);
        let zero = candidates.learner_tail.zeros_like();
        // Where p has no tail, no draw is outside and the head's scores add up to 0: any c does, also one that is finite.
        let gap = (&candidates.learner_tail - &candidates.teacher_tail)
            .where_self(&candidates.learner_tail.exp().ne(0.0), &zero)
            .unsqueeze(1);
        match self {
            Self::Tail => (gap.shallow_clone(), gap.expand_as(counts)),
            Self::LeaveOneOut => {
                // A teacher without a tail would make it infinite, though no draw is outside.
                let lost = candidates.teacher_tail.eq(f64::NEG_INFINITY).unsqueeze(1);
                let alone = gap.where_self(&lost.logical_not(), &zero.unsqueeze(1));
                let (m, n, total) = (candidates.draws.unsqueeze(1), sum(counts.copy()), sum(counts * log_ratio));
                let others = (&total - log_ratio) / (&n - 1.0);
                let others = others.where_self(&n.gt(1.0), &alone);
                // A draw inside the head has all those outside for its others.
                let inside = (&m - &n) * (&total / &n).where_self(&n.gt(0.0), &alone);
                ((inside + sum(counts * &others)) / m, others)
            }
            Self::None => (zero.unsqueeze(1), counts.zeros_like()),
        }
    }
}

impl Estimator for ReverseKlHybrid {
    fn name(&self) -> &'static str {
        "reverse_kl_hybrid"
    }

    fn support(&self) -> Support {
        Support::HeadAndDraws { head: self.head, k: self.top_k }
    }

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ReverseKl)
    }

    fn needs(&self) -> Needs {
        let of = |heads: [Head; 2]| if heads.contains(&self.head) { self.top_k } else { 0 };
        Needs {
            draws: self.draws,
            teacher_top_k: of([Head::TeacherTopK, Head::Union]),
            sampler_top_k: of([Head::StudentTopK, Head::Union]),
            whole_distribution: true,
            all_draws: self.head == Head::TeacherTopK,
            ..Needs::default()
        }
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.top_k", self.top_k)?;
        at_least_one("estimator.draws", self.draws)
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        let Candidates { mask, in_head, draws, learner_logprobs: log_p, teacher_logprobs: log_q, .. } = candidates;
        let zero = log_p.zeros_like();
        let inside = mask.logical_and(in_head);
        let outside = mask.logical_and(&in_head.logical_not());
        let counts = candidates.counts.where_self(&outside, &zero);
        let log_rho = (log_p - &candidates.sampler_logprobs).where_self(&outside, &zero);
        let rho = log_rho.clamp(-LOG_RHO_LIMIT, LOG_RHO_LIMIT).exp();
        let weights = log_p.exp().where_self(&inside, &zero) + &counts / draws.clamp_min(1.0).unsqueeze(1) * rho;
        // p = 0 makes a term of the head 0: p log p -> 0.
        let log_ratio = (log_p - log_q).where_self(&mask.logical_and(&weights.ne(0.0)), &zero);
        let of_draws = log_ratio.where_self(&outside, &zero);
        let (of_head, of_each) = self.baseline.of(candidates, &counts, &of_draws);
        let coefficients = weights * (log_ratio - of_each.where_self(&outside, &of_head));

        let any = |marked: Tensor| marked.any_dim(1, false);
        let finite = log_p.isfinite().logical_and(&log_q.isfinite());
        let finite = finite.logical_and(&candidates.sampler_logprobs.isfinite());
        let mut faults = vec![
            (Fault::NoDraw, draws.eq(0.0)),
            (Fault::ImpossibleDraw, any(outside.logical_and(&finite.logical_not()))),
            (Fault::ImpossibleToTeacher, any(inside.logical_and(&log_q.eq(f64::NEG_INFINITY)))),
        ];
        if self.baseline == Baseline::Tail {
            let lost = candidates.teacher_tail.eq(f64::NEG_INFINITY);
            faults.push((Fault::NoTeacherTail, lost.logical_and(&candidates.learner_tail.exp().ne(0.0))));
        }
        let clamped = counts.where_self(&log_rho.abs().gt(LOG_RHO_LIMIT), &zero).sum(None);
        Ruling {
            value: of_head.squeeze_dim(1) + coefficients.sum_dim_intlist([1i64].as_slice(), false, None),
            coefficients,
            tallies: vec![Tally { name: "is/clamped_frac", numerator: clamped, denominator: counts.sum(None) }],
            faults,
        }
    }
}

#[cfg(test)]
#[path = "reverse_kl_hybrid_tests.rs"]
mod tests;
