//! `opd run`: all jobs of a pipeline as child processes. It speaks to none of them: what it shows, it reads from the log.

use crate::{
    cli::{PipelineArgs, begin},
    config::Pipeline,
    context::open_store,
    error::{CommandError, EXIT_AGAIN, EXIT_ERROR, Result},
    identity,
    output::{say, show},
    patience, plan, preflight,
    progress::Lines,
    recorded, replay, status,
    stop::{self, Stop},
};
use record::{Event, Job};
use std::{
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};
use store::{Follower, Snapshot, Versions};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// How often the log is looked at and the lines are drawn.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the pipeline to its end; with `collect`, only sampling and scoring, until the pace lets nothing more come.
///
/// # Errors
/// What preflight finds, or a job that cannot go on.
pub async fn run(args: PipelineArgs, dry_run: bool, collect: bool) -> Result<()> {
    let pipeline = Pipeline::load(&args.files, &args.sets)?;
    preflight::check_settings(&pipeline)?;
    let store = open_store(&pipeline).await?;
    if dry_run {
        replay::check_all(&pipeline, &store).await?;
        return show(&pipeline.to_toml());
    }
    let stop = Stop::listen();
    let incarnation = store::unique_id();
    let mut follower = begin(&pipeline, &incarnation).await?;
    take_over(&pipeline, &mut follower, &incarnation).await?;
    let counts = counts(&pipeline, collect);
    let lines = Lines::new(counts.iter().map(|(job, _)| *job));
    lines.say(&format!("run `{}` in {}", pipeline.name, pipeline.store.url));
    let mut jobs = start_all(&pipeline, &counts, &args, &lines, follower.snapshot())?;
    let is_collected = |now: &Snapshot| collect && plan::is_collected(now, &pipeline.score.set, pipeline.pace());
    let (mut stopping, mut collected) = (false, false);
    let outcome = loop {
        tokio::time::sleep(LOOK).await;
        // In this order: what a process committed before its end is then known.
        if let Err(error) = jobs.iter_mut().try_for_each(Supervised::notice_end) {
            break Err(error);
        }
        let read = tokio::select! {
            read = patience::refresh(&mut follower, pipeline.patience(), &stop, |line| lines.say(line)) => read,
            // The wish to end is heard whatever the store does.
            () = stop.asked(), if !stopping => Ok(()),
        };
        if let Err(error) = read {
            break Err(error.into());
        }
        if let Err(error) = fence(follower.snapshot(), &incarnation) {
            break Err(error);
        }
        lines.draw(follower.snapshot(), pipeline.learn.steps);
        if stop.is_asked() && !stopping {
            stopping = true;
            lines.say("stopping: each job finishes what it has in hand; Ctrl-C again leaves at once");
            jobs.iter_mut().for_each(Supervised::ask_to_stop);
        }
        if is_collected(follower.snapshot()) && !collected {
            collected = true;
            jobs.iter_mut().for_each(Supervised::ask_to_stop);
        }
        match look_after(&mut jobs, follower.snapshot(), stopping || collected) {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(error),
        }
    };
    if outcome.is_err() {
        end_all(&mut jobs).await;
    }
    lines.clear();
    outcome?;
    follower.refresh().await?;
    if stopping && !collected && !follower.snapshot().finished {
        say("stopped; the same command goes on from here");
    }
    show(&status::summary(follower.store(), follower.snapshot()).await?)?;
    if collected { say_collected(&pipeline, &follower).await } else { Ok(()) }
}

/// Tells in the log that this is the store's `opd run` now, where another one began it.
async fn take_over(pipeline: &Pipeline, follower: &mut Follower, incarnation: &str) -> Result<()> {
    let settings = serde_json::to_value(pipeline).map_err(|error| CommandError::new(error.to_string()))?;
    let is_another = |now: &Snapshot| !now.finished && fence(now, incarnation).is_err();
    let event = |now: &Snapshot| is_another(now).then(|| Event::Config { settings: settings.clone() });
    follower.append(identity::work(incarnation), event).await?;
    Ok(())
}

