//! `opd status`: how a run stands, from its log alone.

use crate::{error::Result, output::show, recorded, trace::stages_busy};
use record::{Commit, EvalCommit, Event, Job, Packing, Parent, Ratio};
use std::{collections::BTreeMap, fmt::Write};
use store::{Snapshot, Store, StoreOptions, Versions};

/// Prints how the run in `store` stands.
///
/// # Errors
/// No run in the store, or one that cannot be read.
pub async fn run(store: &str) -> Result<()> {
    let store = Store::open(store, StoreOptions::default()).await?;
    let follower = store.follow().await?;
    show(&summary(&store, follower.snapshot()).await?)
}

/// The run as a short table.
///
/// # Errors
/// If the log or the list of objects cannot be read.
pub async fn summary(store: &Store, now: &Snapshot) -> Result<String> {
    let commits = store.history(Some(now.seq)).await?;
    let mut text = String::new();
    let state = if now.finished { "finished" } else { "not finished" };
    row(&mut text, "run", &format!("{} ({}), {state}, {} commits", now.run.pipeline, now.run.run_id, now.seq + 1));
    if let Some(parent) = &now.run.parent {
        let Parent { url, run_id, seq, order, condition, share } = parent;
        let chosen = condition.as_ref().map_or(String::new(), |condition| format!(", where {condition}"));
        let (name, part) = match share {
            Some(share) => ("mixes", format!("{:.1} % of {url}", 100.0 * share)),
            None => ("replays", url.clone()),
        };
        row(&mut text, name, &format!("{part} ({run_id}) up to commit {seq}, {} order{chosen}", order.as_str()));
    }
    accuracy(&mut text, &commits);
    steps(&mut text, now, &commits);
    rows(&mut text, now);
    scores(&mut text, now, &commits);
    jobs(&mut text, now, &commits);
    if let Some(busy) = stages_busy(&commits) {
        row(&mut text, "overlap", &format!("{busy:.2} of the 3 stages at work at once"));
    }
    let usage = store.usage().await?;
    let total: u64 = usage.values().map(|of| of.bytes).sum();
    let parts: Vec<String> = usage.iter().map(|(kind, of)| format!("{} {}", kind.as_str(), size(of.bytes))).collect();
    row(&mut text, "store", &format!("{} ({})", size(total), parts.join(", ")));
    Ok(text)
}

fn row(text: &mut String, name: &str, value: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{name:<12} {value}");
}

fn accuracy(text: &mut String, commits: &[Commit]) {
    let mut first_and_last: BTreeMap<&str, (&EvalCommit, &EvalCommit)> = BTreeMap::new();
    for commit in commits {
        let Event::Eval(eval) = &commit.event else { continue };
        let (first, last) = first_and_last.entry(&eval.eval_set).or_insert((eval, eval));
        if eval.policy_version < first.policy_version {
            *first = eval;
        }
        if eval.policy_version > last.policy_version {
            *last = eval;
        }
    }
    for (set, (first, last)) in first_and_last {
        for eval in [first, last] {
            let name = if eval.accuracy.1 > 0.0 { "accuracy" } else { "eval" };
            row(text, name, &format!("{set} {}: {}", eval.policy_version, outcome(eval)));
            if first.policy_version == last.policy_version {
                break;
            }
        }
    }
}

