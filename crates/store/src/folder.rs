//! Files for other programs: a folder or a bucket's prefix that is no store, with the same addresses and the same care.

use crate::{
    Result, StoreError, StoreOptions,
    backend::{Backend, PutFailure},
    chance::backoff,
    clock,
};
use bytes::Bytes;
use futures::TryStreamExt;

/// A folder, or a prefix in a bucket. What is put is never changed.
#[derive(Clone, Debug)]
pub struct Folder {
    backend: Backend,
    options: StoreOptions,
}

/// What became of putting a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// The file is there, with these bytes.
    Made,
    /// Another file is there, with other bytes: these.
    Other(Bytes),
}

impl Folder {
    /// Opens the folder at `url`, an address as of a store, and writes nothing.
    ///
    /// # Errors
    /// As [`Store::open`](crate::Store::open).
    pub async fn open(url: &str, options: StoreOptions) -> Result<Self> {
        Ok(Self { backend: Backend::open(url, &options).await?, options })
    }

    /// The address it was opened with.
    pub fn url(&self) -> &str {
        &self.backend.url
    }

    /// Whether it lies within the store `outer`, or is it.
    pub fn is_within(&self, outer: &crate::Store) -> bool {
        match (self.backend.file(""), outer.backend().file("")) {
            (Some(inner), Some(outer)) => inner.starts_with(outer),
            _ => format!("{}/", self.url()).starts_with(&format!("{}/", outer.url())),
        }
    }

    /// Some file in it, by its path within; `None` if there is none.
    ///
    /// # Errors
    /// As the backend fails.
    pub async fn any_file(&self) -> Result<Option<String>> {
        Ok(self.backend.list("").try_next().await?.map(|file| file.key))
    }

    /// A file's bytes; `None` if there is none at `path`.
    ///
    /// # Errors
    /// As the backend fails.
    pub async fn read(&self, path: &str) -> Result<Option<Bytes>> {
        self.backend.read(path).await
    }

    /// Puts a file where none is. A lost acknowledgement is not a conflict: whenever the answer is not a plain yes, what
    /// is there is compared.
    ///
    /// # Errors
    /// If the backend refuses, or keeps failing.
    pub async fn put_new(&self, path: &str, bytes: impl Into<Bytes>) -> Result<Put> {
        let bytes = bytes.into();
        let mut attempt = 0;
        loop {
            let mut reason = match self.backend.put_new(path, bytes.clone()).await {
                Ok(()) => return Ok(Put::Made),
                Err(PutFailure::Refused(error)) => return Err(error),
                Err(PutFailure::Exists) => "the backend says it exists, yet it cannot be read".into(),
                Err(PutFailure::Unclear(reason)) => reason,
            };
            match self.backend.read(path).await {
                Ok(Some(there)) if there == bytes => return Ok(Put::Made),
                Ok(Some(there)) => return Ok(Put::Other(there)),
                Ok(None) => {}
                Err(StoreError::Unreachable { reason: why, .. }) => reason = why,
                Err(error) => return Err(error),
            }
            attempt += 1;
            if attempt >= self.options.attempts {
                return Err(self.backend.unreachable("write", path, attempt, reason));
            }
            clock::sleep(backoff(attempt)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[tokio::test]
    async fn a_file_is_put_once() {
        let dir = tempfile::tempdir().unwrap();
        let url = dir.path().join("out").display().to_string();
        let folder = Folder::open(&url, StoreOptions::default()).await.unwrap();
        assert_eq!(folder.any_file().await.unwrap(), None);
        assert_eq!(folder.put_new("t/policy_version=7/a.parquet", "one").await.unwrap(), Put::Made);
        assert_eq!(folder.put_new("t/policy_version=7/a.parquet", "one").await.unwrap(), Put::Made);
        let other = folder.put_new("t/policy_version=7/a.parquet", "two").await.unwrap();
        assert_eq!(other, Put::Other("one".into()));
        assert_eq!(std::fs::read(dir.path().join("out/t/policy_version=7/a.parquet")).unwrap(), b"one");
        assert_eq!(folder.any_file().await.unwrap().as_deref(), Some("t/policy_version=7/a.parquet"));
        assert_eq!(folder.read("t/b").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_folder_within_a_store_is_known_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let store = Store::open(&at("run"), StoreOptions::default()).await.unwrap();
        for (name, within) in [("run", true), ("run/export", true), ("run-export", false), ("other", false)] {
            let folder = Folder::open(&at(name), StoreOptions::default()).await.unwrap();
            assert_eq!(folder.is_within(&store), within, "{name}");
        }
    }
}
