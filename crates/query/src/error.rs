//! What can go wrong between a question and its answer.

use datafusion::error::DataFusionError;
use store::StoreError;

/// A question that got no answer. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The statement is not a question.
    #[error(
        "`{statement}` is refused: a store is only read with SQL; its jobs write it (expected `select`, `with`, `values`, `describe`, `show` or `explain`)"
    )]
    NotAQuestion {
        /// Its first word.
        statement: String,
    },
    /// Several statements at once, or none.
    #[error("expected one SQL statement, found {found}; ask one question at a time")]
    OneStatement {
        /// How many there are.
        found: usize,
    },
    /// A store's name is none, or two have it.
    #[error("a store is called `{name}`: expected {expected}")]
    StoreName {
        /// As it was given.
        name: String,
        /// What is wrong with it.
        expected: &'static str,
    },
    /// No table of that name.
    #[error("there is no table `{name}`\nhint: {hint}")]
    Table {
        /// As it was written.
        name: String,
        /// Which it may have been.
        hint: String,
    },
    /// No column of that name.
    #[error("there is no column `{name}`\nhint: {hint}")]
    Column {
        /// As it was written.
        name: String,
        /// Which it may have been.
        hint: String,
    },
    /// Not a condition that a row alone decides.
    #[error("the predicate `{text}` is refused: {what}")]
    Predicate {
        /// As it was written.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// What has to choose the same rows each time it is asked may not.
    #[error("`{function}` gives another value each time; the same rows have to be chosen whenever it is asked")]
    Varies {
        /// The function that it calls.
        function: String,
    },
    /// The statement cannot be read or planned.
    #[error("{0}")]
    Sql(String),
    /// The log contradicts itself.
    #[error("commit {seq} of the log cannot be understood: {what}; `opd verify` reads the whole store")]
    Log {
        /// The commit.
        seq: u64,
        /// What does not hold.
        what: String,
    },
    /// An object does not hold the rows its commit says.
    #[error(
        "object `{key}`: expected {expected}, found {found}; leave it out with a filter on policy_version or batch"
    )]
    Rows {
        /// The object.
        key: String,
        /// What the log says.
        expected: String,
        /// What the object holds.
        found: String,
    },
    /// A function needs what the store does not hold.
    #[error("{function} needs {lacks}")]
    Lacks {
        /// The function.
        function: &'static str,
        /// What it needs, and what the store has.
        lacks: String,
    },
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The query failed while it ran.
    #[error("the query failed: {0}")]
    Run(String),
    /// The answer could not be written out.
    #[error("the answer could not be written: {0}")]
    Write(#[from] std::io::Error),
}

/// An answer or why there is none.
pub type Result<T, E = QueryError> = std::result::Result<T, E>;

impl From<QueryError> for DataFusionError {
    fn from(error: QueryError) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<arrow::error::ArrowError> for QueryError {
    fn from(error: arrow::error::ArrowError) -> Self {
        QueryError::Run(error.to_string())
    }
}
