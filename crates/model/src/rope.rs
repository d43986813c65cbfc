//! Rotary position embedding (Su et al. 2021): by how much each pair of a head's numbers is turned at a position.

use crate::config::ModelConfig;
use crate::keys::Keys;
use crate::{Result, host};
use serde_json::{Value, json};
use std::f64::consts::TAU;
use tch::{Device, Kind, Tensor};

/// How the frequencies of a network with a stretched context differ from `rope_theta ^ (-2 i / head_dim)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// All are divided by one factor.
    Linear {
        /// How many times longer the context became.
        factor: f64,
    },
    /// Those of Llama 3.1: by how often it turns within the original context, a frequency stays as it is, is divided by the
    /// factor, or lies linearly between the two.
    Llama3 {
        /// What slow frequencies are divided by.
        factor: f64,
        /// Up to this many turns a frequency is slow.
        low_freq_factor: f64,
        /// From this many turns on a frequency is fast: it stays as it is. Above `low_freq_factor`.
        high_freq_factor: f64,
        /// Positions of the original context.
        original_max_position_embeddings: usize,
    },
}

impl RopeScaling {
    /// Base and scaling by a config.json, whose `max_position_embeddings` is `longest`. A `rope_scaling` stands in for the whole
    /// of `rope_parameters`; the base may stand in either or at the top.
    pub(crate) fn read(keys: &Keys, longest: usize) -> Result<(f64, Option<Self>)> {
        let is_set = |key| keys.get(key).is_some_and(|value| value != &json!({}));
        let outer = if is_set("rope_scaling") { "rope_scaling" } else { "rope_parameters" };
        let inner = |name: &str| format!("{outer}.{name}");
        let number = |name: &str| keys.positive(&inner(name), None);
        match keys.get(outer) {
            Some(Value::Object(map)) if map.values().any(Value::is_object) => {
                return Err(keys.error(outer, "one set of numbers for all layers"));
            }
            None | Some(Value::Object(_)) => {}
            Some(_) => return Err(keys.error(outer, "an object or null")),
        }
        for key in [inner("partial_rotary_factor"), "partial_rotary_factor".into()] {
            if keys.positive(&key, Some(1.0))? != 1.0 {
                return Err(keys.error(&key, "1 (all of a head is turned)"));
            }
        }
        let theta = match keys.get(&inner("rope_theta")) {
            Some(_) => number("rope_theta")?,
            None => keys.positive("rope_theta", Some(10_000.0))?,
        };
        let kind = inner(if keys.get(&inner("rope_type")).is_some() { "rope_type" } else { "type" });
        let scaling = match keys.get(&kind).map(Value::as_str) {
            None | Some(Some("default")) => None,
            Some(Some("linear")) => Some(Self::Linear { factor: number("factor")? }),
            Some(Some("llama3")) => {
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                if low >= high {
                    return Err(keys.error(&inner("high_freq_factor"), &format!("above low_freq_factor ({low})")));
                }
                let original = "original_max_position_embeddings";
                let original = if keys.get(original).is_some() { original.into() } else { inner(original) };
                Some(Self::Llama3 {
                    factor: number("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: keys.size(&original, Some(longest))?,
                })
            }
            Some(_) => return Err(keys.error(&kind, "\"default\", \"linear\" or \"llama3\"")),
        };
        Ok((theta, scaling))
    }

    /// The value of `rope_scaling` in a config.json.
    pub(crate) fn to_json(self) -> Value {
        match self {
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            }),
        }
    }

    /// A frequency (radians a position) after scaling.
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings as f64 * frequency / TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                frequency * ((1.0 - kept) / factor + kept)
            }
        }
    }
}

/// The frequency of each pair, float64 `[head_dim / 2]`.
pub(crate) fn frequencies(config: &ModelConfig, device: Device) -> Result<Tensor> {
    let width = config.head_dim;
    let frequency = |i| config.rope_theta.powf(-((2 * i) as f64) / width as f64);
    let scaled = |frequency| config.rope_scaling.map_or(frequency, |scaling| scaling.apply(frequency));
    let values: Vec<f64> = (0..width / 2).map(frequency).map(scaled).collect();
    host::doubles(&values, &[width / 2], device)
}

/// Cosines and sines of the rotary angles, `[T, head_dim / 2]` or `[B, 1, T, head_dim / 2]`.
pub(crate) struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// Angles of positions `[T]` or `[B, 1, T]`, in float64: a float32 angle is off by 2e-3 at position 40,000.
    pub(crate) fn new(positions: &Tensor, frequencies: &Tensor) -> Result<Self> {
        let angles = positions.f_unsqueeze(-1)?.f_mul(frequencies)?;
        Ok(Self { cos: angles.f_cos()?.f_to_kind(Kind::Float)?, sin: angles.f_sin()?.f_to_kind(Kind::Float)? })
    }

    /// Turns each pair (i, i + head_dim / 2) of `[B, heads, T, head_dim]` by its angle (RoFormer, equation 34, in the order of
    /// halves that published checkpoints use).
    pub(crate) fn turn(&self, x: &Tensor) -> Result<Tensor> {
        let half = self.cos.size().last().copied().unwrap_or(0);
        let (a, b) = (x.f_narrow(-1, 0, half)?, x.f_narrow(-1, half, half)?);
        let left = a.f_mul(&self.cos)?.f_sub(&b.f_mul(&self.sin)?)?;
        let right = b.f_mul(&self.cos)?.f_add(&a.f_mul(&self.sin)?)?;
        Ok(Tensor::f_cat(&[left, right], -1)?)
    }
}
