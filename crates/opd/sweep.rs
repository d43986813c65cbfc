//! `opd sweep`: a grid of runs, some at a time, and what came of them as one table.
//!
//! A run of a sweep is an ordinary run in a store of its own; the sweep keeps nothing beside them, so that what it shows is read
//! from their logs, and a sweep that was stopped goes on with the runs that are not finished.

mod finished;
mod grid;
mod plot;
mod process;
mod results;

use crate::{
    error::{CommandError, EXIT_FINDING, Result},
    output::say,
    sql::{self, Format},
    stop::Stop,
    svg,
};
use finished::is_finished;
use grid::Member;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use process::Doing;
use results::Measured;
use std::{
    collections::{BTreeSet, VecDeque},
    io::IsTerminal,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};
use store::{Follower, Store, StoreOptions};
use tokio::{process::Child, task::JoinHandle};

pub use grid::{Plot, Sweep};
pub use results::MEASURED;

/// How often the logs are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What is asked of `opd sweep`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is varied, and with which seeds: a TOML file.
    #[arg(value_name = "SWEEP.toml")]
    sweep: PathBuf,
    /// List the runs with their settings, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Make no more runs; show the results of those that are finished.
    #[arg(long, conflicts_with = "dry_run")]
    results: bool,
    /// Ask the table `results` (one row a run) this instead of each arm's means.
    #[arg(long, value_name = "QUERY")]
    sql: Option<String>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Draw the results, with error bars over seeds, into this SVG.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Makes the runs that are not finished, then prints what came of all.
///
/// # Errors
/// A sweep that cannot be read, a finished run that had other settings, runs that failed (the others are made all the same).
pub async fn run(args: Args) -> Result<()> {
    let sweep = Sweep::load(&args.sweep)?;
    let members = sweep.members()?;
    plot::check(&sweep)?;
    if let Some(place) = &args.plot {
        svg::check_place(place)?;
    }
    if args.dry_run {
        for member in &members {
            let replay = member.replay.as_ref().map_or(String::new(), |of| format!("replay {}  ", of.args().join(" ")));
            crate::output::show(&format!("{}  {replay}{}\n", member.name, member.sets.join("  ")))?;
        }
        return Ok(());
    }
    let (mut before, mut todo) = (BTreeSet::new(), VecDeque::new());
    for member in &members {
        match is_finished(member).await? {
            true => drop(before.insert(&member.name)),
            false => todo.push_back(member),
        }
    }
    let mut failed = Vec::new();
    if !args.results && !todo.is_empty() {
        let stop = Stop::listen();
        failed = make(&sweep, members.len(), todo, &stop).await;
        if stop.is_asked() {
            say("stopped; the same command goes on from here");
            return if failed.is_empty() { Ok(()) } else { Err(complaint(&sweep, &failed)) };
        }
    }
    let mut done = Vec::new();
    for member in &members {
        match came_of(member, before.contains(&member.name)).await {
            Ok(measured) => done.extend(measured.map(|measured| (member, measured))),
            // The others' results are shown all the same.
            Err(error) => {
                say(&format!("run `{}`: {error}", member.name));
                failed.push(member.name.clone());
            }
        }
    }
    failed.sort();
    failed.dedup();
    if done.is_empty() {
        return Err(complaint(&sweep, &failed));
    }
    if done.len() < members.len() {
        say(&format!("{} of {} runs are finished", done.len(), members.len()));
    }
    let question = args.sql.unwrap_or_else(|| results::summary(&sweep));
    sql::print(query::ask("results", results::table(&sweep, &done)?, &question).await?, args.format).await?;
    if let Some(place) = &args.plot {
        plot::write(place, &sweep, &done)?;
        say(&format!("plot: {}", place.display()));
    }
    if failed.is_empty() { Ok(()) } else { Err(complaint(&sweep, &failed)) }
}

fn complaint(sweep: &Sweep, failed: &[String]) -> CommandError {
    match failed.len() {
        0 => CommandError::new(format!("sweep `{}`: no run is finished yet", sweep.name))
            .hint("without --results they are made"),
        count => {
            let runs = if count == 1 { "1 run" } else { &format!("{count} runs") };
            CommandError::new(format!("{runs} failed: {}", failed.join(", ")))
                .hint("the last words of each are above; the same command tries again")
        }
    }
}

