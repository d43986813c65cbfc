//! What is checked before any work: that the settings make sense together, that models, tokenizers and prompts are there
//! and fit each other. Nothing is written until all of it holds.

mod prompts;

use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    identity::model_digest,
    model_files, score_set, teachers,
};
use learner::estimator::Pass;
use model::{Device, ModelConfig, Tokenizer, Transformer};
use prompts::check_prompts;
use record::{Digest, DrawsKept, Parent, PromptSet, Run};
use std::{collections::BTreeMap, path::Path};

/// What a run is made of, read and checked.
pub struct Inputs {
    /// The student as given.
    pub student: Transformer,
    /// Its config.json, with every EOS id that any of its files names.
    pub student_config: String,
    /// Its tokenizer.json.
    pub student_tokenizer: String,
    /// Its other files, by name.
    pub student_files: BTreeMap<String, String>,
    /// Digest of the tokenizer's (token, id) map, the same for student and teachers.
    pub tokenizer_digest: Digest,
    /// Digest of each teacher's config and weights, by teacher id.
    pub teacher_digests: BTreeMap<String, Digest>,
    /// The training prompts.
    pub prompts: PromptSet,
    /// The run whose rows are replayed.
    pub parent: Option<Parent>,
}

/// Checks everything a run needs.
///
/// # Errors
/// The first thing that does not hold: the key or file, both values, what to do.
pub fn check(pipeline: &Pipeline) -> Result<Inputs> {
    check_settings(pipeline)?;
    for (key, device) in devices(pipeline) {
        model::device(device).map_err(|error| CommandError::new(format!("{key}: {error}")))?;
    }
    let student = check_model("student.model", &pipeline.student.model)?;
    let mut teachers = BTreeMap::new();
    for (id, section) in pipeline.all_teachers() {
        let teacher = check_model(&format!("{}.model", pipeline.teacher_key(id)), &section.model)?;
        if let Some(difference) = student.tokenizer.first_difference(&teacher.tokenizer) {
            let (student, teacher) = (pipeline.student.model.display(), section.model.display());
            let what = format!("the tokenizers of student `{student}` and teacher `{teacher}` differ: {difference}");
            return Err(CommandError::new(what).hint("on-policy distillation needs one token map for both"));
        }
        teachers.insert(id, teacher);
    }
    let prompts = check_prompts(pipeline, &student, &teachers)?;
    let mut teacher_digests = BTreeMap::new();
    for (id, teacher) in pipeline.all_teachers() {
        teacher_digests.insert(id.to_string(), model_digest(&teacher.model)?);
    }
    inputs(pipeline, &student, teacher_digests, prompts, None)
}

/// Checks what a replay of `run` needs: the student, and the settings of the learner.
///
/// # Errors
/// As [`check`]; a student with other tokens than the recorded.
pub fn check_replay(pipeline: &Pipeline, run: &Run, parent: Parent) -> Result<Inputs> {
    check_replay_settings(pipeline)?;
    model::device(&pipeline.learn.device).map_err(|error| CommandError::new(format!("learn.device: {error}")))?;
    let student = check_model("student.model", &pipeline.student.model)?;
    let url = parent.url.clone();
    let inputs = inputs(pipeline, &student, run.teachers.clone(), run.prompts.clone(), Some(parent))?;
    check_tokens(pipeline, &inputs, run, &url)?;
    Ok(inputs)
}

/// That rows of the `run` in `url` are of the student's tokens. One map has one vocabulary.
///
/// # Errors
/// If it has others.
pub fn check_tokens(pipeline: &Pipeline, inputs: &Inputs, run: &Run, url: &str) -> Result<()> {
    if inputs.tokenizer_digest == run.tokenizer {
        return Ok(());
    }
    let (model, found) = (pipeline.student.model.display(), inputs.tokenizer_digest);
    let what =
        format!("student.model is `{model}` with the tokenizer {found}, the run in `{url}` has {}", run.tokenizer);
    Err(CommandError::new(what).hint("tokens are recorded as ids: both need one token map"))
}

