//! Operations over whole rows of a distribution, `[N, V]` log-probabilities on the device, of which only a few numbers a row
//! come back to the host.

use crate::{Result, TopK, host};
use tch::{Device, Kind, Tensor};

/// Rows N of one `[N, V]` chunk: some caches' worth of numbers on a CPU, enough to fill a GPU. But with few rows a product with the
/// head costs what reading the head costs, so never fewer than the product can use (at V = 49,152 and D = 576 on a CPU, 34 ms
/// for 21 rows and 58 ms for 64).
pub(crate) fn chunk_rows(vocab: usize, device: Device) -> usize {
    let elements: usize = if device == Device::Cpu { 1 << 20 } else { 1 << 26 };
    (elements / vocab).max(64)
}

/// log softmax(logits / temperature) in float32.
pub(crate) fn log_probabilities(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let scaled = if temperature == 1.0 { logits.shallow_clone() } else { logits.f_div_scalar(temperature)? };
    Ok(scaled.f_log_softmax(-1, Kind::Float)?)
}

/// The logprobs at ids `[N, J]`.
pub(crate) fn at(logprobs: &Tensor, ids: &Tensor) -> Result<Tensor> {
    Ok(logprobs.f_gather(1, ids, false)?)
}

/// Log of the mass outside `ids` `[N, J]`, whose logprobs are `values`: a sum over the complement, `[N]`, -inf where that is
/// empty. An id may stand twice. `logprobs` are as before afterwards.
pub(crate) fn log_mass_outside(logprobs: &mut Tensor, ids: &Tensor, values: &Tensor) -> Result<Tensor> {
    // Each call of scatter_ gives back a second handle to the same tensor.
    let _ = logprobs.f_scatter_value_(1, ids, f64::NEG_INFINITY)?;
    let outside = logprobs.f_logsumexp(-1, false)?;
    let _ = logprobs.f_scatter_(1, ids, values)?;
    Ok(outside)
}

/// The most likely ids of each row, most likely first, on the host.
pub(crate) struct Top {
    rule: TopK,
    width: usize,
    ids: Vec<i32>,
    logprobs: Vec<f32>,
    log_rest: Vec<f32>,
}

impl Top {
    /// The `rule.max` most likely ids, or all.
    pub(crate) fn of(logprobs: &mut Tensor, rule: TopK) -> Result<Self> {
        let (_, vocab) = logprobs.size2()?;
        let width = rule.max.min(vocab as usize);
        let (values, ids) = logprobs.f_topk(width as i64, -1, true, true)?;
        let log_rest = host::to_floats(&log_mass_outside(logprobs, &ids, &values)?)?;
        Ok(Self { rule, width, ids: host::to_ids(&ids)?, logprobs: host::to_floats(&values)?, log_rest })
    }

    /// Of row `i`: the ids kept by mass, their logprobs, and the log mass outside them.
    pub(crate) fn row(&self, i: usize) -> (&[i32], &[f32], f32) {
        let (start, end) = (i * self.width, (i + 1) * self.width);
        let (kept, tail) = self.rule.keep(&self.logprobs[start..end], self.log_rest[i]);
        (&self.ids[start..start + kept], &self.logprobs[start..start + kept], tail)
    }
}

/// Ids drawn by inverse CDF, `[N, M]` int64: for uniform u the first id whose cumulative probability exceeds u, summed in float64.
/// With `top_p` below 1 they are drawn from the fewest most likely ids whose mass reaches it, renormalised.
pub(crate) fn inverse_cdf(logprobs: &Tensor, uniforms: &Tensor, top_p: f64) -> Result<Tensor> {
    // Each mass is as exact as its float32 logprob; only their sum needs more digits, and a float64 exp costs ten times as much.
    let mut mass = logprobs.f_exp()?;
    if top_p < 1.0 {
        mass = nucleus(&mass, top_p)?;
    }
    let cdf = mass.f_cumsum(-1, Kind::Double)?;
    let (_, vocab) = cdf.size2()?;
    // The sum of the masses is 1 only up to rounding; u < 1 keeps u * total below the total.
    let target = uniforms.f_mul(&cdf.f_narrow(1, vocab - 1, 1)?)?;
    let ids = target.f_searchsorted(&cdf, false, true, "right", None::<&Tensor>)?;
    // A row of NaN has no first id; the caller finds its logprob not finite.
    Ok(ids.f_clamp_max(vocab - 1)?)
}

/// Draws of one position as distinct ids, in the order they were drawn, each with its count and its logprob.
pub(crate) fn counted(ids: &[i32], logprobs: &[f32]) -> Vec<(i32, i32, f32)> {
    let mut draws: Vec<(i32, i32, f32)> = Vec::with_capacity(ids.len());
    for (&id, &logprob) in ids.iter().zip(logprobs) {
        match draws.iter_mut().find(|draw| draw.0 == id) {
            Some(draw) => draw.1 += 1,
            None => draws.push((id, 1, logprob)),
        }
    }
    draws
}