/// What came of a run, once it is finished.
async fn came_of(member: &Member, is_known_to_be: bool) -> Result<Option<Measured>> {
    Ok(match is_known_to_be || is_finished(member).await? {
        true => Some(Measured::of(&open(member).await?).await?),
        false => None,
    })
}

async fn open(member: &Member) -> Result<Store> {
    Ok(Store::open(&member.pipeline.store.url, StoreOptions::default()).await?)
}

/// How a run in the making stands.
enum Stands {
    AtWork,
    Ended,
    Failed,
}

/// A run in the making.
struct Running<'a> {
    member: &'a Member,
    doing: Doing,
    child: Child,
    words: JoinHandle<VecDeque<String>>,
    follower: Option<Follower>,
    bar: ProgressBar,
    since: Instant,
}

impl<'a> Running<'a> {
    fn start(sweep: &Sweep, member: &'a Member, bar: ProgressBar) -> Result<Self> {
        let doing = if member.replay.is_some() { Doing::Replay } else { Doing::Run };
        let (child, words) = process::start(sweep, member, doing)?;
        bar.set_prefix(member.name.clone());
        Ok(Self { member, doing, child, words, follower: None, bar, since: Instant::now() })
    }

    /// Goes on to what is left after a replay's last step: it evaluates nothing by itself. False where nothing is.
    async fn go_on(&mut self, sweep: &Sweep) -> Result<bool> {
        if self.doing != Doing::Replay {
            return Ok(false);
        }
        let Some(steps) = finished::to_evaluate(self.member).await? else { return Ok(false) };
        self.doing = Doing::Eval { steps };
        (self.child, self.words) = process::start(sweep, self.member, self.doing)?;
        Ok(true)
    }

    /// Whether its process did what it was started for. That a replay's weights are not its parent's is no failure.
    fn did(&self, status: ExitStatus) -> bool {
        status.success() || (self.doing == Doing::Replay && status.code() == Some(EXIT_FINDING.into()))
    }

    /// Looks at its process. One that was stopped has ended well, wherever it was.
    async fn turn(&mut self, sweep: &Sweep, stop: &Stop) -> Result<Stands> {
        self.look().await;
        let ended = self.child.try_wait().map_err(|error| CommandError::new(error.to_string()))?;
        let Some(status) = ended else { return Ok(Stands::AtWork) };
        if !self.did(status) {
            return Ok(Stands::Failed);
        }
        if stop.is_asked() {
            return Ok(Stands::Ended);
        }
        if self.go_on(sweep).await? {
            return Ok(Stands::AtWork);
        }
        Ok(if is_finished(self.member).await? { Stands::Ended } else { Stands::Failed })
    }

    /// How far it is, as its log says.
    async fn look(&mut self) {
        if self.follower.is_none() {
            let Ok(store) = open(self.member).await else { return };
            self.follower = store.follow().await.ok();
        }
        if let Some(follower) = &mut self.follower {
            // What cannot be read now is read at the next look; the run itself says what is wrong.
            let _ = follower.refresh().await;
            let (step, of) = (follower.snapshot().version.0, self.member.pipeline.learn.steps);
            self.bar.set_message(format!("step {step}/{of}"));
        }
        self.bar.tick();
    }
}

/// How many of these are made at a time on so many cores: the jobs of a run overlap on two, a replay is one process with its threads.
fn as_many_as_fit<'a>(members: impl Iterator<Item = &'a Member>, cores: usize) -> usize {
    let needs = |of: &Member| if of.replay.is_some() { of.pipeline.learn.threads as usize } else { 2 };
    (cores / members.map(needs).max().unwrap_or(1).max(1)).max(1)
}

