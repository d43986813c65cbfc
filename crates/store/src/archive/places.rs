//! Where what was moved into archives lies, as far as this process has read the log.

use crate::{Result, Store, StoreError, history, keys};
use futures::{StreamExt, TryStreamExt, future::ready, stream};
use record::{Archive, Commit, Event, Move};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

/// Entries that are on their way at once.
const AT_ONCE: usize = 64;

/// The place of the rows of one object.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub archive: Arc<Archive>,
    /// Which of its row groups.
    pub row_group: usize,
    /// Where that begins.
    pub offset: u64,
    /// The commit that moved them.
    seq: u64,
}

impl Place {
    /// What the commit says of the row group.
    pub fn part(&self) -> &Move {
        &self.archive.moves[self.row_group]
    }
}

/// Every place that is known. Whatever reads commits adds to it, so that it costs no request of its own as long as the object that is
/// wanted is there, or the whole log was read.
#[derive(Debug, Default)]
pub(crate) struct Places(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    /// By the object's own key.
    places: HashMap<String, Place>,
    /// Commits that moved something, of those that were read.
    read: BTreeSet<u64>,
    /// Up to this commit nothing is unknown.
    upto: Option<u64>,
}

impl Places {
    /// Adds what `commit` moved. Of two places of an object the earlier counts, in whatever order they are learnt.
    pub fn learn(&self, commit: &Commit) {
        let Event::Archive(archive) = &commit.event else { return };
        // Nobody panics while holding the lock; and if so, the map is still one.
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !known.read.insert(commit.seq) {
            return;
        }
        let archive = Arc::new(archive.clone());
        for (row_group, (offset, of)) in archive.row_groups().enumerate() {
            let place = Place { archive: archive.clone(), row_group, offset, seq: commit.seq };
            let there = known.places.entry(of.key.clone()).or_insert_with(|| place.clone());
            if there.seq > commit.seq {
                *there = place;
            }
        }
    }

    fn of(&self, key: &str) -> Option<Place> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).places.get(key).cloned()
    }
}

impl Store {
    /// Where the rows of the object at `key` lie if they are known to have been moved.
    pub(crate) fn place_of(&self, key: &str) -> Option<Place> {
        self.places().of(key)
    }

    /// The same after a look at what the log says by now: for an object that is not where it was.
    pub(crate) async fn look_for(&self, key: &str) -> Result<Option<Place>> {
        let upto = self.places().0.read().unwrap_or_else(PoisonError::into_inner).upto;
        let from = match upto {
            Some(upto) => upto + 1,
            None => match history::newest_snapshot(self, None).await? {
                Some(snapshot) => {
                    let read = stream::iter(snapshot.archives).map(|seq| self.named_entry(seq));
                    read.buffer_unordered(AT_ONCE).try_for_each(|()| ready(Ok(()))).await?;
                    snapshot.seq + 1
                }
                None => 0,
            },
        };
        // Reading them is learning them.
        let last = self.entries(from, None).await?.last().map(|entry| entry.commit.seq);
        let mut known = self.places().0.write().unwrap_or_else(PoisonError::into_inner);
        known.upto = last.or(from.checked_sub(1)).max(known.upto);
        Ok(known.places.get(key).cloned())
    }

    /// Reads an entry that a snapshot names: that it is not there is no end of the log.
    async fn named_entry(&self, seq: u64) -> Result<()> {
        let gone = || StoreError::Corrupt {
            key: keys::commit(seq),
            expected: format!("commit {seq}, which moved something into an archive"),
            found: "nothing".into(),
        };
        self.entry(seq).await?.map(drop).ok_or_else(gone)
    }
}
