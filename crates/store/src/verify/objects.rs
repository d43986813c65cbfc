//! Every object against the commit that names it.

use super::{Depth, Finding, Report, Seen};
use crate::{Named, Result, Store, StoreError, named};
use arrow::{
    array::{Array, AsArray},
    datatypes::Int64Type,
};
use futures::StreamExt;
use record::{Archive, BatchId, Commit, Event, ObjectRef, RolloutBatch, RolloutCommit, StepCommit, What, rollout_id};
use std::collections::HashMap;

/// Objects read at once.
const AT_ONCE: usize = 4;

pub(super) async fn verify(store: &Store, depth: Depth, commits: &[Commit], report: &mut Report<'_>) -> Result<()> {
    let log = Log::of(commits);
    let kept: Vec<Named> = named(commits).into_iter().filter(|named| named.given_up.is_none()).collect();
    report.verified.objects = kept.len() as u64;
    report.verified.bytes = kept.iter().map(|named| named.takes).sum();
    let (mut done, all) = (0, kept.len() as u64);
    let mut checks = futures::stream::iter(kept)
        .map(|named| async {
            let checked = match depth {
                Depth::Lengths => check_lengths(store, &named).await,
                Depth::Everything => log.check(store, &named).await,
            };
            (named, checked)
        })
        .buffered(AT_ONCE);
    let mut missing: Vec<(Named, StoreError)> = Vec::new();
    while let Some((named, checked)) = checks.next().await {
        done += 1;
        (report.tell)(Seen::Objects(done, all));
        let Err(error) = checked else { continue };
        // An archive that is not there, or whose end is damaged, is told of once, by itself, not again with all that was moved there.
        let is_moved_there = |key: &String| named.moved.as_ref().is_some_and(|moved| moved.archive == *key);
        if key_of(&error).is_some_and(is_moved_there) {
            continue;
        }
        match error {
            gone @ StoreError::Missing { .. } => missing.push((named, gone)),
            error => report.find(Finding::of(error)?),
        }
    }
    for gone in still_needed(store, missing).await {
        report.find(Finding::of(gone)?);
    }
    Ok(())
}

/// What is missing of what the log, as it is by now, still needs there: jobs give up, archive and collect while this reads.
async fn still_needed(store: &Store, missing: Vec<(Named, StoreError)>) -> Vec<StoreError> {
    // Where the log is damaged, it has been told; what it says of these is not known.
    let commits = if missing.is_empty() { Vec::new() } else { store.history(None).await.unwrap_or_default() };
    let now = named(&commits);
    let now: HashMap<&str, &Named> = now.iter().map(|named| (named.object.key.as_str(), named)).collect();
    let is_needed = |(gone, error): &(Named, StoreError)| {
        let Some(of) = now.get(gone.object.key.as_str()) else { return true };
        // Of what was moved its rows are needed: those who read them looked into the archive and say so by its key.
        let is_moved = of.moved.is_some() && key_of(error) == Some(&gone.object.key);
        of.given_up.is_none() && !is_moved
    };
    missing.into_iter().filter(is_needed).map(|(_, error)| error).collect()
}

/// What was moved has no length of its own any more.
async fn check_lengths(store: &Store, named: &Named) -> Result<()> {
    match named.moved {
        Some(_) => Ok(()),
        None => store.check_own_length(&named.object).await,
    }
}

/// What the log says of batches and steps.
struct Log<'a> {
    delivered: HashMap<&'a BatchId, &'a RolloutCommit>,
    steps: HashMap<u64, &'a StepCommit>,
    /// By the archive's key.
    archives: HashMap<&'a str, &'a Archive>,
}

impl<'a> Log<'a> {
    fn of(commits: &'a [Commit]) -> Self {
        let mut log = Self { delivered: HashMap::new(), steps: HashMap::new(), archives: HashMap::new() };
        for commit in commits {
            match &commit.event {
                Event::Rollouts(rollouts) => drop(log.delivered.insert(&rollouts.batch, rollouts)),
                Event::Step(step) => drop(log.steps.insert(step.step, step)),
                Event::Archive(archive) => drop(log.archives.insert(&archive.object.key, archive)),
                _ => {}
            }
        }
        log
    }

