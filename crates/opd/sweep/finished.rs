//! Whether a run of a sweep is made, and as the sweep asks for it now.

use super::{grid::Member, open};
use crate::{
    config::{Pipeline, ScoreSection},
    error::{CommandError, Result},
    output::say,
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
                asked.learn.steps = match replay::length(&source, &member.pipeline).await {
                    Ok(steps) => steps,
                    // Gone or moved: what it has come to lies in its own log, and one that goes on will say what it lacks.
                    Err(error) => {
                        let (steps, wanted) = (before.learn.steps, asked.learn.steps);
                        say(&format!(
                            "run `{}` is taken as it is, with {steps} steps of {wanted}; whether there were rows for more is not known: {error}",
                            member.name
                        ));
                        steps
                    }
                };
            }
        }
        if let Some((key, had, wants)) = difference(&before, &asked) {
            return refused(&key, had, wants);
        }
    }
    // The learner ends a run while its last versions may still be under evaluation.
    Ok(now.finished && is_evaluated(now, &member.pipeline))
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
    use super::{super::grid::Sweep, *};
    use crate::identity::work;
    use record::{EvalCommit, Event, PolicyVersion, Run};
    use std::path::Path;
    use store::Follower;

    const PIPELINE: &str = r#"
        name = "simulation"
        store.url = "nowhere"
        student.model = "student"
        teacher.model = "teacher"
        prompts.path = "train.jsonl"
        rollout = { prompts_per_unit = 1, max_new_tokens = 8, draws = 1 }
        score.top_k_max = 4
        learn = { steps = 10, rows_per_step = 1, estimator = { name = "reverse_kl_mc", draws = 1 } }
    "#;

    /// The one run of a sweep in `dir`, whose pipeline ends with `more`.
    fn member(dir: &Path, more: &str, of_sweep: &str) -> Member {
        std::fs::write(dir.join("p.toml"), format!("{PIPELINE}{more}")).unwrap();
        let sweep = format!("name = 's'\npipeline = ['p.toml']\ninto = '{}'\nseeds = [1]\n{of_sweep}", dir.display());
        std::fs::write(dir.join("s.toml"), sweep).unwrap();
        Sweep::load(&dir.join("s.toml")).unwrap().members().unwrap().remove(0)
    }

    async fn begin(member: &Member, parent: Option<Parent>) -> Follower {
        let run = Run { parent, ..crate::simulation::identity(1, 1, 1) };
        open(member).await.unwrap().create(run, work("a")).await.unwrap()
    }

    #[tokio::test]
    async fn a_run_is_finished_with_the_last_of_its_evaluations() {
        let dir = tempfile::tempdir().unwrap();
        let member = member(dir.path(), "eval.sets = { easy = 'easy.jsonl', hard = 'hard.jsonl' }", "");
        assert!(!is_finished(&member).await.unwrap(), "nothing is there");
        let mut log = begin(&member, None).await;
        let evaluated = |set: &str| {
            let (eval_set, policy_version) = (set.to_string(), PolicyVersion(0));
            let (accuracy, metrics) = ((1.0, 2.0), Default::default());
            Event::Eval(EvalCommit { eval_set, policy_version, accuracy, sampled_accuracy: accuracy, metrics })
        };
        for (event, finished) in
            [(evaluated("easy"), false), (Event::Finish { dropped: Vec::new() }, false), (evaluated("hard"), true)]
        {
            log.append(work("a"), |_| Some(event.clone())).await.unwrap();
            assert_eq!(is_finished(&member).await.unwrap(), finished, "after {event:?}");
        }
    }

    #[tokio::test]
    async fn a_replay_that_has_ended_is_read_without_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone").display().to_string();
        let member = member(dir.path(), "", &format!("replay = {{ from = '{gone}' }}"));
        let (order, run_id) = (ReplayOrder::Recorded, "a".to_string());
        let parent = Parent { url: gone, run_id, seq: 9, order, condition: None, share: None };
        let mut log = begin(&member, Some(parent)).await;
        let mut shorter = member.pipeline.clone();
        shorter.learn.steps = 3;
        let settings = serde_json::to_value(&shorter).unwrap();
        for (event, finished) in [(Event::Config { settings }, false), (Event::Finish { dropped: Vec::new() }, true)] {
            log.append(work("a"), |_| Some(event.clone())).await.unwrap();
            assert_eq!(is_finished(&member).await.unwrap(), finished, "after {event:?}");
        }
    }

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
