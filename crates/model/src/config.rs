//! The shape of a network, read from a checkpoint's own `config.json`.

use crate::keys::Keys;
use crate::rope::RopeScaling;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

/// The architectures that are built: pre-norm decoders with grouped-query attention, rotary positions and a gated SiLU
/// feed-forward. They differ in which linear layers have a bias and whether queries and keys are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2 and other networks of that shape.
    Llama,
    /// Qwen2 and Qwen2.5 (dense): queries, keys and values have a bias.
    Qwen2,
    /// Qwen3 (dense): queries and keys pass an RMS norm per head.
    Qwen3,
}

impl Family {
    /// All families, in order of name.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    /// Its `model_type` in a config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The names of all families, for messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The class that `transformers` reads it into.
    fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// Many times what any network has.
const MOST_LAYERS: usize = 10_000;

/// Which linear layers have a bias.
pub(crate) struct Biases {
    pub(crate) query_key_value: bool,
    pub(crate) output: bool,
    pub(crate) feed_forward: bool,
}

/// Everything about a network that is not a weight. The type of number on disk is not here: each tensor of a safetensors file
/// says its own, and in memory weights are float32.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Architecture, `model_type` in the file.
    pub family: Family,
    /// Rows of the embedding and of the head, padding included (V).
    pub vocab_size: usize,
    /// Ids below this exist in the tokenizer; the rest is padding, never sampled and never given mass. Not a key of
    /// config.json: it comes from the tokenizer beside it.
    pub real_vocab: usize,
    /// Width of the residual stream (D).
    pub hidden_size: usize,
    /// Width inside the feed-forward layers.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even, and apart from `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Added to the mean square in every RMS norm.
    pub rms_norm_eps: f64,
    /// Whether the linear layers of attention have a bias, where the family leaves that open (Llama, Qwen3).
    pub attention_bias: bool,
    /// Whether those of the feed-forward have one, where the family leaves that open (Llama).
    pub mlp_bias: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched, if they are.
    pub rope_scaling: Option<RopeScaling>,
    /// Longest row: prompt and response.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Tokens that end a response, from config.json and generation_config.json; ascending.
    pub eos_token_ids: Vec<i32>,
}

