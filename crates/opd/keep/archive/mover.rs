//! Moving what was planned, as long as the plan holds.

use super::{
    super::work,
    groups::{Group, Kind, Sum},
};
use crate::{
    error::Result,
    failpoint::{Point, pass},
    progress::Line,
    status::size,
    stop::Stop,
};
use record::{Commit, Event, Job, Move, ObjectRef, Work};
use std::{
    collections::{BTreeMap, HashSet},
    time::Instant,
};
use store::{Follower, Snapshot, Store, StoreError};

/// The log since a plan was made.
struct Since {
    follower: Follower,
    /// The last commit that the plan knows of.
    seq: u64,
    /// The archives that it knows of, and those made of it.
    archives: Vec<u64>,
}

impl Since {
    /// Whether another has archived or given up rows or records: what is missing then need not be lost.
    async fn is_other(&mut self) -> Result<bool> {
        self.follower.refresh().await?;
        if self.follower.snapshot().archives != self.archives {
            return Ok(true);
        }
        let gives_up = |commit: &Commit| match &commit.event {
            Event::Retire(retired) => !retired.batches.is_empty() || !retired.steps.is_empty(),
            _ => false,
        };
        Ok(self.follower.store().commits_from(self.seq + 1).await?.iter().any(gives_up))
    }
}

/// Moves groups and counts what it moves.
pub(super) struct Mover<'a> {
    pub store: &'a Store,
    pub stop: &'a Stop,
    pub line: Line,
    pub sums: BTreeMap<Kind, Sum>,
    /// Objects that could not be read.
    pub unread: usize,
}

impl Mover<'_> {
    /// Moves `groups`, as planned from `then`; says how many objects it was stopped before. None where the plan does not hold any more, as
    /// another has archived since, or given up what is to be moved.
    pub async fn move_all(&mut self, groups: Vec<Group>, then: &Snapshot) -> Result<Option<usize>> {
        let mut log = Since { follower: self.store.follow().await?, seq: then.seq, archives: then.archives.clone() };
        let mut left: usize = groups.iter().map(|group| group.objects.len()).sum();
        for group in groups {
            let mut objects = group.objects.clone();
            while !objects.is_empty() {
                if self.stop.is_asked() {
                    return Ok(Some(left));
                }
                let Some(later) = self.move_some(&group, &objects, &mut log).await? else {
                    return Ok(None);
                };
                left -= objects.len() - later.len();
                objects = later;
            }
        }
        Ok(Some(left))
    }

    /// Moves those of `objects` that have the same columns into one archive; says which have others. None as [`Mover::move_all`].
    async fn move_some(
        &mut self,
        group: &Group,
        objects: &[ObjectRef],
        log: &mut Since,
    ) -> Result<Option<Vec<ObjectRef>>> {
        let (began, started) = (Instant::now(), store::now_ms());
        let (before, after) = self.bytes();
        let tell = |done: usize| {
            let so_far = format!("{} -> {} so far", size(before), size(after));
            self.line.show(&format!("{}: {done} of {} objects; {so_far}", group.kind.name(), objects.len()));
        };
        let key = |moves: &[Move]| group.key(moves.iter().map(|of| &of.key));
        let put = self.store.put_archive(objects, group.kind.schema(), key, tell).await?;
        if put.left.iter().any(|error| matches!(error, StoreError::Missing { .. })) && log.is_other().await? {
            return Ok(None);
        }
        for error in &put.left {
            self.unread += 1;
            self.line.say(&format!("left where it is: {error}"));
        }
        let Some(archive) = put.archive else { return Ok(Some(put.later)) };
        pass(Job::Store, Point::AfterPut);
        let work = Work { started, busy_s: began.elapsed().as_secs_f64(), ..work("archive") };
        let event = |now: &Snapshot| (now.archives == log.archives).then(|| Event::Archive(archive.clone()));
        if log.follower.append(work, event).await?.is_none() {
            return Ok(None);
        }
        pass(Job::Store, Point::AfterCommit);
        log.archives.clone_from(&log.follower.snapshot().archives);
        let moved: HashSet<&String> = archive.moves.iter().map(|of| &of.key).collect();
        let sum = group.sum(objects.iter().filter(|object| moved.contains(&object.key)), archive.object.bytes);
        self.sums.entry(group.kind.clone()).and_modify(|all| all.add(&sum)).or_insert(sum);
        Ok(Some(put.later))
    }

    /// How many archives were made.
    pub fn archives(&self) -> usize {
        self.sums.values().map(|sum| sum.archives).sum()
    }

    /// Bytes of what was moved, and of the archives.
    pub fn bytes(&self) -> (u64, u64) {
        self.sums.values().fold((0, 0), |(bytes, archived), sum| (bytes + sum.bytes, archived + sum.archived))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::identity;
    use record::{Digest, Footer, PolicyVersion, Retirement};
    use std::collections::HashMap;
    use store::Key;

    #[tokio::test]
    async fn what_is_missing_is_lost_only_if_nobody_archived_or_gave_it_up_since() {
        let store = Store::memory();
        let mut other = store.create(identity(4, 1, 0), work("test")).await.unwrap();
        let object = |key: Key| ObjectRef { key: key.as_str().into(), bytes: 31, digest: Digest::of(b"x") };
        let gone = object(Key::rollouts(PolicyVersion(0), "u0"));
        let (stop, line) = (Stop::listen(), Line::new("archive"));
        let mut mover = Mover { store: &store, stop: &stop, line, sums: BTreeMap::new(), unread: 0 };
        let digest = gone.digest;
        let moves = vec![Move { key: gone.key.clone(), bytes: 20, digest }];
        let archive = object(Key::archived_rollouts(PolicyVersion(0), PolicyVersion(0)));
        let archive = record::Archive { object: archive, footer: Footer { bytes: 7, digest }, moves };
        let (moments, batches) = (vec![PolicyVersion(3)], vec!["u0".to_string()]);
        for (event, left) in [
            (Event::Retire(Retirement { moments, ..Retirement::default() }), Some(0)),
            (Event::Retire(Retirement { batches, ..Retirement::default() }), None),
            (Event::Archive(archive), None),
        ] {
            let then = other.snapshot().clone();
            let versions = HashMap::from([(gone.key.clone(), PolicyVersion(0))]);
            let group =
                || Group { kind: Kind::Rollouts, objects: vec![gone.clone()], versions: versions.clone(), bytes: 31 };
            assert_eq!(mover.move_all(vec![group()], &then).await.unwrap(), Some(0), "before {event:?}");
            assert_eq!(std::mem::take(&mut mover.unread), 1);
            other.append(work("test"), |_| Some(event.clone())).await.unwrap();
            assert_eq!(mover.move_all(vec![group()], &then).await.unwrap(), left, "after {event:?}");
            assert_eq!(std::mem::take(&mut mover.unread), left.map_or(0, |_| 1));
        }
    }
}
