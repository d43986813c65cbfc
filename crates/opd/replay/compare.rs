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
    /// Steps that both have.
    both: u64,
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
    let [steps, of, both] = [child.steps.len(), parent.steps.len(), pairs.len()].map(|count| count as u64);
    Comparison { steps, of, both, first }
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
                // A step's settings are of the section, but for how the minibatch is cut.
                let named = key.strip_prefix("cut.").unwrap_or(key);
                settings.entry(named.into()).or_insert_with(|| (value(&was), value(&is)));
            }
        }
    }
    let said = |(key, (was, is)): (String, (String, String))| format!("learn.{key}: {was} in the parent, {is} here");
    reasons.extend(settings.into_iter().map(said));
    let diverged = |of: &StepCommit| of.metrics.get("resume/diverged_steps").is_some_and(|(steps, _)| *steps > 0.0);
    for (whose, step) in [
        ("the parent's own learner", pairs.iter().map(|(of, _)| *of).find(|step| diverged(step))),
        ("this replay's learner", pairs.iter().map(|(_, step)| *step).find(|step| diverged(step))),
    ] {
        if let Some(step) = step {
            reasons.push(format!("{whose} had got other weights when it was started again before step {}", step.step));
        }
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
        let Self { steps, of, both, first } = self;
        let left = if steps < of { format!(" (of {of})") } else { String::new() };
        let Some(Difference { step, reasons }) = first else {
            return match both {
                0 => format!("{steps} steps; the parent has none to compare with\n"),
                both if both < steps => {
                    format!(
                        "{steps} steps, the first {both} with weights digests equal to the parent's, which has no more\n"
                    )
                }
                _ => format!("{steps} steps{left}, every weights digest equal to the parent's\n"),
            };
        };
        let mut text = format!("{steps} steps{left}, weights differ from the parent's from step {step} on\n");
        reasons.iter().for_each(|reason| text += &format!("  {reason}\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation;
    use record::{BatchRows, Digest, ObjectRef, PolicyVersion, Replayed, RowSet};
    use serde_json::json;

    fn step(number: u64, weights: &str, settings: Value) -> StepCommit {
        StepCommit {
            step: number,
            consumed: Vec::new(),
            replayed: Vec::new(),
            dropped: Vec::new(),
            score_set: "main".into(),
            record: ObjectRef { key: "x".into(), bytes: 1, digest: Digest::of(b"x") },
            weights_digest: Digest::of(weights.as_bytes()),
            policy: None,
            moments: None,
            settings,
            metrics: BTreeMap::new(),
        }
    }

    fn rows(count: u32) -> BatchRows {
        BatchRows { batch: "u1".into(), rows: RowSet::first(count) }
    }

    fn parent() -> Vec<StepCommit> {
        let settings = json!({"estimator": {"name": "a", "k": 4}, "cut": {"head_chunk": 8}, "threads": 1});
        (1..=3).map(|i| StepCommit { consumed: vec![rows(4)], ..step(i, &format!("w{i}"), settings.clone()) }).collect()
    }

    fn child(of: &[StepCommit]) -> Vec<StepCommit> {
        let replayed = |of: BatchRows| Replayed { of, unit: 1, policy_version: PolicyVersion(0), epoch: 0 };
        let step = |step: &StepCommit| StepCommit {
            consumed: Vec::new(),
            replayed: step.consumed.iter().cloned().map(replayed).collect(),
            ..step.clone()
        };
        of.iter().map(step).collect()
    }

    fn compared(of: &[StepCommit], to: &[StepCommit]) -> Comparison {
        let run = simulation::identity(4, 1, 1);
        compare(&Side { run: &run, steps: of.iter().collect() }, &Side { run: &run, steps: to.iter().collect() })
    }

    #[test]
    fn equal_weights_are_equal_whatever_else_differs() {
        let (parent, mut child) = (parent(), child(&parent()));
        assert_eq!(compared(&parent, &child).sentence(), "3 steps, every weights digest equal to the parent's\n");
        child[1].settings = json!({"threads": 2});
        child.pop();
        let compared = compared(&parent, &child);
        assert_eq!(compared.sentence(), "2 steps (of 3), every weights digest equal to the parent's\n");
        assert_eq!(compared.verdict(), Ok(()));
    }

    #[test]
    fn the_first_difference_is_told_with_all_that_led_to_it_and_nothing_after() {
        let (mut parent, mut child) = (parent(), child(&parent()));
        for step in &mut child[1..] {
            step.weights_digest = Digest::of(b"other");
        }
        // Before it, at it, and after it.
        child[0].settings["cut"]["head_chunk"] = 9.into();
        child[1].settings["estimator"] = json!({"name": "b"});
        child[1].replayed[0].of = rows(3);
        child[2].settings["threads"] = 2.into();
        parent[1].metrics.insert("resume/diverged_steps".into(), (1.0, 1.0));
        let compared = compared(&parent, &child);
        assert_eq!(
            compared.sentence(),
            "3 steps, weights differ from the parent's from step 2 on\n  \
             rows: step 2 trained on 4 rows in the parent, on other 3 here\n  \
             learn.estimator.k: 4 in the parent, none here\n  \
             learn.estimator.name: \"a\" in the parent, \"b\" here\n  \
             learn.head_chunk: 8 in the parent, 9 here\n  \
             the parent's own learner had got other weights when it was started again before step 2\n"
        );
        assert_eq!(compared.verdict(), Ok(()));
    }

    #[test]
    fn no_more_is_called_equal_than_was_compared() {
        let (parent, child) = (parent(), child(&parent()));
        let none = compared(&[], &child);
        assert_eq!(none.sentence(), "3 steps; the parent has none to compare with\n");
        assert_eq!(none.verdict(), Ok(()));
        let fewer = "3 steps, the first 2 with weights digests equal to the parent's, which has no more\n";
        assert_eq!(compared(&parent[..2], &child).sentence(), fewer);
    }

    #[test]
    fn a_replay_that_came_to_other_weights_when_it_was_started_again_says_so() {
        let (parent, mut child) = (parent(), child(&parent()));
        child[1].weights_digest = Digest::of(b"other");
        child[1].metrics.insert("resume/diverged_steps".into(), (1.0, 1.0));
        let compared = compared(&parent, &child);
        let says = "this replay's learner had got other weights when it was started again before step 2\n";
        assert!(compared.sentence().ends_with(says), "{}", compared.sentence());
        assert_eq!(compared.verdict(), Ok(()));
    }

    #[test]
    fn a_difference_without_a_reason_is_a_finding() {
        let (parent, mut child) = (parent(), child(&parent()));
        child[2].weights_digest = Digest::of(b"other");
        let finding = compared(&parent, &child).verdict().unwrap_err();
        assert_eq!(finding.exit_status(), 1);
        assert!(finding.to_string().contains("step 3 does not repeat"), "{finding}");
    }
}
