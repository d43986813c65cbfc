//! What `m2po` asks of a minibatch, in expectation over draws, where the minibatch is all positions of a group.

use super::{distributions::Distributions, figures::numbers};
use crate::estimator::{Advantage, Correction, M2po, ReverseKlMc};
use tch::{Kind, Tensor};

/// Mass under b of the harmful draws, and its delta^2, by |delta|: sums are exact, and a tau is off by less than a bin is wide.
pub(super) struct Harm {
    weight: Tensor,
    square: Tensor,
}

/// Bins to a factor of e in |delta|, and the least and the largest ln |delta| that are told apart.
const FINE: f64 = 256.0;
const LEAST: f64 = -20.0;
const LARGEST: f64 = 7.0;
const BINS: i64 = ((LARGEST - LEAST) * FINE) as i64;

impl Harm {
    pub fn new() -> Self {
        let nothing = || Tensor::zeros([BINS], (Kind::Double, tch::Device::Cpu));
        Self { weight: nothing(), square: nothing() }
    }

    /// Adds all draws at N more positions; the advantage is the current one.
    pub fn add(&mut self, of: &Distributions) {
        let (delta, advantage) = (&of.log_b - &of.log_p, &of.log_q - &of.log_p);
        // Harmful: gone beyond 1 in the direction of the advantage, delta and advantage of opposite signs.
        let harmful = (&delta * &advantage).lt(0.0);
        let weight = of.b.where_self(&harmful, &of.b.zeros_like()).reshape([-1]);
        let square = delta.square().reshape([-1]);
        let bins = ((square.log() * 0.5 - LEAST) * FINE).clamp(0.0, (BINS - 1) as f64).to_kind(Kind::Int64);
        let sum = |weight: &Tensor| bins.bincount(Some(weight), BINS);
        self.weight += sum(&weight);
        self.square += sum(&(&weight * square));
    }

    /// The rule of this minibatch.
    pub fn settle(&self, rule: M2po, draws: usize) -> ReverseKlMc {
        let bins = numbers(&self.weight).into_iter().zip(numbers(&self.square)).filter(|(weight, _)| *weight > 0.0);
        let harmful: Vec<(f64, f64)> = bins.map(|(weight, square)| ((square / weight).sqrt(), weight)).collect();
        ReverseKlMc { draws, advantage: Advantage::Current, correction: Correction::Ppo(rule.clip(&harmful)) }
    }
}
