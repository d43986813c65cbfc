//! The chunked head: logits, estimator, and the gradient of both, in one pass over chunks of positions.
//!
//! For N positions with hidden states h `[N, D]`, head W `[V, D]` and temperatures T `[N]`, chunk by chunk:
//!
//! ```text
//! z = (h / T) W^T;  lse = logsumexp(z);  log p = z[ids] - lse              float32
//! c, value = rule(log p, cached columns)                                    float64, [n, J] only
//! d z = scatter_add(c) - softmax(z) sum_j c_j                               in the buffer of exp(z - max)
//! d h = d z W / T;  d W += d z^T (h / T)
//! ```
//!
//! Invariant: no `[N, V]` tensor is ever made, only two `[chunk, V]` at a time, and logits are computed once.

use crate::{
    Result,
    estimator::{
        Baseline, Candidates, Estimator, Fault, ForwardKl, Head, ReverseKlHybrid, ReverseKlMc, Ruling, Support, Tail,
    },
};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// The cached columns of one support at N positions, on the learner's device.
#[derive(Debug)]
pub struct Columns {
    /// Which.
    pub support: Support,
    /// Candidate ids, `[N, J]`, int64. Padding repeats the position's first candidate, which is of the head
    /// where there is one, or is 0 where it has none.
    pub ids: Tensor,
    /// Which entries are candidates, `[N, J]`, bool.
    pub mask: Tensor,
    /// Which of them are of an exact part: all of a top-k, none of draws, `[N, J]`, bool.
    pub in_head: Tensor,
    /// How often each was drawn, `[N, J]`; 1 for other supports.
    pub counts: Tensor,
    /// How many draws a position has, m, `[N]`; NaN for other supports.
    pub draws: Tensor,
    /// log q, `[N, J]`; NaN where not cached.
    pub teacher_logprobs: Tensor,
    /// log b, `[N, J]`; NaN where not cached.
    pub sampler_logprobs: Tensor,
    /// log q_T, `[N]`; NaN where the support has no tail.
    pub teacher_tail: Tensor,
}

impl Columns {
    fn narrow(&self, start: i64, length: i64) -> Result<Self> {
        let cut = |t: &Tensor| t.f_narrow(0, start, length);
        Ok(Self {
            ids: cut(&self.ids)?,
            support: self.support,
            mask: cut(&self.mask)?,
            in_head: cut(&self.in_head)?,
            counts: cut(&self.counts)?,
            draws: cut(&self.draws)?,
            teacher_logprobs: cut(&self.teacher_logprobs)?,
            sampler_logprobs: cut(&self.sampler_logprobs)?,
            teacher_tail: cut(&self.teacher_tail)?,
        })
    }
}

/// N trained positions of a microbatch: their tokens and what was cached for them.
#[derive(Debug)]
pub struct Positions {
    /// The response token at each position, `[N]`, int64.
    pub token_ids: Tensor,
    /// Temperature of each position, `[N]`.
    pub temperature: Tensor,
    /// What the estimator looks at.
    pub support: Columns,
    /// The draws, for the reverse KL that is reported: all, or where only some are kept, those and the head outside which they
    /// lie. `None` where no row has any, or `support` is the same.
    pub draws: Option<Columns>,
    /// The teacher's top-k as stored, for the forward KL that is reported; `None` where no row has any.
    pub teacher_top_k: Option<Columns>,
    /// log p of the proximal weights at what the estimator looks at.
    pub proximal: Proximal,
}

/// Where log p of the proximal weights comes from.
#[derive(Debug)]
pub enum Proximal {
    /// Nobody asked for it: NaN.
    Unknown,
    /// The proximal weights are the current ones.
    Learner,
    /// An earlier pass, `[N, J]`, float64.
    Gathered(Tensor),
}

impl Proximal {
    fn logprobs(&self, of: &Candidates, start: i64, length: i64) -> Result<Tensor> {
        Ok(match self {
            Self::Unknown => of.learner_logprobs.f_full_like(f64::NAN)?,
            Self::Learner => of.learner_logprobs.shallow_clone(),
            Self::Gathered(logprobs) => logprobs.f_narrow(0, start, length)?,
        })
    }
}

