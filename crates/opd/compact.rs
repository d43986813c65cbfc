//! `opd compact`: the scores of a set once more, in fewer bytes, as a score set of their own with the same rows.

use crate::{
    beside,
    error::{CommandError, Result, not_stored},
    output::{say, show},
    progress::Line,
    recorded::{self, Recorded},
    status::size,
    stop::Stop,
    teachers::listed,
};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use model::ModelConfig;
use record::{
    BatchId, Budget, Claims, Codec, Commit, Event, Job, ObjectRef, Packing, ScoreCommit, ScoreSet, ScoreSetCommit, Work,
};
use std::{collections::BTreeMap, time::Instant};
use store::{Snapshot, Store, StoreOptions, Versions};

/// What to make of which score set.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// How the new score set is packed.
    #[arg(long, value_name = "LEVEL", value_parser = codecs())]
    codec: Codec,
    /// The new score set's name; of one that was begun, what is missing is made.
    #[arg(long = "set", value_name = "NAME")]
    name: String,
    /// The score set that it is made from; without this, the run's own.
    #[arg(long = "from", value_name = "NAME")]
    parent: Option<String>,
    /// Keep at most this many ids of the teacher's top-k; the mass of the others goes to the tail.
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Keep this many of the teacher's own draws at a position, every subset alike.
    #[arg(long, value_name = "M")]
    draws: Option<u32>,
}

fn codecs() -> impl TypedValueParser<Value = Codec> {
    PossibleValuesParser::new(Codec::ALL.map(Codec::as_str)).map(|name| Codec::of_name(&name).unwrap_or_default())
}

