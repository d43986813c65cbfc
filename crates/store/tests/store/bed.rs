//! Where a test's store lies, so that one test runs against every backend.

use object_store::{ObjectStore, memory::InMemory};
use std::{sync::Arc, time::Duration};
use store::{Store, StoreOptions};

/// One place for one store; each `open` is another process's view of it.
pub struct Bed {
    place: Place,
    fsync: bool,
}

enum Place {
    Memory(Arc<dyn ObjectStore>),
    Folder(tempfile::TempDir),
    Bucket(String),
}

impl Bed {
    pub fn memory() -> Self {
        Self { place: Place::Memory(Arc::new(InMemory::new())), fsync: false }
    }

    pub fn folder(fsync: bool) -> Self {
        Self { place: Place::Folder(tempfile::tempdir().unwrap()), fsync }
    }

    /// A prefix of its own in the bucket of `OPD_TEST_S3_URL`, which `storage/with-s3.sh` sets.
    pub fn bucket() -> Option<Self> {
        let Ok(url) = std::env::var("OPD_TEST_S3_URL") else {
            eprintln!("not run: no OPD_TEST_S3_URL (storage/with-s3.sh sets it)");
            return None;
        };
        Some(Self { place: Place::Bucket(format!("{url}/{}", store::unique_id())), fsync: false })
    }

    /// What lies in memory.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        match &self.place {
            Place::Memory(objects) => objects,
            _ => panic!("{} is not in memory", self.url()),
        }
    }

    pub fn url(&self) -> String {
        match &self.place {
            Place::Memory(_) => "memory:///".into(),
            Place::Folder(folder) => folder.path().join("a störe #1").display().to_string(),
            Place::Bucket(url) => url.clone(),
        }
    }

    pub fn options(&self) -> StoreOptions {
        StoreOptions { fsync: self.fsync, poll: Duration::from_millis(5), ..StoreOptions::default() }
    }

    pub async fn open(&self) -> Store {
        self.open_with(self.options()).await
    }

    pub async fn open_with(&self, options: StoreOptions) -> Store {
        match &self.place {
            Place::Memory(objects) => Store::with_backend(objects.clone(), options).cached().unwrap(),
            _ => Store::open(&self.url(), options).await.unwrap(),
        }
    }
}

/// Runs each case, an `async fn(Bed)`, as a test of its own against every backend.
macro_rules! on_every_backend {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case($crate::bed::Bed::memory()).await })*
        }
        mod folder {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case($crate::bed::Bed::folder(false)).await })*
        }
        mod durable_folder {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() { super::$case($crate::bed::Bed::folder(true)).await })*
        }
        mod bucket {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                if let Some(bed) = $crate::bed::Bed::bucket() {
                    super::$case(bed).await;
                }
            })*
        }
    };
}
pub(crate) use on_every_backend;
