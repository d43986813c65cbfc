//! `opd sweep`: a grid of runs, some at a time, and what came of them as one table.
//!
//! A run of a sweep is an ordinary run in a store of its own; the sweep keeps nothing beside them, so that what it shows is read
//! from their logs, and a sweep that was stopped goes on with the runs that are not finished.

mod grid;
mod plot;
mod results;

use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    estimate::plot::check_place,
    output::say,
    sql::{self, Format},
    stop::{self, Stop},
};
use grid::{Member, Sweep};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use results::Measured;
use std::{
    collections::VecDeque,
    io::IsTerminal,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};
use store::{Follower, Store, StoreError, StoreOptions};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

/// How often the logs are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Lines of a run that failed that are shown.
const LAST_WORDS: usize = 8;

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
        check_place(place)?;
    }
    if args.dry_run {
        for member in &members {
            crate::output::show(&format!("{}  {}\n", member.name, member.sets.join("  ")))?;
        }
        return Ok(());
    }
    let mut todo = VecDeque::new();
    for member in &members {
        if !is_finished(member).await? {
            todo.push_back(member);
        }
    }
    let mut failed = Vec::new();
    if !args.results && !todo.is_empty() {
        let stop = Stop::listen();
        failed = make(&sweep, members.len(), todo, &stop).await?;
        if stop.is_asked() {
            say("stopped; the same command goes on from here");
            return Ok(());
        }
    }
    let mut done = Vec::new();
    for member in &members {
        if is_finished(member).await? {
            done.push((member, Measured::of(&open(member).await?).await?));
        }
    }
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

async fn open(member: &Member) -> Result<Store> {
    Ok(Store::open(&member.pipeline.store.url, StoreOptions::default()).await?)
}

/// Whether a run has ended, evaluations and all.
///
/// # Errors
/// If it has, with other settings than the sweep asks for now: its results would be passed off as theirs.
async fn is_finished(member: &Member) -> Result<bool> {
    let follower = match open(member).await?.follow().await {
        Ok(follower) => follower,
        Err(StoreError::NoRun { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let now = follower.snapshot();
    if let Some(settings) = &now.settings {
        let before: Pipeline = serde_json::from_value(settings.clone()).map_err(|error| {
            CommandError::new(format!("run `{}`: its settings cannot be read: {error}", member.name))
        })?;
        if let Some((key, had, wants)) = difference(&before, &member.pipeline) {
            let what = format!("run `{}` was made with `{key} = {had}`, the sweep asks for `{wants}`", member.name);
            return Err(CommandError::new(what)
                .hint(format!("delete {}, or give the sweep another `into`", member.pipeline.store.url)));
        }
    }
    Ok(now.finished)
}

/// The first key by which two pipelines learn differently, with both values. Where things are kept does not matter.
fn difference(before: &Pipeline, asked: &Pipeline) -> Option<(String, String, String)> {
    let table = |pipeline: &Pipeline| {
        let mut table: toml::Table = toml::from_str(&pipeline.to_toml()).unwrap_or_default();
        table.remove("store");
        table.remove("run");
        toml::Value::Table(table)
    };
    first_difference("", &table(before), &table(asked))
}

fn first_difference(at: &str, a: &toml::Value, b: &toml::Value) -> Option<(String, String, String)> {
    let (toml::Value::Table(a), toml::Value::Table(b)) = (a, b) else {
        return (a != b).then(|| (at.to_string(), a.to_string(), b.to_string()));
    };
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().find_map(|key| {
        let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let shown = |value: Option<&toml::Value>| value.map_or("nothing".to_string(), ToString::to_string);
        match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) => first_difference(&at, a, b),
            (a, b) => Some((at, shown(a), shown(b))),
        }
    })
}

/// A run in the making.
struct Running<'a> {
    member: &'a Member,
    child: Child,
    words: JoinHandle<VecDeque<String>>,
    follower: Option<Follower>,
    bar: ProgressBar,
    since: Instant,
}

impl<'a> Running<'a> {
    fn start(sweep: &Sweep, member: &'a Member, bar: ProgressBar) -> Result<Self> {
        let fault = |error: std::io::Error| CommandError::new(format!("cannot start run `{}`: {error}", member.name));
        let mut command = Command::new(std::env::current_exe().map_err(fault)?);
        command.arg("run").args(&sweep.pipeline);
        command.args(member.sets.iter().flat_map(|set| ["--set", set]));
        // A Ctrl-C is ours to pass on; should this process die, the end of its standard input tells the run to end.
        command.env(stop::SUPERVISED, "1").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(fault)?;
        let stderr = child.stderr.take();
        let words = tokio::spawn(async move {
            let mut last = VecDeque::new();
            let Some(stderr) = stderr else { return last };
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                last.push_back(line);
                if last.len() > LAST_WORDS {
                    last.pop_front();
                }
            }
            last
        });
        bar.set_prefix(member.name.clone());
        Ok(Self { member, child, words, follower: None, bar, since: Instant::now() })
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

/// Makes the runs in `todo`, so many at a time; returns the names of those that failed.
async fn make(sweep: &Sweep, all: usize, mut todo: VecDeque<&Member>, stop: &Stop) -> Result<Vec<String>> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let at_once = if sweep.at_once == 0 { (cores / 2).max(1) } else { sweep.at_once };
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
            running.push(Running::start(sweep, member, bar)?);
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
            run.look().await;
            let ended = run
                .child
                .try_wait()
                .map_err(|error| CommandError::new(format!("run `{}`: {error}", run.member.name)))?;
            let Some(status) = ended else {
                still.push(run);
                continue;
            };
            run.bar.finish_and_clear();
            let took = run.since.elapsed().as_secs_f64();
            if status.success() && (stop.is_asked() || is_finished(run.member).await?) {
                (seconds, finished) = (seconds + took, finished + 1);
                if !stop.is_asked() {
                    let place = format!("{}/{all}", all - todo.len() - still.len());
                    say_above(&format!("{place}  {}  {took:.0} s", run.member.name));
                }
            } else {
                say_above(&format!("run `{}` failed; its last words:", run.member.name));
                run.words.await.unwrap_or_default().iter().for_each(|line| say_above(&format!("  {line}")));
                failed.push(run.member.name.clone());
            }
        }
        running = still;
    }
    overall.finish_and_clear();
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_that_differs_is_named_with_both_values() {
        let value = |text: &str| toml::Value::Table(toml::from_str(text).unwrap());
        let differ = |a: &str, b: &str| first_difference("", &value(a), &value(b));
        assert_eq!(differ("a = 1\nb.c = 2", "b.c = 2\na = 1"), None);
        let found = differ("a = 1\nb = { c = 2, d = 1 }", "a = 1\nb = { c = 3 }").unwrap();
        assert_eq!(found, ("b.c".into(), "2".into(), "3".into()));
        let found = differ("a = 1", "a = 1\nb.c = 3").unwrap();
        assert_eq!((found.0.as_str(), found.1.as_str()), ("b", "nothing"));
    }
}
