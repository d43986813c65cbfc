//! LEARNING: estimators, the chunked head, the optimizer, and the minibatch step that joins them. No I/O, no clock.
//!
//! - [`Learner`]: a student and its optimizer; [`Learner::step`] is one minibatch, one update, one policy version, and
//!   [`Learner::sft_step`] the same by cross-entropy for cold starts.
//! - [`TrainRow`]: one rollout with its teacher scores, borrowed from the store's batch.
//! - [`EstimatorConfig`]: what is minimised, as a pipeline names it; behind it the one interface, [`estimator::Estimator`].
//! - [`estimate`]: bias and variance of each estimator's gradient, in closed form.
//! - [`chunked_head`]: logits, estimator and their gradient in one pass, with no `[tokens, vocabulary]` tensor kept.
//! - [`exact_head()`]: the same where the teacher is at hand, over the whole vocabulary.
//! - [`AdamW`], [`Schedule`]: an optimizer whose moments are seen, saved and loaded.
//! - [`StepReport`]: what each row looked like to the learner, and the metrics as numerators and denominators.
//!
//! The invariant: a loss is the sum over the trained positions of the whole minibatch divided by their number. How rows are cut
//! into microbatches and chunks changes nothing beyond rounding, and on a CPU the same input gives the same bits.
//!
//! ```no_run,standalone_crate
//! use learner::{EstimatorConfig, Learner, LearnerSettings, OptimizerConfig, TrainRow};
//! # fn example(batch: record::ScoredBatch) -> Result<(), Box<dyn std::error::Error>> {
//! let student = model::Transformer::load(std::path::Path::new("student"), model::device("cpu")?)?;
//! let estimator: EstimatorConfig = serde_json::from_str(r#"{ "name": "reverse_kl_mc", "draws": 16 }"#)?;
//! let mut learner = Learner::new(student, OptimizerConfig::default(), LearnerSettings::default())?;
//! let rows: Vec<TrainRow> = batch.rows().map(|row| TrainRow::scored(&row, Some(0))).collect();
//! let report = learner.step(&estimator, &rows)?;
//! println!("{:?}", report.metrics["reverse_kl"]);
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

mod adamw;
mod error;
pub mod estimate;
pub mod estimator;
mod exact_head;
mod head;
mod logprobs;
mod minibatch;
mod moments;
mod pack;
mod pass;
mod report;
mod row;
mod schedule;

pub use adamw::{AdamW, Moments, OptimizerConfig, Update};
pub use error::{LearnError, Result};
pub use estimator::EstimatorConfig;
pub use exact_head::{TeacherStates, exact_head};
pub use head::{Columns, HeadOutput, Positions, Proximal, chunked_head};
pub use minibatch::{Learner, LearnerSettings};
pub use report::{RowReport, StepReport};
pub use row::{CandidateLists, TrainRow};
pub use schedule::{Schedule, Shape};
