//! How a command fails, and what its exit status is.

use std::fmt;

/// Ended with what was asked for, and that is a finding.
pub const EXIT_FINDING: u8 = 1;

/// Ended because the user's input or surroundings do not allow the work.
pub const EXIT_ERROR: u8 = 2;

/// Ended by what may pass: the store could not be reached, or another learner made a step. The same may succeed later.
pub const EXIT_AGAIN: u8 = 3;

/// A command that could not do what it was asked to: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandError {
    message: String,
    hint: Option<String>,
    may_pass: bool,
    is_finding: bool,
}

/// A command's result.
pub type Result<T, E = CommandError> = std::result::Result<T, E>;

impl CommandError {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, may_pass: false, is_finding: false }
    }

    /// The same with a line of advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same as one that may pass.
    pub fn passing(mut self) -> Self {
        self.may_pass = true;
        self
    }

    /// The same as no error but a finding.
    pub fn finding(mut self) -> Self {
        self.is_finding = true;
        self
    }

    /// Whether it is a finding.
    pub fn is_finding(&self) -> bool {
        self.is_finding
    }

    /// The exit status that tells of it.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self { is_finding: true, .. } => EXIT_FINDING,
            Self { may_pass: true, .. } => EXIT_AGAIN,
            _ => EXIT_ERROR,
        }
    }

    /// The same where it happened.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl std::error::Error for CommandError {}

macro_rules! from_error {
    ($($error:ty),*) => {$(
        impl From<$error> for CommandError {
            fn from(error: $error) -> Self {
                Self::new(error.to_string())
            }
        }
    )*};
}
from_error!(model::Error, learner::LearnError, query::QueryError, record::RecordError);

impl From<store::StoreError> for CommandError {
    fn from(error: store::StoreError) -> Self {
        let message = error.to_string();
        if crate::patience::may_pass(&error) {
            return Self::new(message).passing();
        }
        // The operating system's own words; object stores pass them on.
        match message.contains("No space left on device") {
            true => Self::new(message).hint("free some space; what is committed stays, and the same command goes on"),
            false => Self::new(message),
        }
    }
}

/// A batch that was not stored: where its codec refused it, the setting to change.
pub fn not_stored(error: store::StoreError, key: &str, codec: record::Codec) -> CommandError {
    match error {
        store::StoreError::Invalid { .. } if codec != record::Codec::Plain => {
            let hint = format!("`{key}` is `{}`; `lossless` takes any log-probabilities", codec.as_str());
            CommandError::new(error.to_string()).hint(hint)
        }
        other => other.into(),
    }
}

/// Runs work that keeps a core busy, off the threads that follow the log.
///
/// # Errors
/// What `work` returns. A panic in it is a bug of ours and comes back as an error that says so.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(CommandError::new(format!("internal error: {panic}")).hint("please report this")),
    }
}