/// What the head gives back for N positions; all without autograd.
#[derive(Debug)]
pub struct HeadOutput {
    /// d L / d h, `[N, D]`.
    pub d_hidden: Tensor,
    /// The estimator's value, `[N]`, float64, not scaled.
    pub value: Tensor,
    /// log p of the response token, `[N]`, float64.
    pub learner_logprobs: Tensor,
    /// Entropy of the student, nats, `[N]`, float64.
    pub entropy: Tensor,
    /// Reverse KL by Monte-Carlo over the draws, `[N]`, float64.
    pub reverse_kl: Option<Tensor>,
    /// Forward KL over the teacher's top-k and tail bucket, `[N]`, float64.
    pub forward_kl: Option<Tensor>,
    /// The estimator's own rates: numerator and denominator by name.
    pub tallies: BTreeMap<&'static str, (f64, f64)>,
    /// The first position without a finite value, and why.
    pub fault: Option<(usize, Fault)>,
}

/// Runs `estimator` on hidden states `[N, D]` under the head `weight` `[V, D]` (real vocabulary only), and adds
/// `scale * d (sum of values) / d W` to `d_weight` `[V, D]`. `d_hidden` is scaled too. Nothing here is recorded by autograd.
///
/// # Errors
/// Only what libtorch refuses; bad probabilities come back as [`HeadOutput::fault`].
pub fn chunked_head(
    hidden: &Tensor,
    weight: &Tensor,
    positions: &Positions,
    estimator: &dyn Estimator,
    scale: f64,
    chunk: usize,
    d_weight: &mut Tensor,
) -> Result<HeadOutput> {
    let _guard = tch::no_grad_guard();
    let (n, chunk) = (hidden.size2()?.0, chunk.max(1) as i64);
    let mut parts: [Vec<Tensor>; 6] = Default::default();
    let mut tallies = BTreeMap::new();
    let mut fault = None;
    for start in (0..n).step_by(chunk as usize) {
        let length = chunk.min(n - start);
        let cut = |t: &Tensor| t.f_narrow(0, start, length);
        let inverse = cut(&positions.temperature)?.f_to_kind(hidden.kind())?.f_reciprocal()?.f_unsqueeze(1)?;
        let scaled = cut(hidden)?.f_mul(&inverse)?;
        let mut student = Softmax::new(&scaled, weight)?;

        let support = positions.support.narrow(start, length)?;
        let mut ids = student.candidates(&support)?;
        ids.proximal_logprobs = positions.proximal.logprobs(&ids, start, length)?;
        let ruling = estimator.rule(&ids);
        if fault.is_none() {
            fault = first_fault(&ruling)?.map(|(at, fault)| (start as usize + at, fault));
        }
        for tally in &ruling.tallies {
            let sums: &mut (f64, f64) = tallies.entry(tally.name).or_default();
            sums.0 += tally.numerator.f_double_value(&[])?;
            sums.1 += tally.denominator.f_double_value(&[])?;
        }
        // What the estimator's own value is not, is estimated beside it.
        let mut report = |columns: &Option<Columns>, rule: &dyn Estimator| {
            if estimator.divergence() == rule.divergence() {
                return Ok(Some(ruling.value.shallow_clone()));
            }
            let Some(columns) = columns else {
                // Where the estimator looks at the very same columns, they are not given twice.
                return Ok((estimator.support() == rule.support()).then(|| rule.rule(&ids).value));
            };
            let ids = student.candidates(&columns.narrow(start, length)?)?;
            Result::Ok(Some(rule.rule(&ids).value))
        };
        let whole = positions.draws.as_ref().is_none_or(|columns| columns.support == Support::Draws);
        let reverse_kl = report(&positions.draws, if whole { &REVERSE_KL } else { &REVERSE_KL_OF_TAIL_DRAWS })?;
        let forward_kl = report(&positions.teacher_top_k, &FORWARD_KL)?;

        let token_ids = cut(&positions.token_ids)?.f_unsqueeze(1)?;
        parts[1].push(student.logprobs(&token_ids)?.f_squeeze_dim(1)?);
        parts[2].push(student.entropy.shallow_clone());
        parts[3].extend(reverse_kl);
        parts[4].extend(forward_kl);
        let d_logits = student.into_gradient(&support, &ids.learner_logprobs, &ruling.coefficients, scale)?;
        parts[5].push(d_logits.f_matmul(weight)?.f_mul(&inverse)?);
        let _ = d_weight.f_addmm_(&d_logits.f_tr()?, &scaled)?;
        parts[0].push(ruling.value);
    }
    let join = |parts: &[Tensor]| Tensor::f_cat(parts, 0);
    let optional = |parts: &[Tensor]| if parts.is_empty() { Ok(None) } else { join(parts).map(Some) };
    Ok(HeadOutput {
        d_hidden: join(&parts[5])?,
        value: join(&parts[0])?,
        learner_logprobs: join(&parts[1])?,
        entropy: join(&parts[2])?,
        reverse_kl: optional(&parts[3])?,
        forward_kl: optional(&parts[4])?,
        tallies,
        fault,
    })
}