/// The latest `opd run` is the one. An earlier one cannot be known to be alive, as no clocks need to agree; it may be a process
/// that hangs on another machine. So it is not the later one that is refused, but the earlier that ends when it sees the other.
fn fence(now: &Snapshot, incarnation: &str) -> Result<()> {
    let name = Job::Run.as_str();
    match now.workers.get(name) {
        Some(other) if other.incarnation != incarnation && !now.finished => {
            let what = "another `opd run` was started on this store and goes on with it; this one ends";
            Err(CommandError::new(what).hint("what was committed counts, whoever committed it; nothing is done twice"))
        }
        _ => Ok(()),
    }
}

/// Says what a collected store is good for.
async fn say_collected(pipeline: &Pipeline, follower: &Follower) -> Result<()> {
    let (commits, set) = (follower.store().history(Some(follower.snapshot().seq)).await?, &pipeline.score.set);
    let recorded = recorded::scored(&commits, set, &Versions::All);
    let (rows, tokens): (u64, u64) = recorded
        .iter()
        .map(|batch| (u64::from(batch.selected.rows.len()), batch.tokens))
        .fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    show(&format!("{:<12} {rows} rollouts with scores in `{set}`, {tokens} response tokens\n", "collected"))?;
    say(&format!(
        "hint: train on them with `opd sft` and scores = {{ store = \"{}\", set = \"{set}\" }}, or go on with `opd run`",
        pipeline.store.url
    ));
    Ok(())
}

/// A job's process, and how to start it again.
struct Supervised {
    job: Job,
    worker: String,
    args: PipelineArgs,
    lines: Lines,
    /// Lives without a commit, in a row, that are put up with.
    restarts: u32,
    child: Child,
    /// How its process ended, if it did.
    ended: Option<ExitStatus>,
    /// Lives that ended without a commit, in a row.
    barren: u32,
    /// The worker's commits when this life began.
    commits: u64,
    /// When the next life begins, while there is none.
    next_life: Option<Instant>,
    done: bool,
}

