//! A backend that does wrong what real ones do wrong.

use super::{below, spawn};
use crate::clock;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// After so long a client gives a request up.
const GIVEN_UP: Duration = Duration::from_secs(120);

/// What goes wrong with a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing.
    None,
    /// It fails and is not made.
    Before,
    /// It is made; the answer is an error.
    After,
    /// It is made; the answer is that it exists already: the retry of a request whose answer was lost.
    AfterAsExists,
    /// It is not made; the answer is that it exists already: S3's answer to two requests at once.
    BeforeAsExists,
    /// It is not made, and no answer comes.
    Hang,
    /// It is made after a while, and no answer comes.
    Late,
    /// It is made, and made once more after a while: a request that the network doubled.
    Twice,
}

/// What goes wrong with a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadFault {
    /// An error.
    Fails,
    /// No answer comes.
    Hangs,
    /// Only a part of the object comes.
    Truncated,
    /// These credentials may not. No matter of chance: it would be so again.
    Denied,
}

/// When each object was put, by the simulation's clock if there is one.
type Times = Arc<Mutex<BTreeMap<Path, Duration>>>;

/// Puts an object and notes when.
async fn make(
    objects: &InMemory,
    times: &Times,
    at: &Path,
    payload: PutPayload,
    options: PutOptions,
) -> Result<PutResult> {
    let made = objects.put_opts(at, payload, options).await?;
    lock(times).insert(at.clone(), clock::now());
    Ok(made)
}

/// The object as one that was put when it was noted.
fn dated(mut meta: ObjectMeta, times: &Times) -> ObjectMeta {
    meta.last_modified = Default::default();
    meta.last_modified += lock(times).get(&meta.location).copied().unwrap_or_default();
    meta
}

/// An object store in memory with faults: given out in order, or by chance. Counts what is asked of it.
#[derive(Debug, Default)]
pub struct Faulty {
    objects: Arc<InMemory>,
    times: Times,
    script: Mutex<VecDeque<Fault>>,
    reads: Mutex<VecDeque<ReadFault>>,
    /// How many puts of 100 go wrong, and reads of 1,000, as there are ten times as many; how long a request takes at most.
    chance: Option<(u64, Duration)>,
    met: Mutex<BTreeMap<String, u64>>,
    /// Puts that were asked for.
    pub puts: AtomicUsize,
    /// Reads that were asked for.
    pub gets: AtomicUsize,
}

impl Faulty {
    /// Of 100 puts, and of 1,000 reads, so many go wrong in any of the ways, and each takes up to `slow`.
    pub fn by_chance(struck: u64, slow: Duration) -> Self {
        Self { chance: Some((struck, slow)), ..Self::default() }
    }

