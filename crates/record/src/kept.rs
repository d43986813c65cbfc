//! What is kept and what is not: pins, and what is given up.

use crate::{BatchId, PolicyVersion};
use serde::{Deserialize, Serialize};

/// What is given up. The log still says that it was there, and what became of its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    /// Policy versions whose weights are given up.
    #[serde(default)]
    pub policies: Vec<PolicyVersion>,
    /// Policy versions whose moments are given up.
    #[serde(default)]
    pub moments: Vec<PolicyVersion>,
    /// Batches whose rollouts and scores, in every score set, are given up; all their rows have ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<BatchId>,
    /// Steps whose records are given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<u64>,
}

impl Retirement {
    /// Whether nothing is given up.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.moments.is_empty() && self.batches.is_empty() && self.steps.is_empty()
    }
}

/// What commits up to `upto` name of the policy versions from `first` to `last`, as far as it is kept when the pin is made:
/// rollouts that these sampled and their scores, records of the steps that made them, their weights and moments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// By which it is taken away again.
    pub name: String,
    /// The last commit that is covered.
    pub upto: u64,
    /// The first policy version that is covered.
    pub first: PolicyVersion,
    /// The last.
    pub last: PolicyVersion,
}

impl Pin {
    /// Whether it covers something of `version` that commit `seq` names.
    pub fn covers(&self, seq: u64, version: PolicyVersion) -> bool {
        seq <= self.upto && self.covers_version(version)
    }

    /// Whether it covers weights and moments of `version`, those that were made up to its commit.
    pub fn covers_version(&self, version: PolicyVersion) -> bool {
        (self.first..=self.last).contains(&version)
    }
}
