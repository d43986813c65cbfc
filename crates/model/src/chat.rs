//! Chat templates: messages to the text that a checkpoint was trained on.

use crate::config::read_text;
use crate::template::{Template, Value};
use crate::tokenizer::hex;
use crate::{Error, Result};
use minijinja::value::Serde;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// The tokens that `transformers` gives a template by name, where tokenizer_config.json has them.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The chat template of a checkpoint.
///
/// Its text holds the special tokens written out, so that it is encoded without adding any ([`crate::Tokenizer::encode`]).
pub struct ChatTemplate {
    template: Template,
    special_tokens: BTreeMap<String, String>,
    digest: String,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`. `None` where the folder has neither.
    ///
    /// # Errors
    /// A file that cannot be read, a template that is not Jinja.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let read = |name: &str| {
            let path = dir.join(name);
            path.exists().then(|| read_text(&path)).transpose()
        };
        let (config, jinja) = (read("tokenizer_config.json")?, read("chat_template.jinja")?);
        Self::new(&format!("{}/", dir.display()), config.as_deref(), jinja.as_deref())
    }

    /// The same from the texts of `tokenizer_config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`].
    pub fn from_files(tokenizer_config: Option<&str>, jinja: Option<&str>) -> Result<Option<Self>> {
        Self::new("", tokenizer_config, jinja)
    }

    fn new(folder: &str, tokenizer_config: Option<&str>, jinja: Option<&str>) -> Result<Option<Self>> {
        let file = format!("{folder}tokenizer_config.json");
        let fault = |reason: String| Error::Template { name: file.clone(), reason };
        let config: serde_json::Value = match tokenizer_config {
            Some(text) => serde_json::from_str(text).map_err(|error| fault(error.to_string()))?,
            None => serde_json::Value::Null,
        };
        let (name, source) = match (jinja, &config["chat_template"]) {
            (Some(source), _) => (format!("{folder}chat_template.jinja"), source.to_owned()),
            (None, serde_json::Value::Null) => return Ok(None),
            (None, serde_json::Value::String(source)) => (format!("{file}, `chat_template`"), source.clone()),
            (None, serde_json::Value::Array(several)) => {
                (format!("{file}, `chat_template`"), default_of(several).map_err(fault)?)
            }
            (None, _) => return Err(fault("`chat_template` is neither a text nor a list of templates".into())),
        };
        let template = Template::of_checkpoint(&name, &source)?;
        let token = |name: &&str| {
            let token = &config[*name];
            let token = token.as_str().or_else(|| token["content"].as_str())?;
            Some((name.to_string(), token.to_owned()))
        };
        let special_tokens: BTreeMap<_, _> = SPECIAL_TOKENS.iter().filter_map(token).collect();
        // A token that the template does not read makes no difference to its texts.
        let read = template.variables();
        let mut parts = vec![source.as_str()];
        parts.extend(special_tokens.iter().filter(|(name, _)| read.contains(*name)).flat_map(|(n, t)| [n.as_str(), t]));
        let digest = digest(&parts);
        Ok(Some(Self { template, special_tokens, digest }))
    }

    /// The text of `messages`, a list of maps with `role` and `content`. `args` , a map, are further variables of the
    /// template, such as `enable_thinking`; with `add_generation_prompt` the text ends where the assistant's turn begins.
    ///
    /// # Errors
    /// With the template's own message where it raises, and the line where it fails otherwise.
    pub fn render(
        &self,
        messages: &impl Serialize,
        args: &impl Serialize,
        add_generation_prompt: bool,
    ) -> Result<String> {
        // Templates ask whether there are any; an argument may say so.
        let mut variables: BTreeMap<&str, Value> =
            BTreeMap::from([("tools", Value::from(())), ("documents", Value::from(()))]);
        variables.extend(self.special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str()))));
        let args: BTreeMap<String, Value> = self.template.arguments(args)?;
        for (name, value) in &args {
            let value = match (name.as_str(), value.as_str().map(str::to_owned)) {
                ("strftime_now", Some(date)) => Value::from_function(move |_: String| date.clone()),
                _ => value.clone(),
            };
            variables.insert(name, value);
        }
        variables.insert("messages", Value::from(Serde(messages)));
        variables.insert("add_generation_prompt", add_generation_prompt.into());
        self.template.render(Value::from_pairs(variables))
    }

    /// SHA-256, in hex, over the template and the special tokens that it reads. Equal digests: the same texts.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// The one called `default` of several templates.
fn default_of(several: &[serde_json::Value]) -> std::result::Result<String, String> {
    let default = several.iter().find(|one| one["name"] == "default").and_then(|one| one["template"].as_str());
    default.map(str::to_owned).ok_or_else(|| {
        let names: Vec<&str> = several.iter().filter_map(|one| one["name"].as_str()).collect();
        format!("`chat_template` is a list with {}, expected one with the name `default`", names.join(", "))
    })
}

/// SHA-256, in hex, over texts, each after its length.
fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}
