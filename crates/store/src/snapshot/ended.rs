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
    /// Those of them whose version is later than the learner's was, as a replay in another order has them: they have none either.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub later: u64,
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
    /// Counts rows of one version that a step trained on; without a staleness, rows of a later one.
    pub(super) fn train(&mut self, rows: u64, staleness: Option<u64>) {
        self.consumed += rows;
        match staleness {
            Some(staleness) => {
                self.staleness_sum += staleness * rows;
                self.staleness_max = self.staleness_max.max(staleness);
            }
            None => self.later += rows,
        }
    }

    /// The mean staleness of the rows that have one; `None` where none has.
    pub fn staleness_mean(&self) -> Option<f64> {
        let rows = self.consumed - self.foreign - self.later;
        (rows > 0).then(|| self.staleness_sum as f64 / rows as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_later_version_have_no_staleness() {
        let mut ended = Ended::default();
        ended.train(4, None);
        assert_eq!((ended.consumed, ended.staleness_mean()), (4, None));
        ended.train(2, Some(3));
        ended.train(2, Some(0));
        assert_eq!((ended.consumed, ended.staleness_mean(), ended.staleness_max), (8, Some(1.5), 3));
        // What is not there is not written: an earlier program's state of a run without such rows is the same.
        assert!(!serde_json::to_string(&Ended::default()).unwrap().contains("later"));
    }
}