impl ModelConfig {
    /// Reads `config.json` of a checkpoint folder, EOS from `generation_config.json` too, and the real vocabulary from
    /// `tokenizer.json`, where these are there.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let mut config = Self::from_json(&read_text(&path)?, &path.display().to_string())?;
        config.eos_token_ids = eos_ids(dir)?;
        if dir.join("tokenizer.json").exists() {
            let (found, real_vocab) = (config.vocab_size, Tokenizer::load(dir)?.vocab_size());
            config = config.with_real_vocab(real_vocab).map_err(|_| Error::Config {
                file: path.display().to_string(),
                key: "vocab_size".into(),
                expected: format!("at least the {real_vocab} ids of its tokenizer.json; do the files belong together?"),
                found: found.to_string(),
            })?;
        }
        Ok(config)
    }

    /// Reads the text of a `config.json`; `file` is what messages call it.
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        let keys = Keys::parse(text, file)?;
        let Some(name) = keys.get("model_type").and_then(Value::as_str) else {
            return Err(keys.error("model_type", &format!("a family, one of {}", Family::names())));
        };
        let Some(family) = Family::ALL.into_iter().find(|family| family.name() == name) else {
            return Err(Error::UnknownFamily { file: file.into(), found: name.into() });
        };
        refuse_what_is_not_computed(&keys)?;
        let vocab_size = keys.size("vocab_size", None)?;
        let hidden_size = keys.size("hidden_size", None)?;
        let heads = keys.size("num_attention_heads", None)?;
        // What `transformers` takes an absent key to mean, which is not the same in every family.
        let key_value_heads = match family {
            Family::Qwen2 | Family::Qwen3 if !keys.is_null("num_key_value_heads") => 32,
            _ => heads,
        };
        let head_dim = match family {
            Family::Qwen3 => Some(128),
            Family::Llama | Family::Qwen2 => hidden_size.is_multiple_of(heads).then_some(hidden_size / heads),
        };
        let max_position_embeddings = keys.size("max_position_embeddings", None)?;
        let (rope_theta, rope_scaling) = RopeScaling::read(&keys, max_position_embeddings)?;
        let config = Self {
            family,
            vocab_size,
            real_vocab: vocab_size,
            hidden_size,
            intermediate_size: keys.size("intermediate_size", None)?,
            num_hidden_layers: keys.size("num_hidden_layers", None)?,
            num_attention_heads: heads,
            num_key_value_heads: keys.size("num_key_value_heads", Some(key_value_heads))?,
            head_dim: keys.size("head_dim", head_dim)?,
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            attention_bias: family != Family::Qwen2 && keys.flag("attention_bias", false)?,
            mlp_bias: family == Family::Llama && keys.flag("mlp_bias", false)?,
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            eos_token_ids: keys.ids("eos_token_id")?,
        };
        if !heads.is_multiple_of(config.num_key_value_heads) {
            return Err(keys.error("num_key_value_heads", &format!("a divisor of num_attention_heads ({heads})")));
        }
        // Beyond these a file is damaged or hostile, and sizes made of it would overflow or fill the memory.
        if config.num_hidden_layers > MOST_LAYERS {
            return Err(keys.error("num_hidden_layers", &format!("at most {MOST_LAYERS}")));
        }
        if heads.saturating_mul(config.head_dim) > i32::MAX as usize {
            return Err(keys.error("head_dim", &format!("at most {} with {heads} heads", i32::MAX as usize / heads)));
        }
        if !config.head_dim.is_multiple_of(2) {
            return Err(keys.error("head_dim", "an even number (rotary embedding turns pairs)"));
        }
        Ok(config)
    }

    /// The same network with padding from id `real_vocab` on.
    pub fn with_real_vocab(mut self, real_vocab: usize) -> Result<Self> {
        if real_vocab == 0 || real_vocab > self.vocab_size {
            return Err(Error::Setting {
                key: "vocab_size",
                expected: format!(
                    "at least the tokenizer's {real_vocab} ids; do tokenizer and weights belong together?"
                ),
                found: self.vocab_size.to_string(),
            });
        }
        self.real_vocab = real_vocab;
        Ok(self)
    }

    /// The text of a `config.json` that [`ModelConfig::from_json`], and `transformers`, read back. `dtype` is the type of
    /// number that the weights beside it are written in.
    pub fn to_json(&self, dtype: &str) -> String {
        let mut value = json!({
            "architectures": [self.family.architecture()],
            "dtype": dtype,
            "eos_token_id": self.eos_token_ids,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": self.family.name(),
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "vocab_size": self.vocab_size,
        });
        // Keys only where their family reads them.
        if self.family != Family::Qwen2 {
            value["attention_bias"] = self.attention_bias.into();
        }
        if self.family == Family::Llama {
            value["mlp_bias"] = self.mlp_bias.into();
        }
        if let Some(scaling) = self.rope_scaling {
            value["rope_scaling"] = scaling.to_json();
        }
        format!("{value:#}\n")
    }

    pub(crate) fn has_query_key_norm(&self) -> bool {
        self.family == Family::Qwen3
    }

    pub(crate) fn biases(&self) -> Biases {
        match self.family {
            Family::Llama => Biases {
                query_key_value: self.attention_bias,
                output: self.attention_bias,
                feed_forward: self.mlp_bias,
            },
            Family::Qwen2 => Biases { query_key_value: true, output: false, feed_forward: false },
            Family::Qwen3 => {
                Biases { query_key_value: self.attention_bias, output: self.attention_bias, feed_forward: false }
            }
        }
    }
}

/// Settings that change what the network computes and that are not built: better refused than ignored.
fn refuse_what_is_not_computed(keys: &Keys) -> Result<()> {
    if keys.flag("use_sliding_window", false)? {
        return Err(keys.error("use_sliding_window", "false"));
    }
    if keys.get("hidden_act").is_some_and(|value| value != "silu") {
        return Err(keys.error("hidden_act", "\"silu\""));
    }
    let layers = keys.get("layer_types").and_then(Value::as_array);
    if layers.is_some_and(|types| types.iter().any(|kind| kind != "full_attention")) {
        return Err(keys.error("layer_types", "\"full_attention\" everywhere"));
    }
    if keys.get("quantization_config").is_some() {
        return Err(keys.error("quantization_config", "null (weights in float32, bfloat16 or float16)"));
    }
    Ok(())
}

/// EOS ids of a checkpoint folder: those of `config.json` and of `generation_config.json` together, ascending.
pub(crate) fn eos_ids(dir: &Path) -> Result<Vec<i32>> {
    let mut ids = Vec::new();
    for name in ["config.json", "generation_config.json"] {
        let path = dir.join(name);
        if path.exists() {
            ids.extend(Keys::parse(&read_text(&path)?, &path.display().to_string())?.ids("eos_token_id")?);
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })
}
