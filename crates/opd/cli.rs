//! The command line.

use crate::{
    compact,
    config::Pipeline,
    context::Context,
    error::{CommandError, Result},
    estimate::{self, EstimateArgs},
    export::{self, ExportArgs},
    export_policy, identity, keep, learn, preflight, rescore, score, score_set, sft, sql, status,
    stop::Stop,
};
use clap::{Args, Parser, Subcommand};
use record::Job;
use std::path::PathBuf;

/// On-policy distillation over one versioned store of rollouts and teacher scores.
///
/// Standard output is data, standard error is progress and messages. Exit status: 0 done, 1 a finding, 2 an error,
/// 3 an error that may pass (the store cannot be reached; another learner made a step).
#[derive(Debug, Parser)]
#[command(name = "opd", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all jobs of a pipeline as child processes, until the last evaluation.
    Run {
        #[command(flatten)]
        pipeline: PipelineArgs,
        /// Check everything, print the pipeline as resolved, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Only sample and score, as much as max_staleness and steps allow: the store is then a data set.
        #[arg(long)]
        collect: bool,
    },
    /// Sample rollouts with the newest policy; any number of these, on any machines.
    Rollout(JobArgs),
    /// Score rollouts with their teachers; any number of these, on any machines.
    ///
    /// With --set NAME --teacher DIR, a name instead of a key: score recorded rollouts anew, as a score set beside the run's own, in the
    /// store of a pipeline or in STORE, given in its place.
    Score {
        #[command(flatten)]
        job: JobArgs,
        /// Score for this teacher only, so that only this one is loaded; may be given again. With --set NAME the model that scores.
        #[arg(long = "teacher", value_name = "ID|DIR")]
        teachers: Vec<String>,
        /// With --set NAME: only batches with a row of `rollouts` for which this holds.
        #[arg(long = "where", value_name = "SQL")]
        condition: Option<String>,
    },
    /// Train on scored rollouts and publish policies; one of these.
    Learn(JobArgs),
    /// Evaluate published policies on held-out prompts.
    Eval(JobArgs),
    /// Train without sampling: on prompts with completions, or on recorded rollouts with scores.
    Sft {
        /// What to train on what: a TOML file.
        #[arg(value_name = "CONFIG.toml")]
        config: PathBuf,
        /// Where to write the Hugging Face directory.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Set one key, last: steps=100.
        #[arg(long = "set", value_name = "KEY=VALUE")]
        sets: Vec<String>,
    },
    /// Measure bias, variance and bytes of every estimator on a store's rollouts, with the models at hand.
    Estimate(EstimateArgs),
    /// Train on the rows that another run recorded, sampling and scoring nothing.
    Replay(crate::replay::ReplayArgs),
    /// Write a store's tables as Parquet files that are Delta tables too; again, only what is new.
    Export(ExportArgs),
    /// Write a policy version as a Hugging Face directory.
    ExportPolicy {
        /// The store: a directory, file:///..., or s3://bucket/prefix.
        store: String,
        /// The optimizer steps that made it, or `latest`.
        version: String,
        /// Where to write it: a new or an empty folder.
        dir: PathBuf,
        /// `float32`, `bfloat16` or `float16`.
        #[arg(long, default_value = "float32")]
        dtype: String,
    },
    /// Make a score set once more in fewer bytes, as a score set beside it with the same rows.
    Compact(compact::Args),
    /// Show how a run stands.
    Status {
        /// The store: a directory, file:///..., or s3://bucket/prefix.
        store: String,
    },
    /// Say what more workers, other cores or another staleness would make of a run.
    Plan(crate::forecast::Args),
    /// Make a grid of runs with several seeds, and show what came of them as one table.
    Sweep(crate::sweep::Args),
    /// Print who worked when as a Chrome trace (chrome://tracing, Perfetto).
    Trace {
        /// The store: a directory, file:///..., or s3://bucket/prefix.
        store: String,
    },
    /// Read a store and say what is not as it should be.
    Verify(keep::Verify),
    /// Say what takes how much room in a store, and what retention would free.
    Du(keep::Du),
    /// Give up old rollouts, scores, step records, weights and moments.
    Retain(keep::Retain),
    /// Move what has ended into Parquet files, in which it takes less room and answers as before.
    Archive(keep::Archive),
    /// Delete what no commit names, what was given up and what was moved into archives.
    Gc(keep::Gc),
    /// Keep what is there now whatever retention says; or list what is kept so.
    Pin(keep::PinArgs),
    /// Take a pin away.
    Unpin(keep::Unpin),
    /// Ask stores questions in SQL: one, those of standard input, or any number in a shell.
    Sql(sql::Args),
}

/// A pipeline and what is laid over it.
#[derive(Clone, Debug, Args)]
pub struct PipelineArgs {
    /// The pipeline, then layers over it: storage/s3.toml, say.
    #[arg(required = true, value_name = "PIPELINE.toml")]
    pub files: Vec<PathBuf>,
    /// Set one key, last: learn.steps=100.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

/// One job of a pipeline.
#[derive(Clone, Debug, Args)]
pub struct JobArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The worker's name; a process started again under its name takes up its claims.
    #[arg(long, value_name = "NAME")]
    worker: Option<String>,
}

