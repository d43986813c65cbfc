//! What may be deleted: objects that no commit names, that one gave up, or whose rows one moved into an archive, once they have been so for longer than the grace
//! period; and, of what was moved, only as long as the archive is there.
//!
//! Why nothing is lost: the store is asked for the time, then for its objects, then for its log. An object that is older than
//! the grace period at that time and that no commit names by then could only be named by a writer that has held it for as long;
//! and a writer puts again, under another key, what it has held for half as long (`waiting.rs`).

use crate::{Inventory, Lying, Named, Result, Store, StoreError, backend, keys};
use record::{Event, ObjectRef};
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// Why something may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// This commit gave it up.
    GivenUp(u64),
    /// This commit moved its rows into an archive.
    Moved(u64),
    /// No commit names it.
    Unnamed,
    /// A writer died before it was a whole object.
    Unfinished,
}

/// Something that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Its key; for an unfinished one the name of its file.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// Why it is not needed.
    pub why: Why,
    /// For how long it has been so, by the store's own clock.
    pub age: Duration,
}

/// An archive that is not what its commit says. What was moved there and still lies where it was put is all there is of it, and stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The archive's key.
    pub archive: String,
    /// What should be there.
    pub expected: String,
    /// What is.
    pub found: String,
    /// How many objects stay for it.
    pub objects: u64,
}

/// What an inventory holds that is not needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// What may be deleted, oldest first.
    pub old: Vec<Garbage>,
    /// What may be once it is older than the grace period.
    pub young: Vec<Garbage>,
    /// Archives for want of which something stays.
    pub lacking: Vec<Lacking>,
    /// Keys that no store makes. They are left alone.
    pub unknown: Vec<String>,
}

impl Inventory {
    /// What is not needed, told apart by `grace`. Of an inventory without ages nothing is old. What was moved is needed as long as the
    /// archive does not lie there with its length.
    pub fn collection(&self, grace: Duration) -> Collection {
        let unneeded = |named: &Named| {
            let moved = named.moved.as_ref().map(|moved| Why::Moved(moved.seq));
            named.given_up.map(Why::GivenUp).or(moved)
        };
        let unneeded: HashMap<&str, Option<Why>> =
            self.named.iter().map(|named| (named.object.key.as_str(), unneeded(named))).collect();
        let mut found = Collection::default();
        for (key, lying) in &self.lying {
            if !keys::is_ours(key) {
                found.unknown.push(key.clone());
                continue;
            }
            let why = match unneeded.get(key.as_str()) {
                Some(None) => continue,
                Some(Some(why)) => *why,
                None if self.is_named_otherwise(key) => continue,
                None => Why::Unnamed,
            };
            found.add(key, lying, why, self, grace);
        }
        for (name, lying) in &self.temporaries {
            match backend::unfinished(name).is_some_and(keys::is_ours) {
                true => found.add(name, lying, Why::Unfinished, self, grace),
                false => found.unknown.push(name.clone()),
            }
        }
        found.old.sort_by(|a, b| b.age.cmp(&a.age).then_with(|| a.key.cmp(&b.key)));
        for seq in found.moves() {
            let Some(archive) = self.archive(seq) else { continue };
            let length = self.lying.get(&archive.key).map(|lying| lying.bytes);
            if length != Some(archive.bytes) {
                let there = length.map_or("nothing".into(), |bytes| format!("{bytes} bytes"));
                found.keep(seq, &archive.key, format!("{} bytes", archive.bytes), there);
            }
        }
        found
    }

    /// What commit `seq` moved rows into.
    fn archive(&self, seq: u64) -> Option<&ObjectRef> {
        match &self.commits.get(seq as usize)?.event {
            Event::Archive(archive) => Some(&archive.object),
            _ => None,
        }
    }

    /// Whether something else than a commit needs it: it is part of the log, or may be named by its content at any time.
    fn is_named_otherwise(&self, key: &str) -> bool {
        let is_segment = keys::parse_history(key).is_some();
        let segments = self.segments.as_ref();
        let is_log = keys::parse_commit(key).is_some() || keys::parse_snapshot(key).is_some();
        is_log || keys::is_by_content(key) || (is_segment && segments.is_none_or(|named| named.contains(key)))
    }
}

impl Collection {
    fn add(&mut self, key: &str, lying: &Lying, why: Why, of: &Inventory, grace: Duration) {
        let age = match why {
            // Given up, or moved, later than it was put.
            Why::GivenUp(seq) | Why::Moved(seq) => of.age_of_commit(seq),
            Why::Unnamed | Why::Unfinished => of.age(lying),
        };
        let garbage = Garbage { key: key.into(), bytes: lying.bytes, why, age: age.unwrap_or_default() };
        let is_old = age.is_some_and(|age| age > grace);
        if is_old { self.old.push(garbage) } else { self.young.push(garbage) }
    }

    /// The commits that moved what is old.
    fn moves(&self) -> BTreeSet<u64> {
        let seq = |garbage: &Garbage| match garbage.why {
            Why::Moved(seq) => Some(seq),
            _ => None,
        };
        self.old.iter().filter_map(seq).collect()
    }

    /// Keeps what commit `seq` moved, as the archive is not there, or not whole.
    fn keep(&mut self, seq: u64, archive: &str, expected: String, found: String) {
        let all = self.old.len();
        self.old.retain(|garbage| garbage.why != Why::Moved(seq));
        let objects = (all - self.old.len()) as u64;
        self.lacking.push(Lacking { archive: archive.into(), expected, found, objects });
    }
}

impl Store {
    /// As [`Inventory::collection`]; and where the store is a folder, the archives for which something would be deleted are read: a
    /// loss of power can leave one torn that has its length. A bucket's object is whole or not there, so that there its length, which was
    /// listed, is enough. `tell` hears how many of how many are read.
    ///
    /// # Errors
    /// As the backend fails. An archive that is damaged is no error.
    pub async fn collection(
        &self,
        inventory: &Inventory,
        grace: Duration,
        tell: impl Fn(usize, usize),
    ) -> Result<Collection> {
        let mut found = inventory.collection(grace);
        let archives: Vec<(u64, &ObjectRef)> =
            found.moves().into_iter().filter_map(|seq| Some((seq, inventory.archive(seq)?))).collect();
        let all = archives.len();
        for (done, (seq, archive)) in archives.into_iter().enumerate() {
            if self.backend().file(&archive.key).is_none() {
                continue;
            }
            tell(done, all);
            match self.get(archive).await {
                Ok(_) => {}
                Err(StoreError::Corrupt { expected, found: there, .. }) => {
                    found.keep(seq, &archive.key, expected, there);
                }
                Err(StoreError::Missing { .. }) => {
                    found.keep(seq, &archive.key, format!("{} bytes", archive.bytes), "nothing".into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Deletes something that [`Store::collection`] found to be old. What is gone already is deleted.
    ///
    /// # Errors
    /// As the backend fails.
    pub async fn delete_garbage(&self, garbage: &Garbage) -> Result<()> {
        match garbage.why {
            Why::Unfinished => self.backend().delete_temporary(&garbage.key).await,
            Why::GivenUp(_) | Why::Moved(_) | Why::Unnamed => self.delete(&garbage.key).await,
        }
    }
}
