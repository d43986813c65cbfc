//! `opd archive`: moves batches whose rows have all ended, their scores and step records into Parquet files, in which they take less
//! room. Every answer stays what it was. `opd gc` then deletes the objects that they came from.

use super::{grid, open, quantity, retain::look, work};
use crate::{
    error::{CommandError, Result},
    failpoint::{Point, pass},
    output::{say, show},
    progress::Line,
    status::size,
    stop::Stop,
};
use arrow::datatypes::SchemaRef;
use record::{
    Commit, Event, Job, Move, ObjectRef, PolicyVersion, What, Work,
    schema::{ROLLOUTS, SCORES, STEPS},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};
use store::{Follower, Inventory, Key, Named, Snapshot, Store, StoreError};

/// The most bytes of objects that go into one archive, which takes about half of that, or less.
const BYTES: u64 = 128 << 20;
/// The most objects: a commit names each of them.
const OBJECTS: usize = 1_000;
/// How often in a row it is planned anew where another archives meanwhile and nothing is moved.
const ATTEMPTS: usize = 8;

/// What is asked of `opd archive`.
///
/// Moves batches all of whose rows have ended, their scores in every score set, and step records into Parquet files. Every question is
/// answered as before, at every moment of the log, and other programs read the files. An older opd refuses the store from then on.
#[derive(Debug, clap::Args)]
pub struct Archive {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// Only what policy versions before this one sampled, and the records of the steps that made them.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    before: Option<u64>,
    /// Only what was committed longer ago than this, by the store's own clock: 30d.
    #[arg(long, value_name = "TIME", value_parser = quantity::time)]
    older_than: Option<Duration>,
    /// Only say what would be moved.
    #[arg(long)]
    dry_run: bool,
}

fn version(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix('v').unwrap_or(text).parse();
    number.map_err(|_| "a policy version, as in 100".into())
}

/// What no archive mixes: rollouts, scores of one set, step records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Rollouts,
    Scores(String),
    Steps,
}

/// Objects that go into one archive, in the order of the log.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    kind: Kind,
    objects: Vec<ObjectRef>,
    /// By the object's key: the version that sampled it, or that its step made.
    versions: HashMap<String, PolicyVersion>,
    bytes: u64,
}

/// What was moved, or would be, of one kind.
#[derive(Clone, Copy, Debug)]
struct Sum {
    first: PolicyVersion,
    last: PolicyVersion,
    objects: usize,
    bytes: u64,
    archives: usize,
    archived: u64,
}

impl Archive {
    /// Prints what is moved on standard output, and commits that it is.
    ///
    /// # Errors
    /// No run in the store, or one that cannot be read or written to; a version that there is not; objects that cannot be read.
    pub async fn run(self, stop: &Stop) -> Result<()> {
        let store = open(&self.store).await?;
        let mut mover = Mover { store: &store, stop, line: Line::new("archive"), sums: BTreeMap::new(), unread: 0 };
        let ended = self.plan_and_move(&mut mover).await;
        mover.line.clear();
        match ended {
            Ok(left) => self.report(&mover, left),
            Err(error) => {
                // What is moved is moved, whatever came then.
                if !mover.sums.is_empty() {
                    self.show(&mover)?;
                }
                Err(error)
            }
        }
    }

    /// Moves what may be, planned anew as often as others archive meanwhile; says how many objects it was stopped before. None where nothing
    /// is moved and there is nothing to report.
    async fn plan_and_move(&self, mover: &mut Mover<'_>) -> Result<Option<usize>> {
        let mut attempts = Attempts::default();
        loop {
            mover.line.show("listing");
            let looked = look(mover.store, self.older_than.is_some()).await;
            mover.line.clear();
            let (inventory, now) = looked?;
            let groups = self.plan(&inventory, &now)?;
            if groups.is_empty() && mover.sums.is_empty() {
                say("nothing to archive: what has ended, as far as it is asked for, is archived or given up");
                return Ok(None);
            }
            if self.dry_run {
                return would_move(groups).map(|()| None);
            }
            mover.unread = 0;
            if let Some(left) = mover.move_all(groups, &now).await? {
                return Ok(Some(left));
            }
            if attempts.are_over(mover.archives()) {
                return Err(CommandError::new("others kept archiving while this planned").hint("try again").passing());
            }
        }
    }