impl Supervised {
    /// Starts a job's process; what it says on stderr appears above the lines.
    fn start(job: Job, worker: &str, args: &PipelineArgs, lines: &Lines) -> Result<Child> {
        let fault = |error: std::io::Error| CommandError::new(format!("cannot start `opd {}`: {error}", job.as_str()));
        let mut command = Command::new(std::env::current_exe().map_err(fault)?);
        command.arg(job.as_str()).args(&args.files).args(["--worker", worker]);
        command.args(args.sets.iter().flat_map(|set| ["--set", set]));
        // Threads that spin while they wait would take the core from the other jobs.
        command.env("OMP_WAIT_POLICY", "passive").env(stop::SUPERVISED, "1");
        // Large tensors come and go each step: memory that is kept costs no page faults (10 to 15 % of sampling). It is kept in
        // few arenas, since the steps of a job wander between threads, each of which would get one of its own.
        for (key, number) in [
            ("MALLOC_MMAP_THRESHOLD_", 1 << 30),
            ("MALLOC_TRIM_THRESHOLD_", 1_u64 << 32),
            ("MALLOC_TOP_PAD_", 1 << 26),
            ("MALLOC_ARENA_MAX", 2),
        ] {
            command.env(key, number.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(fault)?;
        if let Some(stderr) = child.stderr.take() {
            let (lines, worker) = (lines.clone(), worker.to_string());
            tokio::spawn(async move {
                let mut text = BufReader::new(stderr).split(b'\n');
                while let Ok(Some(line)) = text.next_segment().await {
                    lines.say(&format!("{worker}: {}", String::from_utf8_lossy(&line)));
                }
            });
        }
        Ok(child)
    }

    fn begin_life(&mut self) -> Result<()> {
        self.next_life = None;
        self.child = Self::start(self.job, &self.worker, &self.args, &self.lines)?;
        Ok(())
    }

    fn notice_end(&mut self) -> Result<()> {
        let fault = |error: std::io::Error| CommandError::new(format!("{}: {error}", self.worker));
        self.ended = self.child.try_wait().map_err(fault)?;
        Ok(())
    }

    /// Closes the job's standard input, which it takes as a wish that it end.
    fn ask_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }
}

/// How many processes of which job.
fn counts(pipeline: &Pipeline, collect: bool) -> Vec<(Job, u32)> {
    let learn = (!collect).then_some((Job::Learn, 1));
    let eval = (!collect && pipeline.eval.is_some()).then_some((Job::Eval, 1));
    let sampling = [(Job::Rollout, pipeline.rollout.workers), (Job::Score, pipeline.score.workers)];
    learn.into_iter().chain(sampling).chain(eval).collect()
}

fn start_all(
    pipeline: &Pipeline,
    counts: &[(Job, u32)],
    args: &PipelineArgs,
    lines: &Lines,
    now: &Snapshot,
) -> Result<Vec<Supervised>> {
    let workers = counts.iter().flat_map(|(job, count)| (0..*count).map(move |i| (*job, i)));
    let start = |(job, i): (Job, u32)| {
        let worker = format!("{}-{i}", job.as_str());
        let child = Supervised::start(job, &worker, args, lines)?;
        let (args, lines, restarts) = (args.clone(), lines.clone(), pipeline.run.restarts);
        let commits = commits_of(&worker, now);
        Ok(Supervised {
            job,
            worker,
            args,
            lines,
            restarts,
            child,
            ended: None,
            barren: 0,
            commits,
            next_life: None,
            done: false,
        })
    };
    workers.map(start).collect()
}

/// The commits that a worker has made, over all its lives.
fn commits_of(worker: &str, now: &Snapshot) -> u64 {
    now.workers.get(worker).map_or(0, |known| known.commits)
}

/// Starts again what ended before the run did. True when every job is done.
fn look_after(jobs: &mut [Supervised], now: &Snapshot, stopping: bool) -> Result<bool> {
    for supervised in jobs.iter_mut().filter(|supervised| !supervised.done) {
        let worker = &supervised.worker;
        if let Some(next_life) = supervised.next_life {
            supervised.done = stopping;
            if !stopping && next_life <= Instant::now() {
                supervised.begin_life()?;
            }
            continue;
        }
        let Some(status) = supervised.ended.take() else { continue };
        if status.code() == Some(EXIT_ERROR.into()) {
            let hint = "its message is above; the run can be started again with the same command";
            return Err(CommandError::new(format!("{worker} cannot go on")).hint(hint));
        }
        if stopping || (status.success() && now.finished) {
            supervised.done = true;
            continue;
        }
        let commits = commits_of(worker, now);
        supervised.barren = if commits > supervised.commits { 0 } else { supervised.barren + 1 };
        supervised.commits = commits;
        if supervised.barren > supervised.restarts {
            let what = format!(
                "{worker} died {} times in a row without a commit, at last with {}",
                supervised.barren,
                cause(status)
            );
            return Err(CommandError::new(what).hint("run.restarts is how often it is tried"));
        }
        let pause = pause_before(supervised.barren, status);
        let after = if pause.is_zero() { String::new() } else { format!(" in {pause:.2?}") };
        supervised.lines.say(&format!("{worker} died ({}); started again{after}", cause(status)));
        if pause.is_zero() {
            supervised.begin_life()?;
        } else {
            supervised.next_life = Some(Instant::now() + pause);
        }
    }
    Ok(jobs.iter().all(|supervised| supervised.done))
}

/// How long a job waits for its next life after so many in a row without a commit: not after a life with one, then 0.25 s, 0.5 s
/// and so on up to 4 s, or, where the cause has to pass first, 5 s, 10 s, 20 s, 30 s.
fn pause_before(barren: u32, status: ExitStatus) -> Duration {
    let (first, most) = if status.code() == Some(EXIT_AGAIN.into()) { (5_000, 30_000) } else { (250, 4_000) };
    match barren {
        0 => Duration::ZERO,
        barren => Duration::from_millis((first << (barren - 1).min(5)).min(most)),
    }
}

fn cause(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) if code == i32::from(EXIT_AGAIN) => "what its message says may pass".into(),
        (None, Some(0)) => "asked to end by another than `opd run`".into(),
        (None, Some(code)) => format!("exit status {code}"),
        (None, None) => "unknown cause".into(),
    }
}

/// Lets every job finish what it has in hand, but not for ever.
async fn end_all(jobs: &mut [Supervised]) {
    jobs.iter_mut().for_each(Supervised::ask_to_stop);
    let patience = Instant::now() + Duration::from_secs(30);
    for supervised in jobs.iter_mut().filter(|supervised| !supervised.done) {
        let left = patience.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, supervised.child.wait()).await.is_err() {
            let _ = supervised.child.kill().await;
        }
    }
}
