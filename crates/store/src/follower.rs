//! Following a log: fold what is new, and append what a plan says.

use crate::{Landed, Result, Snapshot, Store, chance::jittered, clock, history};
use record::{Commit, Event, Work};
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// The most commits that are kept for [`Follower::take_new`].
const NEW: usize = 4096;

/// One observer of a log and the state it has folded.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    snapshot: Snapshot,
    new: VecDeque<Commit>,
    /// When a commit of each worker was last seen, by this observer's own monotonic clock.
    seen: HashMap<String, Duration>,
    since: Duration,
    /// When this observer last began to wait: with its start, or its own last commit.
    waits_since: Duration,
}

impl Follower {
    pub(crate) fn new(store: Store, snapshot: Snapshot) -> Self {
        let now = clock::now();
        Self { store, snapshot, new: VecDeque::new(), seen: HashMap::new(), since: now, waits_since: now }
    }

    /// The state after the last commit seen.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The store that is followed.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Folds in everything new; says whether there was anything.
    ///
    /// # Errors
    /// As the backend fails, or [`crate::StoreError::Fold`]: then the state is that before the commit at fault. What came before
    /// the error is folded in.
    pub async fn refresh(&mut self) -> Result<bool> {
        let (store, before) = (self.store.clone(), self.snapshot.seq);
        let mut reading = store.reading(before + 1, None);
        // What was folded before an error stays so: the next attempt goes on behind it.
        while let Some(entries) = reading.next().await? {
            self.fold(entries.into_iter().map(|entry| entry.commit).collect())?;
        }
        Ok(self.snapshot.seq > before)
    }

    /// Waits, then refreshes. The wait is about a tenth of the time since this observer's own last commit, at least a twentieth of
    /// `poll` and at most `poll`: what is waited for is seen after a tenth longer than it took, at most, and a store in which
    /// nothing happens is seldom asked.
    ///
    /// # Errors
    /// As [`Follower::refresh`].
    pub async fn wait(&mut self) -> Result<bool> {
        let poll = self.store.options().poll;
        let waited = clock::now().saturating_sub(self.waits_since);
        clock::sleep(jittered((waited / 10).clamp(poll / 20, poll))).await;
        self.refresh().await
    }

    /// The commits folded in since this was last called, own ones included: the last 4,096 of them.
    pub fn take_new(&mut self) -> Vec<Commit> {
        self.new.drain(..).collect()
    }

    /// For how long this observer has seen no commit of `worker`. A claim lapses by this, so no clocks need to agree.
    pub fn silent_for(&self, worker: &str) -> Duration {
        clock::now().saturating_sub(*self.seen.get(worker).unwrap_or(&self.since))
    }

    /// Appends what `plan` wants; objects that it names and that have waited long are put again, under other keys. It is asked anew after every commit that came first, always with the state that its
    /// event would follow; `None` from it ends the attempt.
    ///
    /// # Errors
    /// [`crate::StoreError::Fold`], before anything is written, if the event contradicts the log.
    /// [`crate::StoreError::Unreachable`] if it is not known whether it was written: whoever starts again sees.
    pub async fn append(
        &mut self,
        work: Work,
        mut plan: impl FnMut(&Snapshot) -> Option<Event>,
    ) -> Result<Option<Commit>> {
        self.refresh().await?;
        let mut renewed = HashMap::new();
        loop {
            let Some(mut event) = plan(&self.snapshot) else { return Ok(None) };
            self.store.renew(&mut event, &mut renewed).await?;
            let commit = self.store.new_commit(self.snapshot.seq + 1, work.clone(), event);
            let mut after = self.snapshot.clone();
            after.apply(&commit)?;
            match self.store.land(&commit).await? {
                Landed::Mine => {
                    self.store.waiting().end(&commit.event);
                    self.snapshot = after;
                    self.waits_since = clock::now();
                    self.note(commit.clone());
                    self.mark_history().await;
                    return Ok(Some(commit));
                }
                Landed::Other(theirs) => {
                    self.fold(vec![*theirs])?;
                    self.refresh().await?;
                }
            }
        }
    }

    /// Folds in all of `commits`, or those before the first that does not fit.
    fn fold(&mut self, mut commits: Vec<Commit>) -> Result<()> {
        let mut after = self.snapshot.clone();
        let unfit =
            commits.iter().enumerate().find_map(|(i, commit)| after.apply(commit).err().map(|error| (i, error)));
        match unfit {
            None => {
                commits.into_iter().for_each(|commit| self.note(commit));
                self.snapshot = after;
                Ok(())
            }
            Some((fit, error)) => {
                // What could not apply a commit is not to be used: fold those before it again.
                commits.truncate(fit);
                self.fold(commits)?;
                Err(error.into())
            }
        }
    }

    fn note(&mut self, commit: Commit) {
        self.seen.insert(commit.work.worker.clone(), clock::now());
        if self.new.len() == NEW {
            self.new.pop_front();
        }
        self.new.push_back(commit);
    }

    /// Writes a history segment and a snapshot where they are due. Both only save others time: a failure is told and
    /// made up for at the next mark.
    async fn mark_history(&mut self) {
        let every = self.store.options().snapshot_every.max(1);
        if (self.snapshot.seq + 1).is_multiple_of(every) {
            match history::write(&self.store, &self.snapshot).await {
                Ok(history) => self.snapshot.history = history,
                Err(error) => tracing::warn!(seq = self.snapshot.seq, %error, "no snapshot was written"),
            }
        }
    }
}
