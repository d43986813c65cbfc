//! A row to learn from, borrowed, and the checks it passes before any of it reaches a tensor.

use crate::{
    LearnError, Result,
    estimator::{Head, Support},
};
use record::{Lists, Sample, Score, ScoredRollout};

/// One sequence and what was cached for it. Per-position columns run along the response; an empty column is one that nobody
/// gave. All logprobs are natural, at the row's temperature.
#[derive(Clone, Debug, Default)]
pub struct TrainRow<'a> {
    /// The prompt's tokens; never trained.
    pub prompt_ids: &'a [i32],
    /// The response's tokens, EOS included.
    pub response_ids: &'a [i32],
    /// 0 where a response position is not trained; `None` trains all.
    pub loss_mask: Option<&'a [i32]>,
    /// The temperature it was sampled at.
    pub temperature: f32,
    /// The learner's policy version less the row's; `None` where another run sampled it.
    pub staleness: Option<u64>,
    /// log b of the response's tokens.
    pub sampler_logprobs: &'a [f32],
    /// log q of the response's tokens.
    pub teacher_logprobs: &'a [f32],
    /// Entropy of the teacher, nats.
    pub teacher_entropy: &'a [f32],
    /// Monte-Carlo draws of the sampler.
    pub draws: CandidateLists<'a>,
    /// How many draws were taken at each position, m, where only those outside the sampler's top-k are in `draws`; empty where
    /// all of them are.
    pub draws_taken: &'a [i32],
    /// Monte-Carlo draws of the teacher.
    pub teacher_draws: CandidateLists<'a>,
    /// The teacher's top-k, most likely first.
    pub teacher_top_k: CandidateLists<'a>,
    /// The sampler's top-k, most likely first.
    pub sampler_top_k: CandidateLists<'a>,
}

/// Candidates at each position of a row: lists along the response. Columns other than `ids` are empty where nobody gave them.
#[derive(Clone, Debug, Default)]
pub struct CandidateLists<'a> {
    /// Ids.
    pub ids: Vec<&'a [i32]>,
    /// How often each was drawn; 1 where not given.
    pub counts: Vec<&'a [i32]>,
    /// log q.
    pub teacher_logprobs: Vec<&'a [f32]>,
    /// log b.
    pub sampler_logprobs: Vec<&'a [f32]>,
    /// log of the teacher's mass outside the ids.
    pub teacher_tail: &'a [f32],
}

impl<'a> TrainRow<'a> {
    /// A rollout with its scores, as they are stored.
    pub fn scored(row: &ScoredRollout<'a>, staleness: Option<u64>) -> Self {
        let rollout = &row.rollout;
        Self {
            prompt_ids: rollout.prompt_ids,
            response_ids: rollout.response_ids,
            loss_mask: Some(rollout.loss_mask),
            temperature: rollout.temperature,
            staleness,
            sampler_logprobs: rollout.sampler_logprobs,
            teacher_logprobs: row.teacher_logprobs,
            teacher_entropy: row.teacher_entropy.unwrap_or_default(),
            draws: CandidateLists {
                ids: slices(rollout.draw_ids),
                counts: slices(rollout.draw_counts),
                teacher_logprobs: slices(row.draw_teacher_logprobs),
                sampler_logprobs: slices(rollout.draw_logprobs),
                teacher_tail: &[],
            },
            draws_taken: rollout.draws_taken.unwrap_or_default(),
            teacher_draws: CandidateLists {
                ids: row.teacher_draw_ids.map(slices).unwrap_or_default(),
                counts: row.teacher_draw_counts.map(slices).unwrap_or_default(),
                teacher_logprobs: row.teacher_draw_logprobs.map(slices).unwrap_or_default(),
                ..CandidateLists::default()
            },
            teacher_top_k: CandidateLists {
                ids: slices(row.teacher_top_ids),
                teacher_logprobs: slices(row.teacher_top_logprobs),
                teacher_tail: row.teacher_tail_logprobs,
                ..CandidateLists::default()
            },
            sampler_top_k: CandidateLists {
                ids: slices(rollout.sampler_top_ids),
                teacher_logprobs: slices(row.sampler_top_teacher_logprobs),
                sampler_logprobs: slices(rollout.sampler_top_logprobs),
                teacher_tail: row.sampler_top_teacher_tail_logprobs,
                ..CandidateLists::default()
            },
        }
        .without_empty_columns()
    }

