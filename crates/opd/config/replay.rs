//! `[learn.replay]`: recorded rows of another run among the run's own.

use serde::{Deserialize, Serialize};

/// Which rows of which run, and how many.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaySection {
    /// The store of that run: a directory, seen from where the command runs, file:///..., or s3://bucket/prefix.
    pub from: String,
    /// A condition in SQL on its table `scored`: only rows that meet it. Without one, every scored row.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
    /// The share of each step's rows that they are, above 0 and below 1.
    pub share: f64,
}
