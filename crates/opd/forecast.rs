//! `opd plan`: what more workers, other cores or another staleness would make of a run, by running its plans in virtual time
//! with the times that its stages took.

mod run;
mod stages;

use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    output::show,
    pace::{Pace, WhenStale},
    share::Share,
};
use run::{Forecast, Setup, forecast};
use stages::{Stages, mean_and_spread};
use std::fmt::Write;
use store::{Store, StoreOptions};

/// Steps of a forecast.
const STEPS: u64 = 250;
/// A learner that is busy for this share of the time is kept busy.
const KEPT_BUSY: f64 = 0.95;
/// Most workers of a kind that are tried.
const MOST_WORKERS: usize = 64;

/// What is asked of `opd plan`.
///
/// A stage's times are as they were: where jobs shared too few cores, waiting for one is in them. Measure in turns, with
/// learn.max_staleness=0, to forecast how they overlap.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run whose stages were measured: a directory, file:///..., or s3://bucket/prefix.
    #[arg(required_unless_present = "stages")]
    store: Option<String>,
    /// Seconds that sampling, scoring and learning take for a step's rows, instead of a store's.
    #[arg(long, value_name = "ROLLOUT,SCORE,LEARN", conflicts_with = "store", allow_hyphen_values = true)]
    stages: Option<String>,
    /// The greatest staleness; the run's own, or 4.
    #[arg(long, value_name = "N")]
    max_staleness: Option<u64>,
    /// Cores that all jobs share; without, each has one (or a GPU) to itself. Cores that share units or memory do less at once
    /// than their number: 1.7, say, as measured.
    #[arg(long, value_name = "N")]
    cores: Option<f64>,
    /// Seconds for which what a stage has done is on its way to the next, beside the wait for a look at the log.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    handover: f64,
    /// Print comma-separated values.
    #[arg(long)]
    csv: bool,
}

/// Prints the forecast on standard output.
///
/// # Errors
/// No run in the store, or one in which a stage has not worked yet.
pub async fn run(args: Args) -> Result<()> {
    let (stages, mut setup) = match (&args.stages, &args.store) {
        (Some(given), _) => (Stages::given(given)?, plain_setup()),
        (None, Some(url)) => {
            let store = Store::open(url, StoreOptions::default()).await?;
            let commits = store.history(None).await?;
            let now = store.snapshot(None).await?;
            (Stages::recorded(&commits)?, recorded_setup(&now)?)
        }
        (None, None) => return Err(CommandError::new("neither a store nor --stages was given")),
    };
    if args.cores.is_some_and(|cores| cores.is_nan() || cores <= 0.0) {
        let cores = args.cores.unwrap_or_default();
        return Err(CommandError::new(format!("--cores is {cores}")).hint("it must be above 0"));
    }
    if !args.handover.is_finite() || args.handover < 0.0 {
        let what = format!("--handover is {}", args.handover);
        return Err(CommandError::new(what).hint("it must be 0 or more seconds"));
    }
    setup.handover_s = args.handover;
    setup.cores = args.cores.unwrap_or(f64::INFINITY);
    setup.pace.max_staleness = args.max_staleness.unwrap_or(setup.pace.max_staleness).max(setup.pace.lag);
    setup.pace.steps = STEPS;
    let text = crate::error::off_thread(move || {
        let lines = forecasts(&stages, setup)?;
        Ok(if args.csv { csv(&lines) } else { table(&stages, setup, &lines) })
    })
    .await?;
    show(&text)
}

/// A run of which only times are known: a step takes one unit, and nobody waits to look.
fn plain_setup() -> Setup {
    let pace = Pace {
        rows_per_step: 1,
        steps: STEPS,
        min_staleness: 0,
        max_staleness: 4,
        when_stale: WhenStale::Drop,
        lag: 0,
        share: Share::NONE,
    };
    Setup {
        pace,
        unit_rows: 1,
        rollout_workers: 1,
        score_workers: 1,
        cores: f64::INFINITY,
        poll_s: 0.0,
        handover_s: 0.0,
        publish_every: 1,
    }
}

/// A run as its latest settings have it.
fn recorded_setup(now: &store::Snapshot) -> Result<Setup> {
    let fault = |why: String| CommandError::new(format!("the run's settings cannot be read: {why}"));
    let settings = now.settings.clone().ok_or_else(|| fault("no learner has started yet".into()))?;
    let pipeline: Pipeline = serde_json::from_value(settings).map_err(|error| fault(error.to_string()))?;
    Ok(Setup {
        pace: pipeline.pace(),
        unit_rows: pipeline.units().rows(),
        rollout_workers: pipeline.rollout.workers as usize,
        score_workers: pipeline.score.workers as usize,
        cores: f64::INFINITY,
        poll_s: pipeline.store.poll_ms as f64 / 1000.0,
        handover_s: 0.0,
        publish_every: pipeline.learn.publish_every,
    })
}

