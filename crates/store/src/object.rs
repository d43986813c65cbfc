//! Immutable objects: put once to a unique key, read back whole and verified.

use crate::{
    Key, Result, Store, StoreError, backend::PutFailure, chance::backoff, checked::FileState, clock, keys::Kind,
};
use bytes::Bytes;
use futures::TryStreamExt;
use memmap2::Mmap;
use record::{Digest, ObjectRef};
use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The most that is held in memory of what a reader that looks ahead leaves for the next.
const HELD_BYTES: u64 = 256 << 20;

/// Bytes and objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An object on its way to whoever wants it.
pub(crate) enum Fetched {
    /// A file, which is still to be mapped and checked.
    File(PathBuf),
    /// Its bytes, checked.
    Bytes(Bytes),
}

impl Store {
    /// Puts an object; only a commit that names it makes it visible.
    ///
    /// # Errors
    /// If the backend refuses, or keeps failing. Nothing can have been overwritten.
    pub async fn put(&self, key: Key, bytes: impl Into<Bytes>) -> Result<ObjectRef> {
        let bytes = bytes.into();
        let hashed = bytes.clone();
        let digest = self.blocking(key.as_str(), move || Ok(Digest::of(&hashed))).await?;
        let object = ObjectRef { key: key.as_str().into(), bytes: bytes.len() as u64, digest };
        self.waiting().begin(&object.key);
        self.put_at(&object, bytes).await?;
        Ok(object)
    }

    /// Puts a file that all policy versions share (`config.json`, `tokenizer.json`) under its content's digest: again is
    /// the same as once.
    ///
    /// # Errors
    /// As [`Store::put`]; [`StoreError::Corrupt`] if it is there already and damaged.
    pub async fn put_file(&self, name: &str, bytes: impl Into<Bytes>) -> Result<ObjectRef> {
        let bytes = bytes.into();
        self.put(Key::file(name, &Digest::of(&bytes)), bytes).await
    }

    async fn put_at(&self, object: &ObjectRef, bytes: Bytes) -> Result<()> {
        let (backend, attempts) = (self.backend(), self.options().attempts);
        let mut attempt = 0;
        loop {
            let put = match backend.is_large(bytes.len()) {
                true => backend.put_parts(&object.key, bytes.clone()).await,
                false => backend.put_new(&object.key, bytes.clone()).await,
            };
            let reason = match put {
                Ok(()) => return Ok(()),
                // The key is ours alone, or made of the content: what is there is this object, put before.
                Err(PutFailure::Exists) => return self.get_stored(object).await.map(drop),
                Err(PutFailure::Refused(error)) => return Err(error),
                Err(PutFailure::Unclear(reason)) => reason,
            };
            if matches!(backend.length(&object.key).await, Ok(Some(_))) {
                return self.get_stored(object).await.map(drop);
            }
            attempt += 1;
            if attempt >= attempts {
                return Err(backend.unreachable("write", &object.key, attempts, reason));
            }
            clock::sleep(backoff(attempt)).await;
        }
    }

    /// The bytes of an object: mapped where the store is a local folder or the cache has a copy, downloaded where not; length
    /// and digest agree with the commit. The digest of a local file that was not changed since is computed once a process.
    ///
    /// # Errors
    /// [`StoreError::Missing`] and [`StoreError::Corrupt`], or as the backend fails.
    pub async fn get(&self, object: &ObjectRef) -> Result<Bytes> {
        let fetched = self.fetch(object).await?;
        self.open_fetched(object, fetched).await
    }

    async fn open_fetched(&self, object: &ObjectRef, fetched: Fetched) -> Result<Bytes> {
        match fetched {
            Fetched::Bytes(bytes) => Ok(bytes),
            file => {
                let (store, of) = (self.clone(), object.clone());
                self.blocking(&object.key, move || store.open_object(&of, file)).await
            }
        }
    }

