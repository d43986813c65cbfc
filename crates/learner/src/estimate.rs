//! What each estimator's gradient is worth against the exact one, in logit space, in closed form: no draw of chance where the
//! mathematics needs none.
//!
//! At a position with full distributions p (learner), q (teacher) and b (sampler), g* is the exact gradient of the divergence in
//! the logits, g the estimator's. Over a group of positions:
//!
//! ```text
//! bias      sqrt(sum |E g - g*|^2 / sum |g*|^2)
//! variance  sum tr Cov(g) / sum |g*|^2
//! cosine    sum <E g, g*> / sqrt(sum E|g|^2  sum |g*|^2)       of the gradient of all positions, end to end
//! ```
//!
//! - [`Distributions`]: p, q, b of some positions; [`over_positions`] makes them from three networks.
//! - [`Study`]: takes them chunk by chunk and keeps a few numbers a position; [`Study::lines`] is the answer.
//! - [`Moments`] and [`Figures`]: those numbers, of one estimator at one position, and what they come to.
//! - [`Cost`]: how many bytes a cache needs; [`Allocation`]: the cache of least variance under so many bytes.
//! - [`in_parameters`]: the gradient in the parameters instead, of one realisation of the draws: those that are stored.
//!
//! An estimator over draws is linear in them: with c(a) its own rule's coefficient at the single draw a,
//! `E g = sum_a b_a c(a) (e_a - p)` and `E|g|^2 = sum_a b_a c(a)^2 (1 - 2 p_a + |p|^2)` at m = 1, and the covariance goes as 1 / m.
//! Over a support its rule is asked once. What is not linear is sampled, by a seed, and marked as such.

mod allocation;
mod bytes;
mod distributions;
mod draws;
mod figures;
mod harm;
mod menu;
mod networks;
mod parameters;
mod prefixes;
mod replicates;
mod study;
mod support;
#[cfg(test)]
mod tests;

pub use allocation::{Allocation, Found};
pub use bytes::Cost;
pub use distributions::Distributions;
pub use figures::{Figures, Moments};
pub use networks::{Chosen, Networks, over_positions};
pub use parameters::{Found as FoundInParameters, InParameters, in_parameters};
pub use prefixes::Prefixes;
pub use study::{Budgets, Line, Study};
pub use support::Lists;
