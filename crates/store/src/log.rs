//! The log: entries read by number, and the one way to add one.

use crate::{
    Result, Store, StoreError,
    backend::PutFailure,
    chance::{backoff, now_ms, unique_id},
    clock, keys,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use record::{Commit, Event, FORMAT, RecordError, Work};

/// The most entries that are read at once.
const WINDOW: u64 = 64;

/// What became of an attempt to take the next number.
pub(crate) enum Landed {
    /// It is ours.
    Mine,
    /// Somebody else's commit has it, for ever.
    Other(Box<Commit>),
}

/// A commit with the bytes it is stored as.
pub(crate) struct Entry {
    pub commit: Commit,
    pub json: Bytes,
}

impl Store {
    /// A commit with a fresh id.
    pub(crate) fn new_commit(&self, seq: u64, work: Work, event: Event) -> Commit {
        Commit { format: event.format(), seq, id: unique_id(), at: now_ms(), work, event }
    }

    /// Entry `seq`; `None` if the log ends before it.
    pub(crate) async fn entry(&self, seq: u64) -> Result<Option<Entry>> {
        let key = keys::commit(seq);
        let Some(json) = self.backend().read(&key).await? else { return Ok(None) };
        let commit = parse(&key, seq, &json)?;
        self.places().learn(&commit);
        Ok(Some(Entry { commit, json }))
    }

    /// The entries from `from` up to `to`, or to the end of the log. Gallops: 1 entry is asked for, then 2, 4 ... at once,
    /// so that looking for one new commit costs one request and catching up is not bound by latency.
    pub(crate) async fn entries(&self, from: u64, to: Option<u64>) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let (mut next, mut window) = (from, 1);
        loop {
            let end = to.map_or(next + window, |to| (next + window).min(to + 1));
            let asked = futures::stream::iter(next..end).map(|seq| self.entry(seq));
            // What is behind a gap may have come after the gap was seen: only what is contiguous counts.
            let found: Vec<Option<Entry>> = asked.buffered(WINDOW as usize).try_collect().await?;
            let complete = found.iter().all(Option::is_some);
            entries.extend(found.into_iter().map_while(|entry| entry));
            if !complete || end == next || to.is_some_and(|to| end > to) {
                return Ok(entries);
            }
            (next, window) = (end, (window * 2).min(WINDOW));
        }
    }

    /// Puts `commit` at its number.
    ///
    /// A lost acknowledgement is not a conflict: whenever the answer is not a plain yes, the entry is read and its id
    /// tells. A put that is still on its way when we look can only come to the same number, so it ends as ours or not at
    /// all, and trying again can never commit twice.
    pub(crate) async fn land(&self, commit: &Commit) -> Result<Landed> {
        let key = keys::commit(commit.seq);
        let json = commit.to_json().map_err(|reason| StoreError::Invalid { key: key.clone(), reason })?;
        let json = Bytes::from(json);
        let (timeout, attempts) = (self.options().timeout, self.options().attempts);
        let mut attempt = 0;
        loop {
            let put = self.backend().put_new(&key, json.clone());
            let mut reason = match clock::timeout(timeout, put).await {
                Some(Ok(())) => return Ok(Landed::Mine),
                Some(Err(PutFailure::Refused(error))) => return Err(error),
                Some(Err(PutFailure::Exists)) => "the backend says it exists, yet it cannot be read".into(),
                Some(Err(PutFailure::Unclear(reason))) => reason,
                None => format!("no answer within {timeout:?}"),
            };
            match clock::timeout(timeout, self.entry(commit.seq)).await {
                Some(Ok(Some(there))) if there.commit.id == commit.id => return Ok(Landed::Mine),
                Some(Ok(Some(there))) => return Ok(Landed::Other(Box::new(there.commit))),
                Some(Ok(None)) => {}
                Some(Err(StoreError::Unreachable { reason: why, .. })) => reason = why,
                Some(Err(error)) => return Err(error),
                None => reason = format!("no answer within {timeout:?}"),
            }
            attempt += 1;
            if attempt >= attempts {
                return Err(self.backend().unreachable("write", &key, attempts, reason));
            }
            clock::sleep(backoff(attempt)).await;
        }
    }
}

/// Reads a stored commit and checks that it is the one its key promises.
pub(crate) fn parse(key: &str, seq: u64, json: &[u8]) -> Result<Commit> {
    let commit = Commit::from_json(json).map_err(|error| match error {
        RecordError::Schema { found, .. } => {
            StoreError::NewerFormat { key: key.into(), found, newest: FORMAT.to_string() }
        }
        other => StoreError::Corrupt { key: key.into(), expected: format!("commit {seq}"), found: other.to_string() },
    })?;
    if commit.seq != seq {
        let (expected, found) = (format!("commit {seq}"), format!("commit {}", commit.seq));
        return Err(StoreError::Corrupt { key: key.into(), expected, found });
    }
    Ok(commit)
}
