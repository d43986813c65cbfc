//! `reverse_kl_hybrid` for every head at once: the sampler's most likely ids, 0 of them, 1, 2, ..., in closed form.
//!
//! With H the first k ids by b, T its complement and c = log p_T - log q_T, the gradient is exact over H, and one draw outside
//! adds `rho (l - c) (e_a - p)`, l = log p - log q. So its covariance has the trace
//!
//! ```text
//! sum_T (p^2 / b) (l - c)^2 |e_a - p|^2  -  |sum_T u_a (e_a - p)|^2,      u_a = p_a (l_a - c)
//! ```
//!
//! and both are polynomials in c, whatever it is, over sums that a running sum from the last id to the first gives for every k.

use super::{
    bytes::Cost,
    distributions::{Distributions, over_vocabulary},
    figures::numbers,
};
use crate::estimator::Baseline;
use tch::{Kind, Tensor};

/// Numbers of draws at which stored draws are counted, ascending: two to an octave, from 1.
pub(super) const DRAWS: [u32; 22] =
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048];

/// What every head of at most K ids would leave to the draws, at each position: rows of K + 1 numbers, by the head's size.
#[derive(Clone, Debug, Default)]
pub struct Prefixes {
    /// K + 1.
    pub(super) width: usize,
    /// tr Cov of one draw with the baseline log p_T - log q_T, with the 1 / T^2 of a gradient's square.
    tail: Vec<f32>,
    /// The same with the mean of l over draws outside as the baseline ...
    mean: Vec<f32>,
    /// ... with 0 ...
    none: Vec<f32>,
    /// ... and what a baseline from one other draw would add to the second.
    noise: Vec<f32>,
    /// The sampler's mass outside.
    pub(super) outside: Vec<f32>,
    /// Expected distinct draws outside, for each of [`DRAWS`].
    pub(super) distinct: [Vec<f32>; DRAWS.len()],
    /// Probability of the k-th id under the sampler, most likely first, rows of K.
    pub(super) likely: Vec<f32>,
    /// Entropy of the sampler, nats.
    pub(super) entropy: Vec<f32>,
}

impl Prefixes {
    /// For heads of at most `most` ids.
    pub fn new(most: usize) -> Self {
        Self { width: most + 1, ..Self::default() }
    }

    /// Positions so far.
    pub fn len(&self) -> usize {
        self.entropy.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entropy.is_empty()
    }

    /// Entropy of the sampler at each position, nats.
    pub fn entropy(&self) -> &[f32] {
        &self.entropy
    }

    /// Appends N positions.
    pub(super) fn add(&mut self, of: &Distributions) {
        let (_, vocabulary) = of.size();
        let most = (self.width as i64 - 1).min(vocabulary);
        let (likely, ids) = of.b.topk(most, 1, true, true);
        let sums = Sums { outside: of.b.ones_like().scatter_value(1, &ids, 0.0), ids };
        let scale = of.inverse_square.unsqueeze(1);
        // What a small vocabulary has fewer of: heads that leave nothing outside, ids that nobody keeps.
        let width = self.width;
        let push = |to: &mut Vec<f32>, of: &Tensor| to.extend(padded(of, width, 0.0));
        let trace = Trace::of(of, &sums);
        let scaled = |of: Tensor| of * &scale;
        push(&mut self.tail, &scaled(trace.at(&trace.gap)));
        push(&mut self.mean, &scaled(trace.at(&trace.drawn[0])));
        push(&mut self.none, &scaled(trace.at(&trace.gap.zeros_like())));
        push(&mut self.noise, &scaled(trace.tail_only(&trace.second[0] * &trace.drawn[1])));
        push(&mut self.outside, &sums.over(&of.b));
        self.likely.extend(padded(&likely, width - 1, -1.0));
        self.entropy.extend(padded(&of.sampler_entropy().unsqueeze(1), 1, 0.0));
        // 1 - (1 - b)^m by squaring: odd places of DRAWS are 2^i, even ones 3 * 2^i.
        let mut power = -&of.b + 1.0;
        let mut threefold = &power * &power * &power;
        for (i, to) in self.distinct.iter_mut().enumerate() {
            let current = match i {
                0 => power.shallow_clone(),
                _ if i % 2 == 1 => {
                    power = power.square();
                    power.shallow_clone()
                }
                _ => {
                    if i > 2 {
                        threefold = threefold.square();
                    }
                    threefold.shallow_clone()
                }
            };
            push(to, &sums.over(&(-current + 1.0)));
        }
    }

