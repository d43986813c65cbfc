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
/// How often an entry that is none is read, at most, before it is called damaged.
const READINGS: u32 = 3;

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

/// A log that is read on, a few entries at a time: who folds them as they come needs no room for all of them. Gallops: 1 entry is
/// asked for, then 2, 4 ... at once, so that looking for one new commit costs one request and catching up is not bound by latency.
pub(crate) struct Reading<'a> {
    store: &'a Store,
    next: u64,
    to: Option<u64>,
    window: u64,
    is_over: bool,
}

impl Reading<'_> {
    /// The next entries, at least one; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>> {
        let end = self.to.map_or(u64::MAX, |to| to.saturating_add(1)).min(self.next.saturating_add(self.window));
        if self.is_over || self.next >= end {
            return Ok(None);
        }
        let asked = futures::stream::iter(self.next..end).map(|seq| self.store.entry(seq));
        let found: Vec<Option<Entry>> = asked.buffered(WINDOW as usize).try_collect().await?;
        self.is_over = found.iter().any(Option::is_none);
        (self.next, self.window) = (end, (self.window * 2).min(WINDOW));
        // What is behind a gap may have come after the gap was seen: only what is contiguous counts.
        let entries: Vec<Entry> = found.into_iter().map_while(|entry| entry).collect();
        Ok((!entries.is_empty()).then_some(entries))
    }
}

impl Store {
    /// A commit with a fresh id.
    pub(crate) fn new_commit(&self, seq: u64, work: Work, event: Event) -> Commit {
        Commit { format: event.format(), seq, id: unique_id(), at: now_ms(), work, event }
    }

    /// Entry `seq`; `None` if the log ends before it. Tried again, as a put is, where that may bring it: an answer that fails or does
    /// not come, or that holds no entry because it was cut short.
    pub(crate) async fn entry(&self, seq: u64) -> Result<Option<Entry>> {
        let (begun, longest) = (clock::now(), 2 * self.options().timeout);
        let mut attempt = 1;
        loop {
            let error = match self.look_at(seq).await {
                Err(error) => error,
                read => return read,
            };
            let most = match &error {
                StoreError::Unreachable { .. } => self.options().attempts,
                StoreError::Corrupt { .. } => self.options().attempts.min(READINGS),
                _ => 1,
            };
            if attempt >= most || clock::now().saturating_sub(begun) >= longest {
                return Err(error.after(attempt));
            }
            clock::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    /// Entry `seq` as one request brings it.
    async fn look_at(&self, seq: u64) -> Result<Option<Entry>> {
        let (key, timeout) = (keys::commit(seq), self.options().timeout);
        let Some(read) = clock::timeout(timeout, self.backend().read(&key)).await else {
            return Err(self.backend().unreachable("read", &key, 1, format!("no answer within {timeout:?}")));
        };
        let Some(json) = read? else { return Ok(None) };
        let commit = parse(&key, seq, &json)?;
        self.places().learn(&commit);
        Ok(Some(Entry { commit, json }))
    }

    /// The log from entry `from` up to `to`, or to its end.
    pub(crate) fn reading(&self, from: u64, to: Option<u64>) -> Reading<'_> {
        Reading { store: self, next: from, to, window: 1, is_over: false }
    }

    /// All that [`Store::reading`] gives, at once.
    pub(crate) async fn entries(&self, from: u64, to: Option<u64>) -> Result<Vec<Entry>> {
        let (mut reading, mut entries) = (self.reading(from, to), Vec::new());
        while let Some(some) = reading.next().await? {
            entries.extend(some);
        }
        Ok(entries)
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
            attempt += 1;
            match self.look_at(commit.seq).await {
                Ok(Some(there)) if there.commit.id == commit.id => return Ok(Landed::Mine),
                Ok(Some(there)) => return Ok(Landed::Other(Box::new(there.commit))),
                Ok(None) => {}
                Err(StoreError::Unreachable { reason: why, .. }) => reason = why,
                // It may have been cut short on its way: another put finds it again.
                Err(StoreError::Corrupt { .. }) if attempt < attempts.min(READINGS) => {}
                Err(error) => return Err(error),
            }
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
