//! `consumed` and `dropped`: one row is one rollout and how it ended.

use crate::{
    columns::Columns,
    log::{Log, step_of},
};
use arrow::{array::RecordBatch, error::ArrowError};
use record::{BatchRows, Commit, Dropped, Event, PolicyVersion, Replayed, rollout_id};

/// One rollout, as a row of a batch.
struct Row<'a> {
    batch: &'a str,
    row: u32,
    unit: u64,
    policy_version: u64,
    /// The run that delivered it, if not this one.
    origin: Option<&'a str>,
    /// How often that run's rows had all been taken before.
    epoch: Option<u64>,
    /// Whether its version is one of the learner's, or continued by them.
    has_staleness: bool,
}

impl<'a> Row<'a> {
    fn each(log: &'a Log, of: &'a BatchRows) -> impl Iterator<Item = Row<'a>> {
        let delivered = log.delivered(&of.batch);
        let (unit, policy_version) = (delivered.of.unit, delivered.policy_version.0);
        of.rows.iter().map(move |row| Row {
            batch: &of.batch,
            row,
            unit,
            policy_version,
            origin: None,
            epoch: None,
            has_staleness: true,
        })
    }

    /// What the log itself says of a parent's rows: it needs no parent for that.
    fn each_replayed(log: &'a Log, of: &'a Replayed) -> impl Iterator<Item = Row<'a>> {
        let (batch, unit, policy_version) = (of.of.batch.as_str(), of.unit, of.policy_version.0);
        let parent = log.run().parent.as_ref();
        let origin = parent.map(|parent| parent.run_id.as_str());
        let (epoch, has_staleness) = (Some(of.epoch), log.parents_versions_count());
        of.of.rows.iter().map(move |row| Row { batch, row, unit, policy_version, origin, epoch, has_staleness })
    }
}

/// Adds the columns that say which rollout a row is.
fn identity<'a>(columns: Columns, rows: impl Iterator<Item = &'a Row<'a>> + Clone) -> Columns {
    let each = || rows.clone();
    columns
        .text("rollout_id", "The rollout.", each().map(|r| rollout_id(r.batch, r.row as usize)))
        .text("batch", "The batch it is stored in.", each().map(|r| r.batch))
        .int("row", "Its row in the batch, from 0.", each().map(|r| r.row.into()))
        .int("unit", "The slice of the prompt order it was sampled for.", each().map(|r| r.unit))
        .int("policy_version", "The policy version that sampled it.", each().map(|r| r.policy_version))
}

pub(super) fn consumed(log: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<(u64, Row)> = commits
        .iter()
        .filter_map(step_of)
        .flat_map(|step| {
            let own = step.consumed.iter().flat_map(|of| Row::each(log, of));
            let replayed = step.replayed.iter().flat_map(|of| Row::each_replayed(log, of));
            own.chain(replayed).map(|row| (step.step, row))
        })
        .collect();
    // The learner held version `step - 1` when it took the row up.
    let staleness = rows.iter().map(|(step, row)| {
        let learner = Some(PolicyVersion(step - 1)).filter(|_| row.has_staleness);
        Some(learner?.checked_staleness_of(PolicyVersion(row.policy_version))? as i64)
    });
    let columns = columns.int("step", "The optimizer step that trained on it.", rows.iter().map(|(s, _)| *s));
    identity(columns, rows.iter().map(|(_, row)| row))
        .maybe_signed(
            "staleness",
            "Policy versions the learner was ahead of the rollout: step - 1 - policy_version. Null for a row that `learn.replay` mixed \
             in: its versions are another run's; and where a replay took a row before its version came.",
            staleness,
        )
        .maybe_text(
            "origin",
            "The run whose rollout it is, where the step trained on a parent's; null for this run's own.",
            rows.iter().map(|(_, row)| row.origin),
        )
        .maybe_int(
            "epoch",
            "How often all the parent's rows had been taken before; null for this run's own.",
            rows.iter().map(|(_, row)| row.epoch),
        )
        .into_batch("One row is one rollout that one step trained on, in the order of training.")
}

pub(super) fn dropped(log: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<(u64, &Dropped, Row)> = commits
        .iter()
        .flat_map(|commit| dropped_by(&commit.event).iter().map(|dropped| (commit.seq, dropped)))
        .flat_map(|(seq, dropped)| Row::each(log, &dropped.of).map(move |row| (seq, dropped, row)))
        .collect();
    let columns = columns.int("seq", "The commit that dropped it.", rows.iter().map(|(seq, ..)| *seq));
    let reason = "Why: stale, corrupt (its object is damaged), selection (`learn.where` rejects it), finished (the last step was made \
        without it).";
    identity(columns, rows.iter().map(|(.., row)| row))
        .text("reason", reason, rows.iter().map(|(_, dropped, _)| dropped.reason.as_str()))
        .flag("reissued", "Whether its prompt was to be sampled again.", rows.iter().map(|(_, d, _)| d.reissue))
        .into_batch("One row is one rollout that ended without being trained on.")
}

fn dropped_by(event: &Event) -> &[Dropped] {
    match event {
        Event::Step(step) => &step.dropped,
        Event::Drop { dropped } | Event::Finish { dropped } => dropped,
        _ => &[],
    }
}
