//! What is moved out of objects of its own into an archive: the same rows, in fewer bytes and fewer objects.

use crate::{Digest, ObjectRef};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Batches of one kind, or step records, that lie in one archive from here on. What else commits say of them stays true.
///
/// An archive is a Parquet file: four bytes, a row group for each move in their order, and the footer; nothing in between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// The file.
    pub object: ObjectRef,
    /// Its end, which says how the row groups are read.
    pub footer: Footer,
    /// What is in it. Where two archives move one object, the first counts.
    pub moves: Vec<Move>,
}

/// The end of an archive: all bytes behind the last row group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footer {
    /// Their number.
    pub bytes: u64,
    /// Their SHA-256.
    pub digest: Digest,
}

/// An object whose rows lie in an archive, all of them in one row group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// The key by which commits name it.
    pub key: String,
    /// Length of the row group.
    pub bytes: u64,
    /// SHA-256 of the row group's bytes.
    pub digest: Digest,
}

impl Archive {
    /// Where the first row group begins: behind the four bytes that every Parquet file begins with.
    pub const FIRST: u64 = 4;

    /// What is in it, each with the place of its row group's first byte.
    pub fn row_groups(&self) -> impl Iterator<Item = (u64, &Move)> {
        self.moves.iter().scan(Self::FIRST, |next, of| {
            let at = *next;
            *next = next.saturating_add(of.bytes);
            Some((at, of))
        })
    }

    /// Where its footer begins.
    pub fn footer_at(&self) -> u64 {
        self.object.bytes.saturating_sub(self.footer.bytes)
    }

    /// Checks that its parts make up the whole, and that nothing is in it twice.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), String> {
        let Some((last, of)) = self.row_groups().last() else { return Err("it moves nothing".into()) };
        let end = last.saturating_add(of.bytes).saturating_add(self.footer.bytes);
        if end != self.object.bytes {
            let Self { object, .. } = self;
            return Err(format!("the parts of `{}` end at byte {end}, it has {} bytes", object.key, object.bytes));
        }
        let mut keys = HashSet::new();
        match self.moves.iter().find(|of| !keys.insert(&of.key)) {
            Some(twice) => Err(format!("`{}` is in `{}` twice", twice.key, self.object.key)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(lengths: &[(&str, u64)], bytes: u64) -> Archive {
        let digest = Digest::of(b"");
        Archive {
            object: ObjectRef { key: "archive/a.parquet".into(), bytes, digest },
            footer: Footer { bytes: 10, digest },
            moves: lengths.iter().map(|(key, bytes)| Move { key: (*key).into(), bytes: *bytes, digest }).collect(),
        }
    }

    #[test]
    fn row_groups_lie_one_behind_the_other() {
        let archive = archive(&[("a", 5), ("b", 7)], 26);
        assert_eq!(archive.check(), Ok(()));
        let places: Vec<(u64, &str)> = archive.row_groups().map(|(at, of)| (at, of.key.as_str())).collect();
        assert_eq!((places, archive.footer_at()), (vec![(4, "a"), (9, "b")], 16));
    }

    #[test]
    fn parts_that_do_not_make_up_the_whole_are_refused() {
        for (archive, says) in [
            (archive(&[], 14), "it moves nothing"),
            (archive(&[("a", 5)], 20), "the parts of `archive/a.parquet` end at byte 19, it has 20 bytes"),
            (archive(&[("a", u64::MAX)], 20), "it has 20 bytes"),
            (archive(&[("a", 1), ("a", 1)], 16), "`a` is in `archive/a.parquet` twice"),
        ] {
            let said = archive.check().unwrap_err();
            assert!(said.ends_with(says), "{said}");
        }
    }
}
