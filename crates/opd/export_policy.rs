//! `opd export-policy`: a policy version as a Hugging Face directory.
//!
//! The directory appears whole or not at all: everything is written to a folder beside it, which then takes its name.

use crate::{
    error::{CommandError, Result, off_thread},
    model_files,
    output::show,
    stop::Stop,
};
use bytes::Bytes;
use model::{Device, ModelConfig, Precision, Tokenizer, Transformer};
use record::{Event, ObjectRef, Policy};
use std::path::{Path, PathBuf};
use store::{Snapshot, Store, StoreError, StoreOptions};

/// Writes policy `version` (a number, or `latest`) of the run in `store` to `dir`, weights as `dtype`.
///
/// # Errors
/// No run, no such version, a `dir` that has something in it, a full disk; then `dir` is as it was.
pub async fn run(store: &str, version: &str, dir: &Path, dtype: &str, stop: &Stop) -> Result<()> {
    let precision = model_files::precision("--dtype", dtype)?;
    let wanted = parse(version)?;
    let place = check_place(dir)?;
    let store = Store::open(store, StoreOptions::default()).await?;
    let now = store.follow().await?.snapshot().clone();
    let policy = find(&store, &now, wanted).await?;
    let run = &now.run;
    let weights = match store.get(&policy.weights).await {
        Err(missing @ StoreError::Missing { .. }) => {
            // Retired a moment ago, which is said as such, or lost.
            find(&store, &store.snapshot(None).await?, Some(policy.version.0)).await?;
            return Err(missing.into());
        }
        read => read?,
    };
    let config = text(&store, &run.student_config).await?;
    let tokenizer = text(&store, &run.student_tokenizer).await?;
    let mut files = vec![("config.json", with_dtype(&config, dtype, &run.student_config.key)?)];
    for (name, object) in &run.student_files {
        files.push((name, text(&store, object).await?));
    }
    let weights = off_thread({
        let (tokenizer, keys) =
            (tokenizer.clone(), [&run.student_config, &run.student_tokenizer].map(|it| it.key.clone()));
        move || converted(weights, precision, &config, &tokenizer, &keys)
    })
    .await?;
    files.push(("tokenizer.json", tokenizer));

    let unfinished = Unfinished::create(&place)?;
    for (name, text) in files {
        unfinished.write(name, text.as_bytes())?;
    }
    unfinished.write("model.safetensors", &weights)?;
    if stop.is_asked() {
        return Err(CommandError::new(format!("stopped; `{}` was not written", dir.display())));
    }
    unfinished.finish()?;
    show(&format!("wrote policy {} of `{}` to {} in {dtype}\n", policy.version, run.pipeline, dir.display()))
}

/// `None` is the newest.
pub(crate) fn parse(version: &str) -> Result<Option<u64>> {
    if version == "latest" {
        return Ok(None);
    }
    let fault = |_| CommandError::new(format!("VERSION is `{version}`")).hint("it is a number of steps, or `latest`");
    version.strip_prefix('v').unwrap_or(version).parse().map(Some).map_err(fault)
}

/// The policy whose weights are wanted.
pub(crate) async fn find(store: &Store, now: &Snapshot, wanted: Option<u64>) -> Result<Policy> {
    let Some(wanted) = wanted else { return Ok(now.newest_policy().clone()) };
    if let Some(policy) = now.policies.values().find(|policy| policy.version.0 == wanted) {
        return Ok(policy.clone());
    }
    let retired = store.history(Some(now.seq)).await?.iter().any(|commit| match &commit.event {
        Event::Retire(retired) => retired.policies.iter().any(|version| version.0 == wanted),
        _ => false,
    });
    let why = match wanted {
        _ if wanted > now.version.0 => format!("the run is at version {}", now.version.0),
        _ if retired => "it was retired: learn.keep_policies is how many of the newest are kept".into(),
        _ => "it was not published: learn.publish_every says which are".into(),
    };
    let below = now.policies.keys().rev().find(|version| version.0 < wanted);
    let above = now.policies.keys().find(|version| version.0 > wanted);
    let kept: Vec<String> = below.into_iter().chain(above).map(|version| version.0.to_string()).collect();
    Err(CommandError::new(format!("`{}` has no policy {wanted}: {why}", store.url()))
        .hint(format!("the nearest that are kept: {}", kept.join(", "))))
}