    /// What there is to do for an object where nothing may block; [`Store::open_object`] does the rest.
    pub(crate) async fn fetch(&self, object: &ObjectRef) -> Result<Fetched> {
        let Some(cache) = self.cache() else { return self.fetch_stored(object).await };
        let (copies, wanted) = (cache.clone(), object.clone());
        if let Some(copy) = self.blocking(&object.key, move || Ok(copies.get(&wanted))).await? {
            return Ok(Fetched::Bytes(copy));
        }
        let bytes = self.get_stored(object).await?;
        let (copies, object, copy) = (cache.clone(), object.clone(), bytes.clone());
        let key = object.key.clone();
        self.blocking(&key, move || {
            copies.keep(&object, &copy);
            Ok(Fetched::Bytes(bytes))
        })
        .await
    }

    /// As [`Store::get`], from where it is stored and nowhere else.
    async fn get_stored(&self, object: &ObjectRef) -> Result<Bytes> {
        let fetched = self.fetch_stored(object).await?;
        self.open_fetched(object, fetched).await
    }

    async fn fetch_stored(&self, object: &ObjectRef) -> Result<Fetched> {
        if let Some(file) = self.backend().file(&object.key) {
            self.backend().path(&object.key)?;
            return Ok(Fetched::File(file));
        }
        let bytes = match self.held().take(object) {
            Some(bytes) => bytes,
            None => {
                let bytes = self.backend().read(&object.key).await?.ok_or_else(|| self.missing(object))?;
                let of = object.clone();
                self.blocking(&object.key, move || verify(&of, bytes)).await?
            }
        };
        if self.leaves() {
            self.held().leave(object, &bytes, HELD_BYTES);
        }
        Ok(Fetched::Bytes(bytes))
    }

    /// The bytes of what was fetched, with the object's length and digest. Blocks, and takes as long as SHA-256 does where it is the
    /// first time.
    pub(crate) fn open_object(&self, object: &ObjectRef, fetched: Fetched) -> Result<Bytes> {
        let file = match fetched {
            Fetched::Bytes(bytes) => return Ok(bytes),
            Fetched::File(file) => file,
        };
        let (bytes, state) = match map(&file) {
            Ok(mapped) => mapped,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.missing(object)),
            Err(error) => return Err(self.backend().refused("read", &object.key, error.to_string())),
        };
        if self.checked().holds(object, &state) {
            return Ok(bytes);
        }
        let bytes = verify(object, bytes)?;
        self.checked().add(object, state);
        Ok(bytes)
    }

    pub(crate) fn missing(&self, object: &ObjectRef) -> StoreError {
        let (url, key) = (self.url().into(), object.key.clone());
        StoreError::Missing { url, key, bytes: object.bytes, digest: object.digest }
    }

    /// The bytes of a part of an object that begins at `offset`; `part` has the object's key and the part's length and digest. Of a
    /// bucket's object nothing else is fetched, and the cache keeps the part alone.
    pub(crate) async fn get_range(&self, part: &ObjectRef, offset: u64) -> Result<Bytes> {
        let wanted = part.clone();
        if let Some(copies) = self.cache().cloned()
            && let Some(copy) = self.blocking(&part.key, move || Ok(copies.get(&wanted))).await?
        {
            return Ok(copy);
        }
        let end = offset.saturating_add(part.bytes);
        let cut_short = |length: u64| {
            let (expected, found) = (format!("at least {end} bytes"), format!("{length} bytes"));
            StoreError::Corrupt { key: part.key.clone(), expected, found }
        };
        let bytes = match self.backend().file(&part.key) {
            Some(file) => match self.map(&part.key, file).await? {
                Some(whole) if (whole.len() as u64) < end => return Err(cut_short(whole.len() as u64)),
                whole => whole.map(|whole| whole.slice(offset as usize..end as usize)),
            },
            None => match self.backend().read_range(&part.key, offset, part.bytes).await {
                Ok(bytes) => bytes,
                // What a backend says of a range that is not there tells nobody anything.
                Err(error) => match self.backend().length(&part.key).await {
                    Ok(Some(length)) if length < end => return Err(cut_short(length)),
                    _ => return Err(error),
                },
            },
        };
        let bytes = bytes.ok_or_else(|| self.missing(part))?;
        let (part, copies) = (part.clone(), self.cache().cloned());
        self.blocking(&part.key.clone(), move || {
            let bytes = verify(&part, bytes)?;
            if let Some(copies) = copies {
                copies.keep(&part, &bytes);
            }
            Ok(bytes)
        })
        .await
    }

    /// Checks that an object is there with its length, without reading it; or, where its rows were moved, that the archive or it is.
    ///
    /// # Errors
    /// [`StoreError::Missing`] and [`StoreError::Corrupt`], or as the backend fails.
    pub async fn check_length(&self, object: &ObjectRef) -> Result<()> {
        if let Some(place) = self.place_of(&object.key) {
            let damaged = match self.check_own_length(&place.archive.object).await {
                Err(damaged) if damaged.is_of_one_object() => damaged,
                checked => return checked,
            };
            return match self.check_own_length(object).await {
                Err(error) if error.is_of_one_object() => Err(damaged),
                checked => checked,
            };
        }
        let missing = match self.check_own_length(object).await {
            Err(missing @ StoreError::Missing { .. }) => missing,
            checked => return checked,
        };
        match self.look_for(&object.key).await {
            Ok(Some(place)) => self.check_own_length(&place.archive.object).await,
            Err(error) if !error.is_of_one_object() => Err(error),
            Ok(None) | Err(_) => Err(missing),
        }
    }

    /// The same of the object where it was put.
    pub(crate) async fn check_own_length(&self, object: &ObjectRef) -> Result<()> {
        match self.backend().length(&object.key).await? {
            Some(length) if length == object.bytes => Ok(()),
            Some(length) => {
                let (expected, found) = (format!("{} bytes", object.bytes), format!("{length} bytes"));
                Err(StoreError::Corrupt { key: object.key.clone(), expected, found })
            }
            None => Err(self.missing(object)),
        }
    }

    async fn map(&self, key: &str, file: PathBuf) -> Result<Option<Bytes>> {
        self.backend().path(key)?;
        let store = self.clone();
        let name = key.to_string();
        self.blocking(key, move || match map(&file) {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(store.backend().refused("read", &name, error.to_string())),
        })
        .await
    }

    /// Deletes an object. One that is not there is deleted already.
    ///
    /// # Errors
    /// As the backend fails.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.backend().delete(key).await
    }

    /// What the store takes, by kind of object; unnamed objects included.
    ///
    /// # Errors
    /// As the backend fails.
    pub async fn usage(&self) -> Result<BTreeMap<Kind, Usage>> {
        let mut usage: BTreeMap<Kind, Usage> = BTreeMap::new();
        let mut objects = self.backend().list("");
        while let Some(object) = objects.try_next().await? {
            let of = usage.entry(Kind::of(&object.key)).or_default();
            of.objects += 1;
            of.bytes += object.bytes;
        }
        Ok(usage)
    }
}

