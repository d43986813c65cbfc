//! `work`: who did what, when, and at what cost; `commits` without the text of the commit.

use crate::{columns::Columns, log::Log};
use arrow::{array::RecordBatch, error::ArrowError};
use record::{Commit, Event};

pub(super) fn work(log: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let each = || commits.iter();
    columns
        .int("seq", "The commit that ended it.", each().map(|c| c.seq))
        .text("worker", "Who did it; kept when the process is started again.", each().map(|c| &c.work.worker))
        .text(
            "job",
            "What the worker does: rollout, score, learn, eval, run, store.",
            each().map(|c| c.work.job.as_str()),
        )
        .text("kind", "What came of it: rollouts, scores, step, eval, claim ...", each().map(|c| c.event.kind()))
        .maybe_int(
            "policy_version",
            "The policy version that sampled, whose rollouts were scored, that was made or evaluated; else null.",
            each().map(|c| policy_version(log, &c.event)),
        )
        .time("started", "When it began, by the worker's clock.", each().map(|c| c.work.started))
        .time("ended", "When it was committed, by the worker's clock.", each().map(|c| c.at))
        .real("busy_s", "Seconds spent working.", each().map(|c| c.work.busy_s))
        .real("waited_s", "Seconds spent waiting before it, for input or for room.", each().map(|c| c.work.waited_s))
        .int("tokens", "Tokens sampled, scored or trained.", each().map(|c| c.work.tokens))
        .into_batch("One row is one piece of work that a worker committed.")
}

fn policy_version(log: &Log, event: &Event) -> Option<u64> {
    match event {
        Event::Rollouts(rollouts) => Some(rollouts.policy_version.0),
        Event::Scores(scores) => Some(log.delivered(&scores.batch).policy_version.0),
        Event::Step(step) => Some(step.step),
        Event::Eval(eval) => Some(eval.policy_version.0),
        _ => None,
    }
}