/// Makes the score set, batch by batch; what is there already stays. Ended early, it goes on when it is asked for again.
///
/// # Errors
/// A score set that would not be smaller, or whose name is taken; a batch that cannot be read.
pub async fn run(args: &Args, stop: &Stop) -> Result<()> {
    let store = Store::open(&args.store, StoreOptions::default()).await?;
    let mut log = store.follow().await?;
    let mut worker = Worker::new();
    let set = plan(args, log.snapshot())?;
    let begin = |now: &Snapshot| now.score_set(&args.name).is_none().then(|| Event::ScoreSet(set.clone()));
    log.append(worker.work(0), begin).await?;
    // Whoever else began it in the meantime began the same, or has the name.
    check_begun(log.snapshot(), &set)?;
    let config = &log.snapshot().run.student_config;
    let text = String::from_utf8_lossy(&store.get(config).await?).into_owned();
    let vocabulary = ModelConfig::from_json(&text, &config.key)?.vocab_size as u32;

    let commits = store.history(Some(log.snapshot().seq)).await?;
    let found = recorded::scored(&commits, parent_of(&set), &Versions::All);
    let mut done = done_by(&commits, &set.score_set);
    log.take_new();
    let line = Line::new("compact");
    let (mut sum, mut unread) = (Sum::default(), 0);
    for Recorded { selected, tokens, .. } in &found {
        let already = done.get(&selected.batch).cloned();
        let (bytes, packing) = match already {
            Some(made) => made,
            None if stop.is_asked() => continue,
            None => {
                worker.begin();
                let budget = Budget { teacher_top_k: args.top_k, teacher_draws: args.draws, ..Budget::default() };
                let scored = match store.get_scored_within(&selected.rollouts, &selected.scores, budget).await {
                    Ok(scored) => scored,
                    Err(error) if error.is_of_one_object() => {
                        line.say(&format!("batch `{}` is left out: {error}", selected.batch));
                        unread += 1;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let put = store.put_packed_scores(&args.name, &selected.batch, &scored, args.codec, vocabulary).await;
                let (object, packing) = put.map_err(|error| not_stored(error, "--codec", args.codec))?;
                let scores = commit_of(&set, &selected.batch, object, args.codec, packing);
                let made = (scores.object.bytes, packing);
                log.append(worker.work(*tokens), |_| Some(Event::Scores(scores.clone()))).await?;
                // Another worker's scores of a batch count where they came first.
                done.extend(done_by(&log.take_new(), &set.score_set));
                made
            }
        };
        sum.add(selected.scores.bytes, bytes, *tokens, &packing);
        line.show(&format!("{} of {} batches, {} -> {}", sum.batches, found.len(), size(sum.before), size(sum.after)));
    }
    line.clear();
    let left = found.len() - sum.batches - unread;
    if left > 0 {
        say(&format!("stopped with {left} of {} batches to go; the same command goes on", found.len()));
    }
    show(&sum.report(&set))?;
    if unread > 0 {
        let what = format!("{unread} of {} batches of score set `{}` cannot be read", found.len(), parent_of(&set));
        return Err(
            CommandError::new(what).hint("bring their objects back from a copy; the same command then adds them")
        );
    }
    Ok(())
}

fn commit_of(set: &ScoreSetCommit, batch: &str, object: ObjectRef, codec: Codec, packing: Packing) -> ScoreCommit {
    ScoreCommit {
        batch: batch.into(),
        score_set: set.score_set.clone(),
        parent: set.parent.clone(),
        object,
        packing: (codec != Codec::Plain).then_some(packing),
        claims: Claims::default(),
    }
}

/// The score set that is asked for.
///
/// # Errors
/// One that nothing is to be gained by, or that cannot be made of its parent.
fn plan(args: &Args, now: &Snapshot) -> Result<ScoreSetCommit> {
    let fault = |what: String, hint: &str| Err(CommandError::new(what).hint(hint));
    beside::check_name(&args.name)?;
    beside::check_has_rows(&args.store, now)?;
    let own = now.run.score_sets.keys();
    let Some(parent) = args.parent.as_ref().or_else(|| own.clone().next()) else {
        return fault(format!("`{}` has no score set", args.store), "score its rollouts first");
    };
    let Some(holds) = now.score_set(parent) else {
        let known = listed(own.chain(now.score_sets.keys()).map(String::as_str));
        let what = format!("--from `{parent}`: `{}` has no such score set", args.store);
        return Err(CommandError::new(what).hint(format!("it has {known}")));
    };
    if now.run.score_sets.contains_key(&args.name) || *parent == args.name {
        return fault(format!("--set `{}` is a score set that is there", args.name), "give the new one another name");
    }
    let Some(before) = Codec::of_name(&holds.codec) else {
        let what = format!("score set `{parent}` has the codec `{}`, which this program does not know", holds.codec);
        return fault(what, "use a newer opd");
    };
    if before.rounds() && args.codec < before {
        let what = format!("--codec `{}`: score set `{parent}` is `{}` already", args.codec.as_str(), holds.codec);
        return fault(
            what,
            "what was rounded stays so: a wider codec takes more bytes and gains nothing; make it from the score set that was scored",
        );
    }
    for (key, wanted, kept, what) in [
        ("--top-k", args.top_k, holds.top_k_max, "ids of the teacher's top-k"),
        ("--draws", args.draws, holds.teacher_draws, "draws of the teacher"),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted == 0 || *wanted > kept) {
            let what = format!("{key} {wanted}: score set `{parent}` keeps {kept} {what}");
            let hint = match (key, kept) {
                ("--draws", 0) => {
                    "the sampler's draws are the rollouts' own: whoever reads thins those (learn.estimator.draws)"
                        .into()
                }
                (_, 0) => format!("leave {key} away"),
                _ => format!("give {key} a number from 1 to {kept}, or leave it away"),
            };
            return Err(CommandError::new(what).hint(hint));
        }
    }
    let made = ScoreSet {
        top_k_max: args.top_k.unwrap_or(holds.top_k_max),
        teacher_draws: args.draws.unwrap_or(holds.teacher_draws),
        codec: args.codec.as_str().into(),
        ..holds.clone()
    };
    if made == *holds {
        let what = format!("score set `{}` would hold what `{parent}` does, packed as that is", args.name);
        return fault(what, "ask for another --codec, --top-k or --draws");
    }
    let teachers = now.score_sets.get(parent).map_or(&now.run.teachers, |set| &set.teachers);
    let set = ScoreSetCommit {
        score_set: args.name.clone(),
        holds: made,
        parent: Some(parent.clone()),
        teachers: teachers.clone(),
    };
    check_begun(now, &set)?;
    if before.rounds() {
        say(&format!("score set `{parent}` is rounded already (`{}`): the errors of both add up", holds.codec));
    }
    Ok(set)
}

/// That a score set of that name, where there is one, is this one.
fn check_begun(now: &Snapshot, set: &ScoreSetCommit) -> Result<()> {
    let Some(there) = now.score_sets.get(&set.score_set).filter(|there| *there != set) else { return Ok(()) };
    let text = |set: &ScoreSetCommit| {
        let ScoreSet { codec, top_k_max, teacher_draws, .. } = &set.holds;
        let from = set.parent.as_ref().map_or("scored by a teacher".into(), |parent| format!("made from `{parent}`"));
        format!("{from}, codec `{codec}`, top-k {top_k_max}, {teacher_draws} draws of the teacher")
    };
    let what = format!("score set `{}` is there: {}; asked for: {}", set.score_set, text(there), text(set));
    Err(CommandError::new(what).hint("ask for the same to go on with it, or give the new one another name"))
}

fn parent_of(set: &ScoreSetCommit) -> &str {
    set.parent.as_deref().unwrap_or_default()
}

/// Bytes and packing of each batch that has scores in `name`; the first count.
fn done_by(commits: &[Commit], name: &str) -> BTreeMap<BatchId, (u64, Packing)> {
    let mut done = BTreeMap::new();
    for commit in commits {
        if let Event::Scores(scores) = &commit.event
            && scores.score_set == name
        {
            let made = (scores.object.bytes, scores.packing.unwrap_or_default());
            done.entry(scores.batch.clone()).or_insert(made);
        }
    }
    done
}

/// Who commits the scores.
struct Worker {
    incarnation: String,
    begun: (Instant, i64),
    last: Instant,
}

impl Worker {
    fn new() -> Self {
        let now = Instant::now();
        Self { incarnation: store::unique_id(), begun: (now, store::now_ms()), last: now }
    }

    fn begin(&mut self) {
        self.begun = (Instant::now(), store::now_ms());
    }

    /// What it did since it began.
    fn work(&mut self, tokens: u64) -> Work {
        let (begun, started) = self.begun;
        let waited_s = begun.saturating_duration_since(self.last).as_secs_f64();
        self.last = Instant::now();
        Work {
            worker: "compact".into(),
            incarnation: self.incarnation.clone(),
            job: Job::Store,
            started,
            busy_s: begun.elapsed().as_secs_f64(),
            waited_s,
            tokens,
        }
    }
}

/// What the batches come to.
#[derive(Debug, Default)]
struct Sum {
    batches: usize,
    before: u64,
    after: u64,
    tokens: u64,
    packed: Packing,
}

impl Sum {
    fn add(&mut self, before: u64, after: u64, tokens: u64, packing: &Packing) {
        self.batches += 1;
        self.before += before;
        self.after += after;
        self.tokens += tokens;
        self.packed = self.packed.and(packing);
    }

    fn report(&self, set: &ScoreSetCommit) -> String {
        let (name, parent) = (&set.score_set, parent_of(set));
        let times = self.before as f64 / self.after.max(1) as f64;
        let mut text = format!(
            "{name}: {} batches of {parent}, {} -> {} ({times:.2} times less)",
            self.batches,
            size(self.before),
            size(self.after)
        );
        text += &format!(", {:.1} bytes a token", self.after as f64 / self.tokens.max(1) as f64);
        let Packing { bytes, entries, positions, kl } = self.packed;
        if entries > 0 {
            text += &format!(", {:.2} bytes an entry", bytes as f64 / entries as f64);
        }
        if positions > 0 {
            text += &format!(
                ", KL {kl:.1e} nats a position (of the entries that are kept and their tail, as {parent} has them)"
            );
        }
        text + "\n"
    }
}
