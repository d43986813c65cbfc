//! The few numbers a position that bias, variance and cosine of a group are sums of.

use tch::{Kind, Tensor};

/// What is kept of one estimator at some positions; all in logit space.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    /// |E g - g*|^2.
    pub error: Vec<f64>,
    /// |E g|^2.
    pub mean: Vec<f64>,
    /// <E g, g*>.
    pub along: Vec<f64>,
    /// tr Cov(g) of one draw; 0 where there is no chance.
    pub spread: Vec<f64>,
}

impl Moments {
    /// Appends those of N positions, tensors `[N]` without their 1 / T^2.
    pub(super) fn extend(
        &mut self,
        inverse_square: &Tensor,
        error: &Tensor,
        mean: &Tensor,
        along: &Tensor,
        spread: &Tensor,
    ) {
        for (to, of) in
            [(&mut self.error, error), (&mut self.mean, mean), (&mut self.along, along), (&mut self.spread, spread)]
        {
            to.extend(numbers(&(of * inverse_square)));
        }
    }
}

/// The numbers of a tensor, in order.
pub(super) fn numbers(of: &Tensor) -> Vec<f64> {
    let of = of.to_kind(Kind::Double).contiguous();
    let mut numbers = vec![0.0; of.numel()];
    of.copy_data(&mut numbers, of.numel());
    numbers
}

/// Bias, variance and cosine over a group of positions, relative to the exact gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// sqrt(sum |E g - g*|^2 / sum |g*|^2)
    pub bias: f64,
    /// sum tr Cov(g) / sum |g*|^2
    pub variance: f64,
    /// sum <E g, g*> / sqrt(sum E|g|^2 sum |g*|^2)
    pub cosine: f64,
}

impl Figures {
    /// Of the sums over a group: of [`Moments`]' columns, the spread already by the number of draws, and of |g*|^2.
    pub(super) fn of(error: f64, mean: f64, along: f64, spread: f64, exact: f64) -> Self {
        Self {
            bias: (error.max(0.0) / exact).sqrt(),
            variance: spread / exact,
            cosine: along / ((mean + spread) * exact).sqrt(),
        }
    }

    /// sqrt(bias^2 + variance): the relative error that is to be expected.
    pub fn error(&self) -> f64 {
        (self.bias * self.bias + self.variance).sqrt()
    }
}
