//! Sampling: one batch of prompts to one [`Sample`] each.

use crate::decoder::Decoder;
use crate::support::{self, Top};
use crate::{Error, Result, TopK, Transformer, chance, host};
use record::{DrawsKept, Finish, Sample};
use tch::Tensor;

/// A prompt and the seed of the rollout that continues it (see [`chance::row_seed`]).
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Token ids, at least one.
    pub ids: Vec<i32>,
    /// What this row's uniforms are a function of.
    pub seed: u64,
}

/// How to sample.
#[derive(Clone, Debug)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token (then logprobs are those at temperature 1).
    pub temperature: f64,
    /// Sample from the fewest most likely ids whose mass reaches this; 1 for all. Logprobs stay those of the full vocabulary.
    pub top_p: f64,
    /// Longest response.
    pub max_new_tokens: usize,
    /// Tokens that end a response.
    pub eos: Vec<i32>,
    /// Draws taken at each position (m), with replacement, the sampled token being the first; 0 for none.
    pub draws: usize,
    /// Which of them are kept.
    pub draws_kept: DrawsKept,
    /// What to keep of the sampler's distribution at each position.
    pub top_k: Option<TopK>,
}

impl SamplingParams {
    /// Refuses values out of range.
    pub fn check(&self) -> Result<()> {
        let error = |key, expected: &str, found: String| Err(Error::Setting { key, expected: expected.into(), found });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return error("temperature", "0 or more", self.temperature.to_string());
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return error("top_p", "in (0, 1]", self.top_p.to_string());
        }
        if self.max_new_tokens == 0 {
            return error("max_new_tokens", "at least 1", "0".into());
        }
        if self.temperature == 0.0 && (self.draws > 0 || self.top_k.is_some()) {
            let reason = "above 0 where draws or a top-k are kept (at 0 there is no distribution to keep them of)";
            return error("temperature", reason, "0".into());
        }
        if self.draws_kept == DrawsKept::Tail && (self.draws == 0 || self.top_k.is_none()) {
            let reason = "`all` where there are no draws or no top-k (a tail is what lies outside a top-k)";
            return error("draws_kept", reason, "tail".into());
        }
        self.top_k.map_or(Ok(()), |rule| rule.check())
    }
}

/// Continues each prompt until an EOS or `max_new_tokens`.
///
/// What a row samples is a function of the weights, its prompt, its seed and the settings; who else is in its batch changes its
/// numbers only by the rounding of matrix products. Draw `j` at response position `t` is inverse CDF at
/// `chance::uniform(seed, t, j)`.
pub fn sample(model: &Transformer, prompts: &[Prompt], params: &SamplingParams) -> Result<Vec<Sample>> {
    params.check()?;
    for (row, prompt) in prompts.iter().enumerate() {
        if prompt.ids.is_empty() {
            return Err(Error::Row { row, reason: "the prompt is empty, expected at least one token".into() });
        }
        model.check_ids(row, &prompt.ids)?;
        let (length, most) = (prompt.ids.len(), model.config().max_position_embeddings);
        if length + params.max_new_tokens > most {
            let new = params.max_new_tokens;
            let reason = format!("a prompt of {length} tokens and {new} new ones do not fit the context of {most}");
            return Err(Error::Row { row, reason });
        }
    }
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let _guard = tch::no_grad_guard();
    let mut samples = vec![Sample::default(); prompts.len()];
    // The prompt that each row of the decoder continues; a finished row stays until enough of them are worth a copy.
    let mut rows: Vec<usize> = (0..prompts.len()).collect();
    let ids: Vec<&[i32]> = prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
    let (mut decoder, mut hidden) = Decoder::start(model, &ids)?;
    loop {
        let live = live_rows(&rows, &samples);
        extend(model, &hidden, &live, &rows, prompts, params, &mut samples)?;
        let live = live_rows(&rows, &samples);
        if live.is_empty() {
            return Ok(samples);
        }
        if 8 * (rows.len() - live.len()) >= rows.len() {
            decoder.keep(&live)?;
            rows = live.iter().map(|&row| rows[row]).collect();
        }
        let next = |&row: &usize| samples[row].response_ids.last().map_or(0, |&id| i64::from(id));
        hidden = decoder.step(&rows.iter().map(next).collect::<Vec<_>>())?;
    }
}

