//! Whether a run of a sweep is made, and as the sweep asks for it now.

use super::{grid::Member, open};
use crate::{
    config::{Pipeline, ScoreSection},
    error::{CommandError, Result},
    plan,
    replay::{self, Source},
};
use record::{Parent, ReplayOrder};
use store::{Snapshot, StoreError};

/// Whether a run has ended, evaluations and all.
///
/// # Errors
/// If it has, with other settings than the sweep asks for now: its results would be passed off as theirs.
pub(super) async fn is_finished(member: &Member) -> Result<bool> {
    let follower = match open(member).await?.follow().await {
        Ok(follower) => follower,
        Err(StoreError::NoRun { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let now = follower.snapshot();
    let refused = |key: &str, had: String, wants: String| {
        let what = format!("run `{}` was made with `{key} = {had}`, the sweep asks for `{wants}`", member.name);
        let hint = format!("delete {}, or give the sweep another `into`", member.pipeline.store.url);
        Err(CommandError::new(what).hint(hint))
    };
    let (had, wants) = (replayed(now.run.parent.as_ref(), member), asked_for(member.replay.as_ref()));
    if had != wants {
        return refused("replay", had, wants);
    }
    if let Some(settings) = &now.settings {
        let before: Pipeline = serde_json::from_value(settings.clone()).map_err(|error| {
            CommandError::new(format!("run `{}`: its settings cannot be read: {error}", member.name))
        })?;
        let mut asked = member.pipeline.clone();
        if let Some(source) = &member.replay {
            // What rollouts and scores hold is the parent's affair.
            (asked.rollout, asked.learn.replay) = (before.rollout.clone(), None);
            asked.score = ScoreSection { set: asked.score.set, ..before.score.clone() };
            // A replay may have found rows for fewer steps.
            if before.learn.steps < asked.learn.steps {
                let source = Source { at: now.run.parent.as_ref().map(|parent| parent.seq), ..source.clone() };
                asked.learn.steps = replay::length(&source, &member.pipeline).await?;
            }
        }
        if let Some((key, had, wants)) = difference(&before, &asked) {
            return refused(&key, had, wants);
        }
    }
    Ok(now.finished && (member.replay.is_none() || is_evaluated(now, &member.pipeline)))
}

/// What a run replays, as far as the sweep asks for it: without `at` it takes the parent as it found it.
fn replayed(parent: Option<&Parent>, member: &Member) -> String {
    let parent = parent.filter(|parent| parent.is_replayed_whole());
    let at = |seq| member.replay.as_ref().and_then(|source| source.at).map(|_| seq);
    parent.map_or("none".into(), |of| replay_text(&of.url, at(of.seq), of.order, of.condition.as_deref()))
}

fn asked_for(source: Option<&Source>) -> String {
    source.map_or("none".into(), |of| replay_text(&of.from, of.at, of.order.into(), of.condition.as_deref()))
}

fn replay_text(from: &str, at: Option<u64>, order: ReplayOrder, condition: Option<&str>) -> String {
    let at = at.map_or(String::new(), |at| format!(" up to commit {at}"));
    let condition = condition.map_or(String::new(), |condition| format!(", where {condition}"));
    format!("{from}{at}, {} order{condition}", order.as_str())
}

/// Whether every version of a finished run that was due has been evaluated.
fn is_evaluated(now: &Snapshot, pipeline: &Pipeline) -> bool {
    let mut pipeline = pipeline.clone();
    pipeline.learn.steps = now.version.0;
    !now.policies.keys().any(|version| plan::awaits_eval(now, &pipeline, *version))
}

/// How many steps a replay has made whose evaluations are left; none where nothing is.
pub(super) async fn to_evaluate(member: &Member) -> Result<Option<u64>> {
    if member.replay.is_none() {
        return Ok(None);
    }
    let follower = open(member).await?.follow().await?;
    let now = follower.snapshot();
    Ok((now.finished && !is_evaluated(now, &member.pipeline)).then_some(now.version.0))
}

/// The first key by which two pipelines learn differently, with both values. Where things are kept does not matter.
fn difference(before: &Pipeline, asked: &Pipeline) -> Option<(String, String, String)> {
    let table = |pipeline: &Pipeline| {
        let mut table: toml::Table = toml::from_str(&pipeline.to_toml()).unwrap_or_default();
        table.remove("store");
        table.remove("run");
        toml::Value::Table(table)
    };
    first_difference("", &table(before), &table(asked))
}

fn first_difference(at: &str, a: &toml::Value, b: &toml::Value) -> Option<(String, String, String)> {
    let (toml::Value::Table(a), toml::Value::Table(b)) = (a, b) else {
        return (a != b).then(|| (at.to_string(), a.to_string(), b.to_string()));
    };
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter().find_map(|key| {
        let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let shown = |value: Option<&toml::Value>| value.map_or("nothing".to_string(), ToString::to_string);
        match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) => first_difference(&at, a, b),
            (a, b) => Some((at, shown(a), shown(b))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_that_differs_is_named_with_both_values() {
        let value = |text: &str| toml::Value::Table(toml::from_str(text).unwrap());
        let differ = |a: &str, b: &str| first_difference("", &value(a), &value(b));
        assert_eq!(differ("a = 1\nb.c = 2", "b.c = 2\na = 1"), None);
        let found = differ("a = 1\nb = { c = 2, d = 1 }", "a = 1\nb = { c = 3 }").unwrap();
        assert_eq!(found, ("b.c".into(), "2".into(), "3".into()));
        let found = differ("a = 1", "a = 1\nb.c = 3").unwrap();
        assert_eq!((found.0.as_str(), found.1.as_str()), ("b", "nothing"));
    }
}