    /// A rollout with its scores, as sampler and teacher give them.
    pub fn sampled(prompt: &'a [i32], sample: &'a Sample, score: &'a Score, temperature: f32, staleness: u64) -> Self {
        Self {
            prompt_ids: prompt,
            response_ids: &sample.response_ids,
            loss_mask: None,
            temperature,
            staleness: Some(staleness),
            sampler_logprobs: &sample.sampler_logprobs,
            teacher_logprobs: &score.teacher_logprobs,
            teacher_entropy: score.teacher_entropy.as_deref().unwrap_or_default(),
            draws: CandidateLists {
                ids: sample.draw_ids.iter().collect(),
                counts: sample.draw_counts.iter().collect(),
                teacher_logprobs: score.draw_teacher_logprobs.iter().collect(),
                sampler_logprobs: sample.draw_logprobs.iter().collect(),
                teacher_tail: &[],
            },
            draws_taken: sample.draws_taken.as_deref().unwrap_or_default(),
            teacher_draws: score.teacher_draws.as_ref().map_or_else(CandidateLists::default, |draws| CandidateLists {
                ids: draws.ids.iter().collect(),
                counts: draws.counts.iter().collect(),
                teacher_logprobs: draws.logprobs.iter().collect(),
                ..CandidateLists::default()
            }),
            teacher_top_k: CandidateLists {
                ids: score.teacher_top_ids.iter().collect(),
                teacher_logprobs: score.teacher_top_logprobs.iter().collect(),
                teacher_tail: &score.teacher_tail_logprobs,
                ..CandidateLists::default()
            },
            sampler_top_k: CandidateLists {
                ids: sample.sampler_top_ids.iter().collect(),
                teacher_logprobs: score.sampler_top_teacher_logprobs.iter().collect(),
                sampler_logprobs: sample.sampler_top_logprobs.iter().collect(),
                teacher_tail: &score.sampler_top_teacher_tail_logprobs,
                ..CandidateLists::default()
            },
        }
        .without_empty_columns()
    }

    /// A prompt with a given completion, for cross-entropy.
    pub fn completion(prompt: &'a [i32], completion: &'a [i32]) -> Self {
        Self { prompt_ids: prompt, response_ids: completion, temperature: 1.0, ..Self::default() }
    }

    /// Whether it was sampled with Monte-Carlo draws, kept or not.
    pub(crate) fn has_draws(&self) -> bool {
        !self.draws.ids.is_empty() || !self.draws_taken.is_empty()
    }

    /// m, the draws that were taken at response position `t`.
    pub(crate) fn draws_at(&self, t: usize) -> i32 {
        self.draws_taken.get(t).copied().unwrap_or_else(|| self.draws.total(t))
    }

    /// Candidates of which no position has any are none at all: the store writes empty lists for columns that were not asked
    /// for.
    fn without_empty_columns(mut self) -> Self {
        for lists in [&mut self.draws, &mut self.teacher_draws, &mut self.teacher_top_k, &mut self.sampler_top_k] {
            if lists.ids.iter().all(|ids| ids.is_empty()) {
                *lists = CandidateLists::default();
            }
        }
        self
    }

    /// Whether response position `t` is trained.
    pub fn is_trained(&self, t: usize) -> bool {
        self.loss_mask.is_none_or(|mask| mask[t] != 0)
    }

    /// Tokens the network must read to predict the whole response: all but the last.
    pub(crate) fn input_len(&self) -> usize {
        self.prompt_ids.len() + self.response_ids.len() - 1
    }

    /// Checks that the row is whole and carries what `support` needs. `row` is its index, for messages.
    pub(crate) fn check(&self, row: usize, support: Support, real_vocab: usize) -> Result<()> {
        let fault = |column, expected: String, found: String| Err(LearnError::Row { row, column, expected, found });
        let positions = self.response_ids.len();
        for (column, ids) in [("prompt_ids", self.prompt_ids), ("response_ids", self.response_ids)] {
            if ids.is_empty() {
                return fault(column, "at least one token".into(), "none".into());
            }
            check_ids(row, column, ids, real_vocab)?;
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return fault("temperature", "a number above 0".into(), self.temperature.to_string());
        }
        if let Some(mask) = self.loss_mask
            && mask.len() != positions
        {
            return fault("loss_mask", format!("{positions} entries, one a response token"), mask.len().to_string());
        }
        for (column, values) in [
            ("sampler_logprobs", self.sampler_logprobs),
            ("teacher_logprobs", self.teacher_logprobs),
            ("teacher_entropy", self.teacher_entropy),
        ] {
            if !values.is_empty() && values.len() != positions {
                return fault(column, format!("{positions} entries or none"), values.len().to_string());
            }
        }
        self.check_support(row, support)?;
        self.draws.check(row, "draw_ids", positions, real_vocab, false)?;
        self.teacher_draws.check(row, "teacher_draw_ids", positions, real_vocab, false)?;
        self.teacher_top_k.check(row, "teacher_top_ids", positions, real_vocab, true)?;
        self.sampler_top_k.check(row, "sampler_top_ids", positions, real_vocab, true)?;
        if !self.draws_taken.is_empty() && self.draws_taken.len() != positions {
            return fault("draws_taken", format!("{positions} entries or none"), self.draws_taken.len().to_string());
        }
        Ok(())
    }