fn inputs(
    pipeline: &Pipeline,
    student: &Checked,
    teacher_digests: BTreeMap<String, Digest>,
    prompts: PromptSet,
    parent: Option<Parent>,
) -> Result<Inputs> {
    let digest = format!("sha256:{}", student.tokenizer.map_digest());
    Ok(Inputs {
        student: Transformer::load(&pipeline.student.model, Device::Cpu)?,
        student_config: with_all_eos(&pipeline.student.model, student.tokenizer.eos_ids())?,
        student_tokenizer: read(&pipeline.student.model.join("tokenizer.json"))?,
        student_files: model_files::read(&pipeline.student.model)?,
        tokenizer_digest: Digest::try_from(digest)?,
        teacher_digests,
        prompts,
        parent,
    })
}

fn devices(pipeline: &Pipeline) -> impl Iterator<Item = (String, &str)> {
    let eval = pipeline.eval.iter().map(|eval| ("eval.device".into(), eval.device.as_str()));
    let teachers = pipeline
        .all_teachers()
        .into_iter()
        .filter_map(|(id, teacher)| Some((format!("{}.device", pipeline.teacher_key(id)), teacher.device.as_deref()?)));
    [
        ("rollout.device".into(), pipeline.rollout.device.as_str()),
        ("score.device".into(), pipeline.score.device.as_str()),
        ("learn.device".into(), pipeline.learn.device.as_str()),
    ]
    .into_iter()
    .chain(teachers)
    .chain(eval)
}

/// Settings that contradict each other or mean nothing, found without opening a file.
///
/// # Errors
/// The first of them.
pub fn check_settings(pipeline: &Pipeline) -> Result<()> {
    check_replay_settings(pipeline)?;
    let Pipeline { rollout, learn, .. } = pipeline;
    let unit = u64::from(rollout.prompts_per_unit) * u64::from(rollout.samples_per_prompt);
    if !u64::from(learn.rows_per_step).is_multiple_of(unit) {
        let what = format!("learn.rows_per_step is {}, a unit has {unit} rows", learn.rows_per_step);
        return Err(
            CommandError::new(what).hint("make it a multiple of rollout.prompts_per_unit * rollout.samples_per_prompt")
        );
    }
    score_set::check_sampler("rollout.codec", rollout.codec, &learn.estimator)
}

