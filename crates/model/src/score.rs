//! Scoring: what a model says of sequences that another one (or an older self) sampled.

use crate::batch::{self, Batch, Position, Sequence};
use crate::support::{self, Top};
use crate::{Error, Result, TopK, Transformer, chance, host};
use record::{Draws, Ragged, Sample, Score};
use tch::Tensor;

/// A sampled sequence, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct ScoreRow<'a> {
    /// The prompt, at least one token.
    pub prompt_ids: &'a [i32],
    /// The sampled tokens, EOS included.
    pub response_ids: &'a [i32],
    /// Ids at each response position whose logprobs are wanted; no list at all where none are.
    pub draw_ids: &'a Ragged<i32>,
    /// The sampler's top-k at each response position; no list, or empty ones, where it kept none.
    pub sampler_top_ids: &'a Ragged<i32>,
    /// The rollout's own seed, of which this model's draws are a function.
    pub seed: u64,
}

impl<'a> ScoreRow<'a> {
    /// The row of a sample that was drawn from `seed`.
    pub fn new(prompt_ids: &'a [i32], sample: &'a Sample, seed: u64) -> Self {
        let Sample { response_ids, draw_ids, sampler_top_ids, .. } = sample;
        Self { prompt_ids, response_ids, draw_ids, sampler_top_ids, seed }
    }

    fn sequence(&self) -> Sequence<'a> {
        (self.prompt_ids, self.response_ids)
    }

    fn has_support(&self) -> bool {
        self.sampler_top_ids.iter().any(|list| !list.is_empty())
    }

    fn check(&self, model: &Transformer, row: usize) -> Result<()> {
        batch::check(model, row, self.sequence())?;
        for (name, lists) in [("draw_ids", self.draw_ids), ("sampler_top_ids", self.sampler_top_ids)] {
            if !lists.is_empty() && lists.len() != self.response_ids.len() {
                let (found, expected) = (lists.len(), self.response_ids.len());
                let reason = format!("`{name}` has {found} lists, expected one for each of {expected} response tokens");
                return Err(Error::Row { row, reason });
            }
        }
        for ids in [self.draw_ids.values(), self.sampler_top_ids.values()] {
            model.check_ids(row, ids)?;
        }
        Ok(())
    }
}

/// How to score.
#[derive(Clone, Debug)]
pub struct ScoringParams {
    /// The temperature that the rollouts were sampled at; divides this model's logits too.
    pub temperature: f64,
    /// What to keep of this model's distribution at each position.
    pub top_k: Option<TopK>,
    /// Monte-Carlo draws from this model's whole distribution at each position, with replacement; 0 for none.
    pub draws: usize,
    /// Most tokens, padding included, to run through the network at once; a longer row runs alone.
    pub max_tokens_per_batch: usize,
}

impl ScoringParams {
    /// Refuses values out of range.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let found = self.temperature.to_string();
            return Err(Error::Setting { key: "temperature", expected: "above 0".into(), found });
        }
        self.top_k.map_or(Ok(()), |rule| rule.check())
    }
}

/// Scores each row's response tokens, all of them: the first, and EOS. The distribution that predicts a token comes from the
/// hidden state one position before it.
///
/// This model's own draws at response position `t` of a row are inverse CDF at uniforms that are a function of the row's seed,
/// `t` and the draw, apart from those the rollout was sampled with: the same row gets the same draws in whatever batch.
pub fn score(model: &Transformer, rows: &[ScoreRow], params: &ScoringParams) -> Result<Vec<Score>> {
    params.check()?;
    rows.iter().enumerate().try_for_each(|(i, row)| row.check(model, i))?;
    let _guard = tch::no_grad_guard();
    let teacher_draws = (params.draws > 0).then(Draws::default);
    let mut scores = vec![Score { teacher_entropy: Some(Vec::new()), teacher_draws, ..Score::default() }; rows.len()];
    let sequences: Vec<Sequence> = rows.iter().map(ScoreRow::sequence).collect();
    for batch in Batch::all(&sequences, params.max_tokens_per_batch) {
        let hidden = batch.hidden(model)?;
        for (positions, index) in batch.chunks(support::chunk_rows(model.real_vocab(), model.device())) {
            let index = host::ids(index, &[index.len()], model.device())?;
            let logits = model.logits(&hidden.f_index_select(0, &index)?)?;
            score_chunk(&logits, rows, positions, params, &mut scores)?;
        }
    }
    Ok(scores)
}

