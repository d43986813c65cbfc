//! The network from outside, on tiny random models.
//!
//! - `reference`: a second network in plain float64 loops, which everything else is checked against
//! - `forward`: hidden states and logits against it, padding, gradients
//! - `sampling`: cached decoding, seeds, draws, top-k, EOS
//! - `scoring`: a score against the reference's full distributions
//! - `chatting`: chat templates against what `transformers` makes of them
//! - `divergence`: reverse KL against the reference's full distributions
//! - `checkpoint`: config.json and safetensors, there and back, and what is refused of config.json
//! - `files`: weight files and shards, and what is refused of them, by their headers alone
//! - `tokenizing`: ids, digests, differences
//! - `cuda`: a GPU against the CPU; ignored unless asked for, `cargo test -p model -- --ignored`

mod chatting;
mod checkpoint;
mod cuda;
mod divergence;
mod files;
mod fixtures;
mod forward;
mod reference;
mod sampling;
mod scoring;
mod tokenizing;
