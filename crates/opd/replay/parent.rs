//! The run whose rows are taken: opened, and held against what the replay needs, before anything is written.

use super::script::{Chosen, Cut, Recording, Script};
use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    recorded, score_set,
    teachers::listed,
};
use arrow::{array::AsArray, datatypes::Int64Type};
use record::{BatchId, Codec, Commit, Event, ReplayOrder, Run, ScoreSet};
use std::collections::{BTreeMap, BTreeSet};
use store::{Store, StoreError, StoreOptions};

/// What the keys are called by which a parent is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    pub from: &'static str,
    pub condition: &'static str,
    /// What to do where rows are gone.
    pub without_lost: &'static str,
}

/// Those of `opd replay`.
pub(super) const FLAGS: Keys =
    Keys { from: "--from", condition: "--where", without_lost: "or leave their rows out with --where or --at" };

/// Those of a pipeline that mixes.
pub(super) const MIX: Keys = Keys {
    from: "learn.replay.from",
    condition: "learn.replay.where",
    without_lost: "or begin a run that leaves their rows out with learn.replay.where",
};

/// A run whose rows are taken, up to a commit.
#[derive(Clone, Debug)]
pub(super) struct ParentRun {
    pub keys: Keys,
    pub store: Store,
    pub run: Run,
    /// The last commit that counts.
    pub seq: u64,
    pub commits: Vec<Commit>,
    /// Batches that nobody is to read any more by the whole log, whatever commit counts: they were found damaged, or given up.
    gone: BTreeSet<BatchId>,
    /// Those of them that were given up.
    pub given_up: BTreeSet<BatchId>,
}

/// Takes over what rollouts and scores were made with: a replay makes none.
fn take_over(pipeline: &mut Pipeline, set: &ScoreSet) {
    let (rollout, score) = (&mut pipeline.rollout, &mut pipeline.score);
    (rollout.draws, rollout.draws_kept) = (set.draws, set.draws_kept);
    if let Some(kept) = set.sampler_top_k {
        (rollout.top_k_mass, rollout.top_k_max, rollout.top_k_floor) = (kept.mass, kept.max, kept.floor);
    }
    (score.top_k_mass, score.top_k_max, score.top_k_floor) = (set.top_k_mass, set.top_k_max, set.top_k_floor);
    score.draws = set.teacher_draws;
    // One that this program does not know is found out when it is read.
    score.codec = Codec::of_name(&set.codec).unwrap_or(score.codec);
}

/// Which rows, in which order.
pub(super) struct Asked<'a> {
    pub order: ReplayOrder,
    pub condition: Option<&'a str>,
    /// The steps as they were recorded, whatever `condition` leaves of each and the pipeline cuts: weights belong to a step.
    pub as_recorded: bool,
}

impl ParentRun {
    /// Reads the log of the run in `url`, of which a replay takes all rows. What rollouts and scores hold is as the run has it, whatever
    /// the pipeline says.
    ///
    /// # Errors
    /// No run, one of a newer program, one that is itself a replay; a score set that it does not have, or without what the estimator
    /// reads.
    pub async fn open(url: &str, at: Option<u64>, pipeline: &mut Pipeline) -> Result<Self> {
        let options = StoreOptions { prefetch: pipeline.store.prefetch, ..StoreOptions::default() };
        let parent = Self::read(FLAGS, url, at, options).await?;
        let holds = parent.check(url, pipeline)?;
        take_over(pipeline, &holds);
        Ok(parent)
    }

    /// Reads the log of the run in `url`, whose rows are mixed into those of a run.
    ///
    /// # Errors
    /// As [`ParentRun::open`].
    pub async fn open_beside(url: &str, at: Option<u64>, pipeline: &Pipeline) -> Result<Self> {
        let parent = Self::read(MIX, url, at, pipeline.store.options()).await?;
        parent.check(url, pipeline)?;
        Ok(parent)
    }

