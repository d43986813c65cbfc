//! The pipeline: one TOML file that says what is learned, read by every job; layers over it say where it is kept.

mod layers;
mod prompts;
mod replay;
#[cfg(test)]
mod settings_tests;
mod storage;

use crate::{
    error::{CommandError, Result},
    pace::WhenStale,
    teachers::TeacherSection,
};
use learner::{EstimatorConfig, LearnerSettings, OptimizerConfig};
use record::{Codec, DrawsKept, SamplerTopK, ScoreSet, Units};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use toml::Table;

pub use layers::{apply_sets, from_table};
pub use prompts::{EvalSection, EvalSet, Keys, PromptsSection};
pub use replay::ReplaySection;
pub use storage::{CacheSection, StoreSection};

/// A run, as resolved from its layers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// What the run is called.
    pub name: String,
    /// Seed of every chance in the run.
    #[serde(default)]
    pub seed: u64,
    /// Where it is kept.
    pub store: StoreSection,
    /// The network that learns.
    pub student: ModelSection,
    /// The network that scores what no other is named for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherSection>,
    /// More networks that score, by the `teacher_id` of their prompts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub teachers: BTreeMap<String, TeacherSection>,
    /// What is asked.
    pub prompts: PromptsSection,
    /// How the student samples.
    pub rollout: RolloutSection,
    /// What is kept of the teacher.
    pub score: ScoreSection,
    /// How the student learns.
    pub learn: LearnSection,
    /// How it is tested; no section, no test.
    pub eval: Option<EvalSection>,
    /// How the jobs are run together.
    #[serde(default)]
    pub run: RunSection,
}

/// `[student]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A Hugging Face directory, relative to the pipeline file.
    pub model: PathBuf,
}

/// `[rollout]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSection {
    /// Prompts in a unit, which is sampled as one batch.
    pub prompts_per_unit: u32,
    /// Rollouts of each prompt.
    #[serde(default = "one")]
    pub samples_per_prompt: u32,
    /// Sampling temperature; every logprob is at this temperature.
    #[serde(default = "one_f64")]
    pub temperature: f64,
    /// Nucleus; 1 is the whole distribution.
    #[serde(default = "one_f64")]
    pub top_p: f64,
    /// Longest response.
    pub max_new_tokens: usize,
    /// Monte-Carlo draws taken at each position, the sampled token included; 0 takes none.
    #[serde(default)]
    pub draws: u32,
    /// Which of them are kept: `all`, or `tail`, those outside the sampler's top-k, with the number of all.
    #[serde(default)]
    pub draws_kept: DrawsKept,
    /// The sampler's top-k that is kept is cut at this mass ...
    #[serde(default = "one_f64")]
    pub top_k_mass: f64,
    /// ... and at this many entries, 0 keeps none ...
    #[serde(default)]
    pub top_k_max: u32,
    /// ... and has no entry less likely than this, but for the first.
    #[serde(default)]
    pub top_k_floor: f64,
    /// How draws and the sampler's top-k are stored: `plain`, `lossless`, `fast` or `compact`.
    #[serde(default)]
    pub codec: Codec,
    /// The policy samples that is this many versions older than the newest: staleness as an experiment's fixed variable.
    #[serde(default)]
    pub lag: u64,
    /// Processes that `opd run` starts.
    #[serde(default = "one")]
    pub workers: u32,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "cpu")]
    pub device: String,
    /// CPU threads.
    #[serde(default = "one")]
    pub threads: u32,
}

