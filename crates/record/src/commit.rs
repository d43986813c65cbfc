//! What the log says: one commit, one JSON object, one thing that happened.

use crate::{
    Archive, Codec, Digest, DrawsKept, Packing, Parent, Pin, PolicyVersion, RecordError, Replayed, Retirement, RowSet,
    Work,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The newest version of the commits' JSON that this program reads. A commit has the least version that knows its kind
/// ([`Event::format`]), so that a store is refused by an older program only where it would be misread. 2: score sets say what is kept of the
/// sampler and how it is packed. 3: score sets beside the run's own, how rollouts are packed, pins, batches and step records that
/// are given up, rows that a selection rejected, and a parent, whose rows a run's steps replay.
/// 4: archives, and a parent of which a run takes a share.
pub const FORMAT: u32 = 4;
/// The version of commits that say nothing newer.
const COMMON: u32 = 3;

/// A name for one stored batch: its unit and a writer-made unique id.
pub type BatchId = String;

/// A rate or mean kept as (numerator, denominator), so that it can be summed; never a mean of ratios.
pub type Ratio = (f64, f64);

/// An object that a commit names. A name carries meaning for people; length and digest decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Where it lies, relative to the store's root.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// The version of its JSON: [`Event::format`] in the program that wrote it.
    pub format: u32,
    /// Its place in the log, from 0, without gaps.
    pub seq: u64,
    /// Unique, made by the writer: tells its own commit from another's after a lost acknowledgement.
    pub id: String,
    /// When it was written; milliseconds since 1970 by the writer's clock.
    pub at: i64,
    /// Who, and at what cost.
    pub work: Work,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened. In JSON, `kind` names the variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// Commit 0: what the run is, and the student as given.
    Run(Box<Run>),
    /// Settings that may change between starts, as they are from here on.
    Config {
        /// The pipeline as resolved.
        settings: serde_json::Value,
    },
    /// A worker takes on work without delivering any.
    Claim(Claims),
    /// A unit was sampled.
    Rollouts(RolloutCommit),
    /// A score set beside the run's own is begun.
    ScoreSet(ScoreSetCommit),
    /// A batch was scored.
    Scores(ScoreCommit),
    /// The learner made a step.
    Step(Box<StepCommit>),
    /// Rows ended untrained, outside a step.
    Drop {
        /// Which, and why.
        dropped: Vec<Dropped>,
    },
    /// A policy version was evaluated; the first commit of an (eval set, version) counts.
    Eval(EvalCommit),
    /// Some of what was stored is no longer kept; its objects may be deleted.
    Retire(Retirement),
    /// Something is kept whatever retention says.
    Pin(Pin),
    /// A pin is taken away.
    Unpin {
        /// Its name.
        name: String,
    },
    /// Batches or step records lie in an archive from here on.
    Archive(Archive),
    /// The last step is made; nothing but evaluations follows.
    Finish {
        /// Rows that were left.
        dropped: Vec<Dropped>,
    },
}

impl Event {
    /// The word that names the variant in JSON and in SQL.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Run(_) => "run",
            Event::Config { .. } => "config",
            Event::Claim(_) => "claim",
            Event::Rollouts(_) => "rollouts",
            Event::ScoreSet(_) => "score_set",
            Event::Scores(_) => "scores",
            Event::Step(_) => "step",
            Event::Drop { .. } => "drop",
            Event::Eval(_) => "eval",
            Event::Retire(_) => "retire",
            Event::Pin(_) => "pin",
            Event::Unpin { .. } => "unpin",
            Event::Archive(_) => "archive",
            Event::Finish { .. } => "finish",
        }
    }

    /// The version of the commits' JSON that a reader has to know.
    pub fn format(&self) -> u32 {
        match self {
            Event::Archive(_) => FORMAT,
            Event::Run(run) if run.parent.as_ref().is_some_and(|parent| !parent.is_replayed_whole()) => FORMAT,
            _ => COMMON,
        }
    }
}