/// Runs a command.
///
/// # Errors
/// What keeps it from being done.
pub fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| CommandError::new(format!("cannot start threads: {error}")))?;
    runtime.block_on(async {
        match cli.command {
            Command::Run { pipeline, dry_run, collect } => crate::run::run(pipeline, dry_run, collect).await,
            Command::Rollout(args) => job(Job::Rollout, args, &[]).await,
            Command::Score { job: args, teachers, condition } => score(args, teachers, condition).await,
            Command::Learn(args) => job(Job::Learn, args, &[]).await,
            Command::Eval(args) => job(Job::Eval, args, &[]).await,
            Command::Sft { config, out, sets } => {
                let stop = Stop::listen();
                crate::error::off_thread(move || sft::run(&config, &sets, &out, &stop)).await
            }
            Command::Estimate(args) => estimate::run(args).await,
            Command::Replay(args) => crate::replay::run(args).await,
            Command::Export(args) => export::run(args, &Stop::listen()).await,
            Command::ExportPolicy { store, version, dir, dtype } => {
                export_policy::run(&store, &version, &dir, &dtype, &Stop::listen()).await
            }
            Command::Compact(args) => compact::run(&args, &Stop::listen()).await,
            Command::Trace { store } => crate::trace::run(&store).await,
            Command::Sweep(args) => crate::sweep::run(args).await,
            Command::Plan(args) => crate::forecast::run(args).await,
            Command::Status { store } => status::run(&store).await,
            Command::Verify(args) => args.run().await,
            Command::Du(args) => args.run().await,
            Command::Retain(args) => args.run().await,
            Command::Archive(args) => args.run(&Stop::listen()).await,
            Command::Gc(args) => args.run().await,
            Command::Pin(args) => args.run().await,
            Command::Unpin(args) => args.run().await,
            Command::Sql(args) => sql::run(args).await,
        }
    })
}

/// The score job; or, where a set has a name alone, recorded rollouts anew.
async fn score(mut args: JobArgs, teachers: Vec<String>, condition: Option<String>) -> Result<()> {
    let is_name = |set: &&String| !set.contains('=');
    let names: Vec<String> = args.pipeline.sets.iter().filter(is_name).cloned().collect();
    args.pipeline.sets.retain(|set| set.contains('='));
    match (names.as_slice(), teachers.as_slice(), condition) {
        ([], _, None) => job(Job::Score, args, &teachers).await,
        ([], _, Some(_)) => Err(CommandError::new("--where chooses what is scored anew, which needs --set NAME")
            .hint("the score job scores what the learner waits for")),
        ([name], [teacher], condition) => {
            let (name, teacher) = (name.clone(), PathBuf::from(teacher));
            rescore::run(rescore::Args { name, teacher, condition, pipeline: args.pipeline }).await
        }
        ([name], _, _) => Err(CommandError::new(format!("--set `{name}` needs one --teacher DIR: who scores"))
            .hint("a setting of the pipeline is KEY=VALUE: --set score.top_k_max=64")),
        (names, ..) => Err(CommandError::new(format!("--set names {} score sets: {}", names.len(), names.join(", ")))
            .hint("one at a time; a setting of the pipeline is KEY=VALUE")),
    }
}

async fn job(job: Job, args: JobArgs, teachers: &[String]) -> Result<()> {
    let pipeline = Pipeline::load(&args.pipeline.files, &args.pipeline.sets)?;
    match job {
        // It asks the student anew: what is stored of rollouts and scores is the learner's affair, and in a replay the parent's.
        Job::Eval => preflight::check_replay_settings(&score_set::as_if_enough(&pipeline))?,
        _ => preflight::check_settings(&pipeline)?,
    }
    let threads = match job {
        Job::Rollout => pipeline.rollout.threads,
        Job::Score => pipeline.score.threads,
        Job::Eval => pipeline.eval.as_ref().map_or(1, |eval| eval.threads),
        Job::Learn | Job::Run | Job::Store => pipeline.learn.threads,
    };
    // Before there is a run to wait for.
    let teachers = score::served(&pipeline, teachers)?;
    model::set_threads(threads as usize);
    let stop = Stop::listen();
    // Without a name, one that no other worker has: claims lapse by name.
    let worker = args.worker.unwrap_or_else(|| format!("{}-{}", job.as_str(), store::unique_id()));
    if job == Job::Learn {
        begin(&pipeline, &store::unique_id()).await?;
    }
    let Some(context) = Context::open(pipeline, job, worker, stop).await? else { return Ok(()) };
    match job {
        Job::Rollout => crate::rollout::run(context).await,
        Job::Score => score::run(context, teachers).await,
        Job::Eval => crate::eval::run(context).await,
        Job::Learn | Job::Run | Job::Store => learn::run(context).await,
    }
}

/// Begins the run in the pipeline's store, as this life of `opd run`, or makes sure that what is there is this run.
///
/// # Errors
/// What [`preflight::check`] finds; another run in the store.
pub async fn begin(pipeline: &Pipeline, incarnation: &str) -> Result<store::Follower> {
    let store = crate::context::open_store(pipeline).await?;
    let inputs = crate::replay::check_all(pipeline, &store).await?;
    identity::create(&store, pipeline, &inputs, incarnation).await
}
