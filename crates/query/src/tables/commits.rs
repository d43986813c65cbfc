//! `commits`: one row is one entry of the log.

use crate::{columns::Columns, log::Log};
use arrow::{array::RecordBatch, error::ArrowError};
use record::{Commit, Event, Packing};

pub(super) fn commits(_: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let each = || commits.iter();
    // A commit was read from JSON, so it can be written as such.
    let json = || each().map(|commit| serde_json::to_string(commit).unwrap_or_default());
    columns
        .int("seq", "Its place in the log, from 0, without gaps.", each().map(|c| c.seq))
        .text("kind", "What happened: run, claim, rollouts, scores, step, eval ...", each().map(|c| c.event.kind()))
        .time("at", "When it was written, by the writer's clock.", each().map(|c| c.at))
        .text("worker", "Who made it; kept when the process is started again.", each().map(|c| &c.work.worker))
        .text("incarnation", "Unique to one life of the worker's process.", each().map(|c| &c.work.incarnation))
        .text(
            "job",
            "What the worker does: rollout, score, learn, eval, run, store.",
            each().map(|c| c.work.job.as_str()),
        )
        .time("started", "When the work began, by the worker's clock.", each().map(|c| c.work.started))
        .real("busy_s", "Seconds spent working.", each().map(|c| c.work.busy_s))
        .real("waited_s", "Seconds spent waiting before it, for input or for room.", each().map(|c| c.work.waited_s))
        .int("tokens", "Tokens sampled, scored or trained.", each().map(|c| c.work.tokens))
        .maybe_real(
            "packed_bytes",
            "Bytes of what a score commit packed; null where nothing was.",
            packed(commits, |p| p.bytes as f64),
        )
        .maybe_real("packed_entries", "Entries in them.", packed(commits, |p| p.entries as f64))
        .maybe_real(
            "codec_kl",
            "Mean KL of what was scored from what will be read, over positions with a top-k; nats.",
            packed(commits, |p| p.kl),
        )
        .text("json", "The whole commit as JSON.", json())
        .into_batch("One row is one commit: one entry of the log.")
}

fn packed(commits: &[Commit], of: impl Fn(&Packing) -> f64) -> impl Iterator<Item = Option<f64>> {
    commits.iter().map(move |commit| match &commit.event {
        Event::Scores(scores) => scores.packing.as_ref().map(&of),
        _ => None,
    })
}
