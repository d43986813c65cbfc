//! What can go wrong in learning, in words a user can act on.

use crate::estimator::Fault;

/// Why a row, a setting or a set of moments could not be learned from.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// A setting out of its range.
    #[error("`{key}` is {found}, expected {expected}")]
    Setting {
        /// The setting's key in the pipeline.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A row that does not say what the estimator needs, or contradicts itself.
    #[error("row {row}, `{column}`: expected {expected}, found {found}")]
    Row {
        /// Its index among the rows given.
        row: usize,
        /// The column at fault.
        column: &'static str,
        /// What would be right, or what to do.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Probabilities at one position for which the estimator has no finite value (the table of zeros in docs/algorithm.md).
    #[error("row {row}, response position {position}: {estimator}: {fault}")]
    Fault {
        /// The row's index among the rows given.
        row: usize,
        /// The position in its response, from 0.
        position: usize,
        /// The estimator's name.
        estimator: &'static str,
        /// What is wrong.
        fault: Fault,
    },
    /// Moments that do not belong to these parameters.
    #[error(
        "optimizer moments, `{what}`: expected {expected}, found {found}; do the moments and the weights belong to one policy version?"
    )]
    Moments {
        /// The tensor or metadata key.
        what: String,
        /// What the parameters ask for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The network refused.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// libtorch refused an operation; out of memory is the usual cause.
    #[error("libtorch: {}; out of memory? Lower `microbatch_tokens` or `head_chunk`", first_line(.0))]
    Torch(#[from] tch::TchError),
}

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, LearnError>;

/// libtorch appends a C++ stack trace to its messages; a user needs the first line.
fn first_line(error: &tch::TchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