/// The run's identity: a store that says otherwise belongs to another run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Unique to this run.
    pub run_id: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// Seed of every chance in the run.
    pub seed: u64,
    /// Digest of the tokenizer's (token, id) map.
    pub tokenizer: Digest,
    /// Digest of each teacher's config and weights, by teacher id.
    pub teachers: BTreeMap<String, Digest>,
    /// The training prompts.
    pub prompts: PromptSet,
    /// How prompts are cut into units.
    pub units: Units,
    /// What each score set holds, by name.
    pub score_sets: BTreeMap<String, ScoreSet>,
    /// The student's config.json.
    pub student_config: ObjectRef,
    /// The student's tokenizer.json.
    pub student_tokenizer: ObjectRef,
    /// The student's other files that say how it is prompted and when it stops, by file name, as far as it has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub student_files: BTreeMap<String, ObjectRef>,
    /// Policy version 0.
    pub policy: Policy,
    /// The run whose recorded rows it trains on: all of them are where it is a replay, a share of them where it mixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// A prompt set, as it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSet {
    /// SHA-256 over the prompts' texts, data sources and teacher ids, in their order.
    pub digest: Digest,
    /// Number of prompts.
    pub count: u64,
}

/// How the prompt order is cut: unit `u` is the slice `[u * prompts, (u + 1) * prompts)` of the endless order that
/// repeats the prompt set, shuffled anew each epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Units {
    /// Prompts in a unit.
    pub prompts: u32,
    /// Rollouts of each prompt. Row `r` of a unit is sample `r % samples` of its prompt `r / samples`.
    pub samples: u32,
}

impl Units {
    /// Rows of a whole unit.
    pub fn rows(self) -> u32 {
        self.prompts * self.samples
    }
}

/// What a score set keeps of the teacher, and what the rollouts it scores keep of the sampler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSet {
    /// The teacher's top-k is cut at this mass ...
    pub top_k_mass: f64,
    /// ... and at this many entries; 0 keeps no top-k ...
    pub top_k_max: u32,
    /// ... and has no entry less likely than this, but for the first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub top_k_floor: f64,
    /// Monte-Carlo draws of the sampler a position, m; 0 keeps none.
    pub draws: u32,
    /// Which of them are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub draws_kept: DrawsKept,
    /// The sampler's top-k, cut in the same way; `None` in the log of a program that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler_top_k: Option<SamplerTopK>,
    /// Monte-Carlo draws of the teacher a position; 0 keeps none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub teacher_draws: u32,
    /// How columns are packed; `plain` is not at all.
    pub codec: String,
}

/// How the sampler's top-k is cut.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerTopK {
    /// At this mass ...
    pub mass: f64,
    /// ... and at this many entries; 0 keeps none ...
    pub max: u32,
    /// ... and it has no entry less likely than this, but for the first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub floor: f64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A published policy version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Optimizer steps that made it.
    pub version: PolicyVersion,
    /// Its weights: safetensors, float32.
    pub weights: ObjectRef,
}

/// Work taken on. A claim keeps others from doing the same; it is never needed for a result to count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Units to be sampled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<UnitRows>,
    /// Batches to be scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<BatchId>,
}

/// Some rows of a unit: all of them, those of one teacher, or those that are issued again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRows {
    /// The unit.
    pub unit: u64,
    /// Row numbers within it.
    pub rows: RowSet,
}

/// A sampled unit, or what of it is for one teacher: row i of the batch is the i-th row of `of`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutCommit {
    /// The new batch.
    pub batch: BatchId,
    /// What it holds rows of.
    pub of: UnitRows,
    /// The version that sampled it.
    pub policy_version: PolicyVersion,
    /// The teacher that is to score it.
    pub teacher_id: String,
    /// The rollouts.
    pub object: ObjectRef,
    /// How draws and the sampler's top-k are packed in it; `None` where a program did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<Codec>,
    /// Response tokens.
    pub tokens: u64,
    /// What the writer does next.
    #[serde(default, flatten)]
    pub claims: Claims,
}

/// A score set beside those of the run's identity: its scores may come at any time, of any batch, and move none in the learner's
/// queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreSetCommit {
    /// Its name, which no other score set of the run has.
    pub score_set: String,
    /// What it holds.
    pub holds: ScoreSet,
    /// The score set that it is made from without asking a teacher; `None` where teachers score anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Digest of each teacher's config and weights, by teacher id.
    pub teachers: BTreeMap<String, Digest>,
}