/// The candidates of `positions`, a chunk of them after the other, under a network with hidden states `[N, D]` and head `weight`:
/// the forward half of [`chunked_head`].
///
/// # Errors
/// Only what libtorch refuses.
pub(crate) fn gather(hidden: &Tensor, weight: &Tensor, positions: &Positions, chunk: usize) -> Result<Vec<Candidates>> {
    let _guard = tch::no_grad_guard();
    let (n, chunk) = (hidden.size2()?.0, chunk.max(1) as i64);
    let chunk_at = |start: i64| {
        let length = chunk.min(n - start);
        let cut = |t: &Tensor| t.f_narrow(0, start, length);
        let inverse = cut(&positions.temperature)?.f_to_kind(hidden.kind())?.f_reciprocal()?.f_unsqueeze(1)?;
        Softmax::new(&cut(hidden)?.f_mul(&inverse)?, weight)?.candidates(&positions.support.narrow(start, length)?)
    };
    (0..n).step_by(chunk as usize).map(chunk_at).collect()
}

/// The rules of the two divergences that are reported whatever is trained on; they read all that is cached. A mean over the
/// draws outside a top-k would be none of all draws: there the hybrid's value is reported, which is unbiased too.
const REVERSE_KL: ReverseKlMc = ReverseKlMc {
    draws: usize::MAX,
    advantage: crate::estimator::Advantage::Current,
    correction: crate::estimator::Correction::Importance {},
};
const REVERSE_KL_OF_TAIL_DRAWS: ReverseKlHybrid =
    ReverseKlHybrid { top_k: usize::MAX, draws: usize::MAX, head: Head::StudentTopK, baseline: Baseline::Tail };
const FORWARD_KL: ForwardKl = ForwardKl { top_k: usize::MAX, tail: Tail::Bucket };

/// The student's distribution over a chunk, as `exp(z - max)` and its sum.
struct Softmax {
    /// exp(z - max), `[n, V]`; becomes d logits in place.
    exp: Tensor,
    /// z - max, `[n, V]`.
    shifted: Tensor,
    /// Sum of `exp` over the vocabulary, `[n, 1]`.
    sum: Tensor,
    /// log of that, float64: from here on, `[n, J]` tensors are float64.
    log_sum: Tensor,
    /// Entropy, nats, `[n]`, float64.
    entropy: Tensor,
}

impl Softmax {
    fn new(scaled: &Tensor, weight: &Tensor) -> Result<Self> {
        let mut shifted = scaled.f_matmul(&weight.f_tr()?)?;
        let max = shifted.f_amax([1i64].as_slice(), true)?;
        let _ = shifted.f_sub_(&max)?;
        let exp = shifted.f_exp()?;
        let sum = exp.f_sum_dim_intlist([1i64].as_slice(), true, None)?;
        let log_sum = sum.f_to_kind(Kind::Double)?.f_log()?;
        // H = log s - sum_a e_a (z_a - max) / s; a dot product makes no third [n, V] tensor.
        let dot = exp.f_unsqueeze(1)?.f_bmm(&shifted.f_unsqueeze(2)?)?.f_view([-1, 1])?;
        let entropy = log_sum.f_sub(&dot.f_div(&sum)?)?.f_squeeze_dim(1)?;
        Ok(Self { exp, shifted, sum, log_sum, entropy })
    }

    /// log p at ids `[n, J]`, float64.
    fn logprobs(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(self.shifted.f_gather(1, ids, false)?.f_to_kind(Kind::Double)?.f_sub(&self.log_sum)?)
    }

    fn candidates(&mut self, columns: &Columns) -> Result<Candidates> {
        let double = |t: &Tensor| t.f_to_kind(Kind::Double);
        let teacher_tail = double(&columns.teacher_tail)?;
        let (learner_logprobs, learner_tail) = match columns.support {
            Support::TeacherTopK { .. } | Support::SamplerTopK { .. } | Support::HeadAndDraws { .. } => {
                self.logprobs_and_tail(columns)?
            }
            Support::Draws | Support::TeacherDraws | Support::Vocabulary | Support::Token => {
                (self.logprobs(&columns.ids)?, teacher_tail.f_full_like(f64::NAN)?)
            }
        };
        Ok(Candidates {
            mask: columns.mask.shallow_clone(),
            in_head: columns.in_head.shallow_clone(),
            counts: double(&columns.counts)?,
            draws: double(&columns.draws)?,
            teacher_logprobs: double(&columns.teacher_logprobs)?,
            sampler_logprobs: double(&columns.sampler_logprobs)?,
            proximal_logprobs: learner_logprobs.f_full_like(f64::NAN)?,
            learner_logprobs,
            learner_tail,
            teacher_tail,
        })
    }

