//! The network: ids in, hidden states out. Widths: B rows, T positions, D hidden size, H query heads, V vocabulary.

use crate::cache::Cache;
use crate::config::ModelConfig;
use crate::rope::{self, Rope};
use crate::{Error, Result, host};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

/// Name of the embedding's tensor, which is also the head where the two are tied.
const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the head's tensor where it is not tied.
const HEAD: &str = "lm_head.weight";

/// A decoder-only transformer with its weights, in float32, on one device.
///
/// Every parameter is a leaf tensor that wants a gradient; the handles that [`Transformer::parameters`] gives share its memory,
/// so what an optimizer writes there in place, under `tch::no_grad_guard`, is what the network computes with next.
pub struct Transformer {
    config: ModelConfig,
    device: Device,
    parameters: BTreeMap<String, Tensor>,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Tensor,
    /// Rotary frequencies, float64 `[head_dim / 2]`.
    frequencies: Tensor,
}

/// The weights of one block. What the family does not have is none.
struct Layer {
    input_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    query_norm: Option<Tensor>,
    key_norm: Option<Tensor>,
    feed_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A weight `[out, in]`, and a bias `[out]` where there is one.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// What the queries of a forward pass may look at.
pub(crate) enum Attend<'a> {
    /// Their own row up to themselves; position = column.
    Causal,
    /// The columns of a cache to which their keys and values are appended, as far as `mask` (added to the attention scores,
    /// `[B, 1, T or 1, columns]`) lets them; without a mask, all of them.
    Cached { cache: &'a mut Cache, mask: Option<&'a Tensor> },
}

impl Transformer {
    /// Takes tensors by their Hugging Face names as its parameters: exactly those that [`crate::weights::shapes`] names.
    pub(crate) fn from_parameters(
        config: ModelConfig,
        tensors: BTreeMap<String, Tensor>,
        device: Device,
    ) -> Result<Self> {
        let mut parameters = BTreeMap::new();
        for (name, tensor) in tensors {
            let tensor = tensor.f_to_kind(Kind::Float)?.f_to_device(device)?.f_contiguous()?.f_detach()?;
            parameters.insert(name, tensor.f_set_requires_grad(true)?);
        }
        // Every name that the configuration asks for is there, and no other.
        let get = |name: &str| parameters[name].shallow_clone();
        let optional = |name: String| parameters.get(&name).map(Tensor::shallow_clone);
        let layer = |i: usize| {
            let weight = |part: &str| get(&format!("model.layers.{i}.{part}.weight"));
            let norm = |part: &str| optional(format!("model.layers.{i}.{part}.weight"));
            let linear =
                |part: &str| Linear { weight: weight(part), bias: optional(format!("model.layers.{i}.{part}.bias")) };
            Layer {
                input_norm: weight("input_layernorm"),
                query: linear("self_attn.q_proj"),
                key: linear("self_attn.k_proj"),
                value: linear("self_attn.v_proj"),
                output: linear("self_attn.o_proj"),
                query_norm: norm("self_attn.q_norm"),
                key_norm: norm("self_attn.k_norm"),
                feed_norm: weight("post_attention_layernorm"),
                gate: linear("mlp.gate_proj"),
                up: linear("mlp.up_proj"),
                down: linear("mlp.down_proj"),
            }
        };
        Ok(Self {
            device,
            embedding: get(EMBEDDING),
            layers: (0..config.num_hidden_layers).map(layer).collect(),
            norm: get("model.norm.weight"),
            head: get(if config.tie_word_embeddings { EMBEDDING } else { HEAD }),
            frequencies: rope::frequencies(&config, device)?,
            parameters,
            config,
        })
    }

