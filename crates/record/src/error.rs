//! What is wrong with a batch or a commit.

/// A batch or commit that does not say what it must. Each variant names the place and both values.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RecordError {
    /// The batch does not follow the schema it should.
    #[error("{what}: expected {expected}, found {found}")]
    Schema {
        /// The column or metadata key.
        what: String,
        /// What the schema says.
        expected: String,
        /// What the batch has.
        found: String,
    },
    /// A row contradicts itself or the row it belongs to.
    #[error("row {row}, column `{column}`: expected {expected}, found {found}")]
    Row {
        /// The row's number in its batch.
        row: usize,
        /// The column at fault.
        column: &'static str,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A packed column that cannot be read.
    #[error("column `{column}`: {error}")]
    Packed {
        /// The packed column.
        column: &'static str,
        /// What is wrong with its bytes.
        error: codec::DecodeError,
    },
    /// A digest, id or name that cannot be read.
    #[error("`{text}` is not {expected}")]
    Parse {
        /// The text as found.
        text: String,
        /// What it should have been.
        expected: &'static str,
    },
    /// Arrow refused to put the columns together.
    #[error("Arrow: {0}")]
    Arrow(String),
}

impl From<arrow::error::ArrowError> for RecordError {
    fn from(error: arrow::error::ArrowError) -> Self {
        RecordError::Arrow(error.to_string())
    }
}