/// How an evaluation came out: what was measured of accuracy and reverse KL.
pub fn outcome(eval: &EvalCommit) -> String {
    let measured = |(sum, count): &Ratio| (*count > 0.0).then(|| sum / count);
    let percent = |ratio: &Ratio, name: &str| measured(ratio).map(|share| format!("{:.1} % {name}", 100.0 * share));
    let reverse_kl = eval.metrics.get("reverse_kl").and_then(measured);
    let parts = [
        percent(&eval.accuracy, "greedy"),
        percent(&eval.sampled_accuracy, "sampled"),
        reverse_kl.map(|nats| format!("reverse KL {nats:.3}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "only lengths were measured".into() } else { parts.join(", ") }
}

fn steps(text: &mut String, now: &Snapshot, commits: &[Commit]) {
    let steps = recorded::steps(commits);
    let wall = commits.last().map_or(0, |last| last.at) - commits.first().map_or(0, |first| first.at);
    row(text, "steps", &format!("{} in {:.0} s", now.version.0, wall as f64 / 1000.0));
    for name in ["reverse_kl", "forward_kl"] {
        let value =
            |step: &record::StepCommit| step.metrics.get(name).filter(|(_, of)| *of > 0.0).map(|(sum, of)| sum / of);
        if let (Some(first), Some(last)) = (steps.first().and_then(|s| value(s)), steps.last().and_then(|s| value(s))) {
            row(text, name, &format!("{first:.3} at step 1, {last:.3} at step {}", now.version.0));
        }
    }
}

fn rows(text: &mut String, now: &Snapshot) {
    let ended = &now.ended;
    let pending: u32 = now.pending().map(|(_, batch)| batch.pending.len()).sum();
    let mut line = format!("{} consumed", ended.consumed);
    if ended.foreign > 0 {
        line += &format!(" ({} of them recorded by another run)", ended.foreign);
    }
    for (reason, count) in &ended.dropped {
        line += &format!(", {count} dropped ({})", reason.as_str());
    }
    row(text, "rollouts", &format!("{line}, {pending} pending"));
    if let Some(mean) = ended.staleness_mean() {
        row(text, "staleness", &format!("mean {mean:.2}, max {}", ended.staleness_max));
    }
}

/// What each score set takes, all of its columns, and what packing its top-k and draws gave.
fn scores(text: &mut String, now: &Snapshot, commits: &[Commit]) {
    for name in now.run.score_sets.keys().chain(now.score_sets.keys()) {
        let found = recorded::scored(commits, name, &Versions::All);
        let (bytes, tokens) =
            found.iter().fold((0, 0), |(bytes, tokens), of| (bytes + of.selected.scores.bytes, tokens + of.tokens));
        if tokens == 0 {
            continue;
        }
        let codec = now.score_set(name).map_or("", |set| set.codec.as_str());
        let mut line = format!("{name} ({codec}): {:.1} bytes a token", bytes as f64 / tokens as f64);
        let of_set = commits.iter().filter_map(|commit| match &commit.event {
            Event::Scores(scores) if scores.score_set == *name => scores.packing,
            _ => None,
        });
        let Packing { bytes, entries, positions, kl } = of_set.fold(Packing::default(), |sum, one| sum.and(&one));
        if entries > 0 {
            line += &format!(", {:.2} bytes an entry", bytes as f64 / entries as f64);
        }
        if positions > 0 {
            line += &format!(", KL {kl:.1e} nats");
        }
        row(text, "scores", &line);
    }
}

fn jobs(text: &mut String, now: &Snapshot, commits: &[Commit]) {
    for job in [Job::Rollout, Job::Score, Job::Learn, Job::Eval] {
        let workers: Vec<_> = now.workers.values().filter(|worker| worker.job == job).collect();
        let of_job = || commits.iter().filter(|commit| commit.work.job == job);
        let (Some(first), Some(last)) = (of_job().next(), of_job().next_back()) else { continue };
        let tokens: u64 = workers.iter().map(|worker| worker.tokens).sum();
        let busy: f64 = workers.iter().map(|worker| worker.busy_s).sum();
        let wall = (last.at - first.work.started).max(1) as f64 / 1000.0;
        let value = format!(
            "{:.0} tok/s over all, {:.0} while busy; busy {:.0} % of {wall:.0} s; {tokens} tokens, {} worker{}",
            tokens as f64 / wall,
            tokens as f64 / busy.max(1e-9),
            100.0 * busy / (wall * workers.len().max(1) as f64),
            workers.len(),
            if workers.len() == 1 { "" } else { "s" }
        );
        row(text, job.as_str(), &value);
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::PolicyVersion;

    #[test]
    fn an_outcome_tells_what_was_measured() {
        let eval = |accuracy, reverse_kl: Option<Ratio>| EvalCommit {
            eval_set: "heldout".into(),
            policy_version: PolicyVersion(0),
            accuracy,
            sampled_accuracy: accuracy,
            metrics: reverse_kl.into_iter().map(|ratio| ("reverse_kl".to_string(), ratio)).collect(),
        };
        let kl = Some((80.3, 100.0));
        assert_eq!(outcome(&eval((1.0, 4.0), kl)), "25.0 % greedy, 25.0 % sampled, reverse KL 0.803");
        assert_eq!(outcome(&eval((1.0, 4.0), None)), "25.0 % greedy, 25.0 % sampled");
        assert_eq!(outcome(&eval((0.0, 0.0), kl)), "reverse KL 0.803");
        assert_eq!(outcome(&eval((0.0, 0.0), None)), "only lengths were measured");
    }
}
