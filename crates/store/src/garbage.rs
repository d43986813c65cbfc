//! What may be deleted: objects that no commit names, that one gave up, or whose rows one moved into an archive, once they have been so for longer than the grace
//! period.
//!
//! Why nothing is lost: the store is asked for the time, then for its objects, then for its log. An object that is older than
//! the grace period at that time and that no commit names by then could only be named by a writer that has held it for as long;
//! and a writer puts again, under another key, what it has held for half as long (`waiting.rs`).

use crate::{Inventory, Lying, Named, Result, Store, backend, keys};
use std::{collections::HashMap, time::Duration};

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

/// What an inventory holds that is not needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// What may be deleted, oldest first.
    pub old: Vec<Garbage>,
    /// What may be once it is older than the grace period.
    pub young: Vec<Garbage>,
    /// Keys that no store makes. They are left alone.
    pub unknown: Vec<String>,
}

impl Inventory {
    /// What is not needed, told apart by `grace`. Of an inventory without ages nothing is old.
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
        found
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
}

impl Store {
    /// Deletes something that [`Inventory::collection`] found to be old. What is gone already is deleted.
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
