//! Weights to and from safetensors, under their Hugging Face names.
//!
//! The bytes are a function of the weights alone: names ascending, no gaps, one fixed header. So equal weights have equal files
//! and equal digests.

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::tokenizer::hex;
use crate::transformer::Transformer;
use crate::{Error, Result, chance, host};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Type of number that weights are written in. In memory they are always float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes, exact.
    F32,
    /// 2 bytes, rounded to 8 significant bits.
    Bf16,
    /// 2 bytes, rounded to 11 significant bits; nothing beyond 65,504.
    F16,
}

impl Precision {
    fn names(self) -> (&'static str, &'static str, Kind) {
        match self {
            Precision::F32 => ("F32", "float32", Kind::Float),
            Precision::Bf16 => ("BF16", "bfloat16", Kind::BFloat16),
            Precision::F16 => ("F16", "float16", Kind::Half),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }
}

impl Transformer {
    /// Reads a checkpoint folder: config.json, and model.safetensors or the shards that model.safetensors.index.json names.
    /// A tokenizer.json there says where the real vocabulary ends.
    pub fn load(dir: &Path, device: Device) -> Result<Self> {
        let config = ModelConfig::load(dir)?;
        let tensors = Checkpoint::in_folder(dir)?.check(&config)?.read()?;
        Self::from_parameters(config, tensors, device)
    }

    /// Refuses what [`Transformer::load`] would refuse in the weights of a folder, by the headers of its files: every shard is
    /// there and whole, every tensor is there, of the shape that the configuration asks for and of a type that is read.
    pub fn check(dir: &Path, config: &ModelConfig) -> Result<()> {
        Checkpoint::in_folder(dir)?.check(config).map(drop)
    }

    /// Builds a network from the bytes of a safetensors file.
    pub fn from_safetensors(config: ModelConfig, bytes: &[u8], device: Device) -> Result<Self> {
        let tensors = Checkpoint::in_memory(bytes)?.check(&config)?.read()?;
        Self::from_parameters(config, tensors, device)
    }

    /// A network that has learned nothing: normal weights with standard deviation 0.02, norms 1, biases 0. A pure function of the
    /// configuration and the seed.
    pub fn new_random(config: ModelConfig, seed: u64, device: Device) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, shape) in shapes(&config) {
            let n = shape.iter().product::<i64>() as usize;
            let values: Vec<f32> = if shape.len() == 1 {
                vec![if name.ends_with(".bias") { 0.0 } else { 1.0 }; n]
            } else {
                let key = chance::row_seed(seed, chance::name_key(&name), 0, 0);
                chance::normals(key, n).into_iter().map(|z| (0.02 * z) as f32).collect()
            };
            let tensor = host::floats(&values, &[n], Device::Cpu)?.f_view(shape.as_slice())?;
            tensors.insert(name, tensor);
        }
        Self::from_parameters(config, tensors, device)
    }

    /// Overwrites all weights in place with those of a safetensors file of the same shapes, another policy version say. Handles
    /// from [`Transformer::parameters`] stay good. On an error nothing is overwritten.
    pub fn set_weights(&mut self, bytes: &[u8]) -> Result<()> {
        let tensors = Checkpoint::in_memory(bytes)?.check(self.config())?.read()?;
        let _guard = tch::no_grad_guard();
        for (name, parameter) in self.parameter_map() {
            // The check has seen every name; the handle shares the parameter's memory.
            parameter.shallow_clone().f_copy_(&tensors[name])?;
        }
        Ok(())
    }

    /// The weights as the bytes of a safetensors file, in float32: the same weights give the same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        self.to_safetensors_in(Precision::F32)
    }

    /// The weights as the bytes of a safetensors file, in any precision.
    pub fn to_safetensors_in(&self, precision: Precision) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.write(precision, &mut bytes)?;
        Ok(bytes)
    }

    /// SHA-256, in hex, of the bytes that [`Transformer::to_safetensors`] gives.
    pub fn weights_digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        self.write(Precision::F32, &mut hash)?;
        Ok(hex(&hash.finalize()))
    }

    /// Writes `config.json` and `model.safetensors` into a folder, which is made if need be. A file that is there is replaced
    /// by a whole one or, where that cannot be written, kept.
    pub fn save(&self, dir: &Path, precision: Precision) -> Result<()> {
        let write = |name: &str, bytes: &[u8]| {
            let (path, part) = (dir.join(name), dir.join(format!(".{name}.part")));
            let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, &path));
            written.map_err(|source| {
                // What was begun would only take room, and its own failure says nothing new.
                let _ = std::fs::remove_file(&part);
                Error::Write { path, source }
            })
        };
        std::fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.into(), source })?;
        write("model.safetensors", &self.to_safetensors_in(precision)?)?;
        write("config.json", self.config().to_json(precision.names().1).as_bytes())
    }

    /// Header length (8 bytes, little endian), header (JSON, padded with spaces to 8 bytes), then the tensors end to end.
    fn write(&self, precision: Precision, to: &mut dyn Write) -> Result<()> {
        let (dtype, _, kind) = precision.names();
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
        let mut end = 0;
        for (name, tensor) in self.parameter_map() {
            let start = end;
            end += tensor.numel() * precision.bytes();
            let entry = json!({ "data_offsets": [start, end], "dtype": dtype, "shape": tensor.size() });
            header.insert(name.clone(), entry);
        }
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let failed = |source| Error::Write { path: "(memory)".into(), source };
        to.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        to.write_all(header.as_bytes()).map_err(failed)?;
        for (name, tensor) in self.parameter_map() {
            check_range(name, tensor, precision)?;
            let tensor = tensor.f_detach()?.f_to_kind(kind)?.f_to_device(Device::Cpu)?.f_contiguous()?;
            let mut bytes = vec![0; tensor.numel() * precision.bytes()];
            tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
            to.write_all(&bytes).map_err(failed)?;
        }
        Ok(())
    }
}

