//! The weight files of a checkpoint: one, or the shards that an index names. They are checked by their headers, then read.

use crate::config::{ModelConfig, read_text};
use crate::header::{self, Entry};
use crate::keys::shown;
use crate::weights::shapes;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use tch::{Kind, Tensor};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Longest index, like the longest header.
const LONGEST: u64 = 100_000_000;

trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

/// Where weights come from: files, or bytes in memory.
enum Source<'a> {
    File(PathBuf),
    Bytes(&'a [u8]),
}

impl Source<'_> {
    /// What messages call it.
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Bytes(_) => "weights".into(),
        }
    }

    /// A reader, and how many bytes it has.
    fn open(&self) -> Result<(Box<dyn ReadSeek + '_>, u64)> {
        match self {
            Self::Bytes(bytes) => Ok((Box::new(Cursor::new(bytes)), bytes.len() as u64)),
            Self::File(path) => {
                let failed = |source| Error::Read { path: path.clone(), source };
                let file = File::open(path).map_err(failed)?;
                let length = file.metadata().map_err(failed)?.len();
                Ok((Box::new(file), length))
            }
        }
    }
}

/// Weights by the headers of their files. Nothing of their size is in memory.
pub(crate) struct Checkpoint<'a> {
    /// What messages call all of it.
    name: String,
    sources: Vec<Source<'a>>,
    /// Each tensor, and which of the sources has it.
    tensors: BTreeMap<String, (usize, Entry)>,
}

impl<'a> Checkpoint<'a> {
    /// Of a folder: model.safetensors, or all files that model.safetensors.index.json names.
    pub(crate) fn in_folder(dir: &Path) -> Result<Self> {
        let sources = weight_files(dir)?.into_iter().map(|name| Source::File(dir.join(name))).collect();
        Self::of(dir.display().to_string(), sources)
    }

    /// Of the bytes of a safetensors file.
    pub(crate) fn in_memory(bytes: &'a [u8]) -> Result<Self> {
        Self::of("weights".into(), vec![Source::Bytes(bytes)])
    }

    fn of(name: String, sources: Vec<Source<'a>>) -> Result<Self> {
        let mut tensors: BTreeMap<String, (usize, Entry)> = BTreeMap::new();
        for (at, source) in sources.iter().enumerate() {
            let (mut reader, length) = source.open()?;
            for (tensor, entry) in header::read(&mut reader, length, &source.name())? {
                if let Some((other, _)) = tensors.get(&tensor) {
                    let reason = format!("tensor `{tensor}` is in `{}` too; keep one of them", sources[*other].name());
                    return Err(Error::Safetensors { file: source.name(), reason });
                }
                tensors.insert(tensor, (at, entry));
            }
        }
        Ok(Self { name, sources, tensors })
    }

    /// Refuses a missing tensor, one of another shape, and one that nothing would use; leaves out what says nothing new.
    pub(crate) fn check(mut self, config: &ModelConfig) -> Result<Self> {
        self.tensors.retain(|name, _| !says_nothing_new(config, name));
        let expected = shapes(config);
        for (name, (source, entry)) in &self.tensors {
            let (file, name, found) = (self.sources[*source].name(), name.clone(), entry.shape.clone());
            match expected.get(&name) {
                None => return Err(Error::UnexpectedTensor { file, name, found }),
                Some(shape) if *shape != found => {
                    return Err(Error::TensorShape { file, name, expected: shape.clone(), found });
                }
                Some(_) => {}
            }
        }
        match expected.into_iter().find(|(name, _)| !self.tensors.contains_key(name)) {
            Some((name, expected)) => Err(Error::MissingTensor { file: self.name, name, expected }),
            None => Ok(self),
        }
    }

    /// All tensors, on the CPU, in float32.
    pub(crate) fn read(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (at, source) in self.sources.iter().enumerate() {
            let (mut reader, _) = source.open()?;
            for (name, (_, entry)) in self.tensors.iter().filter(|(_, (of, _))| *of == at) {
                let mut bytes = vec![0; entry.bytes as usize];
                let read = reader.seek(SeekFrom::Start(entry.start)).and_then(|_| reader.read_exact(&mut bytes));
                read.map_err(|source_error| Error::Read { path: source.name().into(), source: source_error })?;
                let tensor = Tensor::f_from_data_size(&bytes, &entry.shape, entry.kind)?;
                tensors.insert(name.clone(), tensor.f_to_kind(Kind::Float)?);
            }
        }
        Ok(tensors)
    }
}

/// Some writers store a tied head a second time, older ones the rotary frequencies that config.json gives.
fn says_nothing_new(config: &ModelConfig, name: &str) -> bool {
    name == "lm_head.weight" && config.tie_word_embeddings || name.ends_with(".rotary_emb.inv_freq")
}

/// The weight files of a folder: one, or those of its index, which are all there.
fn weight_files(dir: &Path) -> Result<Vec<String>> {
    let index = dir.join(INDEX);
    if dir.join(SINGLE).exists() || !index.exists() {
        return Ok(vec![SINGLE.into()]);
    }
    let files = files_of_index(&index)?;
    let missing: Vec<&String> = files.iter().filter(|file| !dir.join(file).exists()).collect();
    match missing.first() {
        None => Ok(files),
        Some(first) => Err(Error::MissingShards {
            index: index.clone(),
            first: (*first).clone(),
            missing: missing.len(),
            of: files.len(),
        }),
    }
}

fn files_of_index(index: &Path) -> Result<Vec<String>> {
    let error = |found: String| Error::Config {
        file: index.display().to_string(),
        key: "weight_map".into(),
        expected: "an object from tensor names to the names of files beside it".into(),
        found,
    };
    let length = index.metadata().map_err(|source| Error::Read { path: index.into(), source })?.len();
    if length > LONGEST {
        return Err(error(format!("in a file of {length} bytes")));
    }
    let value: Value =
        serde_json::from_str(&read_text(index)?).map_err(|reason| error(format!("not JSON ({reason})")))?;
    let map = value["weight_map"].as_object().ok_or_else(|| error(shown(&value["weight_map"])))?;
    let mut files = Vec::new();
    for file in map.values() {
        files.push(file.as_str().filter(|name| is_plain(name)).ok_or_else(|| error(shown(file)))?.to_owned());
    }
    files.sort_unstable();
    files.dedup();
    if files.is_empty() { Err(error("empty".into())) } else { Ok(files) }
}

/// Whether a name stays in its folder: a checkpoint has no business with other ones.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains('\\')
}
