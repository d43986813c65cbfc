//! What lies in a store beside what its log names: what looking after a store is planned from.

use crate::{Result, Store, backend, history, keys};
use bytes::Bytes;
use futures::TryStreamExt;
use record::{Archive, BatchId, Commit, Event, Move, ObjectRef, PolicyVersion, What};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

/// An object that a commit names.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// The object.
    pub object: ObjectRef,
    /// What it is.
    pub what: What,
    /// The commit that names it.
    pub seq: u64,
    /// The policy version that it holds, that sampled it, or that its step made; none for the student's files and for archives.
    pub version: Option<PolicyVersion>,
    /// The commit that gave it up; of an archive, that gave up the last of what is in it.
    pub given_up: Option<u64>,
    /// Where its rows were moved. The object itself is not needed any more.
    pub moved: Option<Moved>,
    /// The bytes that are its own: its length; of what was moved that of its row group; of an archive what is no row group of an object
    /// that was moved there. So each byte counts once, and as given up with the object that it is of, though an archive's file goes only as
    /// a whole.
    pub takes: u64,
}

/// That rows were moved into an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The commit that says so.
    pub seq: u64,
    /// The archive's key.
    pub archive: String,
}

/// Every object that `commits`, a whole log or a prefix of it, name, in their order.
pub fn named(commits: &[Commit]) -> Vec<Named> {
    let mut versions: HashMap<&BatchId, PolicyVersion> = HashMap::new();
    let (mut weights, mut moments) = (HashMap::new(), HashMap::new());
    let (mut batches, mut steps) = (HashMap::new(), HashMap::new());
    let mut moves: HashMap<&str, (u64, &Archive, &Move)> = HashMap::new();
    for commit in commits {
        match &commit.event {
            Event::Rollouts(rollouts) => drop(versions.insert(&rollouts.batch, rollouts.policy_version)),
            Event::Retire(retired) => {
                weights.extend(retired.policies.iter().map(|version| (*version, commit.seq)));
                moments.extend(retired.moments.iter().map(|version| (*version, commit.seq)));
                batches.extend(retired.batches.iter().map(|batch| (batch, commit.seq)));
                steps.extend(retired.steps.iter().map(|step| (*step, commit.seq)));
            }
            Event::Archive(archive) => {
                for of in &archive.moves {
                    moves.entry(&of.key).or_insert((commit.seq, archive, of));
                }
            }
            _ => {}
        }
    }
    let of = |commit: &Commit, what: What, object: &ObjectRef| {
        let (version, given_up) = match &what {
            What::File(_) | What::Archive => (None, None),
            What::Weights(version) => (Some(*version), weights.get(version)),
            What::Moments(version) => (Some(*version), moments.get(version)),
            What::Rollouts(batch) | What::Scores { batch, .. } => (versions.get(batch).copied(), batches.get(batch)),
            What::StepRecord(step) => (Some(PolicyVersion(*step)), steps.get(step)),
        };
        let moved = moves.get(object.key.as_str());
        let takes = moved.map_or(object.bytes, |(_, _, of)| of.bytes);
        let moved = moved.map(|(seq, archive, _)| Moved { seq: *seq, archive: archive.object.key.clone() });
        Named { object: object.clone(), what, seq: commit.seq, version, given_up: given_up.copied(), moved, takes }
    };
    let each = commits.iter().flat_map(|commit| commit.event.objects().into_iter().map(move |named| (commit, named)));
    let mut named: Vec<Named> = each.map(|(commit, (what, object))| of(commit, what, object)).collect();
    settle_archives(&mut named);
    named
}

/// What was moved to an archive.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// Bytes of the row groups that count.
    bytes: u64,
    is_kept: bool,
    /// The last commit that gave any of it up.
    given_up: Option<u64>,
}

/// What becomes of each archive follows from what is in it.
fn settle_archives(named: &mut [Named]) {
    let mut held: HashMap<String, Held> = HashMap::new();
    for Named { moved, given_up, takes, .. } in named.iter() {
        let Some(moved) = moved else { continue };
        let of = held.entry(moved.archive.clone()).or_default();
        of.bytes += takes;
        of.is_kept |= given_up.is_none();
        of.given_up = of.given_up.max(*given_up);
    }
    for archive in named.iter_mut().filter(|named| named.what == What::Archive) {
        let of = held.get(&archive.object.key).copied().unwrap_or_default();
        archive.takes = archive.object.bytes.saturating_sub(of.bytes);
        // One whose objects another had moved before is needed by nobody from the start.
        archive.given_up = (!of.is_kept).then(|| of.given_up.unwrap_or(archive.seq));
    }
}

/// An object as it lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lying {
    /// Its length.
    pub bytes: u64,
    /// When it was put, by the store's own clock; milliseconds since 1970.
    pub modified: i64,
}

/// What lies in a store and what its log says of it.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The whole log, read after the objects were listed.
    pub commits: Vec<Commit>,
    /// What it names.
    pub named: Vec<Named>,
    /// Every object of the store, by key.
    pub lying: BTreeMap<String, Lying>,
    /// What killed writers left, by name, where the store is a folder.
    pub temporaries: BTreeMap<String, Lying>,
    /// Keys of the history segments that a snapshot names; none if a snapshot cannot be read, and it is not known.
    pub segments: Option<BTreeSet<String>>,
    /// The time, by the store's own clock, before anything was listed; none where no age was asked for.
    pub now: Option<i64>,
}

impl Inventory {
    /// For how long it has lain there; none where no age was asked for. What has come since the store was asked for the time
    /// is new.
    pub fn age(&self, lying: &Lying) -> Option<Duration> {
        self.now.map(|now| Duration::from_millis(now.saturating_sub(lying.modified).max(0) as u64))
    }

    /// For how long commit `seq` has been there.
    pub fn age_of_commit(&self, seq: u64) -> Option<Duration> {
        self.lying.get(&keys::commit(seq)).and_then(|entry| self.age(entry))
    }
}

impl Store {
    /// Lists everything and reads the log. With `ages`, an empty object is put for a moment first: the store's own clock is the
    /// only one by which ages are told.
    ///
    /// # Errors
    /// As the backend fails; [`crate::StoreError::NoRun`].
    pub async fn inventory(&self, ages: bool) -> Result<Inventory> {
        // There is a run, or nothing is written.
        self.first().await?;
        let now = if ages { Some(self.time().await?) } else { None };
        let listed: Vec<backend::Listed> = self.backend().list("").try_collect().await?;
        let temporaries = self.backend().temporaries().await?;
        let by_key = |listed: Vec<backend::Listed>| {
            let lying = |of: backend::Listed| (of.key, Lying { bytes: of.bytes, modified: of.modified });
            listed.into_iter().map(lying).collect()
        };
        let segments = history::named_segments(self).await?;
        let commits = self.history(None).await?;
        let (named, lying, temporaries) = (named(&commits), by_key(listed), by_key(temporaries));
        Ok(Inventory { commits, named, lying, temporaries, segments, now })
    }

    /// What the store's clock says.
    async fn time(&self) -> Result<i64> {
        let key = keys::marker();
        let marked = async {
            self.backend()
                .put_new(&key, Bytes::new())
                .await
                .map_err(|failure| failure.into_error(self.backend(), &key))?;
            self.backend().modified(&key).await
        };
        let time = marked.await;
        self.backend().delete(&key).await?;
        time?.ok_or_else(|| self.backend().refused("read", &key, "it was put and is not there".into()))
    }
}
