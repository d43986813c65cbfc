//! Where the bytes lie: one object store and a prefix in it, opened from an address. Nothing above this file knows which.

use crate::{Result, StoreError, StoreOptions, durable};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    ClientConfigKey, Error, ObjectStore, ObjectStoreExt, PutMode, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    local::LocalFileSystem,
    memory::InMemory,
    path::Path,
};
use std::{
    fmt,
    io::ErrorKind,
    path::{Component, PathBuf},
    sync::Arc,
    time::Duration,
};
use url::Url;

/// How long `open` waits for a sign of life.
const REACH: Duration = Duration::from_secs(20);
/// Where credentials come from. Without any of these the client would ask the metadata service of the machine, which
/// takes long to fail and is no part of the environment.
const CREDENTIALS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];
/// Larger objects go to a bucket in parts.
const LARGE: usize = 64 << 20;
/// Bytes of a part; a bucket takes 10,000 of them, and none but the last below 5 MiB.
const PART: usize = 32 << 20;
/// Parts that are on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// How long one request to a bucket may take, weights included.
const REQUEST: &str = "120 seconds";

/// The objects of one store.
#[derive(Clone)]
pub(crate) struct Backend {
    objects: Arc<dyn ObjectStore>,
    /// The store's root within `objects`.
    prefix: String,
    /// The store's root as a folder, where it is one.
    local: Option<PathBuf>,
    fsync: bool,
    /// The address, for messages.
    pub url: String,
}

/// Why a put did not say that it was made.
#[derive(Debug)]
pub(crate) enum PutFailure {
    /// Something is at the key: another's, or our own whose acknowledgement was lost.
    Exists,
    /// It was not made and would not be when tried again.
    Refused(StoreError),
    /// It may have been made, or may yet be.
    Unclear(String),
}

impl PutFailure {
    /// For a put that is not tried again.
    pub fn into_error(self, backend: &Backend, key: &str) -> StoreError {
        match self {
            PutFailure::Refused(error) => error,
            PutFailure::Exists => backend.refused("write", key, "something is there already".into()),
            PutFailure::Unclear(reason) => backend.unreachable("write", key, 1, reason),
        }
    }
}

/// An object in a listing.
pub(crate) struct Listed {
    pub key: String,
    pub bytes: u64,
    /// When it was put, by the backend's clock; milliseconds since 1970.
    pub modified: i64,
}

impl Backend {
    pub fn over(objects: Arc<dyn ObjectStore>, url: &str) -> Self {
        Self { objects, prefix: String::new(), local: None, fsync: false, url: url.into() }
    }

    pub fn memory() -> Self {
        Self::over(Arc::new(InMemory::new()), "memory:///")
    }

    /// Whether an address is that of a bucket.
    pub fn is_bucket(url: &str) -> bool {
        ["s3://", "s3a://"].iter().any(|scheme| url.starts_with(scheme))
    }

    /// Understands the address and checks that it can be reached. Writes nothing.
    pub async fn open(url: &str, options: &StoreOptions) -> Result<Self> {
        let address = |reason: &str| StoreError::Address { url: without_credentials(url), reason: reason.into() };
        let Some((scheme, _)) = url.split_once("://") else { return Self::folder(PathBuf::from(url), options) };
        let parsed = Url::parse(url).map_err(|error| address(&error.to_string()))?;
        if !parsed.username().is_empty() || parsed.password().is_some() || parsed.query().is_some() {
            return Err(address("credentials and settings come from the environment (AWS_*), not from the address"));
        }
        match scheme {
            "memory" => Ok(Self::memory()),
            "file" => {
                let path =
                    parsed.to_file_path().map_err(|()| address("a file address has three slashes and no host"))?;
                Self::folder(path, options)
            }
            "s3" | "s3a" => Self::bucket(&parsed, url).await,
            other => Err(address(&format!("`{other}://` is not supported"))),
        }
    }

    fn folder(path: PathBuf, options: &StoreOptions) -> Result<Self> {
        let url = path.display().to_string();
        let address = |reason: String| StoreError::Address { url: url.clone(), reason };
        if path.as_os_str().is_empty() {
            return Err(address("it is empty".into()));
        }
        let root = resolve(&path).map_err(|error| address(error.to_string()))?;
        if root.exists() && !root.is_dir() {
            return Err(address("it is a file, not a folder".into()));
        }
        let prefix = Path::from_absolute_path(&root).map_err(|error| address(error.to_string()))?;
        Ok(Self {
            objects: Arc::new(LocalFileSystem::new()),
            prefix: prefix.to_string(),
            local: Some(root),
            fsync: options.fsync,
            url,
        })
    }

