//! Which live rows are wanted: a question to the log, answered exactly without opening an object.

use crate::Snapshot;
use record::{BatchId, Budget, ObjectRef, PolicyVersion, RowSet};
use std::collections::BTreeSet;

/// Which policy versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// Any.
    #[default]
    All,
    /// From the first to the second, both included.
    Between(PolicyVersion, PolicyVersion),
    /// Just these.
    Only(BTreeSet<PolicyVersion>),
}

impl Versions {
    /// Whether `version` is one of them.
    pub fn contains(&self, version: PolicyVersion) -> bool {
        match self {
            Versions::All => true,
            Versions::Between(first, last) => (*first..=*last).contains(&version),
            Versions::Only(versions) => versions.contains(&version),
        }
    }
}

/// A window of staleness, seen from one version. Rows of later versions than that are outside every window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Staleness {
    /// The learner's version.
    pub against: PolicyVersion,
    /// The least staleness.
    pub min: u64,
    /// The greatest staleness.
    pub max: u64,
}

impl Staleness {
    /// Whether a row of `version` is in the window.
    pub fn contains(&self, version: PolicyVersion) -> bool {
        self.against.0.checked_sub(version.0).is_some_and(|staleness| (self.min..=self.max).contains(&staleness))
    }
}

/// Live rows by policy version, staleness, score set and prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The policy versions that sampled them.
    pub versions: Versions,
    /// Their staleness.
    pub staleness: Option<Staleness>,
    /// The score set they must have.
    pub score_set: String,
    /// The prompts they answer. The log does not know prompts: this one is applied to rows as they are read.
    pub prompts: Option<BTreeSet<u64>>,
    /// How much of each row is read.
    pub budget: Budget,
}

impl Selection {
    /// Every pending row that has scores in `score_set`.
    pub fn scored_in(score_set: impl Into<String>) -> Self {
        Self {
            versions: Versions::All,
            staleness: None,
            score_set: score_set.into(),
            prompts: None,
            budget: Budget::default(),
        }
    }

    /// What the log knows of the selection: batches with pending rows, in the order rows are taken.
    pub fn batches(&self, snapshot: &Snapshot) -> Vec<SelectedBatch> {
        let wanted = |version| {
            self.versions.contains(version) && self.staleness.is_none_or(|staleness| staleness.contains(version))
        };
        let selected =
            snapshot.pending().filter(|(_, batch)| wanted(batch.policy_version)).filter_map(|(id, batch)| {
                Some(SelectedBatch {
                    batch: id.clone(),
                    rows: batch.pending.clone(),
                    policy_version: batch.policy_version,
                    rollouts: batch.object.clone(),
                    scores: batch.scores.get(&self.score_set)?.clone(),
                })
            });
        selected.collect()
    }
}

/// Rows of a batch, and where they lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedBatch {
    /// The batch.
    pub batch: BatchId,
    /// Which rows of it.
    pub rows: RowSet,
    /// The version that sampled it.
    pub policy_version: PolicyVersion,
    /// The rollouts.
    pub rollouts: ObjectRef,
    /// Their scores.
    pub scores: ObjectRef,
}
