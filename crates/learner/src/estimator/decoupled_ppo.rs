//! Decoupled PPO: the ratio that is clipped is to the proximal weights, those from before the batch's first minibatch, and not to
//! the sampler's: `r = p / p_prox`, `v = p_prox / b`. The weight is r by the PPO rule times v, and 0 where v is beyond a cap.

use super::{Candidates, correction::MARGINS, ppo::Clip, ppo::a_fifth, reverse_kl_mc::Draws};
use crate::{LearnError, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// `decoupled_ppo`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoupledPpo {
    /// Optimizer steps that share their proximal weights: those before each multiple of it.
    pub minibatches: u64,
    /// A draw counts up to v = cap.
    #[serde(default = "five")]
    pub cap: f64,
    /// A draw with a negative advantage counts down to r = 1 - eps_low.
    #[serde(default = "a_fifth")]
    pub eps_low: f64,
    /// A draw with a positive advantage counts up to r = 1 + eps_high.
    #[serde(default = "a_fifth")]
    pub eps_high: f64,
    /// A draw with a negative advantage counts up to this r; absent: any r.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
}

fn five() -> f64 {
    5.0
}

impl DecoupledPpo {
    fn clip(self) -> Clip {
        Clip { eps_low: self.eps_low, eps_high: self.eps_high, dual_clip: self.dual_clip }
    }

    pub(super) fn validate(self) -> Result<()> {
        if self.minibatches == 0 {
            let (key, expected) = ("estimator.correction.minibatches", "1 or more".into());
            return Err(LearnError::Setting { key, expected, found: "0".into() });
        }
        if !(self.cap >= 1.0 && self.cap.is_finite()) {
            let expected = "1 or more: below that even an unchanged student is masked".into();
            return Err(LearnError::Setting { key: "estimator.correction.cap", expected, found: self.cap.to_string() });
        }
        self.clip().validate(MARGINS)
    }

    /// The weights, and which of them are 0 by a margin or the cap.
    pub(super) fn weights(self, candidates: &Candidates, draws: &Draws, advantage: &Tensor) -> (Tensor, Tensor) {
        let Candidates { learner_logprobs, proximal_logprobs, sampler_logprobs, .. } = candidates;
        let (ratio, _) = draws.ratio(learner_logprobs, proximal_logprobs);
        let (behind, _) = draws.ratio(proximal_logprobs, sampler_logprobs);
        let (weights, clipped) = self.clip().weights(&ratio, advantage);
        let capped = behind.gt(self.cap);
        ((weights * &behind).where_self(&capped.logical_not(), &behind.zeros_like()), clipped.logical_or(&capped))
    }
}

#[cfg(test)]
#[path = "decoupled_ppo_tests.rs"]
mod tests;