/// Makes the runs in `todo`, so many at a time; returns the names of those that failed. What is wrong with one is said, and the others
/// go on.
async fn make(sweep: &Sweep, all: usize, mut todo: VecDeque<&Member>, stop: &Stop) -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let at_once = if sweep.at_once == 0 { as_many_as_fit(todo.iter().copied(), cores) } else { sweep.at_once };
    let is_terminal = std::io::stderr().is_terminal();
    let bars = MultiProgress::with_draw_target(match is_terminal {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    });
    let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    let overall = bars.add(ProgressBar::new_spinner().with_style(style("{prefix:.bold} {wide_msg}")));
    overall.set_prefix(sweep.name.clone());
    let say_above = |text: &str| if is_terminal { bars.suspend(|| say(text)) } else { say(text) };
    let before = all - todo.len();
    say_above(&format!(
        "sweep `{}`: {all} runs below {}, {before} finished before, {at_once} at a time",
        sweep.name, sweep.into
    ));
    let (mut running, mut failed): (Vec<Running>, Vec<String>) = (Vec::new(), Vec::new());
    let (mut seconds, mut finished) = (0.0, 0);
    loop {
        while running.len() < at_once && !stop.is_asked() {
            let Some(member) = todo.pop_front() else { break };
            let bar = bars.add(ProgressBar::new_spinner().with_style(style("  {prefix} {wide_msg}")));
            match Running::start(sweep, member, bar) {
                Ok(run) => running.push(run),
                Err(error) => {
                    say_above(&format!("run `{}` failed: {error}", member.name));
                    failed.push(member.name.clone());
                }
            }
        }
        if running.is_empty() {
            break;
        }
        let left = match finished {
            0 => String::new(),
            of => format!(
                ", about {:.0} min left",
                seconds / f64::from(of) * (todo.len() + running.len()) as f64 / at_once as f64 / 60.0
            ),
        };
        let done = all - todo.len() - running.len();
        overall.set_message(format!("{done} of {all} runs done, {} failed{left}", failed.len()));
        overall.tick();
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.asked(), if running.iter().any(|run| run.child.stdin.is_some()) => {
                say_above("stopping: each run finishes what it has in hand; Ctrl-C again leaves at once");
                running.iter_mut().for_each(|run| drop(run.child.stdin.take()));
            }
        }
        let mut still = Vec::new();
        for mut run in running {
            let name = &run.member.name;
            match run.turn(sweep, stop).await {
                Ok(Stands::AtWork) => {
                    still.push(run);
                    continue;
                }
                Ok(Stands::Ended) => {
                    let took = run.since.elapsed().as_secs_f64();
                    (seconds, finished) = (seconds + took, finished + 1);
                    if !stop.is_asked() {
                        say_above(&format!("{}/{all}  {name}  {took:.0} s", all - todo.len() - still.len()));
                    }
                }
                Ok(Stands::Failed) => {
                    say_above(&format!("run `{name}` failed; its last words:"));
                    run.words.await.unwrap_or_default().iter().for_each(|line| say_above(&format!("  {line}")));
                    failed.push(name.clone());
                }
                Err(error) => {
                    say_above(&format!("run `{name}` failed: {error}"));
                    failed.push(name.clone());
                }
            }
            run.bar.finish_and_clear();
        }
        running = still;
    }
    overall.finish_and_clear();
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_takes_two_cores_and_a_replay_those_of_its_threads() {
        let dir = tempfile::tempdir().unwrap();
        let pipeline = r#"
            name = "small"
            store.url = "nowhere"
            student.model = "student"
            teacher.model = "teacher"
            prompts.path = "train.jsonl"
            rollout = { prompts_per_unit = 1, max_new_tokens = 8 }
            score.top_k_max = 4
            learn = { steps = 10, rows_per_step = 1, estimator = { name = "reverse_kl_mc", draws = 1 } }
        "#;
        std::fs::write(dir.path().join("p.toml"), pipeline).unwrap();
        let sweep = r#"
            name = "s"
            pipeline = ["p.toml"]
            into = "nowhere"
            seeds = [1]
            [arms]
            run = {}
            narrow = { replay = { from = "x" } }
            wide = { replay = { from = "x" }, "learn.threads" = 4 }
        "#;
        std::fs::write(dir.path().join("s.toml"), sweep).unwrap();
        let members = Sweep::load(&dir.path().join("s.toml")).unwrap().members().unwrap();
        let fit = |arms: &[&str], cores: usize| {
            as_many_as_fit(members.iter().filter(|member| arms.contains(&member.arm.as_str())), cores)
        };
        assert_eq!([fit(&["run"], 9), fit(&["narrow"], 9), fit(&["wide"], 9)], [4, 9, 2]);
        assert_eq!((fit(&["run", "narrow"], 9), fit(&["wide"], 2)), (4, 1));
    }
}
