//! The tables made of the log alone. Each is a pure function from some commits to columns.

mod commits;
mod objects;
mod policies;
mod rows;
mod score_sets;
mod steps;
mod work;

use crate::log::Log;
use arrow::{array::RecordBatch, error::ArrowError};
use record::{Commit, Ratio};

/// A table of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogTable {
    pub name: &'static str,
    /// Its rows that come from these commits of the log, in their order.
    pub rows: fn(&Log, &[Commit]) -> Result<RecordBatch, ArrowError>,
}

/// Every table of the log.
pub(crate) const LOG_TABLES: [LogTable; 11] = [
    LogTable { name: "commits", rows: commits::commits },
    LogTable { name: "work", rows: work::work },
    LogTable { name: "objects", rows: objects::objects },
    LogTable { name: "steps", rows: steps::steps },
    LogTable { name: "metrics", rows: steps::metrics },
    LogTable { name: "consumed", rows: rows::consumed },
    LogTable { name: "dropped", rows: rows::dropped },
    LogTable { name: "policies", rows: policies::policies },
    LogTable { name: "evals", rows: policies::evals },
    LogTable { name: "eval_metrics", rows: policies::eval_metrics },
    LogTable { name: "score_sets", rows: score_sets::score_sets },
];

/// The value of a ratio; none where nothing was counted.
fn value((numerator, denominator): &Ratio) -> Option<f64> {
    (*denominator != 0.0).then(|| numerator / denominator)
}

#[cfg(test)]
mod tests;