    /// The same network with weights of its own: what an optimizer writes to one does not reach the other.
    pub fn copy(&self) -> Result<Self> {
        let _guard = tch::no_grad_guard();
        let own = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.f_detach_copy()?));
        let parameters = self.parameters.iter().map(own).collect::<Result<_>>()?;
        Self::from_parameters(self.config.clone(), parameters, self.device)
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Ids below this are real; the head's rows from here on are padding.
    pub fn real_vocab(&self) -> usize {
        self.config.real_vocab
    }

    /// Trainable parameters, float32 leaves, in ascending order of name.
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        self.parameters.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
    }

    pub(crate) fn parameter_map(&self) -> &BTreeMap<String, Tensor> {
        &self.parameters
    }

    /// The head's weight W, `[V, D]`: logits are `hidden W^T`. It is the parameter called [`Transformer::head_name`], padding
    /// rows included; only the first [`Transformer::real_vocab`] rows may be given mass.
    pub fn head(&self) -> Tensor {
        self.head.shallow_clone()
    }

    /// The name of the head among [`Transformer::parameters`]: the embedding's where the two are tied.
    pub fn head_name(&self) -> &'static str {
        if self.is_head_tied() { EMBEDDING } else { HEAD }
    }

    /// Whether the head is the embedding: then a gradient of the head is *added* to what backward gives the embedding.
    pub fn is_head_tied(&self) -> bool {
        self.config.tie_word_embeddings
    }

    /// Rows of ids as one tensor on the model's device, `[B, T]`, padded on the right to the longest.
    ///
    /// Every id is checked to be one of the vocabulary here, because an id out of range ends a CUDA program.
    pub fn right_padded<R: AsRef<[i32]>>(&self, rows: &[R]) -> Result<Tensor> {
        let longest = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
        let mut ids = vec![0_i64; rows.len() * longest];
        for (row, list) in rows.iter().map(AsRef::as_ref).enumerate() {
            self.check_ids(row, list)?;
            self.check_length(row, list.len())?;
            ids[row * longest..][..list.len()].iter_mut().zip(list).for_each(|(to, &id)| *to = i64::from(id));
        }
        host::ids(&ids, &[rows.len(), longest], self.device)
    }

    pub(crate) fn check_ids(&self, row: usize, ids: &[i32]) -> Result<()> {
        match ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= self.config.real_vocab)) {
            None => Ok(()),
            Some(id) => {
                let reason = format!("token id {id} is not in the vocabulary of {} ids", self.config.real_vocab);
                Err(Error::Row { row, reason })
            }
        }
    }

    pub(crate) fn check_length(&self, row: usize, tokens: usize) -> Result<()> {
        let most = self.config.max_position_embeddings;
        if tokens <= most {
            return Ok(());
        }
        Err(Error::Row { row, reason: format!("{tokens} tokens do not fit the context of {most}; shorten it") })
    }

    /// Hidden states after the final norm, `[B, T, D]`, of right-padded rows `[B, T]` (see [`Transformer::right_padded`]), with
    /// autograd unless a `no_grad_guard` is held. Attention is causal, so padding never reaches a real position.
    pub fn hidden(&self, ids: &Tensor) -> Result<Tensor> {
        let (_, length) = ids.size2()?;
        self.check_length(0, length as usize)?;
        let positions = Tensor::f_arange(length, (Kind::Int64, self.device))?;
        self.forward(ids, &self.rope(&positions)?, &mut Attend::Causal)
    }

    /// Logits of the real vocabulary at temperature 1, `[N, real_vocab]`, from hidden states `[N, D]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let real = self.head.f_narrow(0, 0, self.config.real_vocab as i64)?;
        Ok(hidden.f_linear(&real, None::<&Tensor>)?)
    }

    /// The rotary angles of positions `[T]` or `[B, 1, T]`.
    pub(crate) fn rope(&self, positions: &Tensor) -> Result<Rope> {
        Rope::new(positions, &self.frequencies)
    }

    /// The whole network but its head: ids `[B, T]` to `[B, T, D]`.
    pub(crate) fn forward(&self, ids: &Tensor, rope: &Rope, attend: &mut Attend) -> Result<Tensor> {
        let mut x = Tensor::f_embedding(&self.embedding, ids, -1, false, false)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let normed = self.rms_norm(&x, &layer.input_norm)?;
            x = x.f_add(&self.attention(i, layer, &normed, rope, attend)?)?;
            let normed = self.rms_norm(&x, &layer.feed_norm)?;
            let gate = layer.gate.apply(&normed)?.f_silu()?;
            x = x.f_add(&layer.down.apply(&gate.f_mul(&layer.up.apply(&normed)?)?)?)?;
        }
        if let Attend::Cached { cache, .. } = attend {
            cache.advance(ids.size2()?.1);
        }
        self.rms_norm(&x, &self.norm)
    }

    /// Grouped-query attention over `[B, T, D]`: each key and value head serves `H / num_key_value_heads` query heads.
    fn attention(&self, i: usize, layer: &Layer, x: &Tensor, rope: &Rope, attend: &mut Attend) -> Result<Tensor> {
        let (rows, length, _) = x.size3()?;
        let (head_dim, kv_heads) = (self.config.head_dim as i64, self.config.num_key_value_heads as i64);
        let group = self.config.num_attention_heads as i64 / kv_heads;
        let heads = |linear: &Linear, n: i64, norm: &Option<Tensor>| {
            let heads = linear.apply(x)?.f_view([rows, length, n, head_dim])?;
            let heads = norm.as_ref().map_or(Ok(heads.shallow_clone()), |norm| self.rms_norm(&heads, norm))?;
            Ok::<_, Error>(heads.f_transpose(1, 2)?)
        };
        let query = heads(&layer.query, kv_heads * group, &layer.query_norm)?;
        let key = heads(&layer.key, kv_heads, &layer.key_norm)?;
        let value = heads(&layer.value, kv_heads, &None)?;
        let (query, key) = (rope.turn(&query)?, rope.turn(&key)?);

        let (key, value, mask) = match attend {
            Attend::Causal => (key, value, None),
            Attend::Cached { cache, mask } => {
                let (keys, values) = cache.append(i, &key, &value)?;
                (keys, values, *mask)
            }
        };
        let causal = matches!(attend, Attend::Causal);
        let mixed = if length == 1 && !causal {
            // One query a head: the queries that share a key head stand in for positions, and no key is copied.
            let query = query.f_reshape([rows, kv_heads, group, head_dim])?;
            attend_to(&query, &key, &value, mask, false)?.f_reshape([rows, 1, -1])?
        } else {
            let (key, value) = (repeat_heads(&key, group)?, repeat_heads(&value, group)?);
            attend_to(&query, &key, &value, mask, causal)?.f_transpose(1, 2)?.f_reshape([rows, length, -1])?
        };
        layer.output.apply(&mixed)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        Ok(x.f_rms_norm(weight.size(), Some(weight), self.config.rms_norm_eps)?)
    }
}

/// softmax(q k^T / sqrt(head_dim) + mask) v.
fn attend_to(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>, causal: bool) -> Result<Tensor> {
    Ok(Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, causal, None, false)?)
}

/// `[B, heads, T, w]` with each head `group` times in a row.
fn repeat_heads(x: &Tensor, group: i64) -> Result<Tensor> {
    if group == 1 {
        return Ok(x.shallow_clone());
    }
    let (rows, heads, length, width) = x.size4()?;
    Ok(x.f_unsqueeze(2)?.f_expand([rows, heads, group, length, width], false)?.f_reshape([
        rows,
        heads * group,
        length,
        width,
    ])?)
}
