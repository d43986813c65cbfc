//! Monte-Carlo reverse KL over draws a_j ~ b with counts n_j: `c_j = -(n_j / m) w_j A_j`. With the importance weight
//! `w = rho = p / b` and the advantage recomputed under the current student, `A = log q - log p` (the defaults), it is unbiased
//! for grad KL(p || q) at any staleness. (arXiv 2606.24143: the reverse KL recomputed under the current student, unclipped.)

use super::{Candidates, Correction, Divergence, Estimator, Fault, Needs, Pass, Ruling, Support, Tally, at_least_one};
use crate::Result;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// |log rho| beyond which an importance weight is held; e^20 is past any use, and finite in float32.
pub(crate) const LOG_RHO_LIMIT: f64 = 20.0;

/// `reverse_kl_mc`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReverseKlMc {
    /// Draws a position (m). The rollout job takes them; the rule works with however many are there.
    pub draws: usize,
    /// Whose student the advantage is taken under.
    #[serde(default)]
    pub advantage: Advantage,
    /// What makes up for b not being p.
    #[serde(default)]
    pub correction: Correction,
}

/// Whose student an advantage is taken under. It is a constant: nothing flows back through it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// The learner's current one: `log q - log p`, recomputed at each step.
    #[default]
    Current,
    /// The one that sampled: `log q - log b`, as it was at the rollout.
    Rollout,
}

impl Advantage {
    pub(super) fn of(self, candidates: &Candidates) -> Tensor {
        let student = match self {
            Self::Current => &candidates.learner_logprobs,
            Self::Rollout => &candidates.sampler_logprobs,
        };
        &candidates.teacher_logprobs - student
    }
}

impl Estimator for ReverseKlMc {
    fn name(&self) -> &'static str {
        "reverse_kl_mc"
    }

    fn support(&self) -> Support {
        Support::Draws
    }

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ReverseKl)
    }

    fn needs(&self) -> Needs {
        Needs { draws: self.draws, whole_distribution: true, all_draws: true, ..Needs::default() }
    }

    fn validate(&self) -> Result<()> {
        at_least_one("estimator.draws", self.draws)?;
        self.correction.validate(self.draws)
    }

    fn pass(&self) -> Pass {
        self.correction.pass()
    }

    fn settle(&self, minibatch: &[Candidates]) -> Option<Box<dyn Estimator>> {
        let correction = self.correction.settle(self.advantage, minibatch)?;
        Some(Box::new(Self { correction, ..*self }))
    }

    fn rule(&self, candidates: &Candidates) -> Ruling {
        let Candidates { mask, learner_logprobs: log_p, teacher_logprobs: log_q, sampler_logprobs: log_b, .. } =
            candidates;
        let draws = Draws::of(candidates);
        let (rho, clamped) = draws.ratio(log_p, log_b);
        let advantage = self.advantage.of(candidates);
        let (weights, cut) = self.correction.weights(candidates, &draws, &rho, &advantage);
        let selected = |x: Tensor| x.where_self(mask, &x.zeros_like());
        // Weighed by rho whatever the correction: an unbiased report of KL(p || q), not what is differentiated.
        let terms = selected(&draws.share * &rho * (log_p - log_q));
        let mut faults = draws.faults(candidates, log_b);
        if let Pass::Proximal { .. } = self.pass() {
            let impossible = mask.logical_and(&candidates.proximal_logprobs.isinf()).any_dim(1, false);
            faults.push((Fault::ImpossibleDraw, impossible));
        }
        Ruling {
            value: terms.sum_dim_intlist([1i64].as_slice(), false, None),
            coefficients: selected(-(&draws.share * weights * advantage)),
            tallies: [clamped].into_iter().chain(cut.map(|cut| draws.rate("is/clip_frac", &cut))).collect(),
            faults,
        }
    }
}

/// What all rules over draws share.
pub(super) struct Draws {
    /// n_j, 0 at padding, `[N, J]`.
    counts: Tensor,
    /// n_j / m, 0 at padding, `[N, J]`.
    pub share: Tensor,
}

impl Draws {
    pub fn of(candidates: &Candidates) -> Self {
        let (mask, zero) = (&candidates.mask, candidates.counts.zeros_like());
        let counts = candidates.counts.where_self(mask, &zero);
        let m = counts.sum_dim_intlist([1i64].as_slice(), true, None);
        let share = (&counts / &m).where_self(mask, &zero);
        Self { counts, share }
    }

    /// exp(of - by) with its log held to the limit, 1 at padding; and how many draws that concerned.
    pub fn ratio(&self, of: &Tensor, by: &Tensor) -> (Tensor, Tally) {
        let log = of - by;
        let log = log.where_self(&self.counts.ne(0.0), &log.zeros_like());
        let clamped = self.rate("is/clamped_frac", &log.abs().gt(LOG_RHO_LIMIT));
        (log.clamp(-LOG_RHO_LIMIT, LOG_RHO_LIMIT).exp(), clamped)
    }

    /// The share of draws that are `marked`, a bool `[N, J]`.
    pub fn rate(&self, name: &'static str, marked: &Tensor) -> Tally {
        let numerator = self.counts.where_self(marked, &self.counts.zeros_like()).sum(None);
        Tally { name, numerator, denominator: self.counts.sum(None) }
    }

    /// Positions without a draw, and those with one that learner, teacher or whoever drew it holds impossible.
    pub fn faults(&self, candidates: &Candidates, drawn_by: &Tensor) -> Vec<(Fault, Tensor)> {
        let Candidates { mask, learner_logprobs, teacher_logprobs, .. } = candidates;
        let finite =
            learner_logprobs.isfinite().logical_and(&teacher_logprobs.isfinite()).logical_and(&drawn_by.isfinite());
        let impossible = mask.logical_and(&finite.logical_not()).any_dim(1, false);
        let none = self.counts.sum_dim_intlist([1i64].as_slice(), false, None).eq(0.0);
        vec![(Fault::NoDraw, none), (Fault::ImpossibleDraw, impossible)]
    }
}

#[cfg(test)]
#[path = "reverse_kl_mc_tests.rs"]
mod tests;
