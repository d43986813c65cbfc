//! What goes into which archive.

use arrow::datatypes::SchemaRef;
use record::{
    Commit, Event, ObjectRef, PolicyVersion, What,
    schema::{ROLLOUTS, SCORES, STEPS},
};
use std::collections::{BTreeMap, HashMap, HashSet};
use store::{Inventory, Key, Named, Snapshot};

/// The most bytes of objects that go into one archive, which takes about half of that, or less.
const BYTES: u64 = 128 << 20;
/// The most objects: a commit names each of them.
const OBJECTS: usize = 1_000;

/// What no archive mixes: rollouts, scores of one set, step records.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Rollouts,
    Scores(String),
    Steps,
}

/// Objects that go into one archive, in the order of the log.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub kind: Kind,
    pub objects: Vec<ObjectRef>,
    /// By the object's key: the version that sampled it, or that its step made.
    pub versions: HashMap<String, PolicyVersion>,
    pub bytes: u64,
}

/// What was moved, or would be, of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    pub first: PolicyVersion,
    pub last: PolicyVersion,
    pub objects: usize,
    pub bytes: u64,
    pub archives: usize,
    pub archived: u64,
}

/// Everything that no job plans with and that is not moved yet, of what `is_old`.
pub(super) fn groups(inventory: &Inventory, now: &Snapshot, is_old: impl Fn(&Named) -> bool) -> Vec<Group> {
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
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Rollouts => "rollouts",
            Kind::Scores(_) => "scores",
            Kind::Steps => "steps",
        }
    }

    pub fn score_set(&self) -> &str {
        match self {
            Kind::Scores(set) => set,
            _ => "",
        }
    }

    pub fn schema(&self) -> &'static SchemaRef {
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
    pub fn key<'a>(&self, keys: impl Iterator<Item = &'a String>) -> Key {
        let (first, last) = self.versions(keys);
        match &self.kind {
            Kind::Rollouts => Key::archived_rollouts(first, last),
            Kind::Scores(set) => Key::archived_scores(set, first, last),
            Kind::Steps => Key::archived_steps(first.0, last.0),
        }
    }

    /// What it is to move `objects`, some of its own, into an archive of `archived` bytes.
    pub fn sum<'a>(&self, objects: impl Iterator<Item = &'a ObjectRef> + Clone, archived: u64) -> Sum {
        let (first, last) = self.versions(objects.clone().map(|object| &object.key));
        let bytes = objects.clone().map(|object| object.bytes).sum();
        Sum { first, last, objects: objects.count(), bytes, archives: 1, archived }
    }
}

impl Sum {
    pub fn add(&mut self, other: &Sum) {
        (self.first, self.last) = (self.first.min(other.first), self.last.max(other.last));
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.archives += other.archives;
        self.archived += other.archived;
    }
}
