//! What makes a run this run: commit 0, made from the pipeline and the files it names, and compared with it ever after.

use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    preflight::Inputs,
};
use bytes::Bytes;
use record::{Digest, Job, ObjectRef, Policy, PolicyVersion, Run, Work};
use std::{collections::BTreeMap, path::Path};
use store::{Follower, Store};

/// Begins the run, or goes on with it if it is there.
///
/// # Errors
/// If the store holds another run: the first thing that differs, with both values.
pub async fn create(store: &Store, pipeline: &Pipeline, inputs: &Inputs, worker: &str) -> Result<Follower> {
    let weights = Bytes::from(inputs.student.to_safetensors()?);
    let (config, tokenizer) =
        (Bytes::from(inputs.student_config.clone()), Bytes::from(inputs.student_tokenizer.clone()));
    let first = PolicyVersion(0);
    let [student_config, student_tokenizer, weights] = match store.follow().await {
        // Only compared: nothing is stored again.
        Ok(_) => [describe(&config), describe(&tokenizer), describe(&weights)],
        Err(store::StoreError::NoRun { .. }) => [
            store.put_file("config.json", config).await?,
            store.put_file("tokenizer.json", tokenizer).await?,
            store.put_policy(first, weights).await?,
        ],
        Err(error) => return Err(error.into()),
    };
    let run = Run {
        run_id: store::unique_id(),
        pipeline: pipeline.name.clone(),
        seed: pipeline.seed,
        tokenizer: inputs.tokenizer_digest,
        teachers: BTreeMap::from([(crate::rollout::TEACHER.to_string(), inputs.teacher_digest)]),
        prompts: inputs.prompts.clone(),
        units: pipeline.units(),
        score_sets: BTreeMap::from([(pipeline.score.set.clone(), pipeline.score_set())]),
        student_config,
        student_tokenizer,
        policy: Policy { version: first, weights },
    };
    Ok(store.create(run, work(worker)).await?)
}

/// What a reference to these bytes would say, but for the key.
fn describe(bytes: &[u8]) -> ObjectRef {
    ObjectRef { key: String::new(), bytes: bytes.len() as u64, digest: Digest::of(bytes) }
}

fn work(worker: &str) -> Work {
    Work {
        worker: worker.into(),
        incarnation: store::unique_id(),
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
        let what = format!(
            "the store `{}` belongs to another run: its {what} is {of_store}, the pipeline's is {of_pipeline}",
            pipeline.store.url
        );
        Err(CommandError::new(what)
            .hint("give this pipeline a store of its own, or the pipeline that the store was made with"))
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
    let set = pipeline.score_set();
    if run.score_sets.get(&pipeline.score.set) != Some(&set) {
        return differs("score sets", format!("{:?}", run.score_sets), format!("`{}` {set:?}", pipeline.score.set));
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
