//! `opd sft`: trains on what is there, without sampling: by cross-entropy on prompts with given completions, or on recorded
//! rollouts with the teacher's scores, by any estimator.

mod examples;
mod heldout;
mod recorded_rows;

use crate::{
    config::{Keys, PromptsSection, apply_sets, from_table},
    error::{CommandError, Result},
    model_files,
    output::show,
    progress::Line,
    stop::Stop,
};
use examples::Examples;
use heldout::HeldOut;
use learner::{EstimatorConfig, Learner, LearnerSettings, OptimizerConfig, StepReport};
use model::{ChatTemplate, Tokenizer, Transformer};
use recorded_rows::RecordedRows;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};
use toml::Table;

pub use heldout::SftEval;

/// What `opd sft` reads: one TOML file. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// A directory with config.json and tokenizer.json; with weights, training goes on from them.
    pub model: PathBuf,
    /// Prompts with completions: `prompt`, a text or messages, and `completion`, in JSON lines or Parquet.
    pub data: Option<PathBuf>,
    /// Or recorded rollouts with scores.
    pub scores: Option<ScoresSection>,
    /// What is minimised on `scores`; on `data` it is cross-entropy.
    pub estimator: Option<EstimatorConfig>,
    /// What the fields of a line are called; `answer` is that of the completion.
    #[serde(default)]
    pub keys: Keys,
    /// As in `[prompts]` of a pipeline.
    pub template: Option<String>,
    /// As in `[prompts]` of a pipeline.
    #[serde(default)]
    pub chat: bool,
    /// As in `[prompts]` of a pipeline.
    pub system: Option<String>,
    /// As in `[prompts]` of a pipeline.
    #[serde(default)]
    pub chat_template_args: Table,
    /// Seed of the first weights and of the order of the data.
    #[serde(default)]
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Rows in a minibatch.
    pub rows_per_step: usize,
    /// Tokens in one forward and backward pass.
    #[serde(default = "default_microbatch")]
    pub microbatch_tokens: usize,
    /// AdamW, clipping and schedule.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// How it is tested on the way and at the end.
    pub eval: Option<SftEval>,
    /// `float32`, `bfloat16` or `float16`, in the written file.
    #[serde(default = "default_dtype")]
    pub dtype: String,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "default_device")]
    pub device: String,
    /// CPU threads.
    #[serde(default = "default_threads")]
    pub threads: u32,
}

/// `[scores]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ScoresSection {
    /// As `store.url` of a pipeline: `s3://bucket/prefix`, `file:///path`, or a path relative to where the command runs.
    pub store: String,
    /// The score set.
    #[serde(default = "default_set")]
    pub set: String,
    /// Only rollouts of these policy versions, the first and the last.
    pub versions: Option<[u64; 2]>,
    /// Batches whose rows are mixed with each other, and in memory at once.
    #[serde(default = "default_shuffle_batches")]
    pub shuffle_batches: usize,
}

fn default_microbatch() -> usize {
    8192
}
fn default_dtype() -> String {
    "float32".into()
}
fn default_device() -> String {
    "cpu".into()
}
fn default_threads() -> u32 {
    2
}
fn default_set() -> String {
    "main".into()
}
fn default_shuffle_batches() -> usize {
    16
}

/// What the steps train on.
enum Data {
    Examples(Examples),
    Recorded(RecordedRows),
}

impl Data {
    fn open(config: &SftConfig, chat: Option<&ChatTemplate>, tokenizer: &Tokenizer, context: usize) -> Result<Self> {
        let fault = |what: &str, hint: &str| Err(CommandError::new(what).hint(hint));
        match (&config.data, &config.scores, &config.estimator) {
            (Some(path), None, None) => Ok(Self::Examples(Examples::read(config, path, chat, tokenizer, context)?)),
            (None, Some(scores), Some(estimator)) => {
                Ok(Self::Recorded(RecordedRows::open(config, scores, estimator, tokenizer, context)?))
            }
            (Some(_), Some(_), _) => fault("both data and scores are given", "keep one of them"),
            (Some(_), None, Some(_)) => {
                fault("data and estimator are given", "estimator is for scores; on data it is cross-entropy")
            }
            (None, Some(_), None) => fault(
                "scores are given, but no estimator",
                "for example estimator = { name = \"forward_kl\", top_k = 64 }",
            ),
            (None, None, _) => fault(
                "neither data nor scores are given",
                "data = \"FILE.jsonl\" has prompts with completions, scores = { store = \"STORE\" } recorded rollouts",
            ),
        }
    }

    fn step(&mut self, learner: &mut Learner, rows: usize) -> Result<StepReport> {
        match self {
            Self::Examples(examples) => examples.step(learner, rows),
            Self::Recorded(rows_of_store) => rows_of_store.step(learner, rows),
        }
    }
}