    async fn read(keys: Keys, url: &str, at: Option<u64>, options: StoreOptions) -> Result<Self> {
        let opened = async {
            let store = Store::open(url, options).await?;
            let commits = store.history(None).await?;
            if at.is_some_and(|at| commits.last().is_some_and(|last| last.seq < at)) {
                // Says where the log ends.
                store.history(at).await?;
            }
            Ok::<_, StoreError>((store, commits))
        };
        let (store, mut commits) = opened.await.map_err(|error| CommandError::from(error).at(keys.from))?;
        let owned = |batches: BTreeSet<&BatchId>| batches.into_iter().cloned().collect();
        let (gone, given_up) = (owned(recorded::gone(&commits)), owned(recorded::given_up_batches(&commits)));
        commits.retain(|commit| at.is_none_or(|at| commit.seq <= at));
        let (run, seq) = match (commits.first().map(|commit| &commit.event), commits.last()) {
            (Some(Event::Run(run)), Some(last)) => ((**run).clone(), last.seq),
            _ => {
                let what = format!("{}: the log of `{url}` does not begin with a run", keys.from);
                return Err(CommandError::new(what));
            }
        };
        Ok(Self { keys, store, run, seq, commits, gone, given_up })
    }

    /// That it has rows of its own, with scores that the estimator can read; returns what these hold.
    fn check(&self, url: &str, pipeline: &Pipeline) -> Result<ScoreSet> {
        let from = self.keys.from;
        if let Some(parent) = self.run.parent.as_ref().filter(|parent| parent.is_replayed_whole()) {
            let what = format!("{from}: the run in `{url}` is itself a replay and holds no rows");
            return Err(CommandError::new(what).hint(format!("take its parent: {from} {}", parent.url)));
        }
        let beside = self.commits.iter().filter_map(|commit| match &commit.event {
            Event::ScoreSet(set) => Some((&set.score_set, &set.holds)),
            _ => None,
        });
        let sets: BTreeMap<&String, &ScoreSet> = self.run.score_sets.iter().chain(beside).collect();
        let (name, estimator) = (&pipeline.score.set, &pipeline.learn.estimator);
        let Some(set) = sets.get(name) else {
            let known = listed(sets.keys().map(|name| name.as_str()));
            let what = format!("{from}: `{url}` has no score set `{name}`");
            return Err(CommandError::new(what).hint(format!("it has {known}: set score.set")));
        };
        score_set::check(url, name, set, estimator).map_err(|error| error.at(from))?;
        Ok((*set).clone())
    }

