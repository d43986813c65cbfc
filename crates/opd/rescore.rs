//! `opd score --set NAME --teacher DIR`: another teacher, or more of one, on rollouts that are recorded, as a score set beside the
//! run's own. The rollouts, and what the learner does, stay as they are.

use crate::{
    beside,
    cli::PipelineArgs,
    config::{Pipeline, apply_sets, from_table},
    context::open_store,
    error::{CommandError, Result, not_stored, off_thread},
    failpoint::{self, Point},
    identity::model_digest,
    output::{say, show},
    preflight, progress, score, score_set,
    stop::Stop,
};
use model::{Tokenizer, Transformer};
use record::{BatchId, Claims, Codec, Commit, Event, Job, RolloutCommit, ScoreCommit, ScoreSet, ScoreSetCommit, Work};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};
use store::{Snapshot, Store};

/// What to score anew.
pub struct Args {
    /// The new score set.
    pub name: String,
    /// Who scores: a Hugging Face directory.
    pub teacher: PathBuf,
    /// Only batches with a row of `rollouts` for which this holds.
    pub condition: Option<String>,
    /// A pipeline, whose store and [score] it is, or a store, whose latest settings are taken.
    pub pipeline: PipelineArgs,
}

/// Scores batch by batch what is not yet scored in the set. Ended early, it goes on when it is asked for again; several of it share the
/// work, each from a place of its own.
///
/// # Errors
/// A teacher with other tokens, a set that is the run's own or was begun otherwise, a condition that selects nothing.
pub async fn run(args: Args) -> Result<()> {
    let pipeline = resolve(&args.pipeline).await?;
    beside::check_name(&args.name)?;
    model::set_threads(pipeline.score.threads as usize);
    let (store, stop) = (open_store(&pipeline).await?, Stop::listen());
    let mut log = store.follow().await?;
    beside::check_has_rows(&pipeline.store.url, log.snapshot())?;
    let set = declare(&args, &pipeline, log.snapshot()).await?;
    let wanted = match &args.condition {
        Some(condition) => Some(chosen(&store, log.snapshot().seq, condition).await?),
        None => None,
    };
    let begin = |now: &Snapshot| now.score_set(&args.name).is_none().then(|| Event::ScoreSet(set.clone()));
    let worker = Worker::new();
    log.append(worker.work(Instant::now(), 0), begin).await?;
    check_begun(log.snapshot(), &set)?;

    let commits = store.history(Some(log.snapshot().seq)).await?;
    let batches = delivered(&commits, wanted.as_ref());
    let mut done = scored(&commits, &args.name);
    log.take_new();
    let (line, dir, device) =
        (progress::Line::new("score"), args.teacher.clone(), model::device(&pipeline.score.device)?);
    let mut network = off_thread(move || Ok(Transformer::load(&dir, device)?)).await?;
    let vocabulary = network.real_vocab() as u32;
    let (mut made, mut unread) = (0, BTreeSet::new());
    for batch in worker.ordered(&batches) {
        if stop.is_asked() {
            break;
        }
        log.refresh().await?;
        done.extend(scored(&log.take_new(), &args.name));
        if done.contains(&batch.batch) {
            continue;
        }
        let began = Instant::now();
        let rollouts = match store.get_rollouts(&batch.object).await {
            Ok(rollouts) => rollouts,
            Err(error) if error.is_of_one_object() => {
                line.say(&format!("batch `{}` is left out: {error}", batch.batch));
                unread.insert(batch.batch.clone());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let params = score::scoring_params(&pipeline, &rollouts);
        let (scored, back) = off_thread(move || Ok((score::score(&network, rollouts, &params)?, network))).await?;
        network = back;
        let codec = pipeline.score.codec;
        failpoint::pass(Job::Score, Point::BeforePut);
        let put = store.put_packed_scores(&args.name, &batch.batch, &scored, codec, vocabulary).await;
        let (object, packing) = put.map_err(|error| not_stored(error, "score.codec", codec))?;
        failpoint::pass(Job::Score, Point::AfterPut);
        let scores = ScoreCommit {
            batch: batch.batch.clone(),
            score_set: args.name.clone(),
            parent: None,
            object,
            packing: (codec != Codec::Plain).then_some(packing),
            claims: Claims::default(),
        };
        log.append(worker.work(began, batch.tokens), |_| Some(Event::Scores(scores.clone()))).await?;
        failpoint::pass(Job::Score, Point::AfterCommit);
        done.insert(batch.batch.clone());
        made += 1;
        let Tally { there, .. } = tally(&batches, &done, &unread);
        line.show(&format!("{there} of {} batches in `{}`", batches.len(), args.name));
    }
    line.clear();
    let Tally { there, unread, left } = tally(&batches, &done, &unread);
    if left > 0 {
        say(&format!("stopped with {left} of {} batches to go; the same command goes on", batches.len()));
    }
    show(&format!("score set `{}`: {there} of {} batches, {made} of them scored now\n", args.name, batches.len()))?;
    if unread > 0 {
        let what = format!("{unread} of {} batches cannot be read", batches.len());
        return Err(
            CommandError::new(what).hint("bring their objects back from a copy; the same command then adds them")
        );
    }
    Ok(())
}

/// The pipeline that is given, or the latest settings of the run in the store that is.
async fn resolve(args: &PipelineArgs) -> Result<Pipeline> {
    let is_toml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    let pipeline = match args.files.as_slice() {
        [store] if !is_toml(store) => {
            let url = store.display().to_string();
            let opened = Store::open(&url, store::StoreOptions::default()).await?;
            let settings = opened.snapshot(None).await?.settings.ok_or_else(|| {
                CommandError::new(format!("the run in `{url}` has not recorded its settings yet"))
                    .hint("give its pipeline instead: opd score --set NAME --teacher DIR PIPELINE.toml")
            })?;
            let mut pipeline = recorded(settings, &args.sets)?;
            pipeline.store.url = url;
            pipeline
        }
        files => Pipeline::load(files, &args.sets)?,
    };
    // Who learns from the new set says by which estimator; this run's reads its own.
    preflight::check_settings(&score_set::as_if_enough(&pipeline))?;
    Ok(pipeline)
}

/// A pipeline as a commit recorded it, with `sets` applied.
fn recorded(mut settings: serde_json::Value, sets: &[String]) -> Result<Pipeline> {
    drop_nulls(&mut settings);
    let fault = |error: toml::ser::Error| CommandError::new(format!("the run's settings cannot be read: {error}"));
    let mut table = toml::Table::try_from(settings).map_err(fault)?;
    apply_sets(&mut table, sets)?;
    from_table("the run's settings", table)
}

/// TOML has no null: what is not there is left out.
fn drop_nulls(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

/// The score set that is asked for: of the teacher what [score] says, of the sampler what the rollouts have.
async fn declare(args: &Args, pipeline: &Pipeline, now: &Snapshot) -> Result<ScoreSetCommit> {
    if now.run.score_sets.contains_key(&args.name) {
        return Err(CommandError::new(format!("--set `{}` is the run's own score set", args.name))
            .hint("give the new one another name"));
    }
    let (dir, wanted, url) = (args.teacher.clone(), now.run.tokenizer, pipeline.store.url.clone());
    let digest = off_thread(move || {
        let tokenizer = preflight::check_tokenizer("--teacher", &dir)?;
        check_tokens(&tokenizer, &dir, &wanted.to_string(), &url)?;
        model_digest(&dir)
    })
    .await?;
    let own = now.run.score_sets.values().next().cloned();
    let asked = pipeline.score_set();
    // The rollouts are the run's: what they keep of the sampler is what its own score set says.
    let holds = match own {
        Some(own) => {
            ScoreSet { draws: own.draws, draws_kept: own.draws_kept, sampler_top_k: own.sampler_top_k, ..asked }
        }
        None => asked,
    };
    let teachers = now.run.teachers.keys().map(|id| (id.clone(), digest)).collect();
    let set = ScoreSetCommit { score_set: args.name.clone(), holds, parent: None, teachers };
    check_begun(now, &set)?;
    Ok(set)
}

fn check_tokens(tokenizer: &Tokenizer, dir: &Path, wanted: &str, url: &str) -> Result<()> {
    let found = format!("sha256:{}", tokenizer.map_digest());
    if found == wanted {
        return Ok(());
    }
    let what = format!("--teacher `{}` has the tokenizer {found}, the run in `{url}` has {wanted}", dir.display());
    Err(CommandError::new(what).hint("rollouts are recorded as ids: both need one token map"))
}

/// That a score set of that name, where there is one, is this one.
fn check_begun(now: &Snapshot, set: &ScoreSetCommit) -> Result<()> {
    let Some(there) = now.score_sets.get(&set.score_set).filter(|there| *there != set) else { return Ok(()) };
    let text = |set: &ScoreSetCommit| serde_json::to_string(set).unwrap_or_else(|error| error.to_string());
    let what = format!("--set `{}` was begun as {}, it is asked for as {}", set.score_set, text(there), text(set));
    Err(CommandError::new(what).hint("ask for it as it was begun, or give the new one another name"))
}

/// Batches with a row for which the condition holds.
async fn chosen(store: &Store, seq: u64, condition: &str) -> Result<BTreeSet<BatchId>> {
    use arrow::array::AsArray;
    let asked = |error: query::QueryError| CommandError::from(error).at(format!("--where `{condition}`"));
    let session = query::open(store, Some(seq)).await?;
    let mut answer =
        session.run(&format!("select distinct batch from rollouts where ({condition})")).await.map_err(asked)?;
    let mut chosen = BTreeSet::new();
    while let Some(found) = answer.next().await.map_err(asked)? {
        let ids = found.column(0).as_string_opt::<i32>();
        chosen.extend(ids.into_iter().flatten().flatten().map(str::to_string));
    }
    if chosen.is_empty() {
        return Err(CommandError::new(format!("--where `{condition}` selects no rollout"))
            .hint("ask the store what there is: opd sql STORE \"select * from rollouts limit 3\""));
    }
    Ok(chosen)
}

/// The batches that were delivered, in the order of the log; without those that are damaged or were given up.
fn delivered<'a>(commits: &'a [Commit], wanted: Option<&BTreeSet<BatchId>>) -> Vec<&'a RolloutCommit> {
    let gone = crate::recorded::gone(commits);
    let delivered = commits.iter().filter_map(|commit| match &commit.event {
        Event::Rollouts(rollouts) => Some(rollouts),
        _ => None,
    });
    let is_wanted = |of: &&RolloutCommit| wanted.is_none_or(|wanted| wanted.contains(&of.batch));
    delivered.filter(|of| !gone.contains(&of.batch)).filter(is_wanted).collect()
}

/// How many batches have scores, could not be read and have none, and are left.
#[derive(Debug, PartialEq)]
struct Tally {
    there: usize,
    unread: usize,
    left: usize,
}

/// What this worker could not read, another may have scored.
fn tally(batches: &[&RolloutCommit], done: &BTreeSet<BatchId>, unread: &BTreeSet<BatchId>) -> Tally {
    let mut tally = Tally { there: 0, unread: 0, left: 0 };
    for batch in batches {
        match (done.contains(&batch.batch), unread.contains(&batch.batch)) {
            (true, _) => tally.there += 1,
            (false, true) => tally.unread += 1,
            (false, false) => tally.left += 1,
        }
    }
    tally
}

/// The batches with scores in the set.
fn scored(commits: &[Commit], name: &str) -> BTreeSet<BatchId> {
    let scored = commits.iter().filter_map(|commit| match &commit.event {
        Event::Scores(scores) if scores.score_set == name => Some(scores.batch.clone()),
        _ => None,
    });
    scored.collect()
}

/// Who scores.
struct Worker {
    name: String,
    incarnation: String,
    started: i64,
}

impl Worker {
    fn new() -> Self {
        let incarnation = store::unique_id();
        Self { name: format!("{}-{incarnation}", Job::Score.as_str()), incarnation, started: store::now_ms() }
    }

    fn work(&self, began: Instant, tokens: u64) -> Work {
        Work {
            worker: self.name.clone(),
            incarnation: self.incarnation.clone(),
            job: Job::Score,
            started: self.started,
            busy_s: began.elapsed().as_secs_f64(),
            waited_s: 0.0,
            tokens,
        }
    }

    /// All batches, from one on that few others begin with: workers meet as late as they can, and whoever comes second to a batch
    /// passes it over.
    fn ordered<'a, T>(&self, batches: &'a [T]) -> impl Iterator<Item = &'a T> {
        let hash = record::Digest::of(self.incarnation.as_bytes()).hex();
        let number = u64::from_str_radix(&hash[..8], 16).unwrap_or_default();
        let place = (number % batches.len().max(1) as u64) as usize;
        batches[place..].iter().chain(&batches[..place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::{Digest, ObjectRef, PolicyVersion, RowSet, UnitRows};

    #[test]
    fn a_batch_that_another_could_read_is_not_counted_as_unread() {
        let commit = |batch: &str| RolloutCommit {
            batch: batch.into(),
            of: UnitRows { unit: 0, rows: RowSet::first(1) },
            teacher_id: "teacher".into(),
            policy_version: PolicyVersion(0),
            tokens: 1,
            object: ObjectRef { key: batch.into(), bytes: 1, digest: Digest::of(b"x") },
            codec: None,
            claims: Claims::default(),
        };
        let batches = ["a", "b", "c", "d"].map(commit);
        let ids = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<BatchId>>();
        // Sets begun with another --where hold other batches too.
        let counted = tally(&batches.each_ref(), &ids(&["a", "b", "z"]), &ids(&["b", "c"]));
        assert_eq!(counted, Tally { there: 2, unread: 1, left: 1 });
    }
}
