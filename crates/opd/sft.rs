//! `opd sft`: a cold start by cross-entropy on prompts with given completions.

use crate::{
    config::{PromptsSection, apply_sets, from_table},
    error::{CommandError, Result},
    eval::{Asking, accuracies, ask},
    model_files,
    output::show,
    progress::Line,
    prompts::{Prompts, shuffle},
    stop::Stop,
};
use learner::{Learner, LearnerSettings, OptimizerConfig};
use model::{SamplingParams, Tokenizer, Transformer};
use record::Ratio;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

/// What `opd sft` reads: one TOML file. Paths are relative to it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// A directory with config.json and tokenizer.json; with weights, training goes on from them.
    pub model: PathBuf,
    /// JSON lines with `prompt` and `completion`.
    pub data: PathBuf,
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

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SftEval {
    /// Held-out prompts with answers.
    pub path: PathBuf,
    /// Steps between two tests; 0: only at the end.
    #[serde(default)]
    pub every: u64,
    /// Longest response.
    pub max_new_tokens: usize,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    prompt: String,
    completion: String,
}

/// Trains, tests, and writes a Hugging Face directory to `out`.
///
/// # Errors
/// A fault in the settings, the model or the data, said before the first step; or a step that is not finite.
pub fn run(file: &Path, sets: &[String], out: &Path, stop: &Stop) -> Result<()> {
    let config = load(file, sets)?;
    let precision = model_files::precision("dtype", &config.dtype)?;
    let device = model::device(&config.device)?;
    model::set_threads(config.threads as usize);
    let tokenizer = Tokenizer::load(&config.model)?;
    let student = first_weights(&config, &tokenizer, device)?;
    let examples = read_examples(&config.data, &tokenizer, student.config().max_position_embeddings)?;
    let read = |eval: &SftEval| Prompts::read("eval", &PromptsSection::plain(eval.path.clone()), None)?.with_answers();
    let problems = config.eval.as_ref().map(read).transpose()?;
    std::fs::create_dir_all(out).map_err(|error| CommandError::new(format!("--out `{}`: {error}", out.display())))?;

    let settings = LearnerSettings { microbatch_tokens: config.microbatch_tokens, ..LearnerSettings::default() };
    let mut learner = Learner::new(student, config.optimizer, settings)?;
    let line = Line::new("sft");
    let (begun, mut tokens, mut made) = (Instant::now(), 0, 0);
    let mut order = Vec::new();
    for step in 1..=config.steps {
        if stop.is_asked() {
            line.say(&format!("stopped after step {made}; what was learned is kept"));
            break;
        }
        let from = (step - 1) * config.rows_per_step as u64;
        let rows: Vec<(&[i32], &[i32])> = (from..from + config.rows_per_step as u64)
            .map(|place| {
                let (epoch, place) = (place / examples.len() as u64, (place % examples.len() as u64) as usize);
                if place == 0 || order.is_empty() {
                    order = shuffle(config.seed, epoch, examples.len() as u64);
                }
                let (prompt, completion) = &examples[order[place] as usize];
                (prompt.as_slice(), completion.as_slice())
            })
            .collect();
        let report = learner.sft_step(&rows)?;
        if !report.update.is_some_and(|update| update.applied) {
            let what = format!("step {step}: the gradient is not finite");
            return Err(CommandError::new(what).hint("lower optimizer.learning_rate"));
        }
        made = step;
        tokens += report.trained_tokens;
        let (sum, count) = report.metrics.get("loss").copied().unwrap_or((0.0, 1.0));
        let speed = tokens as f64 / begun.elapsed().as_secs_f64();
        line.show(&format!("step {step}/{}  loss {:.4}  {speed:.0} tok/s", config.steps, sum / count));
        if let (Some(eval), Some(problems)) = (&config.eval, &problems)
            && eval.every > 0
            && step.is_multiple_of(eval.every)
            && step < config.steps
        {
            let (greedy, sampled) = test(learner.student(), &tokenizer, problems, eval, config.seed)?;
            let seconds = begun.elapsed().as_secs();
            line.say(&format!(
                "step {step}  loss {:.4}  held-out accuracy {:.1} % greedy, {:.1} % at T = 1  ({seconds} s)",
                sum / count,
                percent(greedy),
                percent(sampled)
            ));
        }
    }
    line.clear();
    learner.student().save(out, precision)?;
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        let (from, to) = (config.model.join(name), out.join(name));
        if from.exists() && from != to {
            std::fs::copy(&from, &to).map_err(|error| CommandError::new(format!("`{}`: {error}", to.display())))?;
        }
    }
    show(&format!("wrote {} after {made} steps, {} s\n", out.display(), begun.elapsed().as_secs()))?;
    if let (Some(eval), Some(problems)) = (&config.eval, &problems)
        && !stop.is_asked()
    {
        // Tested as written: bfloat16 on disk is what a run starts from.
        let written = Transformer::load(out, device)?;
        let (greedy, sampled) = test(&written, &tokenizer, problems, eval, config.seed)?;
        show(&format!("held-out accuracy {:.1} % greedy, {:.1} % at T = 1\n", percent(greedy), percent(sampled)))?;
    }
    Ok(())
}

