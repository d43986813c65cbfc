//! The two presets that DistillKit's README names, made again from what its repository says of itself (github.com/arcee-ai/DistillKit:
//! README.md, distillkit/compression/config.py, read 2026-11): the first `exact_k` log-probabilities as bfloat16, the others by least squares on
//! powers and the square root of their number from 0, coefficients as float32; ids bit-packed; no tail.
//!
//! Where it is not the same it is kinder: the fit is solved in float64 by orthogonal columns, not in float32.

use crate::AnyError;
use codec::{Layout, TopColumn};

#[derive(Clone, Copy)]
pub struct Preset {
    pub name: &'static str,
    pub k: usize,
    exact_k: usize,
    powers: usize,
}

/// Besides the powers from 0 there is a square root.
pub const RECOMMENDED: Preset = Preset { name: "DistillKit recommended", k: 128, exact_k: 16, powers: 5 };
pub const BUDGET: Preset = Preset { name: "DistillKit budget", k: 50, exact_k: 1, powers: 2 };

/// A preset with its terms as orthonormal columns `q` and the triangle that leads back, `terms = q r`.
pub struct Fit {
    preset: Preset,
    terms: Vec<Vec<f64>>,
    q: Vec<Vec<f64>>,
    r: Vec<Vec<f64>>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Fit {
    pub fn new(preset: Preset) -> Self {
        let points: Vec<f64> = (0..preset.k - preset.exact_k).map(|t| t as f64).collect();
        let powers = (0..preset.powers).map(|n| points.iter().map(|t| t.powi(n as i32)).collect::<Vec<f64>>());
        let terms: Vec<Vec<f64>> = powers.chain([points.iter().map(|t| t.sqrt()).collect()]).collect();
        let n = terms.len();
        let (mut q, mut r): (Vec<Vec<f64>>, _) = (Vec::new(), vec![vec![0.0; n]; n]);
        for (j, term) in terms.iter().enumerate() {
            let mut column = term.clone();
            // Twice, so that rounding leaves the columns orthogonal.
            for _ in 0..2 {
                for (i, other) in q.iter().enumerate() {
                    let part = dot(other, &column);
                    r[i][j] += part;
                    column.iter_mut().zip(other).for_each(|(x, o)| *x -= part * o);
                }
            }
            r[j][j] = dot(&column, &column).sqrt();
            column.iter_mut().for_each(|x| *x /= r[j][j]);
            q.push(column);
        }
        Self { preset, terms, q, r }
    }

    fn coefficients(&self, values: &[f32]) -> Vec<f32> {
        let values: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
        let mut solved: Vec<f64> = self.q.iter().map(|q| dot(q, &values)).collect();
        for i in (0..solved.len()).rev() {
            let known: f64 = (i + 1..solved.len()).map(|j| self.r[i][j] * solved[j]).sum();
            solved[i] = (solved[i] - known) / self.r[i][i];
        }
        solved.into_iter().map(|x| x as f32).collect()
    }

    pub fn encode(&self, column: &TopColumn, vocabulary: u32) -> Result<Vec<u8>, AnyError> {
        let mut out = Vec::new();
        for t in 0..column.layout.positions() {
            let list = &column.logprobs[column.layout.list(t)];
            let (exact, fitted) = list.split_at_checked(self.preset.exact_k).ok_or("a list that is too short")?;
            for x in exact {
                // Round to nearest, ties to even, as a cast to bfloat16 does.
                let bits = x.to_bits();
                out.extend(((bits + 0x7fff + (bits >> 16 & 1)) >> 16).to_le_bytes().iter().take(2));
            }
            self.coefficients(fitted).iter().for_each(|c| out.extend(c.to_le_bytes()));
            let (mut held, mut bits) = (0_u64, 0);
            for id in &column.ids[column.layout.list(t)] {
                held |= u64::from(*id as u32) << bits;
                bits += width(vocabulary);
                while bits >= 8 {
                    out.push(held as u8);
                    (held, bits) = (held >> 8, bits - 8);
                }
            }
            out.extend((bits > 0).then_some(held as u8));
        }
        Ok(out)
    }

    /// What is missing to 1 is the tail, and at least 1e-6 of mass; then all is normalised.
    pub fn decode(&self, bytes: &[u8], layout: &Layout, vocabulary: u32) -> Result<TopColumn, AnyError> {
        let Preset { k, exact_k, .. } = self.preset;
        let width = width(vocabulary);
        let mut column = TopColumn { layout: layout.clone(), ..TopColumn::default() };
        let (exact_bytes, term_bytes) = (2 * exact_k, 4 * self.terms.len());
        let size = exact_bytes + term_bytes + (k * width as usize).div_ceil(8);
        for position in bytes.chunks_exact(size) {
            let (exact, rest) = position.split_at(exact_bytes);
            let (terms, ids) = rest.split_at(term_bytes);
            let first = column.logprobs.len();
            column.logprobs.extend(
                exact.as_chunks::<2>().0.iter().map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
            );
            let terms: Vec<f32> = terms.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            column.logprobs.extend(
                (0..k - exact_k)
                    .map(|t| terms.iter().zip(&self.terms).map(|(c, term)| c * term[t] as f32).sum::<f32>()),
            );
            let sum: f64 = column.logprobs[first..].iter().map(|x| f64::from(*x).exp()).sum();
            column.tails.push((1.0 - sum).max(1e-6).ln() as f32);
            let (mut held, mut bits) = (0_u64, 0);
            let mut bytes = ids.iter();
            for _ in 0..k {
                while bits < width {
                    held |= u64::from(*bytes.next().ok_or("too few bytes")?) << bits;
                    bits += 8;
                }
                column.ids.push((held & ((1 << width) - 1)) as i32);
                (held, bits) = (held >> width, bits - width);
            }
        }
        Ok(column)
    }
}

fn width(vocabulary: u32) -> u32 {
    32 - (vocabulary - 1).leading_zeros()
}