/// Appends to each row's score what the logits `[N, V]` at its positions say.
fn score_chunk(
    logits: &Tensor,
    rows: &[ScoreRow],
    part: &[Position],
    params: &ScoringParams,
    scores: &mut [Score],
) -> Result<()> {
    let mut logprobs = support::log_probabilities(logits, params.temperature)?;
    let entropy = logprobs.f_exp()?.f_mul(&logprobs)?.f_sum_dim_intlist(-1, false, tch::Kind::Float)?.f_neg()?;
    let entropy = host::to_floats(&entropy)?;
    let device = logits.device();
    let tokens = Wanted::at(&logprobs, part.iter().map(|&(i, t)| &rows[i].response_ids[t..=t]), device)?;
    let draws = Wanted::at(&logprobs, part.iter().map(|&(i, t)| list(rows[i].draw_ids, t)), device)?;
    let support = Wanted::at(&logprobs, part.iter().map(|&(i, t)| list(rows[i].sampler_top_ids, t)), device)?;
    let support_tail = match &support.tensors {
        Some((ids, values)) => host::to_floats(&support::log_mass_outside(&mut logprobs, ids, values)?)?,
        None => Vec::new(),
    };
    let top = params.top_k.map(|rule| Top::of(&mut logprobs, rule)).transpose()?;
    let own = Own::of(&logprobs, rows, part, params.draws)?;
    for (n, &(i, t)) in part.iter().enumerate() {
        let score = &mut scores[i];
        let logprob = tokens.values[n * tokens.width];
        if !logprob.is_finite() {
            return Err(Error::NotFinite { row: i, position: t, logprob });
        }
        score.teacher_logprobs.push(logprob);
        let (ids, logprobs, tail) = top.as_ref().map_or((&[][..], &[][..], 0.0), |top| top.row(n));
        score.teacher_top_ids.push(ids.iter().copied());
        score.teacher_top_logprobs.push(logprobs.iter().copied());
        score.teacher_tail_logprobs.push(tail);
        score.draw_teacher_logprobs.push(draws.row(n, list(rows[i].draw_ids, t).len()));
        let kept = list(rows[i].sampler_top_ids, t).len();
        score.sampler_top_teacher_logprobs.push(support.row(n, kept));
        if rows[i].has_support() {
            // All of the mass lies outside an empty list, whose padding took some id's away.
            score.sampler_top_teacher_tail_logprobs.push(if kept == 0 { 0.0 } else { support_tail[n] });
        }
        if let Some(draws) = &mut score.teacher_draws {
            let drawn = own.row(n);
            draws.ids.push(drawn.iter().map(|draw| draw.0));
            draws.counts.push(drawn.iter().map(|draw| draw.1));
            draws.logprobs.push(drawn.iter().map(|draw| draw.2));
        }
        score.teacher_entropy.get_or_insert_default().push(entropy[n]);
    }
    Ok(())
}

/// List `t`, or nothing where no lists were kept.
fn list(lists: &Ragged<i32>, t: usize) -> &[i32] {
    if lists.is_empty() { &[] } else { lists.get(t) }
}

/// Logprobs at lists of ids, one list a row, gathered as a rectangle.
struct Wanted {
    width: usize,
    values: Vec<f32>,
    /// Ids and logprobs `[N, width]` on the device; none where every list is empty.
    tensors: Option<(Tensor, Tensor)>,
}

impl Wanted {
    fn at<'a>(logprobs: &Tensor, lists: impl Iterator<Item = &'a [i32]> + Clone, device: tch::Device) -> Result<Self> {
        let width = lists.clone().map(<[i32]>::len).max().unwrap_or(0);
        if width == 0 {
            return Ok(Self { width, values: Vec::new(), tensors: None });
        }
        let mut ids = Vec::new();
        for list in lists {
            // Short lists are padded with an id of their own, so that a support zeroed out is the same one.
            let padding = list.first().copied().unwrap_or(0);
            let padded = list.iter().copied().chain(std::iter::repeat_n(padding, width - list.len()));
            ids.extend(padded.map(i64::from));
        }
        let ids = host::ids(&ids, &[ids.len() / width, width], device)?;
        let values = support::at(logprobs, &ids)?;
        Ok(Self { width, values: host::to_floats(&values)?, tensors: Some((ids, values)) })
    }

    /// The first `kept` logprobs of row `n`.
    fn row(&self, n: usize, kept: usize) -> impl Iterator<Item = f32> + '_ {
        self.values[n * self.width..][..kept].iter().copied()
    }
}

/// This model's own draws at N positions, M each.
struct Own {
    width: usize,
    ids: Vec<i32>,
    logprobs: Vec<f32>,
}

impl Own {
    fn of(logprobs: &Tensor, rows: &[ScoreRow], part: &[Position], width: usize) -> Result<Self> {
        if width == 0 {
            return Ok(Self { width, ids: Vec::new(), logprobs: Vec::new() });
        }
        let mut uniforms = Vec::with_capacity(part.len() * width);
        let apart = chance::name_key("teacher draws");
        for &(i, t) in part {
            let seed = chance::row_seed(rows[i].seed, apart, 0, 0);
            uniforms.extend((0..width as u64).map(|draw| chance::uniform(seed, t as u64, draw)));
        }
        let uniforms = host::doubles(&uniforms, &[part.len(), width], logprobs.device())?;
        let ids = support::inverse_cdf(logprobs, &uniforms, 1.0)?;
        let logprobs = host::to_floats(&support::at(logprobs, &ids)?)?;
        Ok(Self { width, ids: host::to_ids(&ids)?, logprobs })
    }

    /// Of position `n`: distinct ids, each with its count and logprob.
    fn row(&self, n: usize) -> Vec<(i32, i32, f32)> {
        let range = n * self.width..(n + 1) * self.width;
        support::counted(&self.ids[range.clone()], &self.logprobs[range])
    }
}
