//! The numbers and names that commits and batches are known by.

use crate::RecordError;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The number of optimizer steps that made some weights; 0 is the student as given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyVersion(pub u64);

impl PolicyVersion {
    /// How many versions `self`, the learner's, is ahead of `row`, the version that sampled a row.
    pub fn staleness_of(self, row: PolicyVersion) -> u64 {
        self.0.saturating_sub(row.0)
    }

    /// The same; none where `row` is the later, as some are where a replay takes rows in another order than the learner that sampled with
    /// these versions: how far behind a learner is has no bearing on how old a row is.
    pub fn checked_staleness_of(self, row: PolicyVersion) -> Option<u64> {
        self.0.checked_sub(row.0)
    }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// SHA-256 of some bytes; written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of several byte strings, each after its length (8 bytes, little-endian), so that no two lists share one.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The first 12 hexadecimal digits, for names and tables.
    pub fn short(&self) -> String {
        self.hex()[..12].to_string()
    }

    /// All 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = RecordError;

    fn try_from(text: String) -> Result<Self, RecordError> {
        let read = || {
            let hex = text.strip_prefix("sha256:")?;
            let mut bytes = [0; 32];
            if hex.len() != 64 || !hex.is_ascii() {
                return None;
            }
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
            }
            Some(Self(bytes))
        };
        read().ok_or_else(|| RecordError::Parse { text: text.clone(), expected: "`sha256:` and 64 hexadecimal digits" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_back_and_a_false_one_is_refused() {
        let digest = Digest::of(b"abc");
        assert!(digest.to_string().starts_with("sha256:ba7816bf8f01cfea414140de5dae2223"));
        assert_eq!(Digest::try_from(digest.to_string()), Ok(digest));
        assert_eq!(Digest::of_parts([&b"a"[..], b""]), Digest::of(b"\x01\0\0\0\0\0\0\0a\0\0\0\0\0\0\0\0"));
        for bad in
            ["", "sha256:", "sha256:xy", "md5:00", &digest.to_string()[..70], &format!("sha256:{}", "é".repeat(32))]
        {
            assert!(Digest::try_from(bad.to_string()).is_err(), "{bad}");
        }
    }
}