/// Maps a file of a store, or of its cache, into memory. The state is from before, so that what is written to the file from then on
/// gives another.
#[expect(unsafe_code, reason = "mapping is what makes local reads free of copies; soundness is argued below")]
pub(crate) fn map(file: &Path) -> std::io::Result<(Bytes, FileState)> {
    let file = File::open(file)?;
    let metadata = file.metadata()?;
    let state = FileState::of(&metadata);
    if metadata.len() == 0 {
        return Ok((Bytes::new(), state));
    }
    // SAFETY: a map must not change while it is read. An object, or a copy of one in the cache, becomes a name only when all its
    // bytes are written (a temporary file is linked to its name, or renamed), no program of ours ever opens it for writing, and deleting it only takes the
    // name: the bytes stay as long as they are mapped. Whoever edits a store's files in place breaks its contract; the
    // digest that is verified when a file is first read, and again when its state is another, finds such an edit unless it is made
    // while the file is read.
    let map = unsafe { Mmap::map(&file)? };
    Ok((Bytes::from_owner(map), state))
}

/// `bytes`, if they are the object's.
pub(crate) fn verify(object: &ObjectRef, bytes: Bytes) -> Result<Bytes> {
    let corrupt = |expected: String, found: String| StoreError::Corrupt { key: object.key.clone(), expected, found };
    let length = bytes.len() as u64;
    if length != object.bytes {
        return Err(corrupt(format!("{} bytes", object.bytes), format!("{length} bytes")));
    }
    let digest = Digest::of(&bytes);
    if digest != object.digest {
        return Err(corrupt(object.digest.to_string(), digest.to_string()));
    }
    Ok(bytes)
}
