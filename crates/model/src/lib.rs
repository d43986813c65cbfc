//! NETWORK: one transformer over libtorch, its weights and tokenizer, sampling and scoring. The student and the teacher are both
//! a [`Transformer`].
//!
//! - [`ModelConfig`], the shape of a network by its checkpoint's `config.json` (Llama, Qwen2 or Qwen3), and [`Transformer`], the network: hidden
//!   states with autograd, named parameters, the head, weights from and to safetensors.
//! - [`Tokenizer`], text to ids and back; two are the same iff their maps are.
//! - [`ChatTemplate`], messages to the text a checkpoint was trained on; [`template::Template`], the Jinja it is written in.
//! - [`sample()`]: [`Prompt`]s and [`SamplingParams`] to [`record::Sample`]s.
//! - [`score()`]: [`ScoreRow`]s and [`ScoringParams`] to [`record::Score`]s.
//! - [`reverse_kl()`]: how far a student is from its teacher, over the full vocabulary.
//! - [`chance`], the pure function that all randomness comes from, and [`device()`], where tensors live.
//!
//! The invariant: what a row samples and how it is scored depend on the weights, the row, its seed and the settings, never on the
//! batch it happens to be in (beyond the rounding of matrix products). Nothing here has a generator with a state.
//!
//! ```no_run,standalone_crate
//! # fn main() -> model::Result<()> {
//! use model::{Prompt, SamplingParams, Tokenizer, Transformer, chance, sample};
//! let dir = std::path::Path::new("student");
//! let (tokenizer, student) = (Tokenizer::load(dir)?, Transformer::load(dir, model::device("cpu")?)?);
//! let prompt = Prompt { ids: tokenizer.encode("What is 2 + 3?")?, seed: chance::row_seed(0, 0, 0, 0) };
//! let params = SamplingParams {
//!     temperature: 1.0, top_p: 1.0, max_new_tokens: 32, eos: tokenizer.eos_ids().to_vec(), draws: 0,
//!     draws_kept: record::DrawsKept::All, top_k: None,
//! };
//! for rollout in sample(&student, &[prompt], &params)? {
//!     println!("{}", tokenizer.decode(&rollout.response_ids)?);
//! }
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod batch;
mod cache;
pub mod chance;
mod chat;
mod checkpoint;
mod config;
mod decoder;
mod device;
mod divergence;
mod error;
mod header;
mod host;
mod keys;
mod python;
mod rope;
mod sample;
mod score;
mod support;
pub mod template;
mod tokenizer;
mod top_k;
mod transformer;
mod weights;

pub use chat::ChatTemplate;
pub use config::{Family, ModelConfig};
pub use device::{device, load_cuda, set_threads};
pub use divergence::reverse_kl;
pub use error::{Error, Result};
pub use rope::RopeScaling;
pub use sample::{Prompt, SamplingParams, sample};
pub use score::{ScoreRow, ScoringParams, score};
pub use tch::Device;
pub use tokenizer::Tokenizer;
pub use top_k::TopK;
pub use transformer::Transformer;
pub use weights::Precision;

#[cfg(test)]
mod golden_tests;