/// Mass outside the nucleus (Holtzman et al. 2020) set to zero.
fn nucleus(mass: &Tensor, top_p: f64) -> Result<Tensor> {
    let (sorted, order) = mass.f_sort(-1, true)?;
    let before = sorted.f_cumsum(-1, Kind::Double)?.f_sub(&sorted)?;
    let kept = sorted.f_masked_fill(&before.f_ge(top_p)?, 0.0)?;
    Ok(mass.f_zeros_like()?.f_scatter(1, &order, &kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(rows: &[&[f64]]) -> Tensor {
        let flat: Vec<f32> = rows.concat().iter().map(|p| p.ln() as f32).collect();
        host::floats(&flat, &[rows.len(), rows[0].len()], Device::Cpu).unwrap()
    }

    fn draw(logprobs: &Tensor, uniforms: &[f64], top_p: f64) -> Vec<i32> {
        let rows = logprobs.size2().unwrap().0 as usize;
        let uniforms = host::doubles(uniforms, &[rows, uniforms.len() / rows], Device::Cpu).unwrap();
        host::to_ids(&inverse_cdf(logprobs, &uniforms, top_p).unwrap()).unwrap()
    }

    #[test]
    fn a_uniform_picks_the_id_whose_interval_holds_it() {
        tch::set_num_threads(1);
        let p = logs(&[&[0.25, 0.0, 0.5, 0.25], &[0.0, 1.0, 0.0, 0.0]]);
        let ids = draw(&p, &[0.01, 0.249, 0.251, 0.749, 0.751, 1e-16, 0.3, 0.5, 0.9, 1.0 - f64::EPSILON / 2.0], 1.0);
        assert_eq!(ids, [0, 0, 2, 2, 3, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn ids_without_mass_are_never_picked_and_every_id_has_its_interval() {
        tch::set_num_threads(1);
        let n = 1000;
        let weights: Vec<f64> = (0..n).map(|i| if i % 3 == 0 { 0.0 } else { (i % 7 + 1) as f64 }).collect();
        let total: f64 = weights.iter().sum();
        let p: Vec<f64> = weights.iter().map(|w| w / total).collect();
        let mut below = 0.0;
        let middles: Vec<f64> = p
            .iter()
            .map(|p| {
                below += p;
                below - p / 2.0
            })
            .collect();
        let asked: Vec<usize> = (0..n).filter(|i| i % 3 != 0).collect();
        let uniforms: Vec<f64> = asked.iter().map(|&i| middles[i]).collect();
        let expected: Vec<i32> = asked.iter().map(|&i| i as i32).collect();
        assert_eq!(draw(&logs(&[&p]), &uniforms, 1.0), expected);
    }

    #[test]
    fn a_nucleus_is_the_fewest_ids_that_reach_top_p() {
        tch::set_num_threads(1);
        let p = logs(&[&[0.1, 0.5, 0.15, 0.25]]);
        let uniforms: Vec<f64> = (0..100).map(|i| (f64::from(i) + 0.5) / 100.0).collect();
        let count = |top_p: f64| {
            let ids = draw(&p, &uniforms, top_p);
            [0, 1, 2, 3].map(|id| ids.iter().filter(|&&i| i == id).count())
        };
        assert_eq!(count(0.4), [0, 100, 0, 0]);
        assert_eq!(count(0.7), [0, 67, 0, 33]);
        assert_eq!(count(0.8), [0, 56, 16, 28]);
        assert_eq!(count(1.0), [10, 50, 15, 25]);
    }

    #[test]
    fn mass_outside_is_exact_down_to_nothing() {
        tch::set_num_threads(1);
        for small in [1e-3_f64, 1e-8, 1e-30] {
            let mut p = logs(&[&[1.0 - 3.0 * small, small, 2.0 * small, 0.0]]);
            let before = host::to_floats(&p).unwrap();
            let ids = host::ids(&[0, 0], &[1, 2], Device::Cpu).unwrap();
            let values = at(&p, &ids).unwrap();
            let outside = host::to_floats(&log_mass_outside(&mut p, &ids, &values).unwrap()).unwrap();
            assert!((f64::from(outside[0]) - (3.0 * small).ln()).abs() < 1e-5, "{small}: {outside:?}");
            assert_eq!(host::to_floats(&p).unwrap(), before);
        }
        let mut p = logs(&[&[0.5, 0.5]]);
        let top = Top::of(&mut p, TopK { mass: 1.0, max: 5, floor: 0.0 }).unwrap();
        assert_eq!(top.row(0).2, f32::NEG_INFINITY);
        assert_eq!(top.row(0).0.len(), 2);
    }
}
