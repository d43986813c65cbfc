//! What makes a run this run: commit 0, made from the pipeline and the files it names, and compared with it ever after.

use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    preflight::Inputs,
};
use bytes::Bytes;
use record::{Digest, Job, ObjectRef, Parent, Policy, PolicyVersion, PromptSet, Run, ScoreSet, Work};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use store::{Follower, Store};

/// Begins the run, or goes on with it if it is there.
///
/// # Errors
/// If the store holds another run: the first thing that differs, with both values; or one that ended before `learn.steps`.
pub async fn create(store: &Store, pipeline: &Pipeline, inputs: &Inputs, incarnation: &str) -> Result<Follower> {
    let weights = Bytes::from(inputs.student.to_safetensors()?);
    let first = PolicyVersion(0);
    let begun = match store.follow().await {
        Ok(follower) => Some(follower.snapshot().run.clone()),
        Err(store::StoreError::NoRun { .. }) => {
            store.check_vacant().await?;
            None
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(run) = &begun {
        check(run, pipeline)?;
        check_prompts(run, pipeline, &inputs.prompts)?;
    }
    // Of a run that is there, the files are only compared: nothing is stored again.
    let put = async |name: &str, text: &str| match &begun {
        Some(_) => Ok(describe(text.as_bytes())),
        None => store.put_file(name, text.to_string()).await,
    };
    let student_config = put("config.json", &inputs.student_config).await?;
    let student_tokenizer = put("tokenizer.json", &inputs.student_tokenizer).await?;
    let mut student_files = BTreeMap::new();
    // A run begun without any, or before they were stored, goes on without.
    if begun.as_ref().is_none_or(|run| !run.student_files.is_empty()) {
        for (name, text) in &inputs.student_files {
            student_files.insert(name.clone(), put(name, text).await?);
        }
    }
    let weights = match &begun {
        Some(_) => describe(&weights),
        None => store.put_policy(first, weights).await?,
    };
    let run = Run {
        run_id: store::unique_id(),
        pipeline: pipeline.name.clone(),
        seed: pipeline.seed,
        tokenizer: inputs.tokenizer_digest,
        teachers: inputs.teacher_digests.clone(),
        prompts: inputs.prompts.clone(),
        units: pipeline.units(),
        // Checked above to be the pipeline's, as far as the run says.
        score_sets: match &begun {
            Some(run) => run.score_sets.clone(),
            None => BTreeMap::from([(pipeline.score.set.clone(), pipeline.score_set())]),
        },
        student_config,
        student_tokenizer,
        student_files,
        policy: Policy { version: first, weights },
        parent: inputs.parent.clone(),
    };
    let follower = store.create(run, work(incarnation)).await?;
    let (now, steps) = (follower.snapshot(), pipeline.learn.steps);
    if now.finished && now.version.0 < steps {
        let what = format!(
            "the run in `{}` has ended with step {}; learn.steps is {steps}",
            pipeline.store.url, now.version.0
        );
        return Err(CommandError::new(what).hint("a run that has ended stays so: begin another in a store of its own"));
    }
    Ok(follower)
}

/// What a reference to these bytes would say, but for the key.
fn describe(bytes: &[u8]) -> ObjectRef {
    ObjectRef { key: String::new(), bytes: bytes.len() as u64, digest: Digest::of(bytes) }
}

/// Whoever begins a run does so as `run`, so that a worker has the one job its commits say.
pub fn work(incarnation: &str) -> Work {
    Work {
        worker: Job::Run.as_str().into(),
        incarnation: incarnation.into(),
        job: Job::Run,
        started: store::now_ms(),
        busy_s: 0.0,
        waited_s: 0.0,
        tokens: 0,
    }
}

/// Checks what a job can tell of a run without any model at hand.
///
/// # Errors
/// The first thing that differs, with both values.
pub fn check(run: &Run, pipeline: &Pipeline) -> Result<()> {
    let differs = |what: &str, of_store: String, of_pipeline: String| {
        Err(CommandError::from(store::StoreError::OtherRun {
            url: pipeline.store.url.clone(),
            what: what.into(),
            store: of_store,
            pipeline: of_pipeline,
        }))
    };
    if run.pipeline != pipeline.name {
        return differs("pipeline", format!("`{}`", run.pipeline), format!("`{}`", pipeline.name));
    }
    if run.seed != pipeline.seed {
        return differs("seed", run.seed.to_string(), pipeline.seed.to_string());
    }
    if run.units != pipeline.units() {
        let text = |units: record::Units| format!("{} prompts with {} samples a unit", units.prompts, units.samples);
        return differs("cut of prompts", text(run.units), text(pipeline.units()));
    }
    // What a replay's rows hold is its parent's affair.
    if run.parent.as_ref().is_some_and(Parent::is_replayed_whole) {
        return Ok(());
    }
    // Which run it is, the learner compares.
    let said = |share: f64, condition: &Option<String>| {
        format!(
            "a share of {share}{}",
            condition.as_ref().map_or(String::new(), |condition| format!(" where {condition}"))
        )
    };
    let mixed = run.parent.as_ref().and_then(|parent| Some(said(parent.share?, &parent.condition)));
    let asked = pipeline.learn.replay.as_ref().map(|replay| said(replay.share, &replay.condition));
    if mixed != asked {
        let text = |mix: Option<String>| mix.unwrap_or_else(|| "none".into());
        return differs("learn.replay", text(mixed), text(asked));
    }
    let set = pipeline.score_set();
    // A run of an earlier program says nothing of the sampler's top-k.
    let recorded = run.score_sets.get(&pipeline.score.set).map(|recorded| {
        let sampler_top_k = recorded.sampler_top_k.or(set.sampler_top_k);
        ScoreSet { sampler_top_k, ..recorded.clone() }
    });
    if recorded.as_ref() != Some(&set) {
        return differs("score sets", format!("{:?}", run.score_sets), format!("`{}` {set:?}", pipeline.score.set));
    }
    Ok(())
}

/// Checks that a rollout job asks the prompts that the run is about.
///
/// # Errors
/// If the file at hand is another.
pub fn check_prompts(run: &Run, pipeline: &Pipeline, found: &PromptSet) -> Result<()> {
    if run.prompts == *found {
        return Ok(());
    }
    let text = |set: &PromptSet| format!("{} prompts with {}", set.count, set.digest);
    let what = format!(
        "prompts.path is `{}`, which asks {}; the run in `{}` is about {}",
        pipeline.prompts.path.display(),
        text(found),
        pipeline.store.url,
        text(&run.prompts)
    );
    Err(CommandError::new(what).hint(
        "bring the file here that the run was begun with, and ask as it does: keys, template, chat, system and \
         chat_template_args of [prompts] decide the prompts' texts",
    ))
}

/// Checks that a score job has the teachers that the run is about, of those that it serves.
///
/// # Errors
/// If the files at hand are another's.
pub fn check_teachers(run: &Run, pipeline: &Pipeline, served: &BTreeSet<String>) -> Result<()> {
    for (id, teacher) in pipeline.all_teachers().into_iter().filter(|(id, _)| served.contains(*id)) {
        let (wanted, found) = (run.teachers.get(id), model_digest(&teacher.model)?);
        if wanted == Some(&found) {
            continue;
        }
        let what = format!(
            "{}.model is `{}`, whose config and weights have {found}; the run in `{}` has a teacher `{id}` with {}",
            pipeline.teacher_key(id),
            teacher.model.display(),
            pipeline.store.url,
            wanted.map_or("none".into(), Digest::to_string)
        );
        return Err(CommandError::new(what).hint("bring the teacher here that the run was begun with"));
    }
    Ok(())
}

/// SHA-256 over a model's config.json and weights, file by file.
///
/// # Errors
/// If a file cannot be read.
pub fn model_digest(dir: &Path) -> Result<Digest> {
    let fault = |path: &Path, error: std::io::Error| CommandError::new(format!("model `{}`: {error}", path.display()));
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>())
        .map_err(|error| fault(dir, error))?;
    files.retain(|file| file.extension().is_some_and(|it| it == "safetensors") || file.ends_with("config.json"));
    files.sort();
    let mut lines = String::new();
    for file in &files {
        let digest = Digest::of(&std::fs::read(file).map_err(|error| fault(file, error))?);
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines += &format!("{name} {digest}\n");
    }
    Ok(Digest::of(lines.as_bytes()))
}