/// `[score]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSection {
    /// The score set's name.
    #[serde(default = "default_set")]
    pub set: String,
    /// The teacher's top-k is cut at this mass ...
    #[serde(default = "one_f64")]
    pub top_k_mass: f64,
    /// ... and at this many entries, 0 keeps none ...
    #[serde(default)]
    pub top_k_max: u32,
    /// ... and has no entry less likely than this, but for the first.
    #[serde(default)]
    pub top_k_floor: f64,
    /// Monte-Carlo draws from the teacher at each position; 0 takes none.
    #[serde(default)]
    pub draws: u32,
    /// How the teacher's top-k and draws are stored: `plain`, `lossless`, `fast` or `compact`.
    #[serde(default)]
    pub codec: Codec,
    /// Tokens scored at once.
    #[serde(default = "default_batch_tokens")]
    pub batch_tokens: usize,
    /// Processes that `opd run` starts.
    #[serde(default = "one")]
    pub workers: u32,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "cpu")]
    pub device: String,
    /// CPU threads.
    #[serde(default = "one")]
    pub threads: u32,
}

/// `[learn]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LearnSection {
    /// Optimizer steps of the run.
    pub steps: u64,
    /// Rollouts in a minibatch; one minibatch is one step.
    pub rows_per_step: u32,
    /// The greatest staleness of a row that is trained on; 0 is strictly synchronous.
    #[serde(default)]
    pub max_staleness: u64,
    /// The least staleness of a row that is trained on, as soon as there are versions enough.
    #[serde(default)]
    pub min_staleness: u64,
    /// What becomes of rows that would be staler: `drop` (and sample again), `wait` (take no step that makes them so) or
    /// `reweight` (train on them all the same).
    #[serde(default)]
    pub when_stale: WhenStale,
    /// A condition in SQL on the plain columns of a rollout and its scores; the learner takes the rows that meet it.
    #[serde(rename = "where", default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<String>,
    /// Recorded rows of another run among the run's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplaySection>,
    /// The loss.
    pub estimator: EstimatorConfig,
    /// AdamW, clipping and schedule.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Whether draws and the teacher's top-k are read for the reports of reverse and forward KL where the estimator does without.
    #[serde(default = "yes")]
    pub read_for_reports: bool,
    /// Tokens in one forward and backward pass.
    #[serde(default = "default_batch_tokens")]
    pub microbatch_tokens: usize,
    /// Positions whose logits are held at once; more are faster on a GPU and take more memory.
    #[serde(default = "default_head_chunk")]
    pub head_chunk: usize,
    /// Steps between two published versions.
    #[serde(default = "one_u64")]
    pub publish_every: u64,
    /// Steps between two versions whose moments are kept, from which a learner resumes.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// Newest versions whose weights are kept, beside the first and those that wait for an evaluation.
    #[serde(default = "default_keep_policies")]
    pub keep_policies: usize,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "cpu")]
    pub device: String,
    /// CPU threads.
    #[serde(default = "one")]
    pub threads: u32,
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunSection {
    /// Seconds without a commit of a worker after which its claims may be taken over.
    #[serde(default = "default_claim_timeout")]
    pub claim_timeout_s: f64,
    /// How often in a row a job that dies is started again.
    #[serde(default = "default_restarts")]
    pub restarts: u32,
    /// Seconds for which the log of a store that cannot be reached is tried again.
    #[serde(default = "default_patience")]
    pub patience_s: f64,
}

impl Default for RunSection {
    fn default() -> Self {
        let (claim_timeout_s, patience_s) = (default_claim_timeout(), default_patience());
        Self { claim_timeout_s, restarts: default_restarts(), patience_s }
    }
}

fn one() -> u32 {
    1
}
fn one_u64() -> u64 {
    1
}
fn one_f64() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}
fn cpu() -> String {
    "cpu".into()
}
fn default_set() -> String {
    "main".into()
}
fn default_batch_tokens() -> usize {
    8192
}
fn default_head_chunk() -> usize {
    LearnerSettings::default().head_chunk
}
fn default_checkpoint_every() -> u64 {
    10
}
fn default_keep_policies() -> usize {
    4
}
fn default_claim_timeout() -> f64 {
    60.0
}
fn default_restarts() -> u32 {
    5
}
fn default_patience() -> f64 {
    300.0
}