    /// What may be moved and is asked for.
    fn plan(&self, inventory: &Inventory, now: &Snapshot) -> Result<Vec<Group>> {
        if let Some(before) = self.before.filter(|before| *before > now.version.0 + 1) {
            let what = format!("--before {before}: the run is at {}", now.version);
            return Err(CommandError::new(what).hint("leave --before away to archive all that has ended"));
        }
        let is_old = |named: &Named| {
            let of_before = self.before.is_none_or(|before| named.version.is_some_and(|version| version.0 < before));
            let age = || inventory.age_of_commit(named.seq);
            of_before && self.older_than.is_none_or(|than| age().is_some_and(|age| age > than))
        };
        Ok(groups(inventory, now, is_old))
    }

    /// What was moved so far.
    fn show(&self, mover: &Mover<'_>) -> Result<()> {
        show(&table(&mover.sums, true))?;
        let (bytes, archived) = mover.bytes();
        say(&format!("{} moved into archives of {}", size(bytes), size(archived)));
        say(&format!("`opd gc {}` deletes what they came from once its grace period is over", self.store));
        Ok(())
    }

    fn report(&self, mover: &Mover<'_>, left: Option<usize>) -> Result<()> {
        let Some(left) = left else { return Ok(()) };
        self.show(mover)?;
        if left > 0 {
            say(&format!("stopped with {left} objects to go; the same command goes on"));
        }
        if mover.unread > 0 {
            let what = format!("{} objects cannot be read and stay where they are", mover.unread);
            return Err(CommandError::new(what).hint("bring them back from a copy; the same command then moves them"));
        }
        Ok(())
    }
}

/// How often in a row a plan came to nothing.
#[derive(Debug, Default)]
struct Attempts {
    /// Archives that were made before.
    made: usize,
    count: usize,
}

impl Attempts {
    /// Counts one more; or none, if the plan before led to more archives than were `made` until then.
    fn are_over(&mut self, made: usize) -> bool {
        self.count = if made > self.made { 0 } else { self.count + 1 };
        self.made = made;
        self.count == ATTEMPTS
    }
}

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
struct Mover<'a> {
    store: &'a Store,
    stop: &'a Stop,
    line: Line,
    sums: BTreeMap<Kind, Sum>,
    /// Objects that could not be read.
    unread: usize,
}

impl Mover<'_> {
    /// Moves `groups`, as planned from `then`; says how many objects it was stopped before. None where the plan does not hold any more, as
    /// another has archived since, or given up what is to be moved.
    async fn move_all(&mut self, groups: Vec<Group>, then: &Snapshot) -> Result<Option<usize>> {
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
    fn archives(&self) -> usize {
        self.sums.values().map(|sum| sum.archives).sum()
    }

    /// Bytes of what was moved, and of the archives.
    fn bytes(&self) -> (u64, u64) {
        self.sums.values().fold((0, 0), |(bytes, archived), sum| (bytes + sum.bytes, archived + sum.archived))
    }
}

/// Everything that no job plans with and that is not moved yet, of what `is_old`.
fn groups(inventory: &Inventory, now: &Snapshot, is_old: impl Fn(&Named) -> bool) -> Vec<Group> {
    let without_rows: HashSet<u64> = inventory.commits.iter().filter_map(step_without_rows).collect();
    let may_be = |named: &&Named| named.given_up.is_none() && named.moved.is_none() && is_old(named);
    let mut open: BTreeMap<Kind, Group> = BTreeMap::new();
    let mut groups = Vec::new();
    for named in inventory.named.iter().filter(may_be) {
        let (Some(version), object) = (named.version, &named.object) else { continue };
        let kind = match &named.what {
            What::Rollouts(batch) if !now.batches.contains_key(batch) => Kind::Rollouts,
            What::Scores { batch, score_set } if !now.batches.contains_key(batch) => Kind::Scores(score_set.clone()),
            What::StepRecord(step) if *step <= now.checkpoint.0 && !without_rows.contains(step) => Kind::Steps,
            _ => continue,
        };
        let is_full = |group: &Group| group.bytes + object.bytes > BYTES || group.objects.len() == OBJECTS;
        if open.get(&kind).is_some_and(is_full) {
            groups.extend(open.remove(&kind));
        }
        let new = || Group { kind: kind.clone(), objects: vec![], versions: HashMap::new(), bytes: 0 };
        let group = open.entry(kind.clone()).or_insert_with(new);
        group.versions.insert(object.key.clone(), version);
        group.objects.push(object.clone());
        group.bytes += object.bytes;
    }
    groups.extend(open.into_values());
    groups
}