    async fn bucket(parsed: &Url, url: &str) -> Result<Self> {
        let address = |reason: String| StoreError::Address { url: url.into(), reason };
        let bucket = parsed.host_str().ok_or_else(|| address("it names no bucket".into()))?;
        let prefix = Path::from_url_path(parsed.path()).map_err(|error| address(error.to_string()))?;
        if !CREDENTIALS.iter().any(|name| std::env::var_os(name).is_some()) {
            let reason = "there are no credentials for it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
            return Err(address(reason.into()));
        }
        let client = |attempts| {
            let retry = RetryConfig { max_retries: attempts, ..RetryConfig::default() };
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            let builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST);
            let objects = builder.build().map_err(|error| address(error.to_string()))?;
            Ok(Self { prefix: prefix.to_string(), ..Self::over(Arc::new(objects), url) })
        };
        // Later a server may be away for a while; now an address or key that is wrong is better told at once.
        let (probe, first) = (client(2)?, crate::keys::commit(0));
        let answer = tokio::time::timeout(REACH, async {
            match probe.objects.head(&probe.path(&first)?).await {
                Err(error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => {
                    return Err(StoreError::Denied { url: url.into(), reason: error.to_string() });
                }
                head => probe.found(&first, head)?,
            };
            // An object that is not there is told apart from a bucket that is not there only by a listing.
            probe.list(crate::keys::SNAPSHOTS).try_next().await
        });
        match answer.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.to_string().contains("NoSuchBucket") => {
                return Err(address(format!("there is no bucket `{bucket}`; create it first")));
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(probe.unreachable("read", &first, 1, format!("no answer within {REACH:?}"))),
        }
        client(RetryConfig::default().max_retries)
    }

    /// Puts an object where none is: all of it or nothing.
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<(), PutFailure> {
        let path = self.path(key).map_err(PutFailure::Refused)?;
        if self.fsync
            && let Some(file) = self.file(key)
        {
            let put = tokio::task::spawn_blocking(move || durable::put_new(&file, &bytes)).await;
            return match put.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))) {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(PutFailure::Exists),
                Err(error) if is_final(error.kind()) => {
                    Err(PutFailure::Refused(self.refused("write", key, error.to_string())))
                }
                Err(error) => Err(PutFailure::Unclear(error.to_string())),
            };
        }
        match self.objects.put_opts(&path, bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. }) => {
                Err(PutFailure::Exists)
            }
            Err(error) if would_fail_again(&error) => {
                Err(PutFailure::Refused(self.refused("write", key, error.to_string())))
            }
            Err(error) => Err(PutFailure::Unclear(error.to_string())),
        }
    }

    /// Whether an object goes to the bucket part by part.
    pub fn is_large(&self, bytes: usize) -> bool {
        self.local.is_none() && bytes > LARGE
    }

    /// Puts a large object part by part: what fails is sent again alone, and no request takes long. Nothing is there before all of it
    /// is. Unlike [`Backend::put_new`] it is not conditional, so it is only for a key that is ours alone.
    pub async fn put_parts(&self, key: &str, bytes: Bytes) -> Result<(), PutFailure> {
        let path = self.path(key).map_err(PutFailure::Refused)?;
        let failure = |error: Error| match would_fail_again(&error) {
            true => PutFailure::Refused(self.refused("write", key, error.to_string())),
            false => PutFailure::Unclear(error.to_string()),
        };
        let mut upload = self.objects.put_multipart(&path).await.map_err(failure)?;
        let part = |from: usize| bytes.slice(from..bytes.len().min(from + PART));
        let parts: Vec<_> = (0..bytes.len()).step_by(PART).map(|from| upload.put_part(part(from).into())).collect();
        let sent = futures::stream::iter(parts).buffer_unordered(PARTS_AT_ONCE).try_collect::<Vec<()>>().await;
        let done = match sent {
            Ok(_) => upload.complete().await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            // Parts that stay cost room until the bucket's own rules delete them; there is nothing else to do about it.
            let _ = upload.abort().await;
            return Err(failure(error));
        }
        Ok(())
    }

    /// The object's bytes; `None` if there is no such object.
    pub async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        let got = match self.objects.get(&path).await {
            Ok(object) => object.bytes().await,
            Err(error) => Err(error),
        };
        self.found(key, got)
    }

    /// `length` of the object's bytes from `offset` on; `None` if there is no such object.
    pub async fn read_range(&self, key: &str, offset: u64, length: u64) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        self.found(key, self.objects.get_range(&path, offset..offset.saturating_add(length)).await)
    }

    /// The object's length; `None` if there is no such object.
    pub async fn length(&self, key: &str) -> Result<Option<u64>> {
        let path = self.path(key)?;
        let found = self.found(key, self.objects.head(&path).await)?;
        Ok(found.map(|meta| meta.size))
    }

    /// When the object was put, by the backend's clock; milliseconds since 1970. `None` if there is no such object.
    pub async fn modified(&self, key: &str) -> Result<Option<i64>> {
        let path = self.path(key)?;
        let found = self.found(key, self.objects.head(&path).await)?;
        Ok(found.map(|meta| meta.last_modified.timestamp_millis()))
    }

    /// What killed writers left in a local store: files that never came to their name. No listing shows them.
    pub async fn temporaries(&self) -> Result<Vec<Listed>> {
        let Some(root) = self.local.clone() else { return Ok(Vec::new()) };
        let walk = tokio::task::spawn_blocking(move || temporaries(&root)).await;
        let found = walk.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped)));
        found.map_err(|error| self.refused("list", "", error.to_string()))
    }

    /// Deletes what [`Backend::temporaries`] found.
    pub async fn delete_temporary(&self, key: &str) -> Result<()> {
        let Some(file) = self.file(key) else { return Ok(()) };
        match tokio::fs::remove_file(file).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.refused("delete", key, error.to_string())),
            _ => Ok(()),
        }
    }

    /// Deletes an object; one that is not there is deleted already.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match self.objects.delete(&path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", key, &error)),
        }
    }

    /// Every object below `folder`; all of the store's for an empty one. In no order.
    pub fn list(&self, folder: &str) -> BoxStream<'_, Result<Listed>> {
        let folder = folder.to_string();
        let path = match self.path(&folder) {
            Ok(path) => path,
            Err(error) => return futures::stream::once(async { Err(error) }).boxed(),
        };
        let below = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        self.objects
            .list(Some(&path))
            .map_err(move |error| self.failed("list", &folder, &error))
            .try_filter_map(move |meta| {
                let key = meta.location.as_ref().strip_prefix(&below).map(str::to_string);
                std::future::ready(Ok(key.map(|key| Listed {
                    key,
                    bytes: meta.size,
                    modified: meta.last_modified.timestamp_millis(),
                })))
            })
            .boxed()
    }

    /// The file an object is, in a local store.
    pub fn file(&self, key: &str) -> Option<PathBuf> {
        self.local.as_ref().map(|root| root.join(key))
    }

    /// A key read from a commit may be anything; one that would leave the store is refused here.
    pub fn path(&self, key: &str) -> Result<Path> {
        let whole =
            [self.prefix.as_str(), key].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Path::parse(whole).map_err(|error| self.refused("use", key, error.to_string()))
    }

    fn found<T>(&self, key: &str, got: object_store::Result<T>) -> Result<Option<T>> {
        match got {
            Ok(value) => Ok(Some(value)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", key, &error)),
        }
    }

    fn failed(&self, doing: &'static str, key: &str, error: &Error) -> StoreError {
        let reason = error.to_string();
        if would_fail_again(error) { self.refused(doing, key, reason) } else { self.unreachable(doing, key, 1, reason) }
    }

    pub fn refused(&self, doing: &'static str, key: &str, reason: String) -> StoreError {
        StoreError::Refused { url: self.url.clone(), doing, key: key.into(), reason }
    }

    pub fn unreachable(&self, doing: &'static str, key: &str, attempts: u32, reason: String) -> StoreError {
        StoreError::Unreachable { url: self.url.clone(), doing, key: key.into(), attempts, reason }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("url", &self.url).field("fsync", &self.fsync).finish_non_exhaustive()
    }
}

