//! The store: one address, one run.

use crate::{
    Follower, Kind, Landed, Result, Snapshot, StoreError, StoreOptions,
    archive::{Footers, Places},
    backend::Backend,
    cache::Cache,
    checked::Checked,
    held::Held,
    history, simulated,
    waiting::Waiting,
};
use futures::TryStreamExt;
use object_store::ObjectStore;
use record::{Commit, Event, Parent, Run, Work};
use std::sync::Arc;

/// One run's objects and log. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
    /// Whether what it downloads is left for the next reader.
    leaves: bool,
}

#[derive(Debug)]
struct Inner {
    backend: Backend,
    options: StoreOptions,
    cache: Option<Arc<Cache>>,
    checked: Checked,
    held: Held,
    waiting: Waiting,
    places: Places,
    footers: Footers,
}

impl Store {
    /// Opens the store at `url`: a folder's path, `file:///...`, `s3://bucket/prefix` (credentials and endpoint from the
    /// environment, `AWS_*`), or `memory:///`, which is new, empty, and gone with its last clone. Checks that it can be
    /// reached and writes nothing: whether a run is there is asked by [`Store::follow`].
    ///
    /// # Errors
    /// [`StoreError::Address`], [`StoreError::Denied`], [`StoreError::Refused`], [`StoreError::Unreachable`] or
    /// [`StoreError::Cache`].
    pub async fn open(url: &str, options: StoreOptions) -> Result<Self> {
        // A folder that cannot hold copies is told before a server is asked.
        let cache = options.cache.as_ref().filter(|_| Backend::is_bucket(url)).map(Cache::open).transpose()?;
        Ok(Self::over(Backend::open(url, &options).await?, options, cache))
    }

    /// A new store in memory.
    pub fn memory() -> Self {
        Self::over(Backend::memory(), StoreOptions::default(), None)
    }

    /// A store over any backend: one that counts or fails, in a test.
    #[doc(hidden)]
    pub fn with_backend(objects: Arc<dyn ObjectStore>, options: StoreOptions) -> Self {
        Self::over(Backend::over(objects, "test:///"), options, None)
    }

    /// The same with the cache that its options ask for, in a test.
    ///
    /// # Errors
    /// [`StoreError::Cache`].
    #[doc(hidden)]
    pub fn cached(self) -> Result<Self> {
        let Inner { backend, options, .. } = &*self.inner;
        let cache = options.cache.as_ref().map(Cache::open).transpose()?;
        Ok(Self::over(backend.clone(), options.clone(), cache))
    }

    fn over(backend: Backend, options: StoreOptions, cache: Option<Cache>) -> Self {
        let (cache, waiting) = (cache.map(Arc::new), Waiting::default());
        let (checked, held) = (Checked::default(), Held::default());
        let (places, footers) = (Places::default(), Footers::default());
        let inner = Inner { backend, options, cache, checked, held, waiting, places, footers };
        Self { inner: Arc::new(inner), leaves: false }
    }

    /// The address it was opened with.
    pub fn url(&self) -> &str {
        &self.inner.backend.url
    }

    /// The settings it was opened with.
    pub fn options(&self) -> &StoreOptions {
        &self.inner.options
    }

    /// The same store for a reader that looks at what another one will read soon: what it downloads is left in memory for the next read
    /// of it, by any clone, as long as there is room. A local store's objects are mapped, and a cache has its copies on disk: there it
    /// makes no difference.
    pub fn looking_ahead(&self) -> Self {
        Self { leaves: self.inner.cache.is_none(), ..self.clone() }
    }

    pub(crate) fn held(&self) -> &Held {
        &self.inner.held
    }

    pub(crate) fn leaves(&self) -> bool {
        self.leaves
    }

    pub(crate) fn waiting(&self) -> &Waiting {
        &self.inner.waiting
    }

    pub(crate) fn places(&self) -> &Places {
        &self.inner.places
    }

    pub(crate) fn footers(&self) -> &Footers {
        &self.inner.footers
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.inner.backend
    }

    pub(crate) fn checked(&self) -> &Checked {
        &self.inner.checked
    }

    pub(crate) fn cache(&self) -> Option<&Arc<Cache>> {
        self.inner.cache.as_ref()
    }

    /// Starts a run, or joins the one that is there if it is the same but for its id and the keys of its objects.
    ///
    /// # Errors
    /// [`StoreError::OtherRun`] with the first thing that differs.
    pub async fn create(&self, run: Run, work: Work) -> Result<Follower> {
        if self.entry(0).await?.is_none() {
            let commit = self.new_commit(0, work, Event::Run(Box::new(run.clone())));
            // The fold decides what a run is: nothing is written that it would refuse.
            let snapshot = Snapshot::start(&commit)?;
            if let Landed::Mine = self.land(&commit).await? {
                return Ok(Follower::new(self.clone(), snapshot));
            }
        }
        let follower = self.follow().await?;
        match difference(&follower.snapshot().run, &run) {
            None => Ok(follower),
            Some((what, store, pipeline)) => {
                Err(StoreError::OtherRun { url: self.url().into(), what, store, pipeline })
            }
        }
    }

