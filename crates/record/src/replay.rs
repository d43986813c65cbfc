//! What a run says of another one whose rows it takes: a replay all of its rows, a mix a share of them.

use crate::{BatchRows, PolicyVersion};
use serde::{Deserialize, Serialize};

/// The run that recorded rows are taken from: which of them, in which order, and how many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// The address of its store, as it was given.
    pub url: String,
    /// Its id.
    pub run_id: String,
    /// Its last commit that counts.
    pub seq: u64,
    /// The order of the rows.
    pub order: ReplayOrder,
    /// The condition that rows meet, in SQL; `None` where all do.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The share of each step's rows that they are, where the others are the run's own; `None` where all are the parent's: a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

impl Parent {
    /// Whether every row is the parent's: nothing is sampled, and versions are compared as if they were this run's.
    pub fn is_replayed_whole(&self) -> bool {
        self.share.is_none()
    }
}

/// The order in which a replay takes rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayOrder {
    /// As the parent's steps consumed them.
    #[default]
    Recorded,
    /// A permutation of every scored row by the run's seed; a mix takes another one each time it has taken all.
    Seeded,
}

impl ReplayOrder {
    /// The word in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            ReplayOrder::Recorded => "recorded",
            ReplayOrder::Seeded => "seeded",
        }
    }
}

/// Rows of a batch that the parent's log delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Which.
    #[serde(flatten)]
    pub of: BatchRows,
    /// The unit of the parent's that the batch holds rows of.
    pub unit: u64,
    /// The parent's version that sampled them.
    pub policy_version: PolicyVersion,
    /// How often all the parent's rows had been taken before; always 0 in a replay, which takes each once.
    #[serde(default, skip_serializing_if = "is_first")]
    pub epoch: u64,
}

fn is_first(epoch: &u64) -> bool {
    *epoch == 0
}
