//! `opd trace`: who worked on what and when, from the log alone, as a Chrome trace: for `chrome://tracing` and Perfetto.

use crate::{error::Result, output::show};
use record::{Commit, Event, Job};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use store::{Store, StoreOptions};

/// The stages whose overlap makes a run asynchronous.
const STAGES: [Job; 3] = [Job::Rollout, Job::Score, Job::Learn];

/// Prints the trace on standard output.
///
/// # Errors
/// No run in the store, or one that cannot be read.
pub async fn run(store: &str) -> Result<()> {
    let store = Store::open(store, StoreOptions::default()).await?;
    show(&trace(&store.history(None).await?))
}

/// One piece of work: its time in milliseconds since 1970, by its worker's clock.
struct Piece<'a> {
    commit: &'a Commit,
    from: f64,
    to: f64,
}

fn pieces(commits: &[Commit]) -> impl Iterator<Item = Piece<'_>> {
    commits.iter().filter(|commit| commit.work.busy_s > 0.0).map(|commit| {
        let from = commit.work.started as f64;
        Piece { commit, from, to: from + 1000.0 * commit.work.busy_s }
    })
}

/// The trace as JSON: a process for each job, a thread for each worker, a slice for each piece of work, and the staleness of
/// each step as a counter.
fn trace(commits: &[Commit]) -> String {
    let mut threads: BTreeMap<(Job, &str), usize> = BTreeMap::new();
    for commit in commits {
        let next = threads.len();
        threads.entry((commit.work.job, &commit.work.worker)).or_insert(next);
    }
    let began = pieces(commits).map(|piece| piece.from).fold(f64::INFINITY, f64::min);
    let names = threads.iter().flat_map(|((job, worker), thread)| {
        let meta = |what: &str, name: &str| json!({"ph": "M", "name": what, "pid": *job as u8, "tid": thread, "args": {"name": name}});
        [meta("process_name", job.as_str()), meta("thread_name", worker)]
    });
    let slices = pieces(commits).map(|Piece { commit, from, to }| {
        let work = &commit.work;
        let thread = threads[&(work.job, work.worker.as_str())];
        json!({
            "ph": "X", "cat": work.job.as_str(), "name": name(&commit.event), "pid": work.job as u8, "tid": thread,
            // Microseconds.
            "ts": 1000.0 * (from - began), "dur": 1000.0 * (to - from),
            "args": {"commit": commit.seq, "tokens": work.tokens, "waited_s": work.waited_s},
        })
    });
    let events: Vec<Value> = names.chain(slices).collect();
    json!({"traceEvents": events, "displayTimeUnit": "ms"}).to_string() + "\n"
}

fn name(event: &Event) -> String {
    match event {
        Event::Rollouts(rollouts) => format!("unit {} by {}", rollouts.of.unit, rollouts.policy_version),
        Event::Scores(scores) => format!("scores of {}", scores.batch),
        Event::Step(step) => format!("step {}", step.step),
        Event::Eval(eval) => format!("{} on {}", eval.policy_version, eval.eval_set),
        other => other.kind().into(),
    }
}

/// How many of the three stages are at work at once, on average, from the first piece of work to the last. `None` where none
/// took any time. Workers' clocks are taken to agree.
pub fn stages_busy(commits: &[Commit]) -> Option<f64> {
    let of = |job: Job| pieces(commits).filter(move |piece| piece.commit.work.job == job);
    let all = || pieces(commits).filter(|piece| STAGES.contains(&piece.commit.work.job));
    let began = all().map(|piece| piece.from).fold(f64::INFINITY, f64::min);
    let ended = all().map(|piece| piece.to).fold(f64::NEG_INFINITY, f64::max);
    let busy: f64 = STAGES.into_iter().map(|job| union(of(job).map(|piece| (piece.from, piece.to)).collect())).sum();
    (ended > began).then(|| busy / (ended - began))
}

/// The length of what intervals cover together.
fn union(mut intervals: Vec<(f64, f64)>) -> f64 {
    intervals.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut covered = 0.0;
    let mut until = f64::NEG_INFINITY;
    for (from, to) in intervals {
        covered += (to - from.max(until)).max(0.0);
        until = until.max(to);
    }
    covered
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Claims, FORMAT, Work};

    fn commit(seq: u64, job: Job, worker: &str, started: i64, busy_s: f64) -> Commit {
        let work =
            Work { worker: worker.into(), incarnation: String::new(), job, started, busy_s, waited_s: 0.0, tokens: 7 };
        Commit { format: FORMAT, seq, id: seq.to_string(), at: 0, work, event: Event::Claim(Claims::default()) }
    }

    #[test]
    fn stages_that_overlap_count_each_and_workers_of_one_stage_count_once() {
        let commits = [
            commit(0, Job::Run, "run", 0, 9.0),
            commit(1, Job::Rollout, "rollout-0", 10_000, 4.0),
            commit(2, Job::Rollout, "rollout-1", 11_000, 2.0),
            commit(3, Job::Score, "score-0", 12_000, 2.0),
            commit(4, Job::Learn, "learn-0", 18_000, 2.0),
        ];
        // 4 + 2 + 2 seconds of ten.
        assert_eq!(stages_busy(&commits), Some(0.8));
        assert_eq!(stages_busy(&commits[..1]), None);
        let trace: Value = serde_json::from_str(&trace(&commits[1..])).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let slices: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
        assert_eq!(slices.len(), 4);
        assert_eq!((slices[3]["ts"].as_f64(), slices[3]["dur"].as_f64()), (Some(8e6), Some(2e6)));
        let names = events.iter().filter(|event| event["ph"] == "M" && event["name"] == "thread_name");
        let names: Vec<&str> = names.filter_map(|event| event["args"]["name"].as_str()).collect();
        assert_eq!(names, ["rollout-0", "rollout-1", "score-0", "learn-0"]);
        assert_ne!(slices[0]["tid"], slices[1]["tid"]);
        assert_eq!(slices[0]["pid"], slices[1]["pid"]);
    }
}