    /// Checks that nothing lies here but what a start that did not come to its commit may have left.
    ///
    /// # Errors
    /// [`StoreError::Occupied`] with something that is no part of a store; or as the backend fails.
    pub async fn check_vacant(&self) -> Result<()> {
        let mut objects = self.backend().list("");
        while let Some(object) = objects.try_next().await? {
            if Kind::of(&object.key) == Kind::Other {
                return Err(StoreError::Occupied { url: self.url().into(), key: object.key });
            }
        }
        Ok(())
    }

    /// Follows the run's log: starts from the newest snapshot and folds what is new.
    ///
    /// # Errors
    /// [`StoreError::NoRun`] if there is none; [`StoreError::NewerFormat`] if a newer program wrote it.
    pub async fn follow(&self) -> Result<Follower> {
        Ok(Follower::new(self.clone(), self.snapshot(None).await?))
    }

    /// Live state after commit `at`, or after the last.
    ///
    /// # Errors
    /// [`StoreError::NoRun`]; [`StoreError::Refused`] if the log does not reach `at`.
    pub async fn snapshot(&self, at: Option<u64>) -> Result<Snapshot> {
        let mut snapshot = match history::newest_snapshot(self, at).await? {
            Some(snapshot) => snapshot,
            None => self.first().await?,
        };
        let mut reading = self.reading(snapshot.seq + 1, at);
        while let Some(entries) = reading.next().await? {
            entries.iter().try_for_each(|entry| snapshot.apply(&entry.commit))?;
        }
        match at {
            Some(at) if snapshot.seq < at => Err(self.ends_before(at, snapshot.seq)),
            _ => Ok(snapshot),
        }
    }

    /// Every commit up to `upto`, that included, or to the end: from history segments where there are some.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub async fn history(&self, upto: Option<u64>) -> Result<Vec<Commit>> {
        let commits = history::commits(self, upto).await?;
        match (commits.last(), upto) {
            (None, _) => Err(StoreError::NoRun { url: self.url().into() }),
            (Some(last), Some(at)) if last.seq < at => Err(self.ends_before(at, last.seq)),
            _ => Ok(commits),
        }
    }

    /// The commits from `from` to the end of the log: few requests where they are few.
    ///
    /// # Errors
    /// As the backend fails.
    pub async fn commits_from(&self, from: u64) -> Result<Vec<Commit>> {
        Ok(self.entries(from, None).await?.into_iter().map(|entry| entry.commit).collect())
    }

    pub(crate) async fn first(&self) -> Result<Snapshot> {
        let first = self.entry(0).await?.ok_or_else(|| StoreError::NoRun { url: self.url().into() })?;
        Ok(Snapshot::start(&first.commit)?)
    }

    fn ends_before(&self, at: u64, last: u64) -> StoreError {
        self.backend().refused("read", &crate::keys::commit(at), format!("the log ends at commit {last}"))
    }

    /// Runs what takes long or blocks off the async threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if simulated::is_on() {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(stopped) => Err(self.backend().refused("read", key, stopped.to_string())),
        }
    }
}

/// The first thing in which two runs differ, with both values.
fn difference(store: &Run, pipeline: &Run) -> Option<(String, String, String)> {
    identity(store)
        .into_iter()
        .zip(identity(pipeline))
        .find_map(|((what, a), (_, b))| (a != b).then(|| (what.to_string(), a, b)))
}

/// What makes a run this one: all of it but its id and where its objects lie.
fn identity(run: &Run) -> [(&'static str, String); 12] {
    let files: Vec<String> = run.student_files.iter().map(|(name, file)| format!("{name} {}", file.digest)).collect();
    [
        ("parent", run.parent.as_ref().map_or("none".into(), parent)),
        ("pipeline", format!("`{}`", run.pipeline)),
        ("seed", run.seed.to_string()),
        ("tokenizer", run.tokenizer.to_string()),
        ("student's config.json", run.student_config.digest.to_string()),
        ("student's tokenizer.json", run.student_tokenizer.digest.to_string()),
        ("student's other files", if files.is_empty() { "none".into() } else { files.join(", ") }),
        ("student (policy version, weights)", format!("{} {}", run.policy.version, run.policy.weights.digest)),
        ("prompts", format!("{} prompts with {}", run.prompts.count, run.prompts.digest)),
        ("units", format!("{} prompts x {} samples", run.units.prompts, run.units.samples)),
        ("teachers", json(&run.teachers)),
        ("score sets", json(&run.score_sets)),
    ]
}

/// The address is not part of it: a store may be moved.
fn parent(parent: &Parent) -> String {
    let Parent { run_id, seq, order, condition, share, .. } = parent;
    let chosen = condition.as_ref().map_or(String::new(), |condition| format!(", where {condition}"));
    let share = share.map_or(String::new(), |share| format!(", a share of {share}"));
    format!("run {run_id} up to commit {seq}, in {} order{chosen}{share}", order.as_str())
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}
