//! `[prompts]` and `[eval]`: what is asked, in training and on held-out problems.

use serde::{Deserialize, Deserializer, Serialize, de};
use std::{collections::BTreeMap, fmt, path::PathBuf};
use toml::Table;

/// `[prompts]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PromptsSection {
    /// JSON lines (`.jsonl`) or Parquet (`.parquet`), relative to the pipeline file.
    pub path: PathBuf,
    /// What the fields of a line are called.
    #[serde(default)]
    pub keys: Keys,
    /// Jinja over the fields of a line; makes the prompt's text, instead of a field that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Whether a text becomes one user message of the student's chat template. Messages always go through it.
    #[serde(default)]
    pub chat: bool,
    /// The system message of a chat that has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Further variables of the chat template.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub chat_template_args: Table,
}

impl PromptsSection {
    /// Texts as they stand, in a file with keys of their own names.
    pub fn plain(path: PathBuf) -> Self {
        Self {
            path,
            keys: Keys::default(),
            template: None,
            chat: false,
            system: None,
            chat_template_args: Table::new(),
        }
    }
}

/// Keys of a line; a dot goes into a nested field. What is not named has its own name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// Text or messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The right answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Where the prompt comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_source: Option<String>,
    /// The teacher that scores its rollouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_id: Option<String>,
}

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EvalSection {
    /// Steps between two evaluated versions; the first and the last always are. 0: only those two.
    #[serde(default)]
    pub every: u64,
    /// Whether the reverse KL to the teacher is computed on the sampled answers; the job then holds the teacher too.
    #[serde(default = "yes")]
    pub reverse_kl: bool,
    /// Rows sampled at once.
    #[serde(default = "default_eval_rows")]
    pub batch_rows: usize,
    /// `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "super::cpu")]
    pub device: String,
    /// CPU threads.
    #[serde(default = "super::one")]
    pub threads: u32,
    /// Held-out prompts, by eval set.
    pub sets: BTreeMap<String, EvalSet>,
}

/// A held-out prompt set: a path, or a table with `path`. What the table leaves out is as in `[prompts]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvalSet {
    /// As in `[prompts]`.
    pub path: PathBuf,
    /// Sampled answers to each problem.
    pub samples: u32,
    /// Whether the problems have answers, so that there is an accuracy.
    pub answers: bool,
    /// As in `[prompts]`.
    pub keys: Option<Keys>,
    /// As in `[prompts]`.
    pub template: Option<String>,
    /// As in `[prompts]`.
    pub chat: Option<bool>,
    /// As in `[prompts]`.
    pub system: Option<String>,
    /// As in `[prompts]`.
    pub chat_template_args: Option<Table>,
}

impl EvalSet {
    /// Its prompts, where `prompts` says what the set leaves out.
    pub fn prompts(&self, prompts: &PromptsSection) -> PromptsSection {
        PromptsSection {
            path: self.path.clone(),
            keys: self.keys.clone().unwrap_or_else(|| prompts.keys.clone()),
            template: self.template.clone().or_else(|| prompts.template.clone()),
            chat: self.chat.unwrap_or(prompts.chat),
            system: self.system.clone().or_else(|| prompts.system.clone()),
            chat_template_args: self.chat_template_args.clone().unwrap_or_else(|| prompts.chat_template_args.clone()),
        }
    }
}

impl<'de> Deserialize<'de> for EvalSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            path: PathBuf,
            #[serde(default = "super::one")]
            samples: u32,
            #[serde(default = "yes")]
            answers: bool,
            keys: Option<Keys>,
            template: Option<String>,
            chat: Option<bool>,
            system: Option<String>,
            chat_template_args: Option<Table>,
        }

        /// Tells a path from a table itself: serde's own untagged choice would not say which key is at fault.
        struct PathOrTable;

        impl<'de> de::Visitor<'de> for PathOrTable {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a table with `path`")
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<Fields, E> {
                Fields::deserialize(de::value::MapDeserializer::new([("path", path)].into_iter()))
            }

            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<Fields, M::Error> {
                Fields::deserialize(de::value::MapAccessDeserializer::new(map))
            }
        }

        let Fields { path, samples, answers, keys, template, chat, system, chat_template_args } =
            deserializer.deserialize_any(PathOrTable)?;
        Ok(Self { path, samples, answers, keys, template, chat, system, chat_template_args })
    }
}

fn yes() -> bool {
    true
}
fn default_eval_rows() -> usize {
    128
}
