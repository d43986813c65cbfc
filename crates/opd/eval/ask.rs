//! Asking a student the problems of a set, and its teachers how far its answers are from theirs.

use super::tally::Seen;
use crate::{answers::is_correct, error::Result, prompts::Prompts, teachers::teacher_of};
use model::{SamplingParams, Tokenizer, Transformer, chance};
use record::{Finish, Sample};
use std::collections::BTreeMap;

/// The sample number of the first sampled answer, and of the greedy one; further ones count down. No rollout shares their
/// chance.
const EVAL_SAMPLE: u64 = u64::MAX;

/// How problems are asked.
#[derive(Clone, Debug)]
pub struct Asking {
    /// How answers are sampled.
    pub params: SamplingParams,
    /// Sampled answers to each problem.
    pub samples: u32,
    /// Whether there is a greedy answer too, and all are compared with the right one.
    pub answers: bool,
    /// The run's seed.
    pub seed: u64,
    /// Rows sampled at once.
    pub rows: usize,
    /// Tokens that run through student and teacher at once, for the reverse KL.
    pub score_tokens: usize,
}

/// Asks every problem. What is sampled is in memory one batch of rows at a time.
///
/// `teachers` are those that the problems name, by id; where there are none, no reverse KL is computed.
///
/// # Errors
/// If a prompt cannot be sampled from, or an answer not be read.
pub fn ask(
    student: &Transformer,
    teachers: &BTreeMap<String, Transformer>,
    tokenizer: &Tokenizer,
    problems: &Prompts,
    asking: &Asking,
) -> Result<Vec<Seen>> {
    let problems = &problems.prompts;
    let ids = problems.iter().map(|problem| problem.ids(tokenizer)).collect::<Result<Vec<_>>>()?;
    let mut seen = vec![Seen::default(); problems.len()];
    let prompts = |rows: &[(usize, u64)]| -> Vec<model::Prompt> {
        let seed = |problem, sample| chance::row_seed(asking.seed, problem as u64, EVAL_SAMPLE - sample, 0);
        rows.iter().map(|&(i, sample)| model::Prompt { ids: ids[i].clone(), seed: seed(i, sample) }).collect()
    };
    let is_right = |problem: usize, sample: &Sample| -> Result<bool> {
        let answer = problems[problem].answer.as_deref().unwrap_or_default();
        Ok(is_correct(&tokenizer.decode(&sample.response_ids)?, answer))
    };
    if asking.answers {
        let greedy = SamplingParams { temperature: 0.0, ..asking.params.clone() };
        let rows: Vec<(usize, u64)> = (0..problems.len()).map(|problem| (problem, 0)).collect();
        for rows in rows.chunks(asking.rows) {
            for (&(i, _), sample) in rows.iter().zip(&model::sample(student, &prompts(rows), &greedy)?) {
                seen[i].greedy = Some(is_right(i, sample)?);
                seen[i].greedy_tokens = sample.response_ids.len() as u64;
            }
        }
    }
    let samples = u64::from(asking.samples);
    let rows: Vec<(usize, u64)> = (0..problems.len()).flat_map(|i| (0..samples).map(move |s| (i, s))).collect();
    for rows in rows.chunks(asking.rows) {
        let asked = prompts(rows);
        let answers = model::sample(student, &asked, &asking.params)?;
        for (&(i, _), sample) in rows.iter().zip(&answers) {
            if asking.answers {
                seen[i].sampled.push(is_right(i, sample)?);
            }
            seen[i].responses += 1;
            seen[i].clipped += u64::from(sample.finish == Some(Finish::Length));
            seen[i].tokens += sample.response_ids.len() as u64;
        }
        for (id, teacher) in teachers {
            let is_theirs = |row: &usize| teacher_of(&problems[rows[*row].0]) == id;
            let theirs: Vec<usize> = (0..rows.len()).filter(is_theirs).collect();
            if theirs.is_empty() {
                continue;
            }
            let pairs: Vec<(&[i32], &[i32])> =
                theirs.iter().map(|&row| (&asked[row].ids[..], &answers[row].response_ids[..])).collect();
            let temperature = asking.params.temperature;
            let nats = model::reverse_kl(student, teacher, &pairs, temperature, asking.score_tokens)?;
            for (row, nats) in theirs.into_iter().zip(nats) {
                let sum: f64 = nats.into_iter().map(f64::from).sum();
                *seen[rows[row].0].reverse_kl.get_or_insert(0.0) += sum;
            }
        }
    }
    Ok(seen)
}