impl Pipeline {
    /// Reads `files`, each over the ones before it, then `sets`, each `a.b=value`.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, an unknown key (with the nearest known one), a missing or mistyped one.
    pub fn load(files: &[PathBuf], sets: &[String]) -> Result<Self> {
        let mut table = Table::new();
        for file in files {
            let shown = file.display();
            let text = std::fs::read_to_string(file).map_err(|error| {
                CommandError::new(format!("pipeline `{shown}`: {error}")).hint("see `pipelines/` for examples")
            })?;
            let layer: Table = toml::from_str(&text)
                .map_err(|error| CommandError::new(format!("pipeline `{shown}`: {}", error.to_string().trim_end())))?;
            layers::merge(&mut table, layer);
        }
        apply_sets(&mut table, sets)?;
        let mut pipeline: Self = from_table("pipeline", table)?;
        let folder = files.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).to_path_buf();
        pipeline.resolve_paths(&folder);
        Ok(pipeline)
    }

    /// Makes paths relative to the pipeline file relative to where the command runs.
    fn resolve_paths(&mut self, folder: &Path) {
        let sets = self.eval.iter_mut().flat_map(|eval| eval.sets.values_mut().map(|set| &mut set.path));
        let teachers = self.teacher.iter_mut().chain(self.teachers.values_mut()).map(|teacher| &mut teacher.model);
        for path in [&mut self.student.model, &mut self.prompts.path].into_iter().chain(teachers).chain(sets) {
            *path = folder.join(&*path);
        }
    }

    /// How prompts are cut into units.
    pub fn units(&self) -> Units {
        Units { prompts: self.rollout.prompts_per_unit, samples: self.rollout.samples_per_prompt }
    }

    /// What the run's score set holds.
    pub fn score_set(&self) -> ScoreSet {
        ScoreSet {
            top_k_mass: self.score.top_k_mass,
            top_k_max: self.score.top_k_max,
            top_k_floor: self.score.top_k_floor,
            draws: self.rollout.draws,
            draws_kept: self.rollout.draws_kept,
            sampler_top_k: Some(SamplerTopK {
                mass: self.rollout.top_k_mass,
                max: self.rollout.top_k_max,
                floor: self.rollout.top_k_floor,
            }),
            teacher_draws: self.score.draws,
            codec: self.score.codec.as_str().into(),
        }
    }

    /// The pipeline as TOML.
    pub fn to_toml(&self) -> String {
        // Every field is a plain value or a table of such.
        toml::to_string(self).expect("a pipeline is TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, sets: &[&str]) -> Result<Pipeline> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        std::fs::write(&file, text).unwrap();
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        Pipeline::load(&[file], &sets)
    }

    const SMALL: &str = r#"
        name = "small"
        store.url = "runs/small"
        student.model = "student"
        teacher.model = "/abs/teacher"
        prompts.path = "train.jsonl"
        rollout = { prompts_per_unit = 8, max_new_tokens = 32, draws = 16 }
        score = { top_k_max = 64 }
        learn = { steps = 10, rows_per_step = 16, estimator = { name = "reverse_kl_mc", draws = 16 } }
    "#;

    #[test]
    fn paths_are_relative_to_the_pipeline() {
        let pipeline = load(SMALL, &[]).unwrap();
        assert!(pipeline.student.model.is_absolute() && pipeline.student.model.ends_with("student"));
        assert_eq!(pipeline.all_teachers()["teacher"].model, Path::new("/abs/teacher"));
    }

    #[test]
    fn a_set_comes_last_and_may_be_any_value() {
        let sets = ["learn.steps=7", "store.url=s3://bucket/a b", "run.claim_timeout_s=1.5"];
        let pipeline = load(SMALL, &sets).unwrap();
        assert_eq!((pipeline.learn.steps, pipeline.store.url.as_str()), (7, "s3://bucket/a b"));
        let sets = [r#"learn.estimator={ name = "forward_kl", top_k = 64 }"#];
        assert_eq!(load(SMALL, &sets).unwrap().learn.estimator.needs().teacher_top_k, 64);
    }

    #[test]
    fn an_eval_set_is_a_path_or_a_table_over_the_prompts() {
        let sets = ["prompts.chat=true", "prompts.system=S", r#"prompts.keys={ answer = "final" }"#, EVAL];
        let pipeline = load(SMALL, &sets).unwrap();
        let (prompts, sets) = (&pipeline.prompts, pipeline.eval.unwrap().sets);
        let plain = sets["plain"].prompts(prompts);
        assert!(plain.path.is_absolute() && plain.path.ends_with("x.jsonl"));
        assert_eq!(PromptsSection { path: prompts.path.clone(), ..plain }, *prompts);
        assert_eq!((sets["plain"].samples, sets["plain"].answers), (1, true));
        let own = sets["own"].prompts(prompts);
        assert_eq!((own.keys.answer.as_deref(), own.chat, own.system.as_deref()), (None, false, Some("S")));
        assert_eq!((sets["own"].samples, sets["own"].answers), (4, false));
    }

    const EVAL: &str = r#"eval.sets={ plain = "x.jsonl",
        own = { path = "/y.parquet", keys = { prompt = "q" }, chat = false, samples = 4, answers = false } }"#;

    #[test]
    fn what_was_resolved_reads_back() {
        let args = r#"prompts.chat_template_args={ enable_thinking = false }"#;
        let teachers = r#"teachers={ math = { model = "/math", device = "cuda:1" }, code = { model = "/code" } }"#;
        let cache = r#"store.cache={ path = "/cache", bytes = 1000000 }"#;
        let pipeline = load(SMALL, &[EVAL, args, teachers, cache]).unwrap();
        assert_eq!(pipeline.all_teachers().into_keys().collect::<Vec<_>>(), ["code", "math", "teacher"]);
        assert_eq!((pipeline.teacher_device("math"), pipeline.teacher_device("code")), ("cuda:1", "cpu"));
        let again: Pipeline = from_table("pipeline", toml::from_str(&pipeline.to_toml()).unwrap()).unwrap();
        assert_eq!(again, pipeline);
    }

    #[test]
    fn a_fault_names_the_key() {
        for (set, says) in [
            ("learn.stps=7", "at `learn.stps`: unknown field `stps`"),
            ("learn.stps=7", "hint: did you mean `steps`?"),
            ("lern.steps=7", "did you mean `learn`?"),
            ("learn.steps=many", "at `learn.steps`: invalid type: string \"many\""),
            ("learn.estimator.name=reverse_kl", "did you mean `reverse_kl_mc`?"),
            ("learn.estimator.drws=3", "unknown field `drws`"),
            ("learn.replay.form=\"x\"", "at `learn.replay.form`: unknown field `form`"),
            ("learn.replay={ from = \"x\" }", "at `learn.replay`: missing field `share`"),
            ("prompts.pth=x", "did you mean `path`?"),
            ("store.cache={ path = \"/c\", byts = 3 }", "did you mean `bytes`?"),
            ("store.cache={ path = \"/c\" }", "at `store.cache`: missing field `bytes`"),
            ("prompts.keys={ answr = \"x\" }", "at `prompts.keys.answr`: unknown field `answr`"),
            ("eval.sets={ a = { path = \"x\", sampels = 3 } }", "at `eval.sets.a.sampels`: unknown field `sampels`"),
            ("eval.sets={ a = { path = \"x\", sampels = 3 } }", "did you mean `samples`?"),
            ("eval.sets={ a = { path = \"x\", samples = \"3\" } }", "at `eval.sets.a.samples`: invalid type"),
            ("eval.sets={ a = { samples = 3 } }", "at `eval.sets.a`: missing field `path`"),
            ("eval.sets={ a = 3 }", "expected a path, or a table with `path`"),
            ("steps", "there is no `=`"),
            ("=3", "there is no key"),
            ("name.x=3", "`name` is not a table"),
        ] {
            let error = load(SMALL, &[set]).unwrap_err().to_string();
            assert!(error.contains(says), "{set}: {error}");
        }
    }
}
