//! The cache of least variance under so many bytes, for `reverse_kl_hybrid`: a floor on probability for the head, and one number
//! of draws for all positions.
//!
//! At a position a head of k ids and m draws leave the variance `V(k) / m` and cost `c_h k + c_d m T(k)`, T the sampler's mass
//! outside the head. Least total variance at given total bytes asks that an id be in the head where what it saves, its
//! draws and its part of V, is worth what it costs. With the second moment s^2 of a tail draw alike everywhere (V = s^2 T) the
//! number of draws is the same at every position and the floor is `c_h / (2 c_d m)`: on the probability of an id, not on the mass
//! of the list. Here both are found on what was seen, not assumed.

use super::{bytes::Cost, prefixes::Prefixes};
use crate::estimator::Baseline;

/// A cache for the hybrid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allocation {
    /// An id is in the head where the sampler gives it at least this probability.
    pub floor: f32,
    /// Most ids of a head.
    pub most: usize,
    /// Draws a position, of which those outside the head are stored.
    pub draws: u32,
    /// What is taken from log p - log q.
    pub baseline: Baseline,
}

/// What an allocation comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// The cache.
    pub allocation: Allocation,
    /// Expected bytes a token.
    pub bytes_per_token: f64,
    /// sum tr Cov(g) / sum |g*|^2.
    pub variance: f64,
    /// Mean ids of a head.
    pub head: f64,
}

/// Floors that are tried: a few to a decade.
const FLOORS: [f32; 31] = [
    0.9, 0.7, 0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.015, 0.01, 0.007, 0.005, 0.003, 0.002, 0.0015, 0.001,
    7e-4, 5e-4, 3e-4, 2e-4, 1.5e-4, 1e-4, 7e-5, 5e-5, 3e-5, 2e-5, 1.5e-5, 1e-5,
];

/// Most draws that anybody would take.
const MOST_DRAWS: u32 = 1 << 16;

impl Allocation {
    /// What it comes to over `positions`; `exact` is |g*|^2 a position.
    pub fn over(self, prefixes: &Prefixes, exact: &[f64], positions: &[usize], cost: &Cost) -> Found {
        let (mut bytes, mut spread, mut head, mut square) = (0.0, 0.0, 0.0, 0.0);
        for i in positions.iter().copied() {
            let k = prefixes.head(i, self.floor, self.most);
            bytes += k as f64 * cost.entry + cost.tail + prefixes.bytes_at(i, k, f64::from(self.draws), cost);
            spread += prefixes.spread_at(i, k, f64::from(self.draws), self.baseline);
            head += k as f64;
            square += exact[i];
        }
        let n = positions.len() as f64;
        Found {
            allocation: self,
            bytes_per_token: bytes / n,
            variance: spread / f64::from(self.draws) / square,
            head: head / n,
        }
    }

    /// The one of least variance among those that need at most `budget` bytes a token; heads of at most `most` ids. None if a
    /// single draw is more than that.
    pub fn least_variance(
        prefixes: &Prefixes,
        exact: &[f64],
        positions: &[usize],
        cost: &Cost,
        budget: f64,
        most: usize,
    ) -> Option<Found> {
        let at = |baseline, floor, draws| Self { floor, most, draws, baseline }.over(prefixes, exact, positions, cost);
        let fits = |found: &Found| found.bytes_per_token <= budget;
        let floors = |baseline| FLOORS.into_iter().map(move |floor| (baseline, floor));
        let tried = [Baseline::Tail, Baseline::LeaveOneOut].into_iter().flat_map(floors);
        let best = tried.filter_map(|(baseline, floor)| {
            // Bytes grow with the draws: halve the interval between a number that fits and one that does not.
            let (mut fit, mut not) = (1, MOST_DRAWS + 1);
            let mut best = Some(at(baseline, floor, fit)).filter(fits)?;
            while not - fit > 1 {
                let middle = fit.midpoint(not);
                let found = at(baseline, floor, middle);
                if fits(&found) {
                    (fit, best) = (middle, found);
                } else {
                    not = middle;
                }
            }
            Some(best)
        });
        best.min_by(|a, b| a.variance.total_cmp(&b.variance))
    }
}
