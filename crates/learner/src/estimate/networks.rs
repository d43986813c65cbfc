//! From rows and three networks to full distributions at chosen positions, a few at a time.

use super::Distributions;
use crate::{LearnError, Result, estimator::Fault};
use model::Transformer;
use tch::{Kind, Tensor};

/// Who computes what; all on one device.
#[derive(Clone, Copy)]
pub struct Networks<'a> {
    /// p.
    pub student: &'a Transformer,
    /// q.
    pub teacher: &'a Transformer,
    /// b; none where the student itself sampled.
    pub sampler: Option<&'a Transformer>,
}

/// Positions of a row.
#[derive(Clone, Debug)]
pub struct Chosen<'a> {
    /// The prompt's tokens.
    pub prompt_ids: &'a [i32],
    /// The response's tokens.
    pub response_ids: &'a [i32],
    /// Which of the response's tokens, ascending.
    pub positions: &'a [usize],
    /// What the row was sampled at.
    pub temperature: f64,
}

/// Numbers of one `[n, V]` tensor of float64: few enough for a cache.
const CHUNK: usize = 1 << 19;

/// Gives `each` the distributions at all chosen positions of a row, some at a time, with the place of the first in `positions`.
///
/// # Errors
/// A network that refuses the row, networks that do not share a vocabulary, log-probabilities that are not finite.
pub fn over_positions(
    networks: Networks<'_>,
    row: &Chosen<'_>,
    mut each: impl FnMut(usize, &Distributions),
) -> Result<()> {
    let Some(last) = row.positions.last() else { return Ok(()) };
    let _guard = tch::no_grad_guard();
    let vocabulary = networks.student.real_vocab();
    if networks.teacher.real_vocab() != vocabulary {
        let expected = format!("the {vocabulary} ids of the student's");
        let found = networks.teacher.real_vocab().to_string();
        return Err(LearnError::Setting { key: "teacher's vocabulary", expected, found });
    }
    // The distribution that predicts a token comes from the state one before it.
    let ids = [row.prompt_ids, &row.response_ids[..*last]].concat();
    let before = |t: &usize| (row.prompt_ids.len() - 1 + t) as i64;
    let places = Tensor::from_slice(&row.positions.iter().map(before).collect::<Vec<i64>>());
    let logits = |network: &Transformer| -> Result<Tensor> {
        let hidden = network.hidden(&network.right_padded(&[&ids])?)?.f_squeeze_dim(0)?;
        Ok(network.logits(&hidden.f_index_select(0, &places.f_to_device(network.device())?)?)?)
    };
    let (p, q) = (logits(networks.student)?, logits(networks.teacher)?);
    let b = networks.sampler.map(logits).transpose()?;
    let most = (CHUNK / vocabulary).max(1);
    for start in (0..row.positions.len()).step_by(most) {
        let length = most.min(row.positions.len() - start);
        let log = |logits: &Tensor| -> Result<Tensor> {
            let logits = logits.f_narrow(0, start as i64, length as i64)?.f_to_kind(Kind::Double)?;
            Ok(logits.f_div_scalar(row.temperature)?.f_log_softmax(1, Kind::Double)?)
        };
        let (log_p, log_q) = (log(&p)?, log(&q)?);
        let log_b = b.as_ref().map_or_else(|| Ok(log_p.shallow_clone()), log)?;
        for (whose, of) in [("learner", &log_p), ("teacher", &log_q), ("sampler", &log_b)] {
            let finite = Vec::<bool>::try_from(of.f_isfinite()?.f_all_dim(1, false)?)?;
            if let Some(at) = finite.iter().position(|finite| !finite) {
                let position = row.positions[start + at];
                return Err(LearnError::Fault { row: 0, position, estimator: whose, fault: Fault::NotFinite });
            }
        }
        let temperature = Tensor::full([length as i64], row.temperature, (Kind::Double, log_p.device()));
        each(start, &Distributions::new(log_p, log_q, log_b, &temperature));
    }
    Ok(())
}
