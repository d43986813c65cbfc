//! The shape of a network, read from a checkpoint's own `config.json`.

use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The architectures that are built. A new family is a variant here, its differences are matches in `transformer.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Qwen3 (dense): RMS norm of queries and keys per head, grouped-query attention, no biases.
    Qwen3,
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
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
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
            config = config.with_real_vocab(Tokenizer::load(dir)?.vocab_size())?;
        }
        Ok(config)
    }

    /// Reads the text of a `config.json`; `file` is what messages call it.
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        let keys = Keys::parse(text, file)?;
        let family = match keys.get("model_type").and_then(Value::as_str) {
            Some("qwen3") => Family::Qwen3,
            Some(found) => return Err(Error::UnknownFamily { file: file.into(), found: found.into() }),
            None => return Err(keys.error("model_type", "a family: qwen3")),
        };
        keys.refuse_what_is_not_computed()?;
        let vocab_size = keys.size("vocab_size", None)?;
        let heads = keys.size("num_attention_heads", None)?;
        let config = Self {
            family,
            vocab_size,
            real_vocab: vocab_size,
            hidden_size: keys.size("hidden_size", None)?,
            intermediate_size: keys.size("intermediate_size", None)?,
            num_hidden_layers: keys.size("num_hidden_layers", None)?,
            num_attention_heads: heads,
            num_key_value_heads: keys.size("num_key_value_heads", Some(heads))?,
            // A Qwen3 file without the key means 128, whatever the hidden size is.
            head_dim: keys.size("head_dim", Some(128))?,
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope_theta: match keys.nested("rope_parameters", "rope_theta") {
                Some(_) => keys.positive("rope_parameters.rope_theta", None)?,
                None => keys.positive("rope_theta", Some(10_000.0))?,
            },
            max_position_embeddings: keys.size("max_position_embeddings", None)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            eos_token_ids: keys.ids("eos_token_id")?,
        };
        if !heads.is_multiple_of(config.num_key_value_heads) {
            return Err(keys.error("num_key_value_heads", &format!("a divisor of num_attention_heads ({heads})")));
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
        let (Family::Qwen3, name) = (self.family, "Qwen3ForCausalLM");
        let value = json!({
            "architectures": [name],
            "attention_bias": false,
            "dtype": dtype,
            "eos_token_id": self.eos_token_ids,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "model_type": "qwen3",
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "vocab_size": self.vocab_size,
        });
        format!("{value:#}\n")
    }
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

/// A JSON object whose complaints name the file and the key.
struct Keys<'a> {
    file: &'a str,
    map: Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn parse(text: &str, file: &'a str) -> Result<Self> {
        let error = |found: String| Error::Config {
            file: file.into(),
            key: "(the whole file)".into(),
            expected: "a JSON object".into(),
            found,
        };
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Self { file, map }),
            Ok(other) => Err(error(other.to_string())),
            Err(reason) => Err(error(format!("not JSON ({reason})"))),
        }
    }

    /// The value at a key, `a.b` for `b` inside `a`; null counts as absent.
    fn get(&self, key: &str) -> Option<&Value> {
        match key.split_once('.') {
            Some((outer, inner)) => self.nested(outer, inner),
            None => self.map.get(key).filter(|value| !value.is_null()),
        }
    }

    fn nested(&self, outer: &str, inner: &str) -> Option<&Value> {
        self.get(outer)?.get(inner).filter(|value| !value.is_null())
    }

    fn error(&self, key: &str, expected: &str) -> Error {
        Error::Config {
            file: self.file.into(),
            key: key.into(),
            expected: expected.into(),
            found: self.get(key).map_or("missing".into(), Value::to_string),
        }
    }

    /// Reads a key; `absent` stands in where the file lacks it, and without one the key must be there.
    fn read<T>(&self, key: &str, what: &str, absent: Option<T>, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        match self.get(key) {
            Some(value) => read(value),
            None => absent,
        }
        .ok_or_else(|| self.error(key, what))
    }

    fn size(&self, key: &str, absent: Option<usize>) -> Result<usize> {
        // Ids and sizes are int32 in every schema and in most kernels.
        let read = |value: &Value| value.as_u64().filter(|n| (1..=i32::MAX as u64).contains(n)).map(|n| n as usize);
        self.read(key, "a whole number from 1 to 2147483647", absent, read)
    }

    fn positive(&self, key: &str, absent: Option<f64>) -> Result<f64> {
        self.read(key, "a number above 0", absent, |value| value.as_f64().filter(|x| *x > 0.0 && x.is_finite()))
    }

    fn flag(&self, key: &str, absent: bool) -> Result<bool> {
        self.read(key, "true or false", Some(absent), Value::as_bool)
    }

    fn ids(&self, key: &str) -> Result<Vec<i32>> {
        let id = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0);
        let mut ids = self.read(key, "a token id or a list of them", Some(Vec::new()), |value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Settings that change what the network computes and that are not built: better refused than ignored.
    fn refuse_what_is_not_computed(&self) -> Result<()> {
        for key in ["attention_bias", "use_sliding_window"] {
            if self.flag(key, false)? {
                return Err(self.error(key, "false"));
            }
        }
        for (key, only) in
            [("hidden_act", "silu"), ("rope_parameters.rope_type", "default"), ("rope_scaling.rope_type", "default")]
        {
            if self.get(key).is_some_and(|value| value != only) {
                return Err(self.error(key, &format!("\"{only}\"")));
            }
        }
        let scaled = self.get("rope_scaling").is_some_and(|value| value.get("rope_type").is_none());
        let sparse = self.get("layer_types").and_then(Value::as_array);
        if scaled {
            return Err(self.error("rope_scaling", "null"));
        }
        if sparse.is_some_and(|types| types.iter().any(|kind| kind != "full_attention")) {
            return Err(self.error("layer_types", "\"full_attention\" everywhere"));
        }
        if self.get("quantization_config").is_some() {
            return Err(self.error("quantization_config", "null (weights in float32, bfloat16 or float16)"));
        }
        Ok(())
    }
}
