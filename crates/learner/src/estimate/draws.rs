//! Estimators over draws: linear in them, so all follows from the rule's coefficient at each single draw.

use super::{
    distributions::{Distributions, Exact, over_vocabulary},
    figures::{Moments, numbers},
};
use crate::estimator::{Candidates, Estimator};
use tch::{Device, Kind, Tensor};

/// The coefficient of each id as the only draw, `[N, V]`.
///
/// `tails` of learner and teacher, `[N]`, are those of a head that the draw lies outside of.
pub(super) fn coefficients(
    estimator: &dyn Estimator,
    of: &Distributions,
    log_q: &Tensor,
    tails: Option<[&Tensor; 2]>,
) -> Tensor {
    let (n, vocabulary) = of.size();
    let single = |log: &Tensor| log.view([n * vocabulary, 1]);
    let one = Tensor::ones([1, 1], (Kind::Double, Device::Cpu)).expand([n * vocabulary, 1], false);
    let none = Tensor::full([n], f64::NAN, (Kind::Double, Device::Cpu));
    let each = |tail: &Tensor| tail.unsqueeze(1).expand([n, vocabulary], false).reshape([-1]);
    let [learner_tail, teacher_tail] = tails.unwrap_or([&none, &none]).map(each);
    let ruling = estimator.rule(&Candidates {
        mask: one.to_kind(Kind::Bool),
        in_head: one.to_kind(Kind::Bool).logical_not(),
        draws: one.squeeze_dim(1),
        counts: one,
        learner_logprobs: single(&of.log_p),
        // As in the first minibatch after the proximal weights were taken.
        proximal_logprobs: single(&of.log_p),
        teacher_logprobs: single(log_q),
        sampler_logprobs: single(&of.log_b),
        learner_tail,
        teacher_tail,
    });
    ruling.coefficients.view([n, vocabulary])
}

/// Appends the moments of draws from `drawn`, b or q, whose coefficients are these; `head` are those of what is not drawn.
pub(super) fn add(
    moments: &mut Moments,
    of: &Distributions,
    exact: &Exact,
    drawn: &Tensor,
    coefficients: &Tensor,
    head: Option<&Tensor>,
) {
    let weighted = drawn * coefficients;
    let second = over_vocabulary(&(&weighted * coefficients * &of.score_square));
    let mean = of.gradient(&weighted);
    let of_mean = over_vocabulary(&(&mean * &mean));
    let mean = head.map_or(mean.shallow_clone(), |head| mean + of.gradient(head));
    let square = over_vocabulary(&(&mean * &mean));
    let along = over_vocabulary(&(&mean * &exact.gradient));
    let error = over_vocabulary(&(mean - &exact.gradient).square());
    moments.extend(&of.inverse_square, &error, &square, &along, &(second - of_mean).clamp_min(0.0));
}

/// What a constant c in `rho (A - c)` changes: the spread by `2 c cross + c^2 unit`, the mean by nothing, as
/// `sum_a b_a rho_a (e_a - p)` is 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline {
    /// sum_a b_a c(a) rho_a |e_a - p|^2.
    pub cross: Vec<f64>,
    /// sum_a b_a rho_a^2 |e_a - p|^2.
    pub unit: Vec<f64>,
    /// E A over draws.
    pub advantage: Vec<f64>,
}

impl Baseline {
    /// Appends those of an estimator whose coefficient is -rho A. Where A is -1 everywhere, its own rule says rho.
    pub fn add(&mut self, estimator: &dyn Estimator, of: &Distributions, coefficients: &Tensor) {
        let rho = self::coefficients(estimator, of, &(&of.log_p - 1.0), None);
        let weight = &of.b * &rho * &of.score_square;
        let squared = |x: &Tensor| numbers(&(over_vocabulary(x) * &of.inverse_square));
        self.cross.extend(squared(&(&weight * coefficients)));
        self.unit.extend(squared(&(weight * rho)));
        self.advantage.extend(numbers(&over_vocabulary(&(&of.b * (&of.log_q - &of.log_p)))));
    }
}
