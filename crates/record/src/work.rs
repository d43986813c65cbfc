//! Who made a commit, and at what cost.

use serde::{Deserialize, Serialize};

/// The jobs of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is a command")]
pub enum Job {
    Rollout,
    Score,
    Learn,
    Eval,
    Run,
    /// Looking after the store: pins, retention, score sets made from others.
    Store,
}

impl Job {
    /// The job's command.
    pub fn as_str(self) -> &'static str {
        match self {
            Job::Rollout => "rollout",
            Job::Score => "score",
            Job::Learn => "learn",
            Job::Eval => "eval",
            Job::Run => "run",
            Job::Store => "store",
        }
    }
}

/// Who made a commit, and what it cost: throughput, overlap and traces are read from this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The worker's name, kept when the process is started again: `rollout-0`.
    pub worker: String,
    /// Unique to one life of the worker's process.
    pub incarnation: String,
    /// What the worker does.
    pub job: Job,
    /// When the work began; milliseconds since 1970 by the worker's clock. For people: nothing depends on clocks.
    pub started: i64,
    /// Seconds spent working.
    pub busy_s: f64,
    /// Seconds spent waiting before it, for input or for room ahead of the learner.
    pub waited_s: f64,
    /// Tokens sampled, scored or trained.
    pub tokens: u64,
}
