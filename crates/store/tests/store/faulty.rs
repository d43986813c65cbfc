//! A backend that does wrong what real ones do wrong.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// What goes wrong with a put.
#[derive(Clone, Copy, Debug, PartialEq)]
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
}

/// An object store in memory, with faults given out to puts in order, and counters.
#[derive(Debug, Default)]
pub struct Faulty {
    objects: Arc<InMemory>,
    faults: Mutex<VecDeque<Fault>>,
    pub puts: AtomicUsize,
    pub gets: AtomicUsize,
}

impl Faulty {
    /// The next puts go wrong in these ways, later ones do not.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().unwrap().extend(faults);
    }

    /// How many of the faults given are yet to come.
    pub fn left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
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
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::None => self.objects.put_opts(location, payload, options).await,
            Fault::Before => Err(lost()),
            Fault::After => {
                self.objects.put_opts(location, payload, options).await?;
                Err(lost())
            }
            Fault::AfterAsExists => {
                self.objects.put_opts(location, payload, options).await?;
                Err(exists(location))
            }
            Fault::BeforeAsExists => Err(exists(location)),
            Fault::Hang => std::future::pending().await,
            Fault::Late => {
                let (objects, location) = (self.objects.clone(), location.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    objects.put_opts(&location, payload, options).await
                });
                std::future::pending().await
            }
        }
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