    /// That the columns of `support` are there, and all of the draws that it counts on.
    pub(crate) fn check_support(&self, row: usize, support: Support) -> Result<()> {
        let fault = |column, expected: &str, found: String| {
            Err(LearnError::Row { row, column, expected: expected.into(), found })
        };
        let none = |lists: &CandidateLists| lists.ids.is_empty();
        let (draws, student, teacher) = match support {
            Support::Draws => (true, false, false),
            Support::TeacherTopK { .. } => (false, false, true),
            Support::SamplerTopK { .. } => (false, true, false),
            Support::HeadAndDraws { head, .. } => (true, head != Head::TeacherTopK, head != Head::StudentTopK),
            Support::TeacherDraws | Support::Vocabulary | Support::Token => (false, false, false),
        };
        if support == Support::TeacherDraws && none(&self.teacher_draws) {
            let expected = "draws of the teacher; score with score.draws of 1 or more";
            return fault("teacher_draw_ids", expected, "none".into());
        }
        if draws && !self.has_draws() {
            return fault("draw_ids", "draws; roll out with `draws` of 1 or more", "none".into());
        }
        if teacher && none(&self.teacher_top_k) {
            return fault("teacher_top_ids", "the teacher's top-k; score with a top-k", "none".into());
        }
        if student && none(&self.sampler_top_k) {
            return fault("sampler_top_ids", "the sampler's top-k; roll out with a top-k", "none".into());
        }
        if !draws || self.draws_taken.is_empty() {
            return Ok(());
        }
        // What is kept lies outside the whole of the sampler's top-k: any smaller head would miss draws.
        let longest = self.sampler_top_k.ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
        match support {
            Support::HeadAndDraws { head: Head::StudentTopK | Head::Union, k } if k >= longest => Ok(()),
            Support::HeadAndDraws { head: Head::StudentTopK | Head::Union, k } => {
                let expected = "a head of the whole top-k, outside which the draws lie; raise estimator.top_k";
                fault("sampler_top_ids", expected, format!("{longest} ids, of which it takes {k}"))
            }
            _ => {
                let expected = "all draws; take `reverse_kl_hybrid` with the student's top-k, or roll out with \
                                draws_kept = \"all\"";
                fault("draws_taken", expected, "only those outside the sampler's top-k".into())
            }
        }
    }
}

impl CandidateLists<'_> {
    /// The sum of the counts at position `t`.
    pub(crate) fn total(&self, t: usize) -> i32 {
        match self.counts.get(t) {
            Some(counts) => counts.iter().sum(),
            None => self.ids.get(t).map_or(0, |ids| ids.len() as i32),
        }
    }

    /// `distinct`: whether an id may stand once only; with draws, repeated ids are added up later.
    fn check(
        &self,
        row: usize,
        column: &'static str,
        positions: usize,
        real_vocab: usize,
        distinct: bool,
    ) -> Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let fault = |expected: String, found: String| Err(LearnError::Row { row, column, expected, found });
        if self.ids.len() != positions {
            return fault(format!("{positions} lists, one a response token"), self.ids.len().to_string());
        }
        if !self.teacher_tail.is_empty() && self.teacher_tail.len() != positions {
            return fault(format!("{positions} tails"), self.teacher_tail.len().to_string());
        }
        same_lengths(&self.ids, &self.counts).or_else(|found| fault("a count for each id".into(), found))?;
        for logprobs in [&self.teacher_logprobs, &self.sampler_logprobs] {
            same_lengths(&self.ids, logprobs).or_else(|found| fault("a logprob for each id".into(), found))?;
        }
        if let Some(count) = self.counts.iter().copied().flatten().find(|count| **count < 1) {
            return fault("counts from 1".into(), count.to_string());
        }
        let mut seen = Vec::new();
        for ids in &self.ids {
            check_ids(row, column, ids, real_vocab)?;
            if distinct {
                seen.clear();
                seen.extend_from_slice(ids);
                seen.sort_unstable();
                if let Some(pair) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
                    return fault("each id once".into(), format!("{} twice", pair[0]));
                }
            }
        }
        Ok(())
    }
}

fn check_ids(row: usize, column: &'static str, ids: &[i32], real_vocab: usize) -> Result<()> {
    match ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= real_vocab)) {
        None => Ok(()),
        Some(id) => {
            let expected = format!("ids from 0 to {}, the student's vocabulary", real_vocab.saturating_sub(1));
            Err(LearnError::Row { row, column, expected, found: id.to_string() })
        }
    }
}

fn same_lengths<T>(ids: &[&[i32]], other: &[&[T]]) -> std::result::Result<(), String> {
    if other.is_empty() {
        return Ok(());
    }
    if ids.len() != other.len() {
        return Err(format!("{} lists for {} positions", other.len(), ids.len()));
    }
    match ids.iter().zip(other).position(|(ids, other)| ids.len() != other.len()) {
        None => Ok(()),
        Some(t) => Err(format!("{} for {} ids at position {t}", other[t].len(), ids[t].len())),
    }
}

fn slices<'a, T>(lists: Lists<'a, T>) -> Vec<&'a [T]> {
    lists.iter().collect()
}