/// The rows of the decoder whose sample has not ended.
fn live_rows(rows: &[usize], samples: &[Sample]) -> Vec<usize> {
    (0..rows.len()).filter(|&row| samples[rows[row]].finish.is_none()).collect()
}

/// Samples the next token of every live row from the hidden states `[B, D]`.
fn extend(
    model: &Transformer,
    hidden: &Tensor,
    live: &[usize],
    rows: &[usize],
    prompts: &[Prompt],
    params: &SamplingParams,
    samples: &mut [Sample],
) -> Result<()> {
    for part in live.chunks(support::chunk_rows(model.real_vocab(), model.device())) {
        let seeds: Vec<u64> = part.iter().map(|&row| prompts[rows[row]].seed).collect();
        let position = part.first().map_or(0, |&row| samples[rows[row]].response_ids.len());
        let index: Vec<i64> = part.iter().map(|&row| row as i64).collect();
        let index = host::ids(&index, &[index.len()], model.device())?;
        let choices = Choices::of(&model.logits(&hidden.f_index_select(0, &index)?)?, &seeds, position, params)?;
        for (i, &row) in part.iter().enumerate() {
            choices.push_to(&mut samples[rows[row]], i, params).map_err(|logprob| Error::NotFinite {
                row: rows[row],
                position,
                logprob,
            })?;
        }
    }
    Ok(())
}

/// What one step chose for N rows: draws `[N, M]` (at least the sampled token), and the top-k.
struct Choices {
    width: usize,
    ids: Vec<i32>,
    logprobs: Vec<f32>,
    top: Option<Top>,
}

impl Choices {
    fn of(logits: &Tensor, seeds: &[u64], position: usize, params: &SamplingParams) -> Result<Self> {
        let greedy = params.temperature == 0.0;
        let mut logprobs = support::log_probabilities(logits, if greedy { 1.0 } else { params.temperature })?;
        let width = params.draws.max(1);
        let ids = if greedy {
            logprobs.f_argmax(-1, true)?
        } else {
            let uniform = |&seed| (0..width as u64).map(move |draw| chance::uniform(seed, position as u64, draw));
            let uniforms: Vec<f64> = seeds.iter().flat_map(uniform).collect();
            let uniforms = host::doubles(&uniforms, &[seeds.len(), width], logits.device())?;
            support::inverse_cdf(&logprobs, &uniforms, params.top_p)?
        };
        let drawn = host::to_floats(&support::at(&logprobs, &ids)?)?;
        let top = params.top_k.map(|rule| Top::of(&mut logprobs, rule)).transpose()?;
        Ok(Self { width, ids: host::to_ids(&ids)?, logprobs: drawn, top })
    }

    /// Appends row `i` to its sample, unless its logprob is not finite.
    fn push_to(&self, sample: &mut Sample, i: usize, params: &SamplingParams) -> std::result::Result<(), f32> {
        let range = i * self.width..(i + 1) * self.width;
        let (ids, logprobs) = (&self.ids[range.clone()], &self.logprobs[range]);
        if !logprobs[0].is_finite() {
            return Err(logprobs[0]);
        }
        sample.response_ids.push(ids[0]);
        sample.sampler_logprobs.push(logprobs[0]);

        let (top_ids, top_logprobs, tail) = self.top.as_ref().map_or((&[][..], &[][..], 0.0), |top| top.row(i));
        let mut draws = support::counted(&ids[..params.draws.min(ids.len())], logprobs);
        if params.draws_kept == DrawsKept::Tail {
            draws.retain(|draw| !top_ids.contains(&draw.0));
            sample.draws_taken.get_or_insert_default().push(params.draws as i32);
        }
        sample.draw_ids.push(draws.iter().map(|draw| draw.0));
        sample.draw_counts.push(draws.iter().map(|draw| draw.1));
        sample.draw_logprobs.push(draws.iter().map(|draw| draw.2));

        sample.sampler_top_ids.push(top_ids.iter().copied());
        sample.sampler_top_logprobs.push(top_logprobs.iter().copied());
        sample.sampler_tail_logprobs.push(tail);

        if params.eos.contains(&ids[0]) {
            sample.finish = Some(Finish::Stop);
        } else if sample.response_ids.len() == params.max_new_tokens {
            sample.finish = Some(Finish::Length);
        }
        Ok(())
    }
}
