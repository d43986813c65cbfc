//! `policies`, `evals` and `eval_metrics`: what was published, and how well it did.

use super::{steps::ratios, value};
use crate::{columns::Columns, log::Log};
use arrow::{array::RecordBatch, error::ArrowError};
use record::{Commit, EvalCommit, Event, Policy};

pub(super) fn policies(log: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let policies: Vec<(u64, &Policy)> = commits.iter().filter_map(|c| Some((c.seq, published(&c.event)?))).collect();
    let each = || policies.iter().map(|(_, policy)| *policy);
    columns
        .int("policy_version", "Optimizer steps that made it; 0 is the student as given.", each().map(|p| p.version.0))
        .int("seq", "The commit that published it.", policies.iter().map(|(seq, _)| *seq))
        .text("key", "Where its weights lie in the store.", each().map(|p| &p.weights.key))
        .int("bytes", "Their length.", each().map(|p| p.weights.bytes))
        .text("digest", "Their SHA-256.", each().map(|p| p.weights.digest.to_string()))
        .flag(
            "retired",
            "Whether the weights are given up, by any commit up to now.",
            each().map(|p| log.is_retired(p.version)),
        )
        .into_batch("One row is one policy version whose weights were stored.")
}

fn published(event: &Event) -> Option<&Policy> {
    match event {
        Event::Run(run) => Some(&run.policy),
        Event::Step(step) => step.policy.as_ref(),
        _ => None,
    }
}

pub(super) fn evals(log: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let evals = counted(log, commits);
    let each = || evals.iter().map(|(_, eval)| *eval);
    let metric = |name: &'static str| each().map(move |e| e.metrics.get(name).and_then(value));
    columns
        .int("seq", "The commit.", evals.iter().map(|(seq, _)| *seq))
        .text("eval_set", "The held-out prompt set.", each().map(|e| &e.eval_set))
        .int("policy_version", "The policy version evaluated.", each().map(|e| e.policy_version.0))
        .maybe_real(
            "accuracy",
            "Fraction of problems solved greedily; null where there are no answers.",
            each().map(|e| value(&e.accuracy)),
        )
        .maybe_real(
            "sampled_accuracy",
            "Fraction of sampled answers that are right (Avg@k), at the rollouts' temperature.",
            each().map(|e| value(&e.sampled_accuracy)),
        )
        .int("problems", "Problems with answers that were tried.", each().map(|e| e.accuracy.1 as u64))
        .maybe_real(
            "mean_length",
            "Mean length of the sampled responses, in tokens.",
            metric("completions/mean_length"),
        )
        .maybe_real("clipped_ratio", "Fraction of them cut at the longest.", metric("completions/clipped_ratio"))
        .maybe_real(
            "reverse_kl",
            "KL(student || teacher) over the full vocabulary, in nats a token of the sampled responses.",
            metric("reverse_kl"),
        )
        .into_batch("One row is one evaluation of one policy version; every metric of it is in `eval_metrics`.")
}

pub(super) fn eval_metrics(log: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let evals = counted(log, commits);
    let keys = || evals.iter().flat_map(|(_, eval)| eval.metrics.keys().map(move |_| *eval));
    let columns = columns.text("eval_set", "The held-out prompt set.", keys().map(|e| &e.eval_set)).int(
        "policy_version",
        "The policy version evaluated.",
        keys().map(|e| e.policy_version.0),
    );
    ratios(columns, evals.iter().map(|(_, eval)| &eval.metrics))
        .into_batch("One row is one metric of one evaluation, kept as a ratio so that it can be summed.")
}

fn counted<'a>(log: &Log, commits: &'a [Commit]) -> Vec<(u64, &'a EvalCommit)> {
    let evals = commits.iter().filter_map(|commit| match &commit.event {
        Event::Eval(eval) => Some((commit.seq, eval)),
        _ => None,
    });
    evals.filter(|(seq, _)| log.counts(*seq)).collect()
}