    /// m times tr Cov of m draws with a head of `k` ids.
    ///
    /// With `leave_one_out` a draw has on average `(m - 1) T` others outside, or none and then the tails for a baseline; that the
    /// others are the same ones for all draws of the position is left out, which is of the order of 1 / m.
    pub(super) fn spread_at(&self, position: usize, k: usize, m: f64, baseline: Baseline) -> f64 {
        let at = |of: &[f32]| f64::from(of[position * self.width + k]);
        match baseline {
            Baseline::Tail => at(&self.tail),
            Baseline::None => at(&self.none),
            Baseline::LeaveOneOut => {
                let outside = at(&self.outside).min(1.0);
                let alone = (1.0 - outside).powf(m - 1.0);
                let others = (m - 1.0) * outside;
                let noise = if others > 0.0 { (1.0 - alone).powi(2) / others } else { 0.0 };
                (1.0 - alone) * at(&self.mean) + alone * at(&self.tail) + noise * at(&self.noise)
            }
        }
    }

    /// Expected bytes of `m` draws of which those outside a head of `k` ids are stored.
    pub(super) fn bytes_at(&self, position: usize, k: usize, m: f64, cost: &Cost) -> f64 {
        let at = position * self.width + k;
        if !cost.merged {
            return cost.draw * m * f64::from(self.outside[at]);
        }
        // Between two counted numbers of draws, and beyond the last one, as a straight line: it is concave and bends little.
        let above = DRAWS.partition_point(|draws| f64::from(*draws) < m).clamp(1, DRAWS.len() - 1);
        let [(x0, y0), (x1, y1)] = [above - 1, above].map(|i| (f64::from(DRAWS[i]), f64::from(self.distinct[i][at])));
        cost.draw * (y0 + (y1 - y0) * (m - x0) / (x1 - x0))
    }

    /// Size of the head that a floor on probability keeps: the first id at least.
    pub(super) fn head(&self, position: usize, floor: f32, most: usize) -> usize {
        let width = self.width - 1;
        let likely = &self.likely[position * width..][..most.min(width)];
        likely.partition_point(|b| *b >= floor).max(most.min(1))
    }
}

/// Sums over what is outside the first 0, 1, ... K ids.
struct Sums {
    /// `[N, K]`.
    ids: Tensor,
    /// 0 at `ids`, 1 elsewhere, `[N, V]`.
    outside: Tensor,
}

impl Sums {
    /// `[N, K + 1]`, added up from the far end, so that nothing cancels.
    fn over(&self, of: &Tensor) -> Tensor {
        let rest = over_vocabulary(&(of * &self.outside)).unsqueeze(1);
        let listed = of.gather(1, &self.ids, false);
        Tensor::cat(&[rest, listed.flip([1])], 1).cumsum(1, Kind::Double).flip([1])
    }
}

/// tr Cov of one draw outside each head, `[N, K + 1]`, as a function of the baseline.
struct Trace {
    /// sum_T (p^2 / b) l^i |e_a - p|^2 for i = 0, 1, 2.
    second: [Tensor; 3],
    /// sum_T p^2 l^i.
    square: [Tensor; 3],
    /// sum_T p l^i for i = 0, 1.
    mean: [Tensor; 2],
    /// |p|^2.
    p_square: Tensor,
    /// Mean and variance of l over draws outside.
    drawn: [Tensor; 2],
    /// log p_T - log q_T.
    gap: Tensor,
}

impl Trace {
    fn of(of: &Distributions, sums: &Sums) -> Self {
        let (p, l) = (&of.p, &of.log_p - &of.log_q);
        let moments = |weight: &Tensor| {
            let first = weight * &l;
            let second = &first * &l;
            [sums.over(weight), sums.over(&first), sums.over(&second)]
        };
        let [mass, mean, _] = moments(p);
        let [b, drawn, drawn_square] = moments(&of.b);
        let drawn = drawn / &b;
        let square = p * p;
        Self {
            second: moments(&(&square / &of.b * &of.score_square)),
            square: moments(&square),
            gap: mass.log() - sums.over(&of.q).log(),
            mean: [mass, mean],
            p_square: of.p_square.shallow_clone(),
            drawn: [drawn.shallow_clone(), (drawn_square / b - drawn.square()).clamp_min(0.0)],
        }
    }

    fn at(&self, c: &Tensor) -> Tensor {
        let polynomial = |of: &[Tensor; 3]| &of[2] - c * &of[1] * 2.0 + c * c * &of[0];
        let u = &self.mean[1] - c * &self.mean[0];
        let of_u_p = &self.square[1] - c * &self.square[0];
        let mean = polynomial(&self.square) - &u * of_u_p * 2.0 + &u * &u * &self.p_square;
        self.tail_only((polynomial(&self.second) - mean).clamp_min(0.0))
    }

    /// No tail, no draws outside.
    fn tail_only(&self, of: Tensor) -> Tensor {
        of.where_self(&self.mean[0].gt(0.0), &of.zeros_like())
    }
}

/// Row by row, each filled up or cut to `width`.
fn padded(of: &Tensor, width: usize, fill: f32) -> Vec<f32> {
    // Where no head is asked for there are no columns, and no numbers to cut.
    let found = of.size()[1].max(1) as usize;
    let row =
        |row: &[f64]| row.iter().map(|x| *x as f32).chain(std::iter::repeat(fill)).take(width).collect::<Vec<f32>>();
    numbers(of).chunks(found).flat_map(row).collect()
}