/// Trains, tests, and writes a Hugging Face directory to `out`. Needs the tokio runtime, on a thread that may block.
///
/// # Errors
/// A fault in the settings, the model or the data, said before the first step; or a step that is not finite.
pub fn run(file: &Path, sets: &[String], out: &Path, stop: &Stop) -> Result<()> {
    let config = load(file, sets)?;
    let precision = model_files::precision("dtype", &config.dtype)?;
    let device = model::device(&config.device)?;
    model::set_threads(config.threads as usize);
    let tokenizer = Tokenizer::load(&config.model)?;
    let chat = ChatTemplate::load(&config.model)?;
    let student = first_weights(&config, &tokenizer, device)?;
    let context = student.config().max_position_embeddings;
    let mut data = Data::open(&config, chat.as_ref(), &tokenizer, context)?;
    let held_out = HeldOut::read(&config, chat.as_ref(), &tokenizer, context)?;
    let files = model_files::read(&config.model)?;
    std::fs::create_dir_all(out).map_err(|error| CommandError::new(format!("--out `{}`: {error}", out.display())))?;

    let settings = LearnerSettings { microbatch_tokens: config.microbatch_tokens, ..LearnerSettings::default() };
    let mut learner = Learner::new(student, config.optimizer, settings)?;
    let line = Line::new("sft");
    let (begun, mut tokens, mut made) = (Instant::now(), 0, 0);
    for step in 1..=config.steps {
        if stop.is_asked() {
            line.say(&format!("stopped after step {made}; what was learned is kept"));
            break;
        }
        let report = data.step(&mut learner, config.rows_per_step)?;
        if !report.update.is_some_and(|update| update.applied) {
            let what = format!("step {step}: the gradient is not finite");
            return Err(CommandError::new(what).hint("lower optimizer.learning_rate"));
        }
        made = step;
        tokens += report.trained_tokens;
        let (sum, count) = report.metrics.get("loss").copied().unwrap_or((0.0, 1.0));
        let (loss, speed) = (sum / count, tokens as f64 / begun.elapsed().as_secs_f64());
        line.show(&format!("step {step}/{}  loss {loss:.4}  {speed:.0} tok/s", config.steps));
        let is_due = |every: u64| every > 0 && step.is_multiple_of(every) && step < config.steps;
        if let Some(held_out) = held_out.as_ref().filter(|held_out| is_due(held_out.every)) {
            let (accuracy, seconds) = (held_out.test(learner.student(), &tokenizer)?, begun.elapsed().as_secs());
            line.say(&format!("step {step}  loss {loss:.4}  {accuracy}  ({seconds} s)"));
        } else if step == 1 || step == config.steps {
            line.say(&format!("step {step}  loss {loss:.4}"));
        }
    }
    line.clear();
    learner.student().save(out, precision)?;
    let tokenizer_json = config.model.join("tokenizer.json");
    let fault = |path: &Path, error: std::io::Error| CommandError::new(format!("`{}`: {error}", path.display()));
    let text = std::fs::read_to_string(&tokenizer_json).map_err(|error| fault(&tokenizer_json, error))?;
    for (name, text) in files.iter().chain([(&"tokenizer.json".to_string(), &text)]) {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|error| fault(&path, error))?;
    }
    show(&format!("wrote {} after {made} steps, {} s\n", out.display(), begun.elapsed().as_secs()))?;
    if let Some(held_out) = held_out.filter(|_| !stop.is_asked()) {
        // Tested as written: what is on disk is what a run starts from.
        let written = Transformer::load(out, device)?;
        show(&format!("{}\n", held_out.test(&written, &tokenizer)?))?;
    }
    Ok(())
}

fn load(file: &Path, sets: &[String]) -> Result<SftConfig> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| CommandError::new(format!("`{shown}`: {error}")))?;
    let mut table: Table = toml::from_str(&text)
        .map_err(|error| CommandError::new(format!("`{shown}`: {}", error.to_string().trim_end())))?;
    apply_sets(&mut table, sets)?;
    let mut config: SftConfig = from_table(&format!("`{shown}`"), table)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let eval = config.eval.iter_mut().map(|eval| &mut eval.path);
    for path in [&mut config.model].into_iter().chain(&mut config.data).chain(eval) {
        *path = folder.join(&*path);
    }
    for (key, value) in [
        ("steps", config.steps),
        ("rows_per_step", config.rows_per_step as u64),
        ("microbatch_tokens", config.microbatch_tokens as u64),
        ("threads", u64::from(config.threads)),
        ("eval.max_new_tokens", config.eval.as_ref().map_or(1, |eval| eval.max_new_tokens as u64)),
        ("scores.shuffle_batches", config.scores.as_ref().map_or(1, |scores| scores.shuffle_batches as u64)),
    ] {
        if value == 0 {
            return Err(CommandError::new(format!("{key} is 0")).hint("it must be 1 or more"));
        }
    }
    if let Some([first, last]) = config.scores.as_ref().and_then(|scores| scores.versions)
        && first > last
    {
        let what = format!("scores.versions is [{first}, {last}]");
        return Err(CommandError::new(what).hint("the first version comes first; both are included"));
    }
    config.optimizer.validate()?;
    config.estimator.as_ref().map_or(Ok(()), EstimatorConfig::validate)?;
    Ok(config)
}

impl SftConfig {
    /// A prompt set that is asked as this one says.
    fn section(&self, path: &Path, keys: Keys) -> PromptsSection {
        PromptsSection {
            path: path.into(),
            keys,
            template: self.template.clone(),
            chat: self.chat,
            system: self.system.clone(),
            chat_template_args: self.chat_template_args.clone(),
        }
    }

    /// The keys of a line of `data`.
    fn completion_keys(&self) -> Keys {
        let answer = self.keys.answer.clone().or_else(|| Some("completion".into()));
        Keys { answer, ..self.keys.clone() }
    }
}

/// The weights that are there, or, where there are none, random ones.
fn first_weights(config: &SftConfig, tokenizer: &Tokenizer, device: model::Device) -> Result<Transformer> {
    let has = |name: &str| config.model.join(name).exists();
    if has("model.safetensors") || has("model.safetensors.index.json") {
        return Ok(Transformer::load(&config.model, device)?);
    }
    let shape = model::ModelConfig::load(&config.model)?.with_real_vocab(tokenizer.vocab_size())?;
    Ok(Transformer::new_random(shape, config.seed, device)?)
}
