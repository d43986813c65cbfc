//! M2PO: the PPO rule with margins that hold the second moment of log b - log p in a minibatch to a budget.
//!
//! Over all draws of the minibatch, delta = log b - log p. A draw is harmful where its ratio has gone beyond 1 in the direction of
//! its advantage: (A > 0 and rho > 1) or (A < 0 and rho < 1). Where the mean of delta^2 over harmful draws is within the
//! budget, nothing is clipped. Else tau solves mean of min(delta^2, tau^2) = budget, and the margins are
//! `eps_low = max(1 - e^-tau, 0.3)`, `eps_high = max(e^tau - 1, 0.5)`.

use super::{Advantage, Candidates, ppo::Clip};
use crate::{LearnError, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Less is never clipped, however small tau: the margins' floors.
const FLOOR: Clip = Clip { eps_low: 0.3, eps_high: 0.5, dual_clip: None };

/// `m2po`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct M2po {
    /// The most that the mean of delta^2 over harmful draws may be, nats squared.
    #[serde(default = "budget")]
    pub budget: f64,
}

fn budget() -> f64 {
    0.04
}

impl M2po {
    pub(super) fn validate(self) -> Result<()> {
        if self.budget > 0.0 && self.budget.is_finite() {
            return Ok(());
        }
        let (key, expected) = ("estimator.correction.budget", "a number above 0".into());
        Err(LearnError::Setting { key, expected, found: self.budget.to_string() })
    }

    /// Whether a draw with delta = log b - log p and this advantage is harmful.
    pub fn is_harmful(delta: f64, advantage: f64) -> bool {
        (advantage > 0.0 && delta < 0.0) || (advantage < 0.0 && delta > 0.0)
    }

    /// tau, from (delta, weight) of the harmful draws, weights 0 or more; `None` within the budget. Exact: the mean of
    /// min(delta^2, tau^2) is a straight line in tau^2 between two neighbouring delta^2.
    pub fn threshold(self, harmful: &[(f64, f64)]) -> Option<f64> {
        let mut squares: Vec<(f64, f64)> = harmful
            .iter()
            .filter(|(_, weight)| *weight > 0.0)
            .map(|(delta, weight)| (delta * delta, *weight))
            .collect();
        squares.sort_by(|a, b| a.0.total_cmp(&b.0));
        let sum = |of: &dyn Fn(&(f64, f64)) -> f64| squares.iter().map(of).sum::<f64>();
        // What min(delta^2, tau^2) may add up to, what is below tau adds up to, and the weight of the rest.
        let (most, mut below, mut rest) = (self.budget * sum(&|s| s.1), 0.0, sum(&|s| s.1));
        if sum(&|s| s.0 * s.1) <= most {
            return None;
        }
        for (square, weight) in squares {
            if below + square * rest >= most {
                return Some(((most - below) / rest).sqrt());
            }
            below += square * weight;
            rest -= weight;
        }
        // Only rounding leads here: all of it is at the budget.
        None
    }

    /// The PPO rule's margins for a minibatch with these harmful draws, (delta, weight).
    pub fn clip(self, harmful: &[(f64, f64)]) -> Clip {
        match self.threshold(harmful) {
            // Without a margin nothing is clipped: a floor is no margin.
            None => Clip { eps_low: f64::INFINITY, eps_high: f64::INFINITY, dual_clip: None },
            Some(tau) => Clip {
                eps_low: FLOOR.eps_low.max(-(-tau).exp_m1()),
                eps_high: FLOOR.eps_high.max(tau.exp_m1()),
                dual_clip: None,
            },
        }
    }

    /// (delta, count) of the harmful draws of a minibatch; those that are not finite are nobody's.
    pub(super) fn harmful(advantage: Advantage, minibatch: &[Candidates]) -> Vec<(f64, f64)> {
        let numbers = |of: &Tensor| {
            let flat = of.to_kind(Kind::Double).to_device(Device::Cpu).contiguous().reshape([-1]);
            // A flat float64 tensor is a vector of numbers.
            Vec::<f64>::try_from(flat).unwrap_or_default()
        };
        let mut harmful = Vec::new();
        for candidates in minibatch {
            let delta = numbers(&(&candidates.sampler_logprobs - &candidates.learner_logprobs));
            let advantage = numbers(&advantage.of(candidates));
            let counts = numbers(&candidates.counts.where_self(&candidates.mask, &candidates.counts.zeros_like()));
            let draws = delta.into_iter().zip(advantage).zip(counts);
            let harm = |((delta, advantage), count): &((f64, f64), f64)| {
                *count > 0.0 && delta.is_finite() && Self::is_harmful(*delta, *advantage)
            };
            harmful.extend(draws.filter(harm).map(|((delta, _), count)| (delta, count)));
        }
        harmful
    }
}

#[cfg(test)]
#[path = "m2po_tests.rs"]
mod tests;