/// Refuses a weight that float16 would make infinite.
fn check_range(name: &str, tensor: &Tensor, precision: Precision) -> Result<()> {
    const LARGEST: f64 = 65_504.0;
    if precision != Precision::F16 {
        return Ok(());
    }
    let most = tensor.f_abs()?.f_max()?.f_double_value(&[])?;
    if most <= LARGEST {
        return Ok(());
    }
    let expected = format!("a type that holds {most}, a weight of `{name}`: bfloat16 or float32");
    Err(Error::Setting { key: "dtype", expected, found: "float16".into() })
}

/// Name and shape of every tensor of a network.
pub(crate) fn shapes(config: &ModelConfig) -> BTreeMap<String, Vec<i64>> {
    let [vocab, hidden, inner, head_dim] =
        [config.vocab_size, config.hidden_size, config.intermediate_size, config.head_dim].map(|n| n as i64);
    let (queries, keys) = (config.num_attention_heads as i64 * head_dim, config.num_key_value_heads as i64 * head_dim);
    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ]);
    if !config.tie_word_embeddings {
        shapes.insert("lm_head.weight".to_owned(), vec![vocab, hidden]);
    }
    let biases = config.biases();
    for i in 0..config.num_hidden_layers {
        let mut add = |part: &str, kind: &str, shape: Vec<i64>| {
            shapes.insert(format!("model.layers.{i}.{part}.{kind}"), shape);
        };
        let linear = [
            ("self_attn.q_proj", queries, hidden, biases.query_key_value),
            ("self_attn.k_proj", keys, hidden, biases.query_key_value),
            ("self_attn.v_proj", keys, hidden, biases.query_key_value),
            ("self_attn.o_proj", hidden, queries, biases.output),
            ("mlp.gate_proj", inner, hidden, biases.feed_forward),
            ("mlp.up_proj", inner, hidden, biases.feed_forward),
            ("mlp.down_proj", hidden, inner, biases.feed_forward),
        ];
        for (part, rows, columns, has_bias) in linear {
            add(part, "weight", vec![rows, columns]);
            if has_bias {
                add(part, "bias", vec![rows]);
            }
        }
        add("input_layernorm", "weight", vec![hidden]);
        add("post_attention_layernorm", "weight", vec![hidden]);
        if config.has_query_key_norm() {
            add("self_attn.q_norm", "weight", vec![head_dim]);
            add("self_attn.k_norm", "weight", vec![head_dim]);
        }
    }
    shapes
}