/// Those of [`check_settings`] that hold where no units are sampled and no rollouts packed: of a replay, of an evaluation.
///
/// # Errors
/// As [`check_settings`].
pub fn check_replay_settings(pipeline: &Pipeline) -> Result<()> {
    let Pipeline { rollout, score, learn, .. } = pipeline;
    let fault = |what: String, hint: &str| Err(CommandError::new(what).hint(hint));
    teachers::check_ids(pipeline)?;
    learn.estimator.validate()?;
    learn.optimizer.validate()?;
    for (key, value) in [
        ("rollout.prompts_per_unit", u64::from(rollout.prompts_per_unit)),
        ("rollout.samples_per_prompt", u64::from(rollout.samples_per_prompt)),
        ("rollout.max_new_tokens", rollout.max_new_tokens as u64),
        ("rollout.workers", u64::from(rollout.workers)),
        ("rollout.threads", u64::from(rollout.threads)),
        ("score.workers", u64::from(score.workers)),
        ("score.threads", u64::from(score.threads)),
        ("score.batch_tokens", score.batch_tokens as u64),
        ("learn.steps", learn.steps),
        ("learn.rows_per_step", u64::from(learn.rows_per_step)),
        ("learn.threads", u64::from(learn.threads)),
        ("learn.microbatch_tokens", learn.microbatch_tokens as u64),
        ("learn.head_chunk", learn.head_chunk as u64),
        ("learn.publish_every", learn.publish_every),
        ("learn.checkpoint_every", learn.checkpoint_every),
        ("store.snapshot_every", pipeline.store.snapshot_every),
        ("store.poll_ms", pipeline.store.poll_ms),
        ("store.prefetch", pipeline.store.prefetch as u64),
        ("store.cache.bytes", pipeline.store.cache.as_ref().map_or(1, |cache| cache.bytes)),
        ("eval.batch_rows", pipeline.eval.as_ref().map_or(1, |eval| eval.batch_rows as u64)),
        ("eval.threads", pipeline.eval.as_ref().map_or(1, |eval| u64::from(eval.threads))),
    ] {
        if value == 0 {
            return fault(format!("{key} is 0"), "it must be 1 or more");
        }
    }
    if !(rollout.temperature > 0.0 && rollout.temperature.is_finite()) {
        let what = format!("rollout.temperature is {}", rollout.temperature);
        return fault(what, "it must be above 0: greedy rollouts have no distribution to learn on");
    }
    for (key, share) in [
        ("rollout.top_p", rollout.top_p),
        ("rollout.top_k_mass", rollout.top_k_mass),
        ("score.top_k_mass", score.top_k_mass),
    ] {
        if !(share > 0.0 && share <= 1.0) {
            return fault(format!("{key} is {share}"), "it is a share of the mass: above 0, at most 1");
        }
    }
    for (key, floor) in [("rollout.top_k_floor", rollout.top_k_floor), ("score.top_k_floor", score.top_k_floor)] {
        if !(0.0..1.0).contains(&floor) {
            return fault(format!("{key} is {floor}"), "it is the least probability of an entry: 0 or more, below 1");
        }
    }
    if learn.max_staleness == 0 && learn.publish_every != 1 {
        let what = format!("learn.publish_every is {} at learn.max_staleness = 0", learn.publish_every);
        return fault(what, "strictly synchronous training needs every version: set it to 1");
    }
    if learn.publish_every - 1 > learn.max_staleness {
        let what = format!(
            "learn.publish_every is {}, learn.max_staleness {}: rollouts would be stale before a newer policy exists",
            learn.publish_every, learn.max_staleness
        );
        return fault(what, "publish at least every max_staleness + 1 steps");
    }
    let (lag, min, max) = (rollout.lag, learn.min_staleness, learn.max_staleness);
    if lag > max {
        let what = format!("rollout.lag is {lag}, learn.max_staleness {max}: rollouts would be born too stale");
        return fault(what, "set learn.max_staleness to the lag, or above it where the jobs are to overlap");
    }
    if min > lag {
        let what = format!("learn.min_staleness is {min}, rollout.lag {lag}: nothing would make fresher rows older");
        return fault(what, "set rollout.lag to learn.min_staleness or above");
    }
    if lag > 0 && learn.publish_every != 1 {
        let what = format!("rollout.lag is {lag} and learn.publish_every {}", learn.publish_every);
        return fault(
            what,
            "a version can only lag by a fixed number if each is published: set learn.publish_every = 1",
        );
    }
    if !learn.checkpoint_every.is_multiple_of(learn.publish_every) {
        let what = format!(
            "learn.checkpoint_every is {}, learn.publish_every {}",
            learn.checkpoint_every, learn.publish_every
        );
        return fault(what, "a checkpoint needs the weights of its version: make it a multiple of publish_every");
    }
    if let Pass::Proximal { minibatches } = learn.estimator.estimator().pass()
        && !learn.checkpoint_every.is_multiple_of(minibatches)
    {
        let what = format!(
            "learn.checkpoint_every is {}, learn.estimator.correction.minibatches is {minibatches}",
            learn.checkpoint_every
        );
        return fault(
            what,
            "a learner that resumes amid a batch has lost the weights from before it: make checkpoint_every a multiple of minibatches",
        );
    }
    if !(pipeline.run.claim_timeout_s > 0.0 && pipeline.run.claim_timeout_s.is_finite()) {
        return fault(format!("run.claim_timeout_s is {}", pipeline.run.claim_timeout_s), "it must be above 0");
    }
    if pipeline.run.patience_s.is_nan() || pipeline.run.patience_s < 0.0 {
        return fault(format!("run.patience_s is {}", pipeline.run.patience_s), "it must not be below 0");
    }
    crate::replay::check_mix(pipeline)?;
    crate::selection::check(pipeline)?;
    check_estimator(pipeline)
}

