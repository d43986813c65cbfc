//! The tables made of the log alone. Each is a pure function from some commits to columns.

mod commits;
mod objects;
mod policies;
mod rows;
mod score_sets;
mod steps;
mod work;

use crate::{columns::Columns, log::Log};
use arrow::{array::RecordBatch, error::ArrowError};
use record::{Commit, Ratio};

/// A table of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogTable {
    pub name: &'static str,
    /// The columns that are wanted of its rows that come from these commits of the log, in their order.
    pub rows: fn(&Log, &[Commit], Columns) -> Result<RecordBatch, ArrowError>,
    /// Whether rows stay as they are, whatever is committed after those they come from.
    pub is_final: bool,
}

/// Every table of the log. What is given up may be so by any later commit, and a score set grows.
pub(crate) const LOG_TABLES: [LogTable; 11] = [
    LogTable { name: "commits", rows: commits::commits, is_final: true },
    LogTable { name: "work", rows: work::work, is_final: true },
    LogTable { name: "objects", rows: objects::objects, is_final: false },
    LogTable { name: "steps", rows: steps::steps, is_final: true },
    LogTable { name: "metrics", rows: steps::metrics, is_final: true },
    LogTable { name: "consumed", rows: rows::consumed, is_final: true },
    LogTable { name: "dropped", rows: rows::dropped, is_final: true },
    LogTable { name: "policies", rows: policies::policies, is_final: false },
    LogTable { name: "evals", rows: policies::evals, is_final: true },
    LogTable { name: "eval_metrics", rows: policies::eval_metrics, is_final: true },
    LogTable { name: "score_sets", rows: score_sets::score_sets, is_final: false },
];

/// The value of a ratio; none where nothing was counted.
fn value((numerator, denominator): &Ratio) -> Option<f64> {
    (*denominator != 0.0).then(|| numerator / denominator)
}

#[cfg(test)]
pub(crate) mod tests;
