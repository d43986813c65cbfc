//! Whether a replay gave its parent's weights, and if not, from which step on and why, as far as the two logs tell.

use crate::error::{CommandError, Result};
use record::{Run, StepCommit};
use serde_json::Value;
use std::collections::BTreeMap;

/// One of the two runs.
pub(super) struct Side<'a> {
    pub run: &'a Run,
    pub steps: Vec<&'a StepCommit>,
}

/// How the weights of two runs compare.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comparison {
    /// Steps of the child.
    steps: u64,
    /// Steps of the parent.
    of: u64,
    first: Option<Difference>,
}

/// The first step whose weights differ.
#[derive(Clone, Debug, PartialEq)]
struct Difference {
    step: u64,
    /// What the logs say differs at that step or before it.
    reasons: Vec<String>,
}

/// Compares step by step.
pub(super) fn compare(parent: &Side, child: &Side) -> Comparison {
    let recorded: BTreeMap<u64, &StepCommit> = parent.steps.iter().map(|step| (step.step, *step)).collect();
    let pairs: Vec<_> = child.steps.iter().filter_map(|step| Some((*recorded.get(&step.step)?, *step))).collect();
    let first = pairs
        .iter()
        .position(|(of, step)| of.weights_digest != step.weights_digest)
        .map(|at| Difference { step: pairs[at].1.step, reasons: reasons(parent.run, child.run, &pairs[..=at]) });
    Comparison { steps: child.steps.len() as u64, of: parent.steps.len() as u64, first }
}

/// What differs in the steps up to the one whose weights do.
fn reasons(parent: &Run, child: &Run, pairs: &[(&StepCommit, &StepCommit)]) -> Vec<String> {
    let mut reasons = Vec::new();
    let (given, taken) = (parent.policy.weights.digest, child.policy.weights.digest);
    if given != taken {
        reasons.push(format!("student.model: weights {} in the parent, {} here", given.short(), taken.short()));
    }
    let rows = |(of, step): &&(&StepCommit, &StepCommit)| !step.replayed.iter().map(|rows| &rows.of).eq(&of.consumed);
    if let Some((of, step)) = pairs.iter().find(rows) {
        reasons.push(format!(
            "rows: step {} trained on {} rows in the parent, on other {} here",
            of.step,
            of.rows(),
            step.rows()
        ));
    }
    if let Some((of, step)) = pairs.iter().find(|(of, step)| of.score_set != step.score_set) {
        reasons.push(format!("score.set: `{}` in the parent, `{}` here", of.score_set, step.score_set));
    }
    let mut settings: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (of, step) in pairs.iter().filter(|(of, step)| of.settings != step.settings) {
        let (was, is) = (flat(&of.settings), flat(&step.settings));
        for key in was.keys().chain(is.keys()) {
            let value = |of: &BTreeMap<String, String>| of.get(key).cloned().unwrap_or_else(|| "none".into());
            if was.get(key) != is.get(key) {
                settings.entry(key.clone()).or_insert_with(|| (value(&was), value(&is)));
            }
        }
    }
    let said = |(key, (was, is)): (String, (String, String))| {
        // A step's settings are of the section, but for how the minibatch is cut.
        format!("learn.{}: {was} in the parent, {is} here", key.strip_prefix("cut.").unwrap_or(&key))
    };
    reasons.extend(settings.into_iter().map(said));
    let diverged = |of: &StepCommit| of.metrics.get("resume/diverged_steps").is_some_and(|(steps, _)| *steps > 0.0);
    if let Some((of, _)) = pairs.iter().find(|(of, _)| diverged(of)) {
        reasons.push(format!(
            "the parent's own learner had got other weights when it was started again before step {}",
            of.step
        ));
    }
    reasons
}

/// The leaves of a value by their keys, joined with dots.
fn flat(value: &Value) -> BTreeMap<String, String> {
    fn walk(value: &Value, key: &str, leaves: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) => {
                let dot = if key.is_empty() { "" } else { "." };
                fields.iter().for_each(|(name, value)| walk(value, &format!("{key}{dot}{name}"), leaves));
            }
            leaf => drop(leaves.insert(key.into(), leaf.to_string())),
        }
    }
    let mut leaves = BTreeMap::new();
    walk(value, "", &mut leaves);
    leaves
}

impl Comparison {
    /// A finding where the weights differ and nothing that is recorded says why.
    ///
    /// # Errors
    /// That finding.
    pub fn verdict(&self) -> Result<()> {
        match &self.first {
            Some(Difference { step, reasons }) if reasons.is_empty() => {
                let what = format!("step {step} does not repeat, though nothing differs that is recorded");
                Err(CommandError::new(what)
                    .hint("another processor, another build of libtorch, or a GPU rounds otherwise")
                    .finding())
            }
            _ => Ok(()),
        }
    }

    /// For people.
    pub fn sentence(&self) -> String {
        let Self { steps, of, first } = self;
        let left = if steps < of { format!(" (of {of})") } else { String::new() };
        let Some(Difference { step, reasons }) = first else {
            return format!("{steps} steps{left}, every weights digest equal to the parent's\n");
        };
        let mut text = format!("{steps} steps{left}, weights differ from the parent's from step {step} on\n");
        reasons.iter().for_each(|reason| text += &format!("  {reason}\n"));
        text
    }
}