    /// The next puts go wrong in these ways, later ones do not.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.script).extend(faults);
    }

    /// The next reads go wrong in these ways, later ones do not.
    pub fn fail_reads(&self, faults: impl IntoIterator<Item = ReadFault>) {
        lock(&self.reads).extend(faults);
    }

    /// How many of the faults given to reads are yet to come.
    pub fn reads_left(&self) -> usize {
        lock(&self.reads).len()
    }

    /// How many of the faults given to puts are yet to come.
    pub fn left(&self) -> usize {
        lock(&self.script).len()
    }

    /// The same objects without faults.
    pub fn sound(&self) -> Arc<InMemory> {
        self.objects.clone()
    }

    /// The entries of the log, as they lie there, in the order of their keys.
    ///
    /// # Errors
    /// None that an object store in memory has.
    pub fn log(&self) -> Result<Vec<Bytes>> {
        super::at_once(async {
            let listed = self.objects.list_with_delimiter(Some(&Path::from("log"))).await?.objects;
            let keys: BTreeSet<Path> = listed.into_iter().map(|object| object.location).collect();
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                entries.push(self.objects.get_opts(&key, GetOptions::default()).await?.bytes().await?);
            }
            Ok(entries)
        })
    }

    /// How often each fault was met.
    pub fn met(&self) -> BTreeMap<String, u64> {
        lock(&self.met).clone()
    }

    fn meet(&self, fault: impl fmt::Debug) {
        *lock(&self.met).entry(format!("{fault:?}")).or_default() += 1;
    }

    /// Whether a request goes wrong, by chance; takes the time that it takes to arrive.
    async fn is_struck(&self, of: u64) -> bool {
        let Some((struck, slow)) = self.chance else { return false };
        clock::sleep(slow.mul_f64(below(1000) as f64 / 1000.0)).await;
        below(of) < struck
    }

    async fn put_fault(&self) -> Fault {
        use Fault::{After, AfterAsExists, Before, BeforeAsExists, Hang, Late, None, Twice};
        const ALL: [Fault; 7] = [Before, After, AfterAsExists, BeforeAsExists, Hang, Late, Twice];
        let struck = self.is_struck(100).await;
        let scripted = lock(&self.script).pop_front();
        let fault = if struck { ALL[below(ALL.len() as u64) as usize] } else { scripted.unwrap_or(None) };
        if fault != None {
            self.meet(fault);
        }
        fault
    }

    /// Makes a put after a while, whatever becomes of whoever asked for it.
    fn put_late(&self, location: &Path, payload: PutPayload, options: PutOptions) {
        let (objects, times, location) = (self.objects.clone(), self.times.clone(), location.clone());
        // By chance, later than a writer waits for an answer.
        let late = self.chance.map_or(Duration::from_millis(30), |_| Duration::from_millis(below(60_000)));
        spawn(async move {
            clock::sleep(late).await;
            // Nobody is there to be told.
            let _ = make(&objects, &times, &location, payload, options).await;
        });
    }

    async fn given_up<T>(&self) -> Result<T> {
        clock::sleep(GIVEN_UP).await;
        Err(lost())
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn lost() -> Error {
    Error::Generic { store: "faulty", source: "the connection was closed".into() }
}

fn exists(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "412".into() }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        match self.put_fault().await {
            Fault::None => make(&self.objects, &self.times, location, payload, options).await,
            Fault::Before => Err(lost()),
            Fault::After => {
                make(&self.objects, &self.times, location, payload, options).await?;
                Err(lost())
            }
            Fault::AfterAsExists => {
                make(&self.objects, &self.times, location, payload, options).await?;
                Err(exists(location))
            }
            Fault::BeforeAsExists => Err(exists(location)),
            Fault::Hang => self.given_up().await,
            Fault::Late => {
                self.put_late(location, payload, options);
                self.given_up().await
            }
            Fault::Twice => {
                self.put_late(location, payload.clone(), options.clone());
                make(&self.objects, &self.times, location, payload, options).await
            }
        }
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        use ReadFault::{Denied, Fails, Hangs, Truncated};
        self.gets.fetch_add(1, Ordering::SeqCst);
        let struck =
            self.is_struck(1_000).await.then(|| [Fails, Fails, Fails, Truncated, Truncated, Hangs][below(6) as usize]);
        let Some(fault) = struck.or_else(|| lock(&self.reads).pop_front()) else {
            let got = self.objects.get_opts(location, options).await?;
            return Ok(GetResult { meta: dated(got.meta.clone(), &self.times), ..got });
        };
        self.meet(fault);
        match fault {
            Fails => Err(lost()),
            Denied => Err(Error::PermissionDenied { path: location.to_string(), source: "403".into() }),
            Hangs => self.given_up().await,
            Truncated => {
                let whole = self.objects.get_opts(location, options).await?;
                let (meta, range, attributes) = (whole.meta.clone(), whole.range.clone(), whole.attributes.clone());
                let bytes = whole.bytes().await?;
                let part = bytes.slice(..below(bytes.len() as u64) as usize);
                let payload = GetResultPayload::Stream(futures::stream::iter([Ok(part)]).boxed());
                Ok(GetResult { payload, meta, range, attributes })
            }
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let times = self.times.clone();
        self.objects.list(prefix).map_ok(move |meta| dated(meta, &times)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
