//! What the sampler and the scorer hand over, one value a sequence, before it becomes columns of a batch.

use crate::Ragged;
use serde::{Deserialize, Serialize};

/// Why a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// An end-of-sequence token was sampled; it is the last response token.
    Stop,
    /// The response reached its longest allowed length.
    Length,
}

impl Finish {
    /// The word stored in the `finish` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// Which of a position's Monte-Carlo draws are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrawsKept {
    /// All of them.
    #[default]
    All,
    /// Those outside the sampler's top-k, with the number of all.
    Tail,
}

impl DrawsKept {
    /// The word in a pipeline.
    pub fn as_str(self) -> &'static str {
        match self {
            DrawsKept::All => "all",
            DrawsKept::Tail => "tail",
        }
    }
}

/// Monte-Carlo draws along a response: at each position distinct ids, with counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draws {
    /// Distinct ids, in the order they were first drawn.
    pub ids: Ragged<i32>,
    /// How often each was drawn.
    pub counts: Ragged<i32>,
    /// Log-probability of each, under whoever drew.
    pub logprobs: Ragged<f32>,
}

/// What sampling one sequence gives. Every per-position list has `response_ids.len()` entries; EOS is a response token
/// like any other. All logprobs are the sampler's, natural logs at the sampling temperature over the full vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Sampled tokens, EOS included.
    pub response_ids: Vec<i32>,
    /// Log-probability of each sampled token.
    pub sampler_logprobs: Vec<f32>,
    /// Monte-Carlo draws at each position: distinct ids. The sampled token is one of the draws, and its first.
    pub draw_ids: Ragged<i32>,
    /// How many draws were taken at each position, m, where `draw_ids` holds only those outside `sampler_top_ids`; `None` where
    /// it holds all.
    pub draws_taken: Option<Vec<i32>>,
    /// How often each id of `draw_ids` was drawn; sums to m at each position where all are held.
    pub draw_counts: Ragged<i32>,
    /// Log-probability of each id of `draw_ids`.
    pub draw_logprobs: Ragged<f32>,
    /// Ids of the sampler's top-k by mass, most likely first; empty lists where none is kept.
    pub sampler_top_ids: Ragged<i32>,
    /// Log-probability of each id of `sampler_top_ids`.
    pub sampler_top_logprobs: Ragged<f32>,
    /// Log of the mass outside `sampler_top_ids`, summed over that complement; -inf where it is empty.
    pub sampler_tail_logprobs: Vec<f32>,
    /// Why it ended; `None` only in an empty value.
    pub finish: Option<Finish>,
}

/// What a teacher says of one sampled sequence. Every per-position list has the response's length. All logprobs are the
/// teacher's, natural logs at the rollout's temperature over the full vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Log-probability of each sampled token.
    pub teacher_logprobs: Vec<f32>,
    /// Ids of the teacher's top-k by mass, most likely first.
    pub teacher_top_ids: Ragged<i32>,
    /// Log-probability of each id of `teacher_top_ids`.
    pub teacher_top_logprobs: Ragged<f32>,
    /// Log of the mass outside `teacher_top_ids`, summed over that complement; -inf where it is empty.
    pub teacher_tail_logprobs: Vec<f32>,
    /// The teacher's log-probability of each id of the rollout's `draw_ids`.
    pub draw_teacher_logprobs: Ragged<f32>,
    /// The teacher's log-probability of each id of the rollout's `sampler_top_ids`.
    pub sampler_top_teacher_logprobs: Ragged<f32>,
    /// Log of the teacher's mass outside the rollout's `sampler_top_ids`; empty where the rollout kept none.
    pub sampler_top_teacher_tail_logprobs: Vec<f32>,
    /// Entropy of the teacher at each position, nats; `None` where a served teacher does not give it.
    pub teacher_entropy: Option<Vec<f32>>,
    /// Draws from the teacher's whole distribution; `None` where none were taken.
    pub teacher_draws: Option<Draws>,
}
