//! What can go wrong with a store, and what to do about it.

use crate::snapshot::FoldError;
use record::{Digest, RecordError};

/// The result of everything a store does.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Few errors, each with the key, what was expected and found, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The address names no store.
    #[error(
        "`{url}` is not the address of a store: {reason}\nhint: a folder, file:///..., s3://bucket/prefix or memory:///"
    )]
    Address {
        /// The address, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not let these credentials in.
    #[error(
        "`{url}` cannot be opened with the credentials of the environment: {reason}\n\
         hint: see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; they must be allowed to list, get, put and \
         delete there"
    )]
    Denied {
        /// The store.
        url: String,
        /// The server's words.
        reason: String,
    },
    /// The cache of copies cannot be where it was asked for.
    #[error(
        "`{path}` cannot hold copies of objects (store.cache): {reason}\n\
         hint: name a folder of this machine that can be written to, or leave store.cache away"
    )]
    Cache {
        /// The folder.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing has been started there.
    #[error("there is no run at `{url}` yet\nhint: start one with `opd run`, or check the address")]
    NoRun {
        /// The store.
        url: String,
    },
    /// Something else is kept there.
    #[error(
        "`{url}` holds something else and no run: there is `{key}`\nhint: give the run a folder or prefix of its own"
    )]
    Occupied {
        /// The address.
        url: String,
        /// An object that is no part of a store.
        key: String,
    },
    /// The store belongs to a run with another identity.
    #[error(
        "the store `{url}` belongs to another run: its {what} is {store}, the pipeline's is {pipeline}\n\
         hint: give this pipeline a store of its own, or the pipeline that the store was made with"
    )]
    OtherRun {
        /// The store.
        url: String,
        /// The first thing that differs.
        what: String,
        /// Its value in the store.
        store: String,
        /// Its value in the pipeline.
        pipeline: String,
    },
    /// A newer program wrote it.
    #[error("`{key}` has format {found}; this program reads up to {newest}\nhint: use a newer `opd`")]
    NewerFormat {
        /// The object.
        key: String,
        /// Its format.
        found: String,
        /// The newest format that is understood.
        newest: String,
    },
    /// A commit names an object that is not there.
    #[error("`{key}` is missing from `{url}`: {bytes} bytes with {digest} were expected")]
    Missing {
        /// The store.
        url: String,
        /// The object.
        key: String,
        /// The length that was committed.
        bytes: u64,
        /// The digest that was committed.
        digest: Digest,
    },
    /// An object is not what was committed.
    #[error(
        "`{key}` is damaged: expected {expected}, found {found}\nhint: bring it back from a copy; nothing else depends on it"
    )]
    Corrupt {
        /// The object.
        key: String,
        /// What was committed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A batch does not fit its schema, or scores do not fit their rollouts.
    #[error("`{key}` does not hold what it should: {reason}")]
    Invalid {
        /// The object.
        key: String,
        /// What is wrong.
        reason: RecordError,
    },
    /// The log contradicts itself, or a planned commit contradicts the log.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The backend refused, and would again.
    #[error("cannot {doing} `{key}` in `{url}`: {reason}")]
    Refused {
        /// The store.
        url: String,
        /// `read`, `write`, `list`, `delete`.
        doing: &'static str,
        /// The object.
        key: String,
        /// The backend's words.
        reason: String,
    },
    /// The backend could not be reached, or kept failing.
    #[error(
        "cannot {doing} `{key}` in `{url}` (attempts: {attempts}): {reason}\n\
         hint: see whether the store can be reached; starting the job again is safe, even where a write was made unseen"
    )]
    Unreachable {
        /// The store.
        url: String,
        /// `read`, `write`, `list`, `delete`.
        doing: &'static str,
        /// The object.
        key: String,
        /// How often it was tried.
        attempts: u32,
        /// The backend's words.
        reason: String,
    },
}

impl StoreError {
    /// The same after so many attempts.
    pub(crate) fn after(mut self, tried: u32) -> Self {
        if let Self::Unreachable { attempts, .. } = &mut self {
            *attempts = tried;
        }
        self
    }

    /// Whether the fault lies in one object, so that everything else can go on without it.
    pub fn is_of_one_object(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Corrupt { .. } | Self::Invalid { .. })
    }
}