fn load(file: &Path, sets: &[String]) -> Result<SftConfig> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| CommandError::new(format!("`{shown}`: {error}")))?;
    let mut table: toml::Table = toml::from_str(&text)
        .map_err(|error| CommandError::new(format!("`{shown}`: {}", error.to_string().trim_end())))?;
    apply_sets(&mut table, sets)?;
    let mut config: SftConfig = from_table(&format!("`{shown}`"), table)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    for path in
        [&mut config.model, &mut config.data].into_iter().chain(config.eval.iter_mut().map(|eval| &mut eval.path))
    {
        *path = folder.join(&*path);
    }
    for (key, value) in [
        ("steps", config.steps),
        ("rows_per_step", config.rows_per_step as u64),
        ("microbatch_tokens", config.microbatch_tokens as u64),
        ("threads", u64::from(config.threads)),
    ] {
        if value == 0 {
            return Err(CommandError::new(format!("{key} is 0")).hint("it must be 1 or more"));
        }
    }
    config.optimizer.validate()?;
    Ok(config)
}

/// The weights that are there, or, where there are none, random ones.
fn first_weights(config: &SftConfig, tokenizer: &Tokenizer, device: model::Device) -> Result<Transformer> {
    if config.model.join("model.safetensors").exists() {
        return Ok(Transformer::load(&config.model, device)?);
    }
    let shape = model::ModelConfig::load(&config.model)?.with_real_vocab(tokenizer.vocab_size())?;
    Ok(Transformer::new_random(shape, config.seed, device)?)
}

/// Token ids of (prompt, completion and EOS).
fn read_examples(path: &Path, tokenizer: &Tokenizer, context: usize) -> Result<Vec<(Vec<i32>, Vec<i32>)>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        CommandError::new(format!("data `{shown}`: {error}")).hint("JSON lines with `prompt` and `completion`")
    })?;
    let eos = *tokenizer.eos_ids().first().ok_or_else(|| CommandError::new("the tokenizer names no EOS token"))?;
    let mut examples = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fault = |what: String| CommandError::new(format!("data `{shown}`, line {}: {what}", i + 1));
        let example: Example = serde_json::from_str(line).map_err(|error| fault(error.to_string()))?;
        let prompt = tokenizer.encode(&example.prompt)?;
        let mut completion = tokenizer.encode(&example.completion)?;
        completion.push(eos);
        let length = prompt.len() + completion.len();
        if prompt.is_empty() || completion.len() == 1 || length > context {
            return Err(fault(format!("{length} tokens; expected some of each, at most {context} in all")));
        }
        examples.push((prompt, completion));
    }
    if examples.is_empty() {
        return Err(CommandError::new(format!("data `{shown}`: no example in it")));
    }
    Ok(examples)
}

/// Accuracy on the problems, greedy and sampled.
fn test(
    student: &Transformer,
    tokenizer: &Tokenizer,
    problems: &Prompts,
    eval: &SftEval,
    seed: u64,
) -> Result<(Ratio, Ratio)> {
    let params = SamplingParams {
        temperature: 1.0,
        top_p: 1.0,
        max_new_tokens: eval.max_new_tokens,
        eos: tokenizer.eos_ids().to_vec(),
        draws: 0,
        top_k: None,
    };
    let asking = Asking { params, samples: 1, answers: true, seed, rows: 128, score_tokens: default_microbatch() };
    Ok(accuracies(&ask(student, None, tokenizer, problems, &asking)?))
}

fn percent((correct, problems): Ratio) -> f64 {
    100.0 * correct / problems
}