async fn text(store: &Store, object: &ObjectRef) -> Result<String> {
    let bytes = store.get(object).await?;
    String::from_utf8(bytes.to_vec()).map_err(|_| CommandError::new(format!("`{}` is not UTF-8", object.key)))
}

/// The stored config.json, except that it tells the truth about the type of the weights.
fn with_dtype(config: &str, dtype: &str, key: &str) -> Result<String> {
    let fault = |error: serde_json::Error| CommandError::new(format!("`{key}`: {error}"));
    let mut config: serde_json::Value = serde_json::from_str(config).map_err(fault)?;
    // The newer key and the older: either may be read, so neither may say something else.
    config["dtype"] = dtype.into();
    if config.get("torch_dtype").is_some() {
        config["torch_dtype"] = dtype.into();
    }
    serde_json::to_string_pretty(&config).map_err(fault)
}

/// The weights' file. In float32 that is the stored one, byte for byte.
fn converted(stored: Bytes, precision: Precision, config: &str, tokenizer: &str, keys: &[String; 2]) -> Result<Bytes> {
    if precision == Precision::F32 {
        return Ok(stored);
    }
    let vocabulary = Tokenizer::from_json(tokenizer, &keys[1])?.vocab_size();
    let config = ModelConfig::from_json(config, &keys[0])?.with_real_vocab(vocabulary)?;
    Ok(Transformer::from_safetensors(config, &stored, Device::Cpu)?.to_safetensors_in(precision)?.into())
}

/// That `dir` can become the directory: it is not there, or there is nothing in it. Returns its absolute path.
fn check_place(dir: &Path) -> Result<PathBuf> {
    let fault = |what: String| CommandError::new(format!("DIR `{}`: {what}", dir.display()));
    let place = std::path::absolute(dir).map_err(|error| fault(error.to_string()))?;
    if place.file_name().is_none() {
        return Err(fault("it has no name of its own".into()).hint("name a new folder"));
    }
    match std::fs::read_dir(&place) {
        Ok(mut entries) => match entries.next() {
            None => Ok(place),
            Some(Ok(entry)) => {
                let name = entry.file_name();
                Err(fault(format!("`{}` is in it already", name.to_string_lossy()))
                    .hint("name a new or an empty folder"))
            }
            Some(Err(error)) => Err(fault(error.to_string())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(place),
        Err(error) => Err(fault(error.to_string()).hint("name a new or an empty folder")),
    }
}

/// A folder beside the one that is wanted, gone with this value unless it is finished.
struct Unfinished {
    folder: PathBuf,
    place: PathBuf,
}

impl Unfinished {
    fn create(place: &Path) -> Result<Self> {
        // `check_place` has seen that there is a name.
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let folder = place.with_file_name(format!(".{name}.unfinished-{}", store::unique_id()));
        std::fs::create_dir_all(&folder).map_err(|error| fault(&folder, &error))?;
        Ok(Self { folder, place: place.to_path_buf() })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| fault(&path, &error))
    }

    /// The folder takes its name; one that is empty makes room for it.
    fn finish(self) -> Result<()> {
        std::fs::rename(&self.folder, &self.place).map_err(|error| fault(&self.place, &error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Finished, it is not there any more; and what cannot be deleted is only in the way of nobody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn fault(path: &Path, error: &std::io::Error) -> CommandError {
    let fault = CommandError::new(format!("`{}` cannot be written: {error}", path.display()));
    match error.kind() {
        std::io::ErrorKind::StorageFull => fault.hint("free some space, or name a folder on another disk"),
        _ => fault,
    }
}