/// A setup, and what comes of it.
type Line = (Setup, Forecast);

/// In turns, as it is, and with ever more workers of whichever kind gains most until the learner is kept busy.
fn forecasts(stages: &Stages, setup: Setup) -> Result<Vec<Line>> {
    let of = |setup: Setup| Ok::<Line, CommandError>((setup, forecast(stages, setup, 1)?));
    let in_turns = Pace { max_staleness: 0, min_staleness: 0, lag: 0, ..setup.pace };
    let mut lines = vec![of(Setup { pace: in_turns, publish_every: 1, ..setup })?, of(setup)?];
    let mut best = lines[1];
    while best.1.learner_busy < KEPT_BUSY && best.0.rollout_workers.max(best.0.score_workers) < MOST_WORKERS {
        let more = [
            Setup { rollout_workers: best.0.rollout_workers + 1, ..best.0 },
            Setup { score_workers: best.0.score_workers + 1, ..best.0 },
        ];
        let [a, b] = [of(more[0])?, of(more[1])?];
        let next = if b.1.steps_per_s > a.1.steps_per_s { b } else { a };
        // Where no worker helps, the cores or the bound on staleness do not let it.
        if next.1.steps_per_s < best.1.steps_per_s * 1.005 {
            break;
        }
        lines.push(next);
        best = next;
    }
    Ok(lines)
}

fn table(stages: &Stages, setup: Setup, lines: &[Line]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let units = f64::from(setup.pace.rows_per_step) / f64::from(setup.unit_rows.max(1));
    let _ = writeln!(text, "stage    s, mean  spread  s a step  measured");
    for (name, seconds, a_step, what) in [
        ("rollout", &stages.rollout, units, "units"),
        ("score", &stages.score, units, "batches"),
        ("learn", &stages.learn, 1.0, "steps"),
    ] {
        let (mean, spread) = mean_and_spread(seconds);
        let count = seconds.len();
        let _ =
            writeln!(text, "{name:<7}  {mean:>7.3}  {:>4.0} %  {:>8.3}  {count} {what}", 100.0 * spread, mean * a_step);
    }
    let cores = if setup.cores.is_finite() { format!("{} in all", setup.cores) } else { "one for each job".into() };
    let _ = writeln!(text, "\ncores: {cores}\n");
    let _ = writeln!(
        text,
        "rollout  score  max_staleness  steps/s  to in turns  stages busy  learner busy  staleness, mean  max"
    );
    let in_turns = lines[0].1.steps_per_s;
    for (of, found) in lines {
        let _ = writeln!(
            text,
            "{:>7}  {:>5}  {:>13}  {:>7.3}  {:>9.2} x  {:>11.2}  {:>10.0} %  {:>15.2}  {:>3}",
            of.rollout_workers,
            of.score_workers,
            of.pace.max_staleness,
            found.steps_per_s,
            found.steps_per_s / in_turns,
            found.stages_busy,
            100.0 * found.learner_busy,
            found.staleness_mean,
            found.staleness_max,
        );
    }
    let (of, found) = lines[lines.len() - 1];
    let verdict = if found.learner_busy >= KEPT_BUSY {
        let (rollout, score, bound) = (of.rollout_workers, of.score_workers, of.pace.max_staleness);
        format!(
            "rollout.workers = {rollout} and score.workers = {score} keep the learner busy at a staleness of at most {bound}"
        )
    } else if setup.cores.is_finite() {
        "more workers do not keep the learner busy: the cores are the limit".into()
    } else {
        "more workers do not keep the learner busy: a greater learn.max_staleness would give them room".into()
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

fn csv(lines: &[Line]) -> String {
    let mut text = String::from(
        "rollout_workers,score_workers,max_staleness,cores,steps_per_s,ratio,stages_busy,learner_busy,staleness_mean,staleness_max\n",
    );
    for (of, found) in lines {
        let cores = if of.cores.is_finite() { of.cores.to_string() } else { String::new() };
        let _ = writeln!(
            text,
            "{},{},{},{cores},{:.6},{:.4},{:.4},{:.4},{:.4},{}",
            of.rollout_workers,
            of.score_workers,
            of.pace.max_staleness,
            found.steps_per_s,
            found.steps_per_s / lines[0].1.steps_per_s,
            found.stages_busy,
            found.learner_busy,
            found.staleness_mean,
            found.staleness_max,
        );
    }
    text
}