/// A scored batch. Of several in a score set beside the run's own the first counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreCommit {
    /// The rollout batch.
    pub batch: BatchId,
    /// The score set.
    pub score_set: String,
    /// The score set that these were made from without asking a teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The scores.
    pub object: ObjectRef,
    /// What packing them gave; `None` where the score set is `plain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packing: Option<Packing>,
    /// What the writer does next.
    #[serde(default, flatten)]
    pub claims: Claims,
}

/// Rows of one batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRows {
    /// The batch.
    pub batch: BatchId,
    /// Row numbers within it.
    pub rows: RowSet,
}

/// Rows that ended without being trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Which.
    #[serde(flatten)]
    pub of: BatchRows,
    /// Why.
    pub reason: DropReason,
    /// Whether the rows are to be sampled again.
    pub reissue: bool,
}

/// Why a row was not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// It would have exceeded `max_staleness`.
    Stale,
    /// Its object is damaged.
    Corrupt,
    /// The run's last step was made without it.
    Finished,
    /// The learner's predicate rejected it.
    Selection,
}

impl DropReason {
    /// The word in JSON and in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Stale => "stale",
            DropReason::Corrupt => "corrupt",
            DropReason::Finished => "finished",
            DropReason::Selection => "selection",
        }
    }
}

/// One optimizer step: (weights of version `step - 1`, rows, settings) -> weights of version `step`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepCommit {
    /// The step; it made policy version `step`.
    pub step: u64,
    /// Rows trained on, in order.
    pub consumed: Vec<BatchRows>,
    /// Rows of the parent's trained on, in order, after those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replayed: Vec<Replayed>,
    /// Rows that ended untrained with this step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Dropped>,
    /// The score set they were trained with.
    pub score_set: String,
    /// What the learner saw.
    pub record: ObjectRef,
    /// SHA-256 of the new weights as safetensors in float32.
    pub weights_digest: Digest,
    /// The new version, where it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// The optimizer's moments after the step, where they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<ObjectRef>,
    /// The settings that decide the update; a replay needs the same.
    pub settings: serde_json::Value,
    /// Metrics as (numerator, denominator).
    pub metrics: BTreeMap<String, Ratio>,
}

impl StepCommit {
    /// The rows it trained on, in order: its own run's, then the parent's.
    pub fn trained(&self) -> impl Iterator<Item = &BatchRows> {
        self.consumed.iter().chain(self.replayed.iter().map(|replayed| &replayed.of))
    }

    /// How many they are.
    pub fn rows(&self) -> u64 {
        self.trained().map(|of| u64::from(of.rows.len())).sum()
    }
}

/// How well a policy version does on held-out prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalCommit {
    /// The eval set's name.
    pub eval_set: String,
    /// The version.
    pub policy_version: PolicyVersion,
    /// Problems solved greedily, of all.
    pub accuracy: Ratio,
    /// Answers sampled at the rollouts' temperature that are right, of all.
    pub sampled_accuracy: Ratio,
    /// Metrics as (numerator, denominator).
    pub metrics: BTreeMap<String, Ratio>,
}

impl Commit {
    /// The commit as it is stored.
    ///
    /// # Errors
    /// [`RecordError::Parse`] if a metric is not a finite number: JSON has no other.
    pub fn to_json(&self) -> Result<Vec<u8>, RecordError> {
        let not_json = |error: serde_json::Error| RecordError::Parse { text: error.to_string(), expected: "a commit" };
        let bytes = serde_json::to_vec(self).map_err(not_json)?;
        Self::from_json(&bytes)?;
        Ok(bytes)
    }

    /// Reads a stored commit.
    ///
    /// # Errors
    /// [`RecordError::Schema`] for a newer format, [`RecordError::Parse`] for anything that is not a commit.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Envelope {
            format: u32,
        }
        let damaged = |error: serde_json::Error| RecordError::Parse {
            text: format!("{} ({error})", String::from_utf8_lossy(&bytes[..bytes.len().min(80)])),
            expected: "a commit",
        };
        let Envelope { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format > FORMAT {
            return Err(RecordError::Schema {
                what: "commit format".into(),
                expected: format!("at most {FORMAT}, the newest this program reads"),
                found: format!("{format}; use a newer opd"),
            });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}
