//! The log against itself: no gap, each entry follows from those before it, and what saves reading it says the same.

use super::{Depth, Finding, Report, Seen};
use crate::{Result, Snapshot, Store, StoreError, history, keys};
use futures::{StreamExt, TryStreamExt};
use record::{Commit, ObjectRef};
use serde_json::Value;
use std::collections::BTreeSet;

/// Entries in memory at once.
const CHUNK: u64 = 512;
/// Of these, on their way at once.
const AT_ONCE: usize = 64;

/// Every commit up to the first that cannot be read or does not follow.
pub(super) async fn verify(store: &Store, depth: Depth, report: &mut Report<'_>) -> Result<Vec<Commit>> {
    let listed: Vec<_> = store.backend().list("log").try_collect().await?;
    let last = listed.iter().filter_map(|entry| keys::parse_commit(&entry.key)).max();
    let snapshots: BTreeSet<u64> = listed.iter().filter_map(|entry| keys::parse_snapshot(&entry.key)).collect();
    let Some(last) = last else { return Err(StoreError::NoRun { url: store.url().into() }) };
    let mut folded: Option<Snapshot> = None;
    let (mut commits, mut marked) = (Vec::new(), Vec::new());
    'log: for from in (0..=last).step_by(CHUNK as usize) {
        let read = futures::stream::iter(from..=last.min(from + CHUNK - 1))
            .map(|seq| async move { (seq, store.entry(seq).await) });
        let read: Vec<_> = read.buffered(AT_ONCE).collect().await;
        for (seq, entry) in read {
            let key = keys::commit(seq);
            let entry = match entry {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    report.find(Finding::new(key, format!("an entry: the log goes on to {last}"), "nothing"));
                    break 'log;
                }
                Err(error) => {
                    report.find(Finding::of(error)?);
                    break 'log;
                }
            };
            let follows = match &mut folded {
                Some(folded) => folded.apply(&entry.commit),
                None => Snapshot::start(&entry.commit).map(|first| folded = Some(first)),
            };
            if let Err(error) = follows {
                report.find(Finding::new(key, "a commit that follows from those before it", error.what));
                break 'log;
            }
            if let Some(folded) = folded.as_ref().filter(|_| snapshots.contains(&seq)) {
                marked.extend(verify_snapshot(store, folded, report).await?);
            }
            commits.push(entry.commit);
        }
        report.verified.commits = commits.len() as u64;
        (report.tell)(Seen::Commits(report.verified.commits));
    }
    for seq in snapshots.iter().filter(|seq| **seq > last) {
        report.find(Finding::new(keys::snapshot(*seq), format!("no state after commit {last}, the last"), "one"));
    }
    let mut seen = BTreeSet::new();
    for segment in marked.iter().filter(|segment| seen.insert(&segment.key)) {
        if let Err(error) = verify_segment(store, depth, segment, &commits).await {
            report.find(Finding::of(error)?);
        }
    }
    Ok(commits)
}

/// A snapshot against the fold of the log; returns the segments that it names.
async fn verify_snapshot(store: &Store, folded: &Snapshot, report: &mut Report<'_>) -> Result<Vec<ObjectRef>> {
    let key = keys::snapshot(folded.seq);
    let expected = format!("the state after commit {}", folded.seq);
    let Some(bytes) = store.backend().read(&key).await? else { return Ok(Vec::new()) };
    let snapshot = match history::read_snapshot(folded.seq, &bytes) {
        Ok(snapshot) => snapshot,
        Err(reason) => {
            report.find(Finding::new(key, expected, reason));
            return Ok(Vec::new());
        }
    };
    let state = bytes.iter().position(|byte| *byte == b'\n').map_or(&bytes[..], |end| &bytes[end + 1..]);
    let bare = Snapshot { history: Vec::new(), ..folded.clone() };
    // Both were read or made by this program a moment ago, so they are JSON.
    if let (Ok(stored), Ok(bare)) = (serde_json::from_slice::<Value>(state), serde_json::to_value(&bare))
        && let Some((at, expected, found)) = difference("", &bare, &stored)
    {
        report.find(Finding::new(key, format!("`{at}` {expected}"), found));
    }
    Ok(snapshot.history)
}

/// The first place at which a stored state says something else than the fold. What a program did not yet know, it left out.
fn difference(at: &str, fold: &Value, stored: &Value) -> Option<(String, String, String)> {
    match (fold, stored) {
        (Value::Object(fold), Value::Object(stored)) => stored
            .iter()
            .filter(|(name, _)| !(at.is_empty() && *name == "history"))
            .find_map(|(name, stored)| {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                difference(&at, fold.get(name).unwrap_or(&Value::Null), stored)
            })
            .or_else(|| {
                // A map that lacks an entry, not an older program's state that lacks a field: entries have states, not settings.
                let lacking = fold.keys().find(|name| !stored.contains_key(*name) && is_map(at))?;
                Some((format!("{at}.{lacking}"), "an entry".into(), "none".into()))
            }),
        (Value::Array(fold), Value::Array(stored)) if fold.len() == stored.len() => fold
            .iter()
            .zip(stored)
            .enumerate()
            .find_map(|(i, (fold, stored))| difference(&format!("{at}.{i}"), fold, stored)),
        (fold, stored) => (fold != stored).then(|| (at.to_string(), fold.to_string(), stored.to_string())),
    }
}

/// Whether the state has a map there, whose entries are all written.
fn is_map(at: &str) -> bool {
    ["reissue", "batches", "policies", "moments", "evaluated", "newest_eval", "workers", "last_metrics", "pins"]
        .contains(&at)
}

/// A history segment against the log, byte for byte; or its length alone.
async fn verify_segment(store: &Store, depth: Depth, segment: &ObjectRef, commits: &[Commit]) -> Result<()> {
    if depth == Depth::Lengths {
        return store.check_own_length(segment).await;
    }
    let Some((from, to)) = keys::parse_history(&segment.key).filter(|(_, to)| *to < commits.len() as u64) else {
        return Ok(());
    };
    let read = history::read_segment(store, segment, from, to).await?;
    match read.iter().find(|commit| commits[commit.seq as usize] != **commit) {
        Some(commit) => {
            let (key, expected) = (segment.key.clone(), format!("commit {} as it is in the log", commit.seq));
            Err(StoreError::Corrupt { key, expected, found: "another".into() })
        }
        None => Ok(()),
    }
}
