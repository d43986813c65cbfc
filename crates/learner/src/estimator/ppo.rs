//! The PPO rule: an importance ratio counts until it has gone further than the margin in the direction of its advantage.

use crate::{LearnError, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Margins of the ratio r = p / b around 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clip {
    /// A candidate with a negative advantage counts down to r = 1 - eps_low.
    #[serde(default = "a_fifth")]
    pub eps_low: f64,
    /// A candidate with a positive advantage counts up to r = 1 + eps_high.
    #[serde(default = "a_fifth")]
    pub eps_high: f64,
    /// A candidate with a negative advantage counts up to this r; absent: any r.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f64>,
}

pub(super) fn a_fifth() -> f64 {
    0.2
}

impl Clip {
    /// Refuses settings without a meaning; `keys` are those of `eps_low`, `eps_high` and `dual_clip`.
    pub(super) fn validate(&self, keys: [&'static str; 3]) -> Result<()> {
        let refuse = |key, expected: &str, found: f64| {
            Err(LearnError::Setting { key, expected: expected.into(), found: found.to_string() })
        };
        if !(self.eps_low > 0.0 && self.eps_low <= 1.0) {
            return refuse(keys[0], "above 0, at most 1 (which never clips)", self.eps_low);
        }
        if !(self.eps_high > 0.0 && self.eps_high.is_finite()) {
            return refuse(keys[1], "a number above 0", self.eps_high);
        }
        match self.dual_clip {
            Some(most) if !(most > 1.0 && most.is_finite()) => refuse(keys[2], "a number above 1", most),
            _ => Ok(()),
        }
    }

    /// The weight of each candidate, r or 0, and which are clipped.
    pub(super) fn weights(&self, ratio: &Tensor, advantage: &Tensor) -> (Tensor, Tensor) {
        let (up, down) = (advantage.gt(0.0), advantage.lt(0.0));
        let mut clipped =
            up.logical_and(&ratio.gt(1.0 + self.eps_high)).logical_or(&down.logical_and(&ratio.lt(1.0 - self.eps_low)));
        if let Some(most) = self.dual_clip {
            clipped = clipped.logical_or(&down.logical_and(&ratio.gt(most)));
        }
        (ratio.where_self(&clipped.logical_not(), &ratio.zeros_like()), clipped)
    }
}

/// The objective as its authors write it, of one candidate: `min(r A, clip(r) A)`, for A < 0 at least `dual_clip * A`.
/// Autograd through it is the oracle.
#[cfg(test)]
pub(super) fn objective(clip: &Clip, ratio: &Tensor, advantage: &Tensor) -> Tensor {
    let plain = ratio * advantage;
    let least = plain.minimum(&(ratio.clamp(1.0 - clip.eps_low, 1.0 + clip.eps_high) * advantage));
    match clip.dual_clip {
        Some(most) => least.where_self(&advantage.ge(0.0), &least.maximum(&(advantage * most))),
        None => least,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::oracle::{assert_close, numbers};

    #[test]
    fn weights_are_the_slope_of_the_objective() {
        tch::set_num_threads(1);
        for dual_clip in [None, Some(3.0)] {
            let clip = Clip { eps_low: 0.2, eps_high: 0.3, dual_clip };
            let ratio = Tensor::from_slice(&numbers(1, 400)).exp().set_requires_grad(true);
            let advantage = Tensor::from_slice(&numbers(2, 400));
            let objective = objective(&clip, &ratio, &advantage).sum(None);
            // d / d log p = r d / d r.
            let slope = Tensor::run_backward(&[objective], &[&ratio], false, false).remove(0) * ratio.detach();
            let (weights, clipped) = clip.weights(&ratio.detach(), &advantage);
            assert_close(&(weights * &advantage), &slope, 1e-12);
            let share = clipped.to_kind(tch::Kind::Double).mean(None).double_value(&[]);
            assert!((0.1..0.9).contains(&share), "both sides are met: {share}");
        }
    }

    #[test]
    fn each_side_by_hand() {
        tch::set_num_threads(1);
        let clip = Clip { eps_low: 0.2, eps_high: 0.2, dual_clip: Some(3.0) };
        for (ratio, advantage, weight) in [
            (1.3, 1.0, 0.0),
            (1.1, 1.0, 1.1),
            (0.5, 1.0, 0.5),
            (0.5, -1.0, 0.0),
            (0.9, -1.0, 0.9),
            (1.3, -1.0, 1.3),
            (3.1, -1.0, 0.0),
            (3.1, 0.0, 3.1),
        ] {
            let (found, clipped) = clip.weights(&Tensor::from_slice(&[ratio]), &Tensor::from_slice(&[advantage]));
            assert_eq!(found.double_value(&[0]), weight, "{ratio} {advantage}");
            assert_eq!(clipped.int64_value(&[0]) == 1, weight == 0.0);
        }
    }
}
