//! Reading everything there is and saying what is not as it should be.

mod log;
mod objects;

use crate::{Result, Store, StoreError};

/// How much is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The log, and of objects their lengths.
    Lengths,
    /// Every byte.
    Everything,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub key: String,
    /// What should be there.
    pub expected: String,
    /// What is.
    pub found: String,
}

impl Finding {
    fn new(key: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { key: key.into(), expected: expected.into(), found: found.into() }
    }

    /// What an error says of one object; other errors are no findings.
    fn of(error: StoreError) -> Result<Self> {
        match error {
            StoreError::Missing { key, bytes, digest, .. } => {
                Ok(Self::new(key, format!("{bytes} bytes with {digest}"), "nothing"))
            }
            StoreError::Corrupt { key, expected, found } => Ok(Self { key, expected, found }),
            StoreError::Invalid { key, reason } => {
                Ok(Self::new(key, "a batch that follows its schema and its log", reason.to_string()))
            }
            other => Err(other),
        }
    }
}

/// What is told while a store is read.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// So many commits.
    Commits(u64),
    /// So many objects of so many.
    Objects(u64, u64),
    /// Something is not as it should be.
    Finding(&'a Finding),
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Commits.
    pub commits: u64,
    /// Objects that commits name and did not give up.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

/// Tells what is seen and keeps what is found.
struct Report<'a> {
    verified: Verified,
    tell: &'a mut dyn FnMut(Seen<'_>),
}

impl Report<'_> {
    fn find(&mut self, finding: Finding) {
        (self.tell)(Seen::Finding(&finding));
        self.verified.findings.push(finding);
    }
}

impl Store {
    /// Holds the log against itself, its snapshots and segments against the log, and every object that is not given up against
    /// the commit that names it. Tells what it sees as it goes.
    ///
    /// # Errors
    /// If the store cannot be read, holds no run, or one of a newer program. What is damaged is a finding, not an error.
    pub async fn verify(&self, depth: Depth, tell: &mut dyn FnMut(Seen<'_>)) -> Result<Verified> {
        // Whoever asks wants to know what lies there now, byte by byte.
        self.checked().forget();
        let mut report = Report { verified: Verified::default(), tell };
        let commits = log::verify(self, depth, &mut report).await?;
        objects::verify(self, depth, &commits, &mut report).await?;
        Ok(report.verified)
    }
}