    async fn check(&self, store: &Store, named: &Named) -> Result<()> {
        let object = &named.object;
        match &named.what {
            What::Rollouts(batch) => {
                let rollouts = store.get_rollouts(object).await?;
                let Some(of) = self.delivered.get(batch) else { return Ok(()) };
                check_rollouts(of, &rollouts)
            }
            What::Scores { batch, .. } => {
                let Some(of) = self.delivered.get(batch) else { return store.get_scores(object).await.map(drop) };
                match store.get_scored(&of.object, object).await {
                    // What is wrong with the rollouts alone is told of them, or they were given up; the scores are read by themselves.
                    Err(error) if key_of(&error).is_some_and(|key| *key != object.key) => {
                        store.get_scores(object).await.map(drop)
                    }
                    read => read.map(drop),
                }
            }
            What::StepRecord(number) => {
                let record = store.get_step_record(object).await?;
                let Some(step) = self.steps.get(number) else { return Ok(()) };
                check_step(step, object, &record)
            }
            What::Archive => {
                store.get(object).await?;
                // Its bytes may be what was put and yet nothing that can be read, if what the commit says of its end is wrong.
                match self.archives.get(object.key.as_str()) {
                    Some(archive) => store.check_layout(archive).await,
                    None => Ok(()),
                }
            }
            What::File(_) | What::Weights(_) | What::Moments(_) => store.get(object).await.map(drop),
        }
    }
}

fn key_of(error: &StoreError) -> Option<&String> {
    match error {
        StoreError::Missing { key, .. } | StoreError::Corrupt { key, .. } | StoreError::Invalid { key, .. } => {
            Some(key)
        }
        _ => None,
    }
}

/// The first of some facts, (what it is, expected, found), that does not hold.
fn check_all(key: &str, facts: impl IntoIterator<Item = (&'static str, String, String)>) -> Result<()> {
    match facts.into_iter().find(|(_, expected, found)| expected != found) {
        Some((what, expected, found)) => {
            Err(StoreError::Corrupt { key: key.into(), expected: format!("{what} {expected}"), found })
        }
        None => Ok(()),
    }
}

fn check_rollouts(of: &RolloutCommit, rollouts: &RolloutBatch) -> Result<()> {
    let key = &of.object.key;
    check_all(
        key,
        [
            ("rows", of.of.rows.len().to_string(), rollouts.len().to_string()),
            ("policy version", of.policy_version.to_string(), rollouts.policy_version().to_string()),
            ("response tokens", of.tokens.to_string(), rollouts.tokens().to_string()),
            ("teacher", of.teacher_id.clone(), rollouts.teacher_id().to_string()),
        ],
    )?;
    let units = rollouts.rows().map(|row| ("unit", of.of.unit.to_string(), row.unit.to_string()));
    let ids = rollouts.rows().enumerate();
    let ids = ids.map(|(i, row)| ("rollout id", rollout_id(&of.batch, i), row.rollout_id.to_string()));
    check_all(key, units.chain(ids))
}

fn check_step(step: &StepCommit, object: &ObjectRef, record: &arrow::array::RecordBatch) -> Result<()> {
    let expected: Vec<String> =
        step.trained().flat_map(|of| of.rows.iter().map(|row| rollout_id(&of.batch, row as usize))).collect();
    check_all(&object.key, [("rows", expected.len().to_string(), record.num_rows().to_string())])?;
    let ids = record.column_by_name("rollout_id").and_then(|column| column.as_string_opt::<i32>());
    let steps = record.column_by_name("step").and_then(|column| column.as_primitive_opt::<Int64Type>());
    // The schema was checked, so both are there.
    let (Some(ids), Some(steps)) = (ids, steps) else { return Ok(()) };
    let rows = expected.into_iter().enumerate();
    check_all(
        &object.key,
        rows.filter(|(i, _)| *i < ids.len()).map(|(i, id)| ("rollout id", id, ids.value(i).into())),
    )?;
    check_all(&object.key, steps.values().iter().map(|found| ("step", step.step.to_string(), found.to_string())))
}
