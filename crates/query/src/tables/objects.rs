//! `objects`: one row is one object that a commit names.

use crate::{columns::Columns, log::Log};
use arrow::{array::RecordBatch, error::ArrowError};
use record::{Archive, Codec, Commit, Event, ObjectRef, PolicyVersion, Run, StepCommit};
use std::collections::{HashMap, HashSet};

/// An object and what its commit says of it.
struct Named<'a> {
    seq: u64,
    kind: &'static str,
    object: &'a ObjectRef,
    score_set: Option<&'a str>,
    codec: Option<&'a str>,
    version: Option<PolicyVersion>,
    batch: Option<&'a str>,
}

pub(super) fn objects(log: &Log, commits: &[Commit], columns: Columns) -> Result<RecordBatch, ArrowError> {
    let named: Vec<Named> = commits.iter().flat_map(|commit| named_by(log, commit)).collect();
    let each = || named.iter();
    let archives = retired_archives(log, commits);
    let retired = |of: &Named| match (of.kind, of.version) {
        ("policy", Some(version)) => log.is_retired(version),
        ("moments", Some(version)) => log.moments_are_retired(version),
        ("step_record", Some(version)) => log.record_is_retired(version.0),
        ("archive", _) => archives.contains(of.object.key.as_str()),
        ("rollouts" | "scores", _) => of.batch.is_some_and(|batch| log.batch_is_retired(batch)),
        _ => false,
    };
    columns
        .text("key", "Where it lies in the store.", each().map(|of| &of.object.key))
        .text(
            "kind",
            "What it is: rollouts, scores, step_record, archive, policy, moments, config, tokenizer, student_file.",
            each().map(|of| of.kind),
        )
        .int("bytes", "Its length.", each().map(|of| of.object.bytes))
        .text("digest", "Its SHA-256.", each().map(|of| of.object.digest.to_string()))
        .maybe_text("score_set", "The score set of scores; null for others.", each().map(|of| of.score_set))
        .maybe_text(
            "codec",
            "How columns of scores and of rollouts are packed; null for others, and where a program did not say.",
            each().map(|of| of.codec),
        )
        .maybe_int(
            "policy_version",
            "The policy version that it holds, that sampled it or that its step made; null where there is none.",
            each().map(|of| of.version.map(|version| version.0)),
        )
        .int("seq", "The commit that names it.", each().map(|of| of.seq))
        .flag("retired", "Whether it is given up, by any commit up to now: it may be deleted.", each().map(retired))
        .maybe_text(
            "archive",
            "The archive that its rows were moved to, by any commit up to now: the object itself may be deleted. Null where they were not.",
            each().map(|of| log.moved_to(&of.object.key)),
        )
        .into_batch("One row is one object that a commit names.")
}

fn named_by<'a>(log: &'a Log, commit: &'a Commit) -> Vec<Named<'a>> {
    let (score_set, codec, batch) = (None, None, None);
    let of = |kind, object, version| Named { seq: commit.seq, kind, object, score_set, codec, version, batch };
    match &commit.event {
        Event::Run(run) => of_run(run).into_iter().map(|(kind, object, version)| of(kind, object, version)).collect(),
        Event::Rollouts(rollouts) => {
            let named = of("rollouts", &rollouts.object, Some(rollouts.policy_version));
            vec![Named { codec: rollouts.codec.map(Codec::as_str), batch: Some(&rollouts.batch), ..named }]
        }
        Event::Scores(scores) => {
            let version = log.delivered(&scores.batch).policy_version;
            let codec = log.holds(&scores.score_set).map(|set| set.codec.as_str());
            let (score_set, batch) = (Some(scores.score_set.as_str()), Some(scores.batch.as_str()));
            vec![Named { score_set, codec, batch, ..of("scores", &scores.object, Some(version)) }]
        }
        Event::Step(step) => {
            of_step(step).map(|(kind, object)| of(kind, object, Some(PolicyVersion(step.step)))).collect()
        }
        Event::Archive(archive) => vec![of("archive", &archive.object, None)],
        _ => vec![],
    }
}

/// The archives of `commits` of whose rows none is kept.
fn retired_archives<'a>(log: &Log, commits: &'a [Commit]) -> HashSet<&'a str> {
    let of_commit = |commit: &'a Commit| match &commit.event {
        Event::Archive(archive) => Some(archive),
        _ => None,
    };
    let archives: Vec<&Archive> = commits.iter().filter_map(of_commit).collect();
    if archives.is_empty() {
        return HashSet::new();
    }
    let objects = log.commits().iter().flat_map(|commit| commit.event.objects());
    let retired: HashMap<&str, bool> =
        objects.map(|(what, object)| (object.key.as_str(), log.object_is_retired(&what))).collect();
    let keys = archives.into_iter().filter(|archive| {
        let here = archive.moves.iter().filter(|of| log.moved_to(&of.key) == Some(archive.object.key.as_str()));
        here.map(|of| of.key.as_str()).all(|key| retired.get(key).is_some_and(|retired| *retired))
    });
    keys.map(|archive| archive.object.key.as_str()).collect()
}

fn of_run(run: &Run) -> Vec<(&'static str, &ObjectRef, Option<PolicyVersion>)> {
    let mut named = vec![("config", &run.student_config, None), ("tokenizer", &run.student_tokenizer, None)];
    named.extend(run.student_files.values().map(|file| ("student_file", file, None)));
    named.push(("policy", &run.policy.weights, Some(run.policy.version)));
    named
}

fn of_step(step: &StepCommit) -> impl Iterator<Item = (&'static str, &ObjectRef)> {
    let policy = step.policy.as_ref().map(|policy| ("policy", &policy.weights));
    std::iter::once(("step_record", &step.record)).chain(policy).chain(step.moments.as_ref().map(|of| ("moments", of)))
}