/// That rollouts and scores hold what the estimator reads.
fn check_estimator(pipeline: &Pipeline) -> Result<()> {
    let Pipeline { rollout, score, learn, .. } = pipeline;
    let (needs, name) = (learn.estimator.needs(), learn.estimator.estimator().name());
    let fault = |what: String, hint: String| Err(CommandError::new(what).hint(hint));
    for (key, stored, needed) in [
        ("rollout.draws", rollout.draws, needs.draws),
        ("score.top_k_max", score.top_k_max, needs.teacher_top_k),
        ("rollout.top_k_max", rollout.top_k_max, needs.sampler_top_k),
        ("score.draws", score.draws, needs.teacher_draws),
    ] {
        if (stored as usize) < needed {
            let what = format!("learn.estimator `{name}` reads {needed}, {key} stores {stored}");
            return fault(what, format!("store at least as many: {key} = {needed}"));
        }
    }
    if rollout.draws_kept == DrawsKept::Tail && (rollout.draws == 0 || rollout.top_k_max == 0) {
        let (draws, top_k) = (rollout.draws, rollout.top_k_max);
        let what = format!("rollout.draws_kept is `tail`, rollout.draws {draws}, rollout.top_k_max {top_k}");
        return fault(what, "a tail is what lies outside a top-k: take draws and keep a top-k, or all draws".into());
    }
    if let Some((what, hint)) = score_set::lacks_draws(rollout.draws_kept, rollout.top_k_max, &needs) {
        let what = format!("learn.estimator `{name}` {what}; rollout.draws_kept is `tail`");
        return fault(what, format!("{hint}, or rollout.draws_kept = \"all\""));
    }
    let teachers = pipeline.all_teachers().len();
    if needs.teacher && teachers > 1 {
        let what = format!("learn.estimator `{name}` has the teacher beside the learner; the pipeline has {teachers}");
        return fault(what, "keep one teacher, or take an estimator that reads stored scores".into());
    }
    let altered = rollout.top_p < 1.0;
    if altered && needs.whole_distribution {
        let what =
            format!("rollout.top_p is {}, but learn.estimator `{name}` is a Monte-Carlo estimator", rollout.top_p);
        return fault(what, "its draws must come from the whole distribution: set rollout.top_p = 1".into());
    }
    if altered && (rollout.draws > 0 || rollout.top_k_max > 0) {
        let what = format!("rollout.top_p is {} with rollout.draws or rollout.top_k_max", rollout.top_p);
        return fault(
            what,
            "draws and top-k describe the whole distribution: set rollout.top_p = 1, or keep neither".into(),
        );
    }
    Ok(())
}

struct Checked {
    config: ModelConfig,
    tokenizer: Tokenizer,
}

/// The tokenizer of a model whose directory is named by `key` and is found whole.
///
/// # Errors
/// If it is not.
pub fn check_tokenizer(key: &str, dir: &Path) -> Result<Tokenizer> {
    Ok(check_model(key, dir)?.tokenizer)
}

fn check_model(key: &str, dir: &Path) -> Result<Checked> {
    if !dir.is_dir() {
        let what = format!("{key} is `{}`: there is no such folder", dir.display());
        return Err(CommandError::new(what)
            .hint("it names a Hugging Face directory with config.json, tokenizer.json and *.safetensors"));
    }
    let named = |error: model::Error| CommandError::new(format!("{key}: {error}"));
    let config = ModelConfig::load(dir).map_err(named)?;
    // By the headers alone: a damaged file of a large teacher is found before any of it is read.
    Transformer::check(dir, &config).map_err(named)?;
    Ok(Checked { config, tokenizer: Tokenizer::load(dir).map_err(named)? })
}

/// A store keeps one file of settings, so that one says what generation_config.json and tokenizer_config.json add.
fn with_all_eos(dir: &Path, eos: &[i32]) -> Result<String> {
    let path = dir.join("config.json");
    let fault = |error: serde_json::Error| CommandError::new(format!("`{}`: {error}", path.display()));
    let mut config: serde_json::Value = serde_json::from_str(&read(&path)?).map_err(fault)?;
    config["eos_token_id"] = eos.into();
    serde_json::to_string_pretty(&config).map_err(fault)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| CommandError::new(format!("`{}`: {error}", path.display())))
}

#[cfg(test)]
mod tests;