fn would_fail_again(error: &Error) -> bool {
    match error {
        Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. }
        | Error::NotFound { .. } => true,
        other => {
            let mut cause = std::error::Error::source(other);
            while let Some(error) = cause {
                if error.downcast_ref::<std::io::Error>().is_some_and(|io| is_final(io.kind())) {
                    return true;
                }
                cause = error.source();
            }
            false
        }
    }
}

fn is_final(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::NotADirectory
            | ErrorKind::Unsupported
    )
}

/// Files below `root` whose names end in `#` and digits, as object_store and [`durable`] name what they have not finished.
fn temporaries(root: &std::path::Path) -> std::io::Result<Vec<Listed>> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path.strip_prefix(root).ok().and_then(|key| key.to_str());
            let Some(key) = key.filter(|key| kind.is_file() && unfinished(key).is_some()) else { continue };
            // One that is gone by now was finished, or is deleted already.
            let Ok(meta) = entry.metadata() else { continue };
            let since = meta.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            found.push(Listed { key: key.into(), bytes: meta.len(), modified: since.as_millis() as i64 });
        }
    }
    Ok(found)
}

/// The key that a temporary file was to get.
pub(crate) fn unfinished(name: &str) -> Option<&str> {
    let (key, digits) = name.rsplit_once('#')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(key)
}

/// The folder's one true path. What does not exist yet is taken by name, below what does.
fn resolve(path: &std::path::Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let mut existing = absolute.as_path();
    while !existing.exists() {
        existing = existing.parent().ok_or(ErrorKind::NotFound)?;
    }
    let rest = absolute.strip_prefix(existing).map_err(std::io::Error::other)?;
    if rest.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(std::io::Error::other("it goes up (`..`) from a folder that does not exist"));
    }
    let existing = existing.canonicalize()?;
    Ok(if rest.as_os_str().is_empty() { existing } else { existing.join(rest) })
}

/// The address without what stands before an `@`, which may be a secret, and without its query.
fn without_credentials(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(before, _)| before);
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, after)| after)),
        None => url.into(),
    }
}
