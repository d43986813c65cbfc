//! The student as a job sees it: config and tokenizer of the run, and the weights of whichever version it needs.

use crate::error::{CommandError, Result, off_thread};
use model::{ChatTemplate, ModelConfig, Tokenizer, Transformer};
use record::{ObjectRef, PolicyVersion};
use std::sync::Arc;
use store::{Snapshot, Store, StoreError};

/// A student that holds the weights of a version.
pub struct Student {
    /// Whose weights it holds.
    pub version: PolicyVersion,
    /// The network.
    pub network: Transformer,
}

/// Makes students from a store.
pub struct PolicyLoader {
    config: ModelConfig,
    tokenizer: Arc<Tokenizer>,
    chat: Option<ChatTemplate>,
    device: model::Device,
}

impl PolicyLoader {
    /// Reads the run's config, tokenizer and chat template.
    ///
    /// # Errors
    /// If they are missing or damaged, or there is no such device.
    pub async fn open(store: &Store, snapshot: &Snapshot, device: &str) -> Result<Self> {
        let device = model::device(device)?;
        let run = &snapshot.run;
        let (config_key, tokenizer_key) = (&run.student_config.key, &run.student_tokenizer.key);
        let config = ModelConfig::from_json(&text(store, &run.student_config).await?, config_key)?;
        let tokenizer = Tokenizer::from_json(&text(store, &run.student_tokenizer).await?, tokenizer_key)?;
        let file = async |name: &str| match run.student_files.get(name) {
            Some(file) => text(store, file).await.map(Some),
            None => Ok(None),
        };
        let (settings, jinja) = (file("tokenizer_config.json").await?, file("chat_template.jinja").await?);
        let chat = ChatTemplate::from_files(settings.as_deref(), jinja.as_deref())?;
        let config = config.with_real_vocab(tokenizer.vocab_size())?;
        Ok(Self { config, tokenizer: Arc::new(tokenizer), chat, device })
    }

    /// The run's tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The student's chat template, if it has one.
    pub fn chat(&self) -> Option<&ChatTemplate> {
        self.chat.as_ref()
    }

    /// Tokens that end a response.
    pub fn eos_ids(&self) -> &[i32] {
        &self.config.eos_token_ids
    }

    /// A student with the weights of `version`, made of `old` if that is given; `old` itself if it is that version. `None` if the
    /// weights are not kept any more.
    ///
    /// # Errors
    /// If the weights are missing, damaged or do not fit.
    pub async fn load(
        &self,
        store: &Store,
        now: &Snapshot,
        version: PolicyVersion,
        old: Option<Student>,
    ) -> Result<Option<Student>> {
        if old.as_ref().is_some_and(|student| student.version == version) {
            return Ok(old);
        }
        let Some(policy) = now.policies.get(&version) else { return Ok(None) };
        let bytes = match store.get(&policy.weights).await {
            Ok(bytes) => bytes,
            // Retired after `now`, or lost: the newest state tells.
            Err(missing @ StoreError::Missing { .. }) => match store.snapshot(None).await?.policies.get(&version) {
                Some(_) => return Err(missing.into()),
                None => return Ok(None),
            },
            Err(error) => return Err(error.into()),
        };
        let (config, device) = (self.config.clone(), self.device);
        let network = off_thread(move || match old {
            Some(Student { mut network, .. }) => {
                network.set_weights(&bytes)?;
                Ok(network)
            }
            None => Ok(Transformer::from_safetensors(config, &bytes, device)?),
        })
        .await?;
        Ok(Some(Student { version, network }))
    }
}

/// A file of the run's as text.
async fn text(store: &Store, file: &ObjectRef) -> Result<String> {
    let bytes = store.get(file).await?;
    String::from_utf8(bytes.to_vec()).map_err(|_| CommandError::new(format!("`{}` is not UTF-8", file.key)))
}
