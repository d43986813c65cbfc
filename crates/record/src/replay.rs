//! What a replay says of the run whose rows it takes.

use crate::{BatchRows, PolicyVersion};
use serde::{Deserialize, Serialize};

/// The run that a replay takes its rows from: which of them, in which order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// The order in which a replay takes rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayOrder {
    /// As the parent's steps consumed them.
    #[default]
    Recorded,
    /// A permutation of every scored row by the run's seed.
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
}
