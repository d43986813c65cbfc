//! The network written a second time, one token and one head at a time, in float64.

use crate::fixtures::values;
use model::{ModelConfig, RopeScaling, Transformer};
use std::collections::HashMap;
use std::f64::consts::TAU;

pub struct Reference {
    config: ModelConfig,
    weights: HashMap<String, Vec<f64>>,
    head: String,
}

impl Reference {
    pub fn of(model: &Transformer) -> Self {
        let weights = model.parameters().into_iter();
        let weights = weights.map(|(name, w)| (name, values(&w).into_iter().map(f64::from).collect())).collect();
        Self { config: model.config().clone(), weights, head: model.head_name().to_owned() }
    }

    /// Log-probabilities of the next token after each prefix of `ids`, over the real vocabulary at a temperature.
    pub fn logprobs(&self, ids: &[i32], temperature: f64) -> Vec<Vec<f64>> {
        let logits = self.hidden(ids).into_iter().map(|h| product(&self.weights[&self.head], &h));
        logits
            .map(|mut z| {
                z.truncate(self.config.real_vocab);
                z.iter_mut().for_each(|z| *z /= temperature);
                let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total = largest + z.iter().map(|z| (z - largest).exp()).sum::<f64>().ln();
                z.into_iter().map(|z| z - total).collect()
            })
            .collect()
    }

    /// Hidden states after the final norm.
    pub fn hidden(&self, ids: &[i32]) -> Vec<Vec<f64>> {
        let c = &self.config;
        let embedding = &self.weights["model.embed_tokens.weight"];
        let mut stream: Vec<Vec<f64>> =
            ids.iter().map(|&id| embedding[id as usize * c.hidden_size..][..c.hidden_size].to_vec()).collect();
        for layer in 0..c.num_hidden_layers {
            let weight = |part: &str| &self.weights[&format!("model.layers.{layer}.{part}.weight")];
            let linear = |part: &str, x: &[f64]| {
                let mut y = product(weight(part), x);
                if let Some(bias) = self.weights.get(&format!("model.layers.{layer}.{part}.bias")) {
                    y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
                y
            };
            let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
            for (position, x) in stream.iter().enumerate() {
                let x = self.norm(x, weight("input_layernorm"));
                let heads = |part: &str| -> Vec<Vec<f64>> {
                    linear(part, &x).chunks(c.head_dim).map(<[f64]>::to_vec).collect()
                };
                let turned = |part: &str, norm: &str| -> Vec<Vec<f64>> {
                    let norm = self.weights.get(&format!("model.layers.{layer}.{norm}.weight"));
                    let normed = |head: Vec<f64>| norm.map_or(head.clone(), |norm| self.norm(&head, norm));
                    heads(part).into_iter().map(|head| self.turn(&normed(head), position)).collect()
                };
                queries.push(turned("self_attn.q_proj", "self_attn.q_norm"));
                keys.push(turned("self_attn.k_proj", "self_attn.k_norm"));
                values.push(heads("self_attn.v_proj"));
            }
            for position in 0..ids.len() {
                let mut mixed = Vec::new();
                for (head, query) in queries[position].iter().enumerate() {
                    let shared = head / (c.num_attention_heads / c.num_key_value_heads);
                    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                    let score = |at: usize| dot(query, &keys[at][shared]) / (c.head_dim as f64).sqrt();
                    let weights: Vec<f64> = (0..=position).map(|at| score(at).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let mix =
                        |i: usize| (0..=position).map(|at| weights[at] / total * values[at][shared][i]).sum::<f64>();
                    mixed.extend((0..c.head_dim).map(mix));
                }
                let added = linear("self_attn.o_proj", &mixed);
                stream[position].iter_mut().zip(added).for_each(|(x, y)| *x += y);
                let x = self.norm(&stream[position], weight("post_attention_layernorm"));
                let (gate, up) = (linear("mlp.gate_proj", &x), linear("mlp.up_proj", &x));
                let inner: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let added = linear("mlp.down_proj", &inner);
                stream[position].iter_mut().zip(added).for_each(|(x, y)| *x += y);
            }
        }
        stream.iter().map(|x| self.norm(x, &self.weights["model.norm.weight"])).collect()
    }

    fn norm(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + self.config.rms_norm_eps).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
    }

    fn turn(&self, x: &[f64], position: usize) -> Vec<f64> {
        let half = x.len() / 2;
        let mut turned = x.to_vec();
        for i in 0..half {
            let wavelength = self.stretched(TAU * self.config.rope_theta.powf(i as f64 / half as f64));
            let angle = TAU * position as f64 / wavelength;
            turned[i] = x[i] * angle.cos() - x[half + i] * angle.sin();
            turned[half + i] = x[half + i] * angle.cos() + x[i] * angle.sin();
        }
        turned
    }

    /// The wavelength of a pair after scaling, case by case.
    fn stretched(&self, wavelength: f64) -> f64 {
        match self.config.rope_scaling {
            None => wavelength,
            Some(RopeScaling::Linear { factor }) => wavelength * factor,
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            }) => {
                let original = original_max_position_embeddings as f64;
                if wavelength < original / high_freq_factor {
                    wavelength
                } else if wavelength > original / low_freq_factor {
                    wavelength * factor
                } else {
                    let fast = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    1.0 / ((1.0 - fast) / (factor * wavelength) + fast / wavelength)
                }
            }
        }
    }
}

/// A matrix `[out, in]` in row-major order times a vector.
fn product(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}