/// The step of a commit that trained on nothing: its record has no rows to move.
fn step_without_rows(commit: &Commit) -> Option<u64> {
    match &commit.event {
        Event::Step(step) if step.rows() == 0 => Some(step.step),
        _ => None,
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Rollouts => "rollouts",
            Kind::Scores(_) => "scores",
            Kind::Steps => "steps",
        }
    }

    fn score_set(&self) -> &str {
        match self {
            Kind::Scores(set) => set,
            _ => "",
        }
    }

    fn schema(&self) -> &'static SchemaRef {
        match self {
            Kind::Rollouts => &ROLLOUTS,
            Kind::Scores(_) => &SCORES,
            Kind::Steps => &STEPS,
        }
    }
}

impl Group {
    /// The first and the last version of the objects at `keys`, which are some of its own.
    fn versions<'a>(&self, keys: impl Iterator<Item = &'a String>) -> (PolicyVersion, PolicyVersion) {
        let of = |key| self.versions.get(key).copied();
        let all = keys.filter_map(of).map(|version| (version, version));
        all.reduce(|(first, last), (version, _)| (first.min(version), last.max(version))).unwrap_or_default()
    }

    /// The key of an archive of the objects at `keys`.
    fn key<'a>(&self, keys: impl Iterator<Item = &'a String>) -> Key {
        let (first, last) = self.versions(keys);
        match &self.kind {
            Kind::Rollouts => Key::archived_rollouts(first, last),
            Kind::Scores(set) => Key::archived_scores(set, first, last),
            Kind::Steps => Key::archived_steps(first.0, last.0),
        }
    }

    /// What it is to move `objects`, some of its own, into an archive of `archived` bytes.
    fn sum<'a>(&self, objects: impl Iterator<Item = &'a ObjectRef> + Clone, archived: u64) -> Sum {
        let (first, last) = self.versions(objects.clone().map(|object| &object.key));
        let bytes = objects.clone().map(|object| object.bytes).sum();
        Sum { first, last, objects: objects.count(), bytes, archives: 1, archived }
    }
}

impl Sum {
    fn add(&mut self, other: &Sum) {
        (self.first, self.last) = (self.first.min(other.first), self.last.max(other.last));
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.archives += other.archives;
        self.archived += other.archived;
    }
}

fn would_move(groups: Vec<Group>) -> Result<()> {
    let mut sums: BTreeMap<Kind, Sum> = BTreeMap::new();
    for group in groups {
        let sum = group.sum(group.objects.iter(), 0);
        sums.entry(group.kind).and_modify(|all| all.add(&sum)).or_insert(sum);
    }
    show(&table(&sums, false))?;
    let (objects, bytes) = sums.values().fold((0, 0), |(n, bytes), sum| (n + sum.objects, bytes + sum.bytes));
    say(&format!("{objects} objects ({}) would be moved", size(bytes)));
    Ok(())
}

/// A line a kind; `is_made` says that the archives are there.
fn table(sums: &BTreeMap<Kind, Sum>, is_made: bool) -> String {
    let row = |(kind, sum): (&Kind, &Sum)| {
        let Sum { first, last, objects, bytes, archives, archived } = *sum;
        let archived = if is_made { size(archived) } else { "?".into() };
        [
            kind.name().to_string(),
            kind.score_set().into(),
            format!("{}..{}", first.0, last.0),
            objects.to_string(),
            size(bytes),
            archives.to_string(),
            archived,
        ]
    };
    let rows: Vec<_> = sums.iter().map(row).collect();
    let names = ["kind", "score set", "policy versions", "objects", "size", "archives", "size there"];
    grid::table(names, [false, false, true, true, true, true, true], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::identity;
    use record::{Digest, Footer, Retirement};

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
            let group = || Group { kind: Kind::Rollouts, objects: vec![gone.clone()], versions: versions.clone(), bytes: 31 };
            assert_eq!(mover.move_all(vec![group()], &then).await.unwrap(), Some(0), "before {event:?}");
            assert_eq!(std::mem::take(&mut mover.unread), 1);
            other.append(work("test"), |_| Some(event.clone())).await.unwrap();
            assert_eq!(mover.move_all(vec![group()], &then).await.unwrap(), left, "after {event:?}");
            assert_eq!(std::mem::take(&mut mover.unread), left.map_or(0, |_| 1));
        }
    }

    #[test]
    fn attempts_are_over_when_nothing_is_moved_many_times_in_a_row() {
        let mut attempts = Attempts::default();
        for made in 1..100 {
            assert!(!attempts.are_over(made), "each time something was moved");
        }
        for _ in 1..ATTEMPTS {
            assert!(!attempts.are_over(99));
        }
        assert!(attempts.are_over(99));
    }
}
