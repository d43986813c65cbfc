//! What became of the rows.

use record::DropReason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many rows ended how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Rows trained on.
    pub consumed: u64,
    /// Those of them that another run sampled, beside the run's own: they have no staleness.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub foreign: u64,
    /// The staleness of the others, summed.
    pub staleness_sum: u64,
    /// The greatest staleness among them.
    pub staleness_max: u64,
    /// Rows dropped, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Ended {
    /// The mean staleness of the rows that have one; `None` where none has.
    pub fn staleness_mean(&self) -> Option<f64> {
        let rows = self.consumed - self.foreign;
        (rows > 0).then(|| self.staleness_sum as f64 / rows as f64)
    }
}
