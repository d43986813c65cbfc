//! The chunked head where the teacher is at hand: its logits beside the student's, value and gradient over the whole vocabulary.
//!
//! ```text
//! z = (h / T) W^T,  z' = (h' / T) W'^T;  log p, log q = log softmax        [chunk, V]
//! c, value = rule(log p, log q);  d z = c - p sum_a c_a
//! d h = d z W / T;  d W += d z^T (h / T)
//! ```
//!
//! Invariant: as in the chunked head, nothing `[N, V]` is ever made; a chunk takes some ten tensors `[chunk, V]` instead of two.

use crate::{
    Result,
    estimator::{Candidates, Estimator, Exact, ExactDivergence},
    head::{HeadOutput, Positions, first_fault},
};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// What the teacher computed at the same N positions.
#[derive(Debug)]
pub struct TeacherStates {
    /// Its hidden states, `[N, D']`.
    pub hidden: Tensor,
    /// Its head, `[V, D']`; the student's vocabulary.
    pub weight: Tensor,
}

const REVERSE_KL: Exact = Exact { divergence: ExactDivergence::ReverseKl, alpha: None, beta: None };
const FORWARD_KL: Exact = Exact { divergence: ExactDivergence::ForwardKl, alpha: None, beta: None };

/// As [`crate::chunked_head`], for an estimator over the whole vocabulary; of `positions` only tokens and temperatures are read.
/// Both divergences are reported, and exact.
///
/// # Errors
/// Only what libtorch refuses; bad probabilities come back as [`HeadOutput::fault`].
#[expect(clippy::too_many_arguments, reason = "those of the chunked head, and the teacher")]
pub fn exact_head(
    hidden: &Tensor,
    weight: &Tensor,
    teacher: &TeacherStates,
    positions: &Positions,
    estimator: &dyn Estimator,
    scale: f64,
    chunk: usize,
    d_weight: &mut Tensor,
) -> Result<HeadOutput> {
    let _guard = tch::no_grad_guard();
    let (n, chunk) = (hidden.size2()?.0, chunk.max(1) as i64);
    let mut parts: [Vec<Tensor>; 6] = Default::default();
    let mut fault = None;
    for start in (0..n).step_by(chunk as usize) {
        let cut = |t: &Tensor| t.f_narrow(0, start, chunk.min(n - start));
        let inverse = cut(&positions.temperature)?.f_to_kind(hidden.kind())?.f_reciprocal()?.f_unsqueeze(1)?;
        let scaled = cut(hidden)?.f_mul(&inverse)?;
        let log_softmax = |states: &Tensor, weight: &Tensor| -> Result<Tensor> {
            Ok(states.f_matmul(&weight.f_tr()?)?.f_log_softmax(1, hidden.kind())?)
        };
        let log_p = log_softmax(&scaled, weight)?;
        let log_q = log_softmax(&cut(&teacher.hidden)?.f_mul(&inverse)?, &teacher.weight)?;
        let token_ids = cut(&positions.token_ids)?.f_unsqueeze(1)?;
        parts[2].push(log_p.f_gather(1, &token_ids, false)?.f_squeeze_dim(1)?);
        let p = log_p.f_exp()?;
        parts[3].push(p.f_mul(&log_p)?.f_sum_dim_intlist([1i64].as_slice(), false, None)?.f_neg()?);

        let candidates = vocabulary(log_p, log_q)?;
        let ruling = estimator.rule(&candidates);
        for (part, of) in [(4, &REVERSE_KL), (5, &FORWARD_KL)] {
            let is_own = estimator.divergence() == of.divergence();
            parts[part].push(if is_own { ruling.value.shallow_clone() } else { of.rule(&candidates).value });
        }
        if fault.is_none() {
            fault = first_fault(&ruling)?.map(|(at, fault)| (start as usize + at, fault));
        }
        let total = ruling.coefficients.f_sum_dim_intlist([1i64].as_slice(), true, None)?;
        let d_logits = ruling.coefficients.f_sub(&p.f_mul(&total)?)?.f_mul_scalar(scale)?;
        parts[0].push(d_logits.f_matmul(weight)?.f_mul(&inverse)?);
        let _ = d_weight.f_addmm_(&d_logits.f_tr()?, &scaled)?;
        parts[1].push(ruling.value);
    }
    let double = |parts: &[Tensor]| Tensor::f_cat(parts, 0)?.f_to_kind(Kind::Double);
    Ok(HeadOutput {
        d_hidden: Tensor::f_cat(&parts[0], 0)?,
        value: double(&parts[1])?,
        learner_logprobs: double(&parts[2])?,
        entropy: double(&parts[3])?,
        reverse_kl: Some(double(&parts[4])?),
        forward_kl: Some(double(&parts[5])?),
        tallies: BTreeMap::new(),
        fault,
    })
}