    /// The rows of each step.
    ///
    /// # Errors
    /// A condition that cannot be asked, or one that leaves less than a step; a run without steps in the recorded order.
    pub async fn script(&self, pipeline: &Pipeline, asked: &Asked<'_>) -> Result<Script> {
        let chosen = match asked.condition {
            Some(condition) => Some(self.chosen(condition, &pipeline.score.set).await?),
            None => None,
        };
        let recording = self.recording(&pipeline.score.set);
        if asked.order == ReplayOrder::Recorded && recording.steps.is_empty() {
            let what = format!(
                "`{}` has no steps up to commit {}, so rows have no recorded order",
                self.store.url(),
                self.seq
            );
            return Err(CommandError::new(what).hint("--order seeded takes every scored row"));
        }
        if let Some(selection) = pipeline.learn.selection.as_ref().filter(|_| asked.order == ReplayOrder::Seeded) {
            let what = format!(
                "learn.where is `{selection}`, and --order seeded takes every scored row, those too that it rejected"
            );
            return Err(CommandError::new(what).hint(
                "a replay chooses rows with --where: give the condition there and take learn.where out of the pipeline",
            ));
        }
        let recorded = self.settings();
        let (was, is) = (recorded.and_then(|learn| learn.get("where")?.as_str()), pipeline.learn.selection.as_deref());
        if was != is && is.is_some() {
            let what = format!(
                "learn.where is `{}`, in the parent it was {}",
                is.unwrap_or_default(),
                was.map_or("none".into(), |was| format!("`{was}`"))
            );
            return Err(CommandError::new(what).hint("a replay chooses rows with --where"));
        }
        let rows = pipeline.learn.rows_per_step;
        let were = recorded.and_then(|learn| learn.get("rows_per_step")?.as_u64());
        let is_uncut = chosen.is_none() && were.is_none_or(|were| were == u64::from(rows));
        let cut = if (is_uncut || asked.as_recorded) && asked.order == ReplayOrder::Recorded {
            Cut::Recorded
        } else {
            Cut::Rows(rows)
        };
        if let Some(mixed) = self.run.parent.as_ref().filter(|_| cut == Cut::Recorded && chosen.is_none()) {
            let what = format!(
                "--from: the steps of the run in `{}` trained on rows of `{}` too (learn.replay), and cannot be repeated from its own",
                self.store.url(),
                mixed.url
            );
            return Err(CommandError::new(what).hint(match asked.as_recorded {
                true => "--where true evaluates the rows of each that it sampled itself",
                false => "--order seeded, or --where, takes the rows that it sampled itself",
            }));
        }
        let script = recording
            .script(asked.order, pipeline.seed, cut, chosen.as_ref())
            .map_err(|error| error.at(format!("`{}`", self.store.url())))?;
        if script.steps.is_empty() {
            let what = match (asked.condition, &chosen) {
                (Some(condition), Some(chosen)) => {
                    let left: usize = chosen.values().map(|rows| rows.len()).sum();
                    format!("--where `{condition}` leaves {left} rows, a step takes {rows}")
                }
                _ => format!("`{}` has fewer rows than the {rows} of a step", self.store.url()),
            };
            return Err(CommandError::new(what).hint("choose more, or lower learn.rows_per_step"));
        }
        Ok(script)
    }

    /// `[learn]` as the parent's latest settings have it.
    fn settings(&self) -> Option<&serde_json::Value> {
        let settings = self.commits.iter().rev().find_map(|commit| match &commit.event {
            Event::Config { settings } => Some(settings),
            _ => None,
        });
        settings?.get("learn")
    }

    /// Every batch with scores in `score_set`, and what steps consumed.
    pub fn recording(&self, score_set: &str) -> Recording {
        Recording::of(&self.commits, score_set, &self.gone)
    }

    /// The rows with scores in `score_set` for which `condition` holds, asked of these scores.
    ///
    /// # Errors
    /// A condition that cannot be asked, that may choose other rows when it is asked again, or that no row meets.
    pub async fn chosen(&self, condition: &str, score_set: &str) -> Result<Chosen> {
        let key = self.keys.condition;
        let asked = |error: query::QueryError| CommandError::from(error).at(format!("{key} `{condition}`"));
        let session = query::open(&self.store, Some(self.seq)).await?;
        // The parenthesis on a line of its own: the condition may end with a comment.
        let sql = format!(
            "select batch, \"row\" from scored_in('{}') as scored where ({condition}\n)",
            score_set.replace('\'', "''")
        );
        let mut answer = session.run_repeatable(&sql).await.map_err(asked)?;
        let mut chosen = Chosen::new();
        while let Some(found) = answer.next().await.map_err(asked)? {
            let (Some(batches), Some(rows)) =
                (found.column(0).as_string_opt::<i32>(), found.column(1).as_primitive_opt::<Int64Type>())
            else {
                return Err(CommandError::new("internal error: `scored` has other columns").hint("please report this"));
            };
            for (batch, row) in batches.iter().flatten().zip(rows.values()) {
                chosen.entry(batch.to_string()).or_default().insert(*row as u32);
            }
        }
        if chosen.is_empty() {
            let what = format!("{key} `{condition}` selects no row of `{}`", self.store.url());
            return Err(CommandError::new(what)
                .hint("ask the store what there is: opd sql STORE \"select * from scored limit 3\""));
        }
        Ok(chosen)
    }
}
