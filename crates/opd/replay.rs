//! `opd replay`: the learner of [`learn`] on rows that another run has recorded. Nothing is sampled or scored, and nothing is copied:
//! a step names rows of the parent's batches, which stay where they are.

mod compare;
mod evaluate;
mod parent;
mod pin;
mod script;

use crate::{
    cli::PipelineArgs,
    config::Pipeline,
    context::{Context, open_store},
    error::{CommandError, Result, off_thread},
    identity,
    learn::{self, StepSettings, Taken, Unread},
    output::{say, show},
    preflight, progress,
    stop::Stop,
};
use clap::{Args, ValueEnum};
use parent::{Asked, ParentRun};
use record::{BatchRows, Budget, Event, Job, Parent, PolicyVersion, ReplayOrder, StepCommit};
use script::Script;
use std::sync::Arc;
use store::{Scored, Store, StoreError};

pub use script::Origin;

/// What is asked of `opd replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The store whose rows are replayed: a directory, file:///..., or s3://bucket/prefix.
    #[arg(long, value_name = "STORE")]
    from: String,
    /// See it as it was after this commit.
    #[arg(long, value_name = "SEQ")]
    at: Option<u64>,
    /// Only rows of its table `scored` for which this holds: "source = 'gsm8k' and policy_version > 20".
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// In which order.
    #[arg(long, value_enum, default_value_t = Order::Recorded)]
    order: Order,
    /// With the scores of this set; without, of score.set.
    #[arg(long, value_name = "NAME")]
    score_set: Option<String>,
    /// The store of the new run.
    #[arg(long, value_name = "STORE", required_unless_present = "evaluate", conflicts_with = "evaluate")]
    into: Option<String>,
    /// Train nothing: print losses and metrics of learn.estimator on recorded steps, with the weights from before each.
    #[arg(long)]
    evaluate: bool,
    /// Which steps: 17, or 1..280; without, those whose weights are kept.
    #[arg(long, value_name = "STEPS", requires = "evaluate")]
    steps: Option<String>,
    /// How to print them.
    #[arg(long, value_enum, default_value_t = Format::Table, requires = "evaluate")]
    format: Format,
    #[command(flatten)]
    pipeline: PipelineArgs,
}

/// In which order rows are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// As the steps of the store took them.
    Recorded,
    /// A permutation of every scored row, by the pipeline's seed.
    Seeded,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// Comma-separated, with a header line.
    Csv,
}

impl From<Order> for ReplayOrder {
    fn from(order: Order) -> Self {
        match order {
            Order::Recorded => ReplayOrder::Recorded,
            Order::Seeded => ReplayOrder::Seeded,
        }
    }
}

