//! What a cache costs: bytes a stored entry.

/// Bytes of one entry of each kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// A draw's id with both policies' logprobs, and its count where draws are merged by id.
    pub draw: f64,
    /// The same where the teacher drew, and the sampler's logprob is not needed.
    pub teacher_draw: f64,
    /// Whether draws are merged by id, so that only distinct ones cost.
    pub merged: bool,
    /// An id of a top-k with the teacher's logprob.
    pub entry: f64,
    /// The sampler's logprob beside an entry, where the estimator reads it.
    pub sampler_logprob: f64,
    /// The teacher's log mass outside a support.
    pub tail: f64,
}

impl Cost {
    /// int32 ids and float32 logprobs, each draw by itself: the cache of arXiv 2606.24143.
    pub const RAW: Self =
        Self { draw: 12.0, teacher_draw: 8.0, merged: false, entry: 8.0, sampler_logprob: 4.0, tail: 4.0 };

    /// Draws as (id, count) with exact logprobs, entries and tails as a packing of rank-ordered lists makes them: ids coded by
    /// frequency, logprobs at 1/64 nat (3.7 bits). The figure of an entry is what such a coder needs at k = 64 and a vocabulary
    /// of 50 thousand; a larger vocabulary costs more.
    pub const PACKED: Self =
        Self { draw: 8.0, teacher_draw: 4.0, merged: true, entry: 2.3, sampler_logprob: 0.5, tail: 2.0 };
}
