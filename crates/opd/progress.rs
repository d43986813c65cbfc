//! Live lines on a terminal; elsewhere a plain line now and then. All on stderr.

use crate::{output::say, status::outcome};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use record::{EvalCommit, Job};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use store::{Batch, Snapshot};

/// How often a line is printed where it cannot be redrawn.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// A line for each of several jobs, and messages above them. A clone is the same lines.
#[derive(Clone)]
pub struct Lines {
    all: MultiProgress,
    bars: BTreeMap<Job, ProgressBar>,
    plain: Option<Arc<Mutex<Instant>>>,
}

impl Lines {
    /// Lines for the jobs of a run.
    pub fn new(jobs: impl Iterator<Item = Job>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let all = MultiProgress::with_draw_target(target);
        // In the order in which rows pass through them.
        let jobs: BTreeSet<Job> = jobs.collect();
        let bar = |job: Job| {
            let bar = all.add(ProgressBar::new_spinner().with_style(style()).with_prefix(job.as_str()));
            bar.set_message("starting");
            (job, bar)
        };
        let bars = jobs.into_iter().map(bar).collect();
        Self { all, bars, plain: (!terminal).then(|| Arc::new(Mutex::new(Instant::now()))) }
    }

    /// Shows how the run stands.
    pub fn draw(&self, now: &Snapshot, steps: u64) {
        for (job, bar) in &self.bars {
            bar.set_message(describe(*job, now, steps));
            bar.tick();
        }
        let Some(printed) = &self.plain else { return };
        // Nobody panics while holding it; and if so, the time is still a time.
        let mut printed = printed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if printed.elapsed() >= PLAIN_EVERY {
            *printed = Instant::now();
            for job in self.bars.keys() {
                say(&format!("{:8} {}", job.as_str(), describe(*job, now, steps)));
            }
        }
    }

    /// Prints a line that stays.
    pub fn say(&self, text: &str) {
        if self.plain.is_some() {
            say(text);
        } else {
            self.all.suspend(|| say(text));
        }
    }

    /// Removes the live lines.
    pub fn clear(&self) {
        self.bars.values().for_each(ProgressBar::finish_and_clear);
    }
}

/// One line about one job, from what the log says of it.
fn describe(job: Job, now: &Snapshot, steps: u64) -> String {
    let (mut commits, mut tokens, mut busy, mut waited) = (0, 0, 0.0, 0.0);
    for worker in now.workers.values().filter(|worker| worker.job == job) {
        commits += worker.commits;
        tokens += worker.tokens;
        busy += worker.busy_s;
        waited += worker.waited_s;
    }
    let speed = format!(
        "{:.0} tok/s, {:.0} % busy",
        tokens as f64 / f64::max(busy, 1e-9),
        100.0 * busy / f64::max(busy + waited, 1e-9)
    );
    let metric = |name: &str| {
        let value = now.last_metrics.get(name).filter(|(_, count)| *count > 0.0).map(|(sum, count)| sum / count);
        value.map_or("-".to_string(), |value| format!("{value:.3}"))
    };
    match job {
        Job::Learn => format!(
            "step {}/{steps}  reverse_kl {}  forward_kl {}  staleness {} (at most {})  {speed}",
            now.version.0,
            metric("reverse_kl"),
            metric("forward_kl"),
            metric("sample/staleness_mean"),
            now.ended.staleness_max
        ),
        Job::Eval => {
            let describe =
                |(set, eval): (&String, &EvalCommit)| format!("{set} {}: {}", eval.policy_version, outcome(eval));
            let newest = now.newest_eval.iter().map(describe);
            let newest: Vec<String> = newest.collect();
            if newest.is_empty() { "nothing evaluated yet".into() } else { newest.join("; ") }
        }
        _ if commits == 0 => "starting".into(),
        Job::Rollout => {
            format!("{} rows ahead of the learner  policy {}  {speed}", now.rows_ahead(), now.newest_policy().version)
        }
        Job::Score | Job::Run | Job::Store => {
            let is_scored = |batch: &Batch| now.run.score_sets.keys().any(|set| batch.scores.contains_key(set));
            let unscored = now.pending().filter(|(_, batch)| !is_scored(batch)).count();
            format!("{unscored} batches to score  {speed}")
        }
    }
}

/// Progress of one piece of work.
pub struct Line {
    name: &'static str,
    bar: Option<ProgressBar>,
    printed: std::cell::Cell<Instant>,
}

impl Line {
    /// A line that begins with `name`.
    pub fn new(name: &'static str) -> Self {
        let bar = || ProgressBar::new_spinner().with_style(style()).with_prefix(name);
        let bar = std::io::stderr().is_terminal().then(bar);
        Self { name, bar, printed: std::cell::Cell::new(Instant::now()) }
    }

    /// Shows the latest state.
    pub fn show(&self, state: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(state.to_string());
                bar.tick();
            }
            None if self.printed.get().elapsed() >= PLAIN_EVERY => {
                self.printed.set(Instant::now());
                say(&format!("{}: {state}", self.name));
            }
            None => {}
        }
    }

    /// Prints a line that stays.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Does something that writes to the terminal, with the live line out of the way.
    pub fn suspend(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Removes the live line.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A name and what it says of itself, cut to the terminal's width.
fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:8.bold} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