/// Replays a store into another, or evaluates an estimator on its steps.
///
/// # Errors
/// Before any step: a parent that is gone, newer than this program, or lacks rows, scores or columns that are needed. Later: an object
/// that is damaged.
pub async fn run(args: ReplayArgs) -> Result<()> {
    let mut pipeline = Pipeline::load(&args.pipeline.files, &args.pipeline.sets)?;
    if let Some(set) = &args.score_set {
        pipeline.score.set.clone_from(set);
    }
    model::set_threads(pipeline.learn.threads as usize);
    let Some(into) = args.into.clone() else { return evaluate::run(&args, pipeline).await };
    pipeline.store.url = into;
    let store = open_store(&pipeline).await?;
    let begun = match store.follow().await {
        Ok(follower) => follower.snapshot().run.parent.clone(),
        Err(StoreError::NoRun { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // A replay that goes on sees its parent as it did when it began.
    let at = args.at.or(begun.map(|parent| parent.seq));
    let parent = ParentRun::open(&args.from, at, &mut pipeline).await?;
    preflight::check_settings(&pipeline)?;
    let asked = Asked { order: args.order.into(), condition: args.condition.as_deref() };
    let script = parent.script(&pipeline, &asked).await?;
    let steps = script.steps.len() as u64;
    if steps < pipeline.learn.steps {
        let (url, wanted) = (&args.from, pipeline.learn.steps);
        say(&format!("`{url}` has rows for {steps} steps, learn.steps is {wanted}: the replay ends with step {steps}"));
        pipeline.learn.steps = steps;
    }
    let script = Script { steps: script.steps.into_iter().take(pipeline.learn.steps as usize).collect(), ..script };
    parent.check_objects(&script).await?;
    let named = Parent {
        url: args.from.clone(),
        run_id: parent.run.run_id.clone(),
        seq: parent.seq,
        order: asked.order,
        condition: args.condition.clone(),
    };
    let (checked, recorded) = (pipeline.clone(), parent.run.clone());
    let inputs = off_thread(move || preflight::check_replay(&checked, &recorded, named)).await?;
    let follower = identity::create(&store, &pipeline, &inputs, &store::unique_id()).await?;
    pin::keep(&parent, &script, &follower.snapshot().run).await?;

    let (stop, kept) = (Stop::listen(), parent.clone());
    let mut job = Context::new(pipeline, store, follower, Job::Learn, "learn-0".into(), stop);
    job.origin = Some(Arc::new(Origin::new(parent.store, &script)));
    replay(&mut job, &script).await?;
    if !job.now().finished {
        say("stopped; the same command goes on from here");
        return Ok(());
    }
    let commits = job.store.history(Some(job.now().seq)).await?;
    let child = compare::Side { run: &job.now().run, steps: steps_of(&commits) };
    let parent = compare::Side { run: &kept.run, steps: steps_of(&kept.commits) };
    let compared = compare::compare(&parent, &child);
    show(&compared.sentence())?;
    compared.verdict()
}

/// The steps among some commits.
fn steps_of(commits: &[record::Commit]) -> Vec<&StepCommit> {
    let step = |commit: &'_ record::Commit| matches!(commit.event, Event::Step(_));
    let steps = commits.iter().filter(|commit| step(commit));
    steps.filter_map(|commit| if let Event::Step(step) = &commit.event { Some(step.as_ref()) } else { None }).collect()
}

/// Makes the steps of the script that are left, until the last or the job is stopped.
async fn replay(job: &mut Context, script: &Script) -> Result<()> {
    let settings = StepSettings::of(&job.pipeline);
    let mut trainee = learn::resume(job, &settings).await?;
    learn::record_settings(job).await?;
    let (score_set, line) = (job.pipeline.score.set.clone(), progress::Line::new("replay"));
    let mut ahead: Option<(PolicyVersion, Result<Vec<Scored>>)> = None;
    while !job.stop.is_asked() {
        job.refresh().await?;
        learn::fence(job, trainee.version)?;
        if job.now().finished {
            break;
        }
        let version = trainee.version;
        let Some(rows) = script.steps.get(version.0 as usize) else {
            job.append(0, |now| (!now.finished).then(|| Event::Finish { dropped: Vec::new() })).await?;
            break;
        };
        job.begin();
        let origin = job.origin.clone();
        let read = match ahead.take() {
            Some((read_for, read)) if read_for == version => read,
            _ => fetch(origin.as_deref(), script, version, settings.read).await,
        };
        let portions = read?;
        let taken = Taken { replayed: rows.clone(), ..Taken::default() };
        // The next step's rows are read while this one is computed.
        let next = PolicyVersion(version.0 + 1);
        let (outcome, read) = tokio::join!(
            off_thread(move || learn::step(trainee, portions)),
            fetch(origin.as_deref(), script, next, settings.read)
        );
        ahead = Some((next, read));
        let outcome = outcome.map_err(|error| error.at(format!("step {}", next.0)))?;
        let loss = outcome.report.metrics.get("loss").map_or(f64::NAN, |(sum, count)| sum / count);
        line.show(&format!("step {} of {}  loss {loss:.4}", next.0, script.steps.len()));
        trainee = match learn::commit(job, outcome, taken, &score_set, None).await? {
            Some(trainee) => trainee,
            // Another replay of the same command was first; its weights are these.
            None => learn::resume(job, &settings).await?,
        };
        learn::retire(job).await?;
    }
    line.clear();
    Ok(())
}

/// The rows of the step after `version`; none after the last.
async fn fetch(
    origin: Option<&Origin>,
    script: &Script,
    version: PolicyVersion,
    budget: Budget,
) -> Result<Vec<Scored>> {
    let (Some(origin), Some(rows)) = (origin, script.steps.get(version.0 as usize)) else { return Ok(Vec::new()) };
    read(&origin.store, origin, rows.iter().map(|replayed| &replayed.of), version.0 + 1, budget).await
}

/// Rows of recorded batches, as much of each as `budget` says.
async fn read<'a>(
    store: &Store,
    origin: &Origin,
    rows: impl Iterator<Item = &'a BatchRows>,
    step: u64,
    budget: Budget,
) -> Result<Vec<Scored>> {
    learn::fetch(store, origin.select(rows)?, budget).await.map_err(|unread| match unread {
        Unread::Fatal(error) => error,
        Unread::Damaged(batch, error) => {
            CommandError::new(format!("step {step} cannot be replayed: batch `{batch}` of `{}`: {error}", store.url()))
                .hint("bring the object back from a copy, or leave its rows out with --where")
        }
    })
}