    /// log p at the candidates, `[n, J]`, and log of the mass outside the head, `[n]`, both float64: the head's entries are set
    /// to 0, the rest is summed, the entries are put back. 1 - sum would be off by up to 1.4 nats where that mass is near 1e-5.
    ///
    /// The two are normalised by their own sum in float64, so that they add up to 1 even where the tail is below what float32
    /// sees beside 1: a rule may divide by it.
    fn logprobs_and_tail(&mut self, columns: &Columns) -> Result<(Tensor, Tensor)> {
        let Columns { ids, in_head, .. } = columns;
        // Draws stay where they are: the first candidate, if any is of the head, is.
        let head = ids.f_where_self(in_head, &ids.f_narrow(1, 0, 1)?)?;
        let held = self.exp.f_gather(1, &head, false)?;
        let _ = self.exp.f_scatter_value_(1, &head, 0.0)?;
        let outside = self.exp.f_sum_dim_intlist([1i64].as_slice(), true, None)?.f_to_kind(Kind::Double)?;
        let _ = self.exp.f_scatter_(1, &head, &held)?;
        // Without a head the first id was zeroed all the same, but everything is outside.
        let all = self.sum.f_to_kind(Kind::Double)?;
        let outside = outside.f_where_self(&in_head.f_any_dim(1, true)?, &all)?;
        let shifted = self.shifted.f_gather(1, ids, false)?.f_to_kind(Kind::Double)?;
        let inside = shifted.f_exp()?.f_where_self(in_head, &shifted.f_zeros_like()?)?;
        let log_sum = inside.f_sum_dim_intlist([1i64].as_slice(), true, None)?.f_add(&outside)?.f_log()?;
        Ok((shifted.f_sub(&log_sum)?, outside.f_log()?.f_sub(&log_sum)?.f_squeeze_dim(1)?))
    }

    /// `scale * (scatter_add(c) - p sum_j c_j)`, `[n, V]`, in the buffer of `exp`.
    ///
    /// At a candidate the two terms can be large and nearly equal (forward KL: q_T / p_T of a confident student), so their
    /// difference is taken in float64 and written in place of the softmax term, not added to it.
    fn into_gradient(self, columns: &Columns, log_p: &Tensor, coefficients: &Tensor, scale: f64) -> Result<Tensor> {
        let (Self { mut exp, sum, .. }, Columns { ids, mask, .. }) = (self, columns);
        let kind = exp.kind();
        let total = coefficients.f_sum_dim_intlist([1i64].as_slice(), true, None)?;
        let difference = coefficients.f_sub(&log_p.f_exp()?.f_mul(&total)?)?.f_mul_scalar(scale)?;
        let at_candidates = difference.f_where_self(mask, &difference.f_zeros_like()?)?;
        let _ = exp.f_scatter_value_(1, ids, 0.0)?;
        let factor = total.f_div(&sum.f_to_kind(Kind::Double)?)?.f_mul_scalar(-scale)?;
        let _ = exp.f_mul_(&factor.f_to_kind(kind)?)?;
        let _ = exp.f_scatter_add_(1, ids, &at_candidates.f_to_kind(kind)?)?;
        Ok(exp)
    }
}

/// The first position at which the ruling cannot be trained on; one transfer from the device where all is well.
pub(crate) fn first_fault(ruling: &Ruling) -> Result<Option<(usize, Fault)>> {
    let finite = ruling.coefficients.f_isfinite()?.f_all_dim(1, false)?.f_logical_and(&ruling.value.f_isfinite()?)?;
    let not_finite = finite.f_logical_not()?;
    let faults = ruling.faults.iter().map(|(fault, at)| (*fault, at)).chain([(Fault::NotFinite, &not_finite)]);
    let faults: Vec<(Fault, &Tensor)> = faults.collect();
    let at: Vec<&Tensor> = faults.iter().map(|(_, at)| *at).collect();
    let at = Tensor::f_stack(&at, 0)?;
    if at.f_any()?.f_int64_value(&[])? == 0 {
        return Ok(None);
    }
    for (i, (fault, _)) in faults.iter().enumerate() {
        let rows = Vec::<i64>::try_from(at.f_get(i as i64)?.f_nonzero()?.f_reshape([-1])?)?;
        if let Some(row) = rows.first() {
            return Ok(Some((*row as usize, *fault)));
        }
    }
    Ok(None)
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
