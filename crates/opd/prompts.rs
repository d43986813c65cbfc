//! Prompt sets: JSON lines with `prompt`, and the endless order in which a run takes them.

use crate::error::{CommandError, Result};
use record::{Digest, PromptSet, UnitRows, Units};
use serde::Deserialize;
use std::path::Path;

/// One prompt.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Prompt {
    /// What the student is asked, as it stands.
    pub prompt: String,
    /// The right answer, where there is one.
    pub answer: Option<String>,
    /// Where it comes from.
    #[serde(default)]
    pub data_source: String,
    /// The teacher that is to score what is said to it; without one, `[teacher]`.
    #[serde(default)]
    pub teacher_id: Option<String>,
}

/// A prompt set in memory.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// The prompts, by line.
    pub prompts: Vec<Prompt>,
    /// Its identity.
    pub set: PromptSet,
}

impl Prompts {
    /// Reads JSON lines. Blank lines are passed over.
    ///
    /// # Errors
    /// With file and line: unreadable, not UTF-8, not an object with a `prompt`, an empty prompt, no prompt at all.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|error| CommandError::new(format!("prompts `{shown}`: {error}")))?;
        let set = Digest::of(&bytes);
        let mut prompts = Vec::new();
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let fault = |what: String| CommandError::new(format!("prompts `{shown}`, line {}: {what}", number + 1));
            let line = std::str::from_utf8(line).map_err(|error| fault(format!("not UTF-8: {error}")))?.trim();
            if line.is_empty() {
                continue;
            }
            let prompt: Prompt = serde_json::from_str(line).map_err(|error| {
                fault(error.to_string()).hint("each line is an object like {\"prompt\": \"...\", \"answer\": \"...\"}")
            })?;
            if prompt.prompt.trim().is_empty() {
                return Err(fault("the prompt is empty".into()));
            }
            prompts.push(prompt);
        }
        if prompts.is_empty() {
            return Err(CommandError::new(format!("prompts `{shown}`: no prompt in it")));
        }
        let set = PromptSet { digest: set, count: prompts.len() as u64 };
        Ok(Self { prompts, set })
    }

    /// The same, where every prompt must have an answer.
    ///
    /// # Errors
    /// As [`Prompts::read`], or a prompt without an answer.
    pub fn read_with_answers(path: &Path) -> Result<Self> {
        let prompts = Self::read(path)?;
        if let Some(i) = prompts.prompts.iter().position(|prompt| prompt.answer.is_none()) {
            let what = format!("prompts `{}`: prompt {} has no `answer`", path.display(), i + 1);
            return Err(CommandError::new(what).hint("an eval set needs an answer for each prompt"));
        }
        Ok(prompts)
    }
}

/// A row to be sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitRow {
    /// The prompt's number in its set.
    pub prompt_id: u64,
    /// Which of the prompt's samples, counted over all epochs: (prompt, sample) occurs once in a run.
    pub sample: u32,
}

/// The rows of a unit: prompts come in epochs, each a shuffle of the whole set by the run's seed.
///
/// A pure function, so that every worker, and every start of it, cuts the same units.
pub fn unit_rows(seed: u64, prompts: u64, units: Units, of: &UnitRows) -> Vec<UnitRow> {
    let mut shuffled: Option<(u64, Vec<u64>)> = None;
    let mut rows = Vec::with_capacity(of.rows.len() as usize);
    for row in of.rows.iter() {
        let place = of.unit * u64::from(units.prompts) + u64::from(row / units.samples);
        let epoch = place / prompts;
        if shuffled.as_ref().is_none_or(|(of_epoch, _)| *of_epoch != epoch) {
            shuffled = Some((epoch, shuffle(seed, epoch, prompts)));
        }
        let order = shuffled.as_ref().map_or(&[][..], |(_, order)| order);
        let sample = epoch as u32 * units.samples + row % units.samples;
        rows.push(UnitRow { prompt_id: order[(place % prompts) as usize], sample });
    }
    rows
}

/// A permutation of `0..n`: Fisher-Yates with counter-based chance.
pub fn shuffle(seed: u64, epoch: u64, n: u64) -> Vec<u64> {
    let row_seed = model::chance::row_seed(seed, epoch, 0, u64::MAX);
    let mut order: Vec<u64> = (0..n).collect();
    for i in (1..n as usize).rev() {
        let j = (model::chance::uniform(row_seed, i as u64, 0) * (i + 1) as f64) as usize;
        order.swap(i, j.min(i));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use record::RowSet;
    use std::collections::BTreeMap;

    const UNITS: Units = Units { prompts: 4, samples: 2 };

    fn unit(unit: u64, rows: RowSet) -> Vec<UnitRow> {
        unit_rows(7, 10, UNITS, &UnitRows { unit, rows })
    }

    #[test]
    fn an_epoch_takes_every_prompt_once_with_all_its_samples() {
        let mut seen: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        // Five units of four prompts are two epochs of ten.
        for row in (0..5).flat_map(|u| unit(u, RowSet::first(8))) {
            seen.entry(row.prompt_id).or_default().push(row.sample);
        }
        assert_eq!(seen.len(), 10);
        assert!(seen.values().all(|samples| *samples == [0, 1, 2, 3]), "{seen:?}");
    }

    #[test]
    fn some_rows_of_a_unit_are_the_same_rows() {
        let all = unit(3, RowSet::first(8));
        let some: RowSet = [1, 2, 7].into_iter().collect();
        assert_eq!(unit(3, some), [all[1], all[2], all[7]]);
    }

    #[test]
    fn epochs_and_seeds_differ() {
        assert_ne!(shuffle(7, 0, 50), shuffle(7, 1, 50));
        assert_ne!(shuffle(7, 0, 50), shuffle(8, 0, 50));
    }

    #[test]
    fn a_faulty_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prompts.jsonl");
        for (text, says) in [
            (&b"{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n"[..], "line 2: missing field `prompt`"),
            (b"{\"prompt\": \" \"}\n", "line 1: the prompt is empty"),
            (b"\n\n", "no prompt in it"),
            (b"{\"prompt\": \"\xff\"}", "line 1: not UTF-8"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Prompts::read(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        std::fs::write(&path, "{\"prompt\": \"a\"}\n").unwrap();
        assert!(Prompts::read_with_answers(&path).unwrap_err().to_string().contains("prompt 1 has no `answer`"));
    }
}
