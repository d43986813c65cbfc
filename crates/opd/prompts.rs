//! Prompt sets: JSON lines or Parquet, as they are asked, and the order in which a run takes them.
//!
//! [`Prompts::read`] is the door: `lines` and `columns` read rows, `fields` finds in them what the keys name, `ask` makes a
//! prompt of each by the template and the student's chat template. `order` is the endless order of a run.

mod ask;
mod columns;
mod fields;
mod lines;
mod order;
#[cfg(test)]
mod tests;

use crate::{
    config::PromptsSection,
    error::{CommandError, Result},
    teachers::{listed, teacher_of},
};
use ask::Asker;
use model::{ChatTemplate, Tokenizer, template::Value};
use record::{Digest, PromptSet};
use std::path::{Path, PathBuf};

pub use order::{UnitRow, shuffle, unit_rows};

/// One prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// What the student is asked, as it stands.
    pub text: String,
    /// Whether a chat template made the text: its special tokens are written out in it.
    pub chat: bool,
    /// The right answer, where there is one.
    pub answer: Option<String>,
    /// Where it comes from.
    pub data_source: String,
    /// The teacher that scores its rollouts, where it names one.
    pub teacher_id: Option<String>,
    /// Its line or row in the file, from 1.
    pub line: usize,
}

impl Prompt {
    /// Its token ids.
    ///
    /// # Errors
    /// If the tokenizer cannot read it.
    pub fn ids(&self, tokenizer: &Tokenizer) -> Result<Vec<i32>> {
        Ok(if self.chat { tokenizer.encode(&self.text)? } else { tokenizer.encode_prompt(&self.text)? })
    }
}

/// A prompt set in memory.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// The prompts, by line.
    pub prompts: Vec<Prompt>,
    /// Its identity.
    pub set: PromptSet,
    path: PathBuf,
}

/// A line or row: its number from 1, and its fields.
struct Record {
    line: usize,
    fields: Value,
}

impl Prompts {
    /// Reads a prompt set. `key` is where the pipeline names it (`prompts`, `eval.sets.x`), `chat` the student's template.
    ///
    /// # Errors
    /// With file and line (row, in Parquet): unreadable, not UTF-8, no object, a key that is not there, a value of another
    /// type, messages of unknown shape, a template that raises, an empty prompt, no prompt at all.
    pub fn read(key: &str, section: &PromptsSection, chat: Option<&ChatTemplate>) -> Result<Self> {
        let path = &section.path;
        if !path.is_file() {
            let what = format!("{key}: there is no file `{}`", path.display());
            return Err(CommandError::new(what).hint("a path is relative to the TOML file that names it"));
        }
        let asker = Asker::new(key, section, chat)?;
        let mut prompts = Vec::new();
        let mut push = |record: Record, columns: Option<&[String]>| {
            let prompt = asker.prompt(&record, columns);
            prompts.push(prompt.map_err(|error| error.at(place(path, record.line)))?);
            Ok(())
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => lines::read(path, |record| push(record, None))?,
            Some("parquet") => columns::read(path, &asker.wanted(), |record, columns| push(record, Some(columns)))?,
            _ => {
                let what = format!("{key}: `{}` is neither .jsonl nor .parquet", path.display());
                return Err(
                    CommandError::new(what).hint("write the prompts as JSON lines or as Parquet, and name it so")
                );
            }
        }
        if prompts.is_empty() {
            return Err(CommandError::new(format!("prompts `{}`: no prompt in it", path.display())));
        }
        let set = PromptSet { digest: digest(&prompts), count: prompts.len() as u64 };
        Ok(Self { prompts, set, path: path.clone() })
    }

    /// The same, if every prompt has an answer.
    ///
    /// # Errors
    /// The first prompt that has none.
    pub fn with_answers(self) -> Result<Self> {
        match self.prompts.iter().position(|prompt| prompt.answer.is_none()) {
            None => Ok(self),
            Some(i) => Err(CommandError::new(format!("{}: there is no `answer`", self.place(i))).hint(
                "an eval set needs an answer for each prompt; with answers = false in its table of eval.sets only \
                 reverse_kl and lengths are computed",
            )),
        }
    }

    /// Checks that each prompt fits its context with a whole response of `new` tokens, which `key` allows.
    ///
    /// # Errors
    /// The first prompt that does not.
    pub fn check_lengths(
        &self,
        tokenizer: &Tokenizer,
        (key, new): (&str, usize),
        context: impl Fn(&Prompt) -> usize,
    ) -> Result<()> {
        for (i, prompt) in self.prompts.iter().enumerate() {
            let (context, length) = (context(prompt), prompt.ids(tokenizer)?.len());
            if length == 0 {
                return Err(CommandError::new(format!("{}: the prompt has no token", self.place(i))));
            }
            if length + new > context {
                let what = format!(
                    "{}: the prompt has {length} tokens; with {key} = {new} the context of {context} is exceeded",
                    self.place(i)
                );
                return Err(CommandError::new(what).hint(format!("shorten the prompt or {key}")));
            }
        }
        Ok(())
    }

    /// Checks that the teacher of each prompt is one of `known`.
    ///
    /// # Errors
    /// The first prompt whose teacher is another.
    pub fn check_teachers(&self, known: &[&str]) -> Result<()> {
        let unknown = |prompt: &Prompt| !known.contains(&teacher_of(prompt));
        let Some(i) = self.prompts.iter().position(unknown) else { return Ok(()) };
        let (place, known) = (self.place(i), listed(known.iter().copied()));
        Err(match &self.prompts[i].teacher_id {
            Some(id) => CommandError::new(format!("{place}: `teacher_id` is `{id}`, the pipeline has {known}"))
                .hint(format!("name one of them, or add the teacher: [teachers] {id} = {{ model = \"DIR\" }}")),
            None => CommandError::new(format!("{place}: there is no `teacher_id`, the pipeline has {known}"))
                .hint("name one of them, or add [teacher], which scores such prompts"),
        })
    }

    /// File and line of prompt `i`.
    pub fn place(&self, i: usize) -> String {
        place(&self.path, self.prompts[i].line)
    }
}

fn place(path: &Path, line: usize) -> String {
    let unit = if path.extension().is_some_and(|extension| extension == "parquet") { "row" } else { "line" };
    format!("prompts `{}`, {unit} {line}", path.display())
}

/// What a run compares: the prompts as they are asked and routed, whatever file and template they come from.
fn digest(prompts: &[Prompt]) -> Digest {
    Digest::of_parts(prompts.iter().flat_map(|prompt| {
        let kind: &[u8] = if prompt.chat { b"chat" } else { b"text" };
        let teacher = prompt.teacher_id.as_deref().unwrap_or_default();
        [kind, prompt.text.as_bytes(), prompt.data_source.as_bytes(), teacher.as_bytes()]
    }))
}