/// All ids as candidates. What nobody reads takes no memory: one number, seen `[n, V]` times.
fn vocabulary(log_p: Tensor, log_q: Tensor) -> Result<Candidates> {
    let size = log_p.size();
    let one = |number: f64| log_p.f_new_full([1], number, (log_p.kind(), log_p.device()));
    let wide = |number: f64| one(number)?.f_expand(&size, false);
    let narrow = |number: f64| one(number)?.f_expand(&size[..1], false);
    let all = one(1.0)?.f_to_kind(Kind::Bool)?.f_expand(&size, false)?;
    Ok(Candidates {
        mask: all.shallow_clone(),
        in_head: all,
        counts: wide(1.0)?,
        draws: narrow(f64::NAN)?,
        sampler_logprobs: wide(f64::NAN)?,
        proximal_logprobs: wide(f64::NAN)?,
        learner_tail: narrow(f64::NEG_INFINITY)?,
        teacher_tail: narrow(f64::NEG_INFINITY)?,
        learner_logprobs: log_p,
        teacher_logprobs: log_q,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::{Support, oracle::numbers};
    use proptest::prelude::*;
    use tch::Device;

    fn random(seed: u64, shape: &[i64]) -> Tensor {
        Tensor::from_slice(&numbers(seed, shape.iter().product())).view(shape)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn value_and_gradients_are_those_of_autograd(seed in 0u64..1 << 30, vocab in 4i64..40, chunk in 1usize..9) {
            tch::set_num_threads(1);
            let (n, d) = (7, 5);
            let (hidden, weight) = (random(seed, &[n, d]), random(seed + 1, &[vocab, d]));
            let temperature = random(seed + 2, &[n]) * 0.2 + 1.0;
            let teacher = TeacherStates { hidden: random(seed + 3, &[n, d + 1]), weight: random(seed + 4, &[vocab, d + 1]) };
            let unused = || crate::Columns {
                support: Support::Vocabulary,
                ids: Tensor::zeros([n, 1], (Kind::Int64, Device::Cpu)),
                mask: Tensor::zeros([n, 1], (Kind::Bool, Device::Cpu)),
                in_head: Tensor::zeros([n, 1], (Kind::Bool, Device::Cpu)),
                counts: random(seed, &[n, 1]),
                draws: random(seed, &[n]),
                teacher_logprobs: random(seed, &[n, 1]),
                sampler_logprobs: random(seed, &[n, 1]),
                teacher_tail: random(seed, &[n]),
            };
            let positions = Positions {
                token_ids: Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(vocab),
                temperature: temperature.copy(),
                support: unused(),
                draws: None,
                teacher_top_k: None,
                proximal: crate::Proximal::Unknown,
            };
            let log_q = (teacher.hidden.matmul(&teacher.weight.tr()) / temperature.unsqueeze(1)).log_softmax(1, Kind::Double);
            for divergence in [ExactDivergence::ReverseKl, ExactDivergence::ForwardKl, ExactDivergence::SkewedKl] {
                let (h, w) = (hidden.copy().set_requires_grad(true), weight.copy().set_requires_grad(true));
                let log_p = (h.matmul(&w.tr()) / temperature.unsqueeze(1)).log_softmax(1, Kind::Double);
                let reverse = (log_p.exp() * (&log_p - &log_q)).sum(None);
                let forward = (log_q.exp() * (&log_q - &log_p)).sum(None);
                let loss = match divergence {
                    ExactDivergence::ReverseKl => reverse.shallow_clone(),
                    ExactDivergence::ForwardKl => forward.shallow_clone(),
                    _ => (&reverse + &forward) * 0.5,
                };
                let expected = Tensor::run_backward(&[&loss * 0.3], &[&h, &w], false, false);
                let rule = Exact { divergence, alpha: None, beta: None };
                for (kind, tolerance) in [(Kind::Double, 1e-10), (Kind::Float, 2e-4)] {
                    let float = |t: &Tensor| t.to_kind(kind);
                    let mut d_weight = float(&weight.zeros_like());
                    let states = TeacherStates { hidden: float(&teacher.hidden), weight: float(&teacher.weight) };
                    let found = exact_head(
                        &float(&hidden), &float(&weight), &states, &positions, &rule, 0.3, chunk, &mut d_weight,
                    ).unwrap();
                    prop_assert!(found.fault.is_none());
                    let gap = |a: &Tensor, b: &Tensor| (a.to_kind(Kind::Double) - b).abs().max().double_value(&[]);
                    let number = |t: &Tensor| t.sum(None).double_value(&[]);
                    let scale = 1.0 + number(&loss).abs();
                    prop_assert!((number(&found.value) - number(&loss)).abs() < tolerance * scale);
                    prop_assert!(gap(&found.d_hidden, &expected[0]) < tolerance * scale);
                    prop_assert!(gap(&d_weight, &expected[1]) < tolerance * scale);
                    prop_assert!((number(&found.reverse_kl.unwrap()) - number(&reverse)).abs() < tolerance * scale);
                    prop_assert!((number(&found.forward_kl.unwrap()) - number(&forward)).abs() < tolerance * scale);
                    let entropy = -(log_p.exp() * &log_p).sum_dim_intlist([1i64].as_slice(), false, None);
                    prop_assert!(gap(&found.entropy, &entropy.detach()) < 1e-4);
                }
            }
        }
    }
}
