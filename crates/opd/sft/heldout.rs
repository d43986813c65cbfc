//! How what is being trained does on held-out problems.

use super::SftConfig;
use crate::{
    config::Keys,
    error::Result,
    eval::{Asking, accuracies, ask},
    prompts::Prompts,
};
use model::{ChatTemplate, SamplingParams, Tokenizer, Transformer};
use record::Ratio;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SftEval {
    /// Held-out prompts with answers.
    pub path: PathBuf,
    /// Steps between two tests; 0: only at the end.
    #[serde(default)]
    pub every: u64,
    /// Longest response.
    pub max_new_tokens: usize,
}

/// Problems, and how they are asked.
pub(super) struct HeldOut {
    problems: Prompts,
    asking: Asking,
    /// Steps between two tests.
    pub every: u64,
}

impl HeldOut {
    /// Reads the problems, asked as the training prompts are.
    ///
    /// # Errors
    /// With file and line: what is no prompt, has no answer, or leaves no room for a response in the context.
    pub fn read(
        config: &SftConfig,
        chat: Option<&ChatTemplate>,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Option<Self>> {
        let Some(eval) = &config.eval else { return Ok(None) };
        let section = config.section(&eval.path, Keys { answer: None, ..config.keys.clone() });
        let problems = Prompts::read("eval.path", &section, chat)?;
        let problems = problems.with_answers().map_err(|error| error.hint("[eval] needs an answer for each prompt"))?;
        problems.check_lengths(tokenizer, ("eval.max_new_tokens", eval.max_new_tokens), |_| context)?;
        let params = SamplingParams {
            temperature: 1.0,
            top_p: 1.0,
            max_new_tokens: eval.max_new_tokens,
            eos: tokenizer.eos_ids().to_vec(),
            draws: 0,
            draws_kept: record::DrawsKept::All,
            top_k: None,
        };
        let (seed, score_tokens) = (config.seed, config.microbatch_tokens);
        let asking = Asking { params, samples: 1, answers: true, seed, rows: 128, score_tokens };
        Ok(Some(Self { problems, asking, every: eval.every }))
    }

    /// The accuracy, for people.
    pub fn test(&self, student: &Transformer, tokenizer: &Tokenizer) -> Result<String> {
        let (greedy, sampled) = accuracies(&ask(student, &BTreeMap::new(), tokenizer, &self.problems, &self.asking)?);
        let percent = |(correct, problems): Ratio| 100.0 * correct / problems;
        Ok(format!("held-out accuracy {:.1} % greedy, {:.1} % at T = 1", percent(greedy), percent(sampled)))
    }
}
