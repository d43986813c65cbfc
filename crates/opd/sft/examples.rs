//! Prompts with given completions: a prompt set whose answers are what is to be learned.

use super::SftConfig;
use crate::{
    error::{CommandError, Result},
    prompts::{Prompts, shuffle},
};
use learner::{Learner, StepReport};
use model::{ChatTemplate, Tokenizer};
use std::path::Path;

/// Token ids of (prompt, completion and EOS), in an endless order: each epoch is a shuffle of all by the seed.
pub(super) struct Examples {
    rows: Vec<(Vec<i32>, Vec<i32>)>,
    order: Vec<u64>,
    seed: u64,
    place: u64,
}

impl Examples {
    /// Reads all of them.
    ///
    /// # Errors
    /// With file and line: what is no prompt or has no completion, or is longer than the context.
    pub fn read(
        config: &SftConfig,
        path: &Path,
        chat: Option<&ChatTemplate>,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Self> {
        let prompts = Prompts::read("data", &config.section(path, config.completion_keys()), chat)?;
        let eos = tokenizer.end_of_text().ok_or_else(|| CommandError::new("the tokenizer names no EOS token"))?;
        let mut rows = Vec::with_capacity(prompts.prompts.len());
        for (i, example) in prompts.prompts.iter().enumerate() {
            let fault = |what: &str| CommandError::new(format!("{}: {what}", prompts.place(i)));
            let missing = || fault("there is no completion").hint("keys.answer names the field that holds it");
            let text = example.answer.as_deref().ok_or_else(missing)?;
            // Special tokens in the text are those tokens; a text that ends with EOS gets no second one.
            let (prompt, mut completion) = (example.ids(tokenizer)?, tokenizer.encode(text)?);
            if completion.is_empty() {
                return Err(fault("the completion is empty"));
            }
            if !completion.last().is_some_and(|last| tokenizer.eos_ids().contains(last)) {
                completion.push(eos);
            }
            let length = prompt.len() + completion.len();
            if length > context {
                let what = format!("prompt and completion have {length} tokens; the context is {context}");
                return Err(fault(&what).hint("shorten it or leave it out"));
            }
            rows.push((prompt, completion));
        }
        Ok(Self { rows, order: Vec::new(), seed: config.seed, place: 0 })
    }

    /// One step on the next `count`.
    pub fn step(&mut self, learner: &mut Learner, count: usize) -> Result<StepReport> {
        let places = self.place..self.place + count as u64;
        let mut minibatch = Vec::with_capacity(count);
        for place in places.clone() {
            let (epoch, place) = (place / self.rows.len() as u64, (place % self.rows.len() as u64) as usize);
            if place == 0 || self.order.is_empty() {
                self.order = shuffle(self.seed, epoch, self.rows.len() as u64);
            }
            let (prompt, completion) = &self.rows[self.order[place] as usize];
            minibatch.push((prompt.as_slice(), completion.as_slice()));
        }
        self.place = places.end;
        Ok(learner.sft_step(&minibatch)?)
    }
}
