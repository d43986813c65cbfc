//! `opd replay`: the learner of [`learn`] on rows that another run has recorded. Nothing is sampled or scored, and nothing is copied:
//! a step names rows of the parent's batches, which stay where they are.

mod compare;
mod evaluate;
mod mix;
mod parent;
mod pin;
mod pool;
mod readable;
mod same;
mod script;
mod source;

use crate::{
    cli::PipelineArgs,
    config::Pipeline,
    context::{Context, open_store},
    error::{CommandError, Result, off_thread},
    identity,
    learn::{self, Minibatch, StepSettings, Taken, Unread},
    output::{say, show},
    preflight, progress, recorded,
    stop::Stop,
};
use clap::{Args, ValueEnum};
use parent::{Asked, ParentRun};
use record::{BatchRows, Budget, Event, Job, Parent, PolicyVersion, StepCommit};
use script::Script;
use std::sync::Arc;
use store::{Scored, StoreError};

pub(crate) use mix::{Mix, check as check_mix, check_all};
pub use script::Origin;
pub use source::{Order, Source};

/// What is asked of `opd replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    source: Source,
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

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// Comma-separated, with a header line.
    Csv,
}

/// Replays a store into another, or evaluates an estimator on its steps.
///
/// # Errors
/// Before any step: a parent that is gone, newer than this program, or lacks rows, scores or columns that are needed; rows that are not
/// those that the steps made so far were of. Later: an object that is damaged.
pub async fn run(args: ReplayArgs) -> Result<()> {
    let mut pipeline = Pipeline::load(&args.pipeline.files, &args.pipeline.sets)?;
    as_replayed(&mut pipeline, &args.source);
    model::set_threads(pipeline.learn.threads as usize);
    let Some(into) = args.into.clone() else { return evaluate::run(&args, pipeline).await };
    pipeline.store.url = into;
    let store = open_store(&pipeline).await?;
    let (begun, is_over) = match store.follow().await {
        Ok(follower) => (follower.snapshot().run.parent.clone(), follower.snapshot().finished),
        Err(StoreError::NoRun { .. }) => (None, false),
        Err(error) => return Err(error.into()),
    };
    // A replay that goes on sees its parent as it did when it began.
    let source = Source { at: args.source.at.or(begun.map(|parent| parent.seq)), ..args.source.clone() };
    let (parent, mut script) = open(&source, &mut pipeline, false).await?;
    let steps = script.steps.len() as u64;
    if steps < pipeline.learn.steps {
        let (url, wanted) = (&source.from, pipeline.learn.steps);
        say(&format!("`{url}` has rows for {steps} steps, learn.steps is {wanted}: the replay ends with step {steps}"));
        pipeline.learn.steps = steps;
    }
    let beyond = script.steps.split_off(pipeline.learn.steps as usize);
    // One that has ended reads no rows any more, whatever became of them.
    if !is_over {
        parent.check_kept(script.names().into_iter())?;
        parent.check_codecs(script.names().into_iter(), &pipeline.learn.estimator)?;
        parent.check_objects(script.objects()).await?;
    }
    let named = Parent {
        url: source.from.clone(),
        run_id: parent.run.run_id.clone(),
        seq: parent.seq,
        order: source.order.into(),
        condition: source.condition.clone(),
        share: None,
    };
    let (checked, recorded) = (pipeline.clone(), parent.run.clone());
    let inputs = off_thread(move || preflight::check_replay(&checked, &recorded, named)).await?;
    let follower = identity::create(&store, &pipeline, &inputs, &store::unique_id()).await?;
    let now = follower.snapshot();
    if now.version.0 > 0 && !now.finished {
        let commits = store.history(Some(now.seq)).await?;
        let all = script.steps.iter().chain(&beyond);
        let takes = |step: &StepCommit| all.clone().nth(step.step as usize - 1).cloned().unwrap_or_default();
        same::check(&parent, source.condition.as_deref(), recorded::steps(&commits), takes)?;
    }
    pin::keep(&parent, script.versions(), &follower.snapshot().run).await?;

    let (stop, kept) = (Stop::listen(), parent.clone());
    let mut job = Context::new(pipeline, store, follower, Job::Learn, "learn-0".into(), stop);
    job.origin = Some(Arc::new(Origin::new(parent.store, script.batches.clone())));
    replay(&mut job, &script).await?;
    if !job.now().finished {
        say("stopped; the same command goes on from here");
        return Ok(());
    }
    let commits = job.store.history(Some(job.now().seq)).await?;
    let child = compare::Side { run: &job.now().run, steps: recorded::steps(&commits) };
    let parent = compare::Side { run: &kept.run, steps: recorded::steps(&kept.commits) };
    let compared = compare::compare(&parent, &child);
    show(&compared.sentence())?;
    compared.verdict()
}

/// The pipeline as a replay takes it: there are no rows of its own to mix others into.
fn as_replayed(pipeline: &mut Pipeline, source: &Source) {
    if let Some(set) = &source.score_set {
        pipeline.score.set.clone_from(set);
    }
    pipeline.learn.replay = None;
}

/// The run that rows are taken from, and the rows of each step: of a step that was recorded, where it is to be `as_recorded`.
async fn open(source: &Source, pipeline: &mut Pipeline, as_recorded: bool) -> Result<(ParentRun, Script)> {
    let parent = ParentRun::open(&source.from, source.at, pipeline).await?;
    preflight::check_replay_settings(pipeline)?;
    let asked = Asked { order: source.order.into(), condition: source.condition.as_deref(), as_recorded };
    let script = parent.script(pipeline, &asked).await?;
    Ok((parent, script))
}

/// For how many steps there are rows, at most `learn.steps`.
///
/// # Errors
/// As [`run`] before any step.
pub(crate) async fn length(source: &Source, pipeline: &Pipeline) -> Result<u64> {
    let mut pipeline = pipeline.clone();
    as_replayed(&mut pipeline, source);
    let (_, script) = open(source, &mut pipeline, false).await?;
    Ok((script.steps.len() as u64).min(pipeline.learn.steps))
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
        let minibatch = Minibatch { rows: read?, ..Minibatch::default() };
        let taken = Taken { replayed: rows.clone(), ..Taken::default() };
        // The next step's rows are read while this one is computed.
        let next = PolicyVersion(version.0 + 1);
        let (outcome, read) = tokio::join!(
            off_thread(move || learn::step(trainee, minibatch)),
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
    read(origin, rows.iter().map(|replayed| &replayed.of), version.0 + 1, budget).await
}

/// Rows of recorded batches, as much of each as `budget` says.
async fn read<'a>(
    origin: &Origin,
    rows: impl Iterator<Item = &'a BatchRows>,
    step: u64,
    budget: Budget,
) -> Result<Vec<Scored>> {
    origin.read(rows, budget).await.map_err(|unread| match unread {
        Unread::Fatal(error) => error,
        Unread::Damaged(batch, error) => {
            let url = origin.store.url();
            CommandError::new(format!("step {step} cannot be replayed: batch `{batch}` of `{url}`: {error}"))
                .hint("bring the object back from a copy, or leave its rows out with --where")
        }
    })
}
