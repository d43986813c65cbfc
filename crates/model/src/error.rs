//! What can go wrong, in words a user can act on.

use std::path::PathBuf;

/// Why the network, its tokenizer or its device could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of a checkpoint cannot be read.
    #[error("`{}` cannot be read: {source}; a checkpoint folder holds config.json, model.safetensors and tokenizer.json", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of a checkpoint cannot be written.
    #[error("`{}` cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A key of config.json or generation_config.json is missing or has a value that this network does not compute.
    #[error("`{file}`: `{key}` is {found}, expected {expected}")]
    Config {
        /// The file, as given.
        file: String,
        /// The key, dotted where it is nested.
        key: String,
        /// What the key may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A model family that is not built.
    #[error(
        "`{file}`: `model_type` is `{found}`, a family this program does not know; known: {}",
        crate::Family::names()
    )]
    UnknownFamily {
        /// The file, as given.
        file: String,
        /// The family it names.
        found: String,
    },
    /// Files that an index names are not there.
    #[error("`{first}` is missing: {missing} of the {of} files that `{}` names are not beside it; copy the whole checkpoint", index.display())]
    MissingShards {
        /// The index.
        index: PathBuf,
        /// The first file that is not there.
        first: String,
        /// How many are not.
        missing: usize,
        /// How many it names.
        of: usize,
    },
    /// A file that is no whole safetensors file, or one with a type of number that is not read.
    #[error("`{file}` is not a safetensors file that can be read: {reason}")]
    Safetensors {
        /// The file, or a word for where the bytes came from.
        file: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A tensor that the configuration asks for is not there.
    #[error(
        "`{file}`: tensor `{name}` is missing, expected with shape {expected:?}; do weights and config.json belong together?"
    )]
    MissingTensor {
        /// The folder, or a word for where the bytes came from.
        file: String,
        /// Its name.
        name: String,
        /// The shape the configuration gives it.
        expected: Vec<i64>,
    },
    /// A tensor that no part of the network would use.
    #[error(
        "`{file}`: tensor `{name}` with shape {found:?} is not part of the network that config.json describes; do they belong together?"
    )]
    UnexpectedTensor {
        /// The file it is in, or a word for where the bytes came from.
        file: String,
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<i64>,
    },
    /// A tensor of another shape than the configuration gives it.
    #[error(
        "`{file}`: tensor `{name}` has shape {found:?}, config.json asks for {expected:?}; do they belong together?"
    )]
    TensorShape {
        /// The file it is in, or a word for where the bytes came from.
        file: String,
        /// Its name.
        name: String,
        /// The shape the configuration gives it.
        expected: Vec<i64>,
        /// The shape it has.
        found: Vec<i64>,
    },
    /// A tokenizer that cannot be read or used.
    #[error("tokenizer `{file}`: {reason}")]
    Tokenizer {
        /// The file, as given.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A template that is not Jinja, or that could not be rendered.
    #[error("template `{name}`: {reason}")]
    Template {
        /// Its file or key, as given.
        name: String,
        /// What is wrong, in the template's own words where it raises.
        reason: String,
    },
    /// A device that does not exist here.
    #[error("device `{name}`: {reason}")]
    Device {
        /// The name asked for.
        name: String,
        /// Why it cannot be had, and what can.
        reason: String,
    },
    /// A setting out of its range.
    #[error("`{key}` is {found}, expected {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A row (prompt, or prompt and response) that cannot be run.
    #[error("row {row}: {reason}")]
    Row {
        /// Its index among the rows given.
        row: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A probability that is no number.
    #[error("row {row}, response position {position}: the log-probability is {logprob}; the weights have diverged")]
    NotFinite {
        /// Its index among the rows given.
        row: usize,
        /// Response position, from 0.
        position: usize,
        /// What came out.
        logprob: f32,
    },
    /// libtorch refused an operation; out of memory is the usual cause.
    #[error("libtorch: {}", first_line(.0))]
    Torch(#[from] tch::TchError),
}

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// libtorch appends a C++ stack trace to its messages; a user needs the first line.
fn first_line(error: &tch::TchError) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}
