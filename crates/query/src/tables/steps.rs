//! `steps` and `metrics`: one row is one optimizer step, or one metric of it.

use super::value;
use crate::{
    columns::Columns,
    log::{Log, step_of},
};
use arrow::{array::RecordBatch, error::ArrowError};
use record::{Commit, Ratio, StepCommit};
use std::collections::BTreeMap;

/// Metrics that have a column of their own: (column, metric, what it is). The others are in `metrics`.
const MAIN_METRICS: [(&str, &str, &str); 16] = [
    ("loss", "loss", "The estimator's loss: the mean over trained tokens."),
    ("reverse_kl", "reverse_kl", "Mean unbiased estimate of KL(learner || teacher); nats a token."),
    ("forward_kl", "forward_kl", "Mean KL(teacher || learner) over the teacher's top-k and a tail; nats a token."),
    ("entropy", "entropy", "Mean entropy of the learner; nats."),
    ("teacher_entropy", "teacher_entropy", "Mean entropy of the teacher; nats."),
    ("teacher_mass", "teacher_mass", "Mean mass of the teacher inside its stored top-k."),
    ("is_ess", "is/ess", "Effective sample size of the importance ratios, as a fraction of the tokens."),
    ("is_mean", "is/mean", "Mean importance ratio; near 1 when learner and sampler agree."),
    ("is_clip_frac", "is/clip_frac", "Fraction of draws that a correction clipped."),
    ("is_clamped_frac", "is/clamped_frac", "Fraction of importance ratios whose log was clamped."),
    ("mismatch_kl", "mismatch_kl", "KL(sampler || learner) on rows of staleness 0; 0 but for rounding. Nats."),
    ("staleness_mean", "sample/staleness_mean", "Mean staleness of the rows, in policy versions."),
    ("staleness_max", "sample/staleness_max", "Greatest staleness among the rows, in policy versions."),
    ("mean_length", "completions/mean_length", "Mean length of the responses, in tokens."),
    ("grad_norm", "grad_norm", "Norm of the whole gradient before clipping."),
    ("lr", "lr", "Learning rate of the step."),
];

pub(super) fn steps(_: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let steps: Vec<(&Commit, &StepCommit)> = commits.iter().filter_map(|c| Some((c, step_of(c)?))).collect();
    let each = || steps.iter().map(|(_, step)| *step);
    let replayed = |s: &StepCommit| s.replayed.iter().map(|of| u64::from(of.of.rows.len())).sum();
    let dropped = |s: &StepCommit| s.dropped.iter().map(|d| u64::from(d.of.rows.len())).sum();
    let mut columns = columns
        .int("step", "The optimizer step, from 1.", each().map(|s| s.step))
        .int("policy_version", "The policy version it made: `step`.", each().map(|s| s.step))
        .int("seq", "The commit.", steps.iter().map(|(c, _)| c.seq))
        .int("rows", "Rollouts trained on.", each().map(StepCommit::rows))
        .int(
            "replayed_rows",
            "Those of them that another run recorded: all in a replay, some with `learn.replay`.",
            each().map(replayed),
        )
        .int("dropped_rows", "Rollouts that ended untrained with this step.", each().map(dropped))
        .text("weights_digest", "SHA-256 of the new weights.", each().map(|s| s.weights_digest.to_string()))
        .text("score_set", "The score set the rollouts were trained with.", each().map(|s| &s.score_set))
        .flag("published", "Whether the version's weights were stored.", each().map(|s| s.policy.is_some()));
    for (column, metric, text) in MAIN_METRICS {
        columns = columns.maybe_real(column, text, each().map(|s| s.metrics.get(metric).and_then(value)));
    }
    columns
        .int("trained_tokens", "Response tokens trained on.", steps.iter().map(|(c, _)| c.work.tokens))
        .into_batch("One row is one optimizer step; every metric of it is in `metrics`.")
}

pub(super) fn metrics(_: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let steps: Vec<_> = commits.iter().filter_map(step_of).collect();
    let keys = steps.iter().flat_map(|step| step.metrics.keys().map(|_| step.step));
    let columns = columns.int("step", "The optimizer step.", keys);
    ratios(columns, steps.iter().map(|step| &step.metrics))
        .into_batch("One row is one metric of one step, kept as a ratio so that it can be summed.")
}

/// Adds the columns of metrics by name.
pub(super) fn ratios<'a>(
    columns: Columns,
    metrics: impl Iterator<Item = &'a BTreeMap<String, Ratio>> + Clone,
) -> Columns {
    let each = || metrics.clone().flatten();
    columns
        .text("name", "The metric.", each().map(|(name, _)| name))
        .real("numerator", "What was summed.", each().map(|(_, ratio)| ratio.0))
        .real("denominator", "What it was summed over.", each().map(|(_, ratio)| ratio.1))
        .maybe_real("value", "Numerator over denominator; null over 0.", each().map(|(_, ratio)| value(ratio)))
}
