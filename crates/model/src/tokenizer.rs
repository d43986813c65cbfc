//! Text to ids and back, and whether two tokenizers are the same one.

use crate::config::{eos_ids, read_text};
use crate::{Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// The tokenizer of a checkpoint folder.
///
/// Two tokenizers are the same if and only if their maps between tokens and ids are, added tokens included
/// ([`Tokenizer::map_digest`]): sizes in config.json differ by padding, and files by order of keys.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: String,
    /// Token of each id; two tokens may not share one.
    tokens: BTreeMap<u32, String>,
    eos: Vec<i32>,
    /// `eos_token` of tokenizer_config.json.
    end_of_text: Option<i32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and the EOS set from config.json, generation_config.json and tokenizer_config.json where
    /// these are there.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let mut tokenizer = Self::from_json(&read_text(&path)?, &path.display().to_string())?;
        tokenizer.eos = eos_ids(dir)?;
        let path = dir.join("tokenizer_config.json");
        if path.exists() {
            let settings: Value = serde_json::from_str(&read_text(&path)?)
                .map_err(|error| Error::Tokenizer { file: path.display().to_string(), reason: error.to_string() })?;
            let token = settings["eos_token"].as_str().or_else(|| settings["eos_token"]["content"].as_str());
            if let Some(token) = token {
                let id = tokenizer.id(token).ok_or_else(|| Error::Tokenizer {
                    file: path.display().to_string(),
                    reason: format!("`eos_token` is `{token}`, expected a token of tokenizer.json"),
                })?;
                tokenizer.end_of_text = Some(id);
                tokenizer.eos.push(id);
                tokenizer.eos.sort_unstable();
                tokenizer.eos.dedup();
            }
        }
        if let Some(&id) = tokenizer.eos.iter().find(|&&id| id as usize >= tokenizer.vocab_size()) {
            let reason = format!("`eos_token_id` {id} is not below its {} ids", tokenizer.vocab_size());
            return Err(Error::Tokenizer { file: tokenizer.file, reason });
        }
        Ok(tokenizer)
    }

    /// Reads the text of a `tokenizer.json`; `file` is what messages call it. Its EOS set is empty.
    pub fn from_json(text: &str, file: &str) -> Result<Self> {
        let error = |reason: String| Error::Tokenizer { file: file.into(), reason };
        let mut inner = tokenizers::Tokenizer::from_bytes(text).map_err(|reason| error(reason.to_string()))?;
        // A stored file may truncate or pad; both would change a prompt silently.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|reason| error(reason.to_string()))?;
        let mut tokens = BTreeMap::new();
        for (token, id) in inner.get_vocab(true) {
            if i32::try_from(id).is_err() {
                return Err(error(format!("token `{token}` has id {id}, expected at most {}", i32::MAX)));
            }
            if let Some(other) = tokens.insert(id, token.clone()) {
                return Err(error(format!("tokens `{other}` and `{token}` share id {id}")));
            }
        }
        if tokens.is_empty() {
            return Err(error("it has no tokens".into()));
        }
        check_added(text, &inner).map_err(error)?;
        Ok(Self { inner, file: file.into(), tokens, eos: Vec::new(), end_of_text: None })
    }

    /// Ids of a text. Special tokens written out in it are recognised; none is added. This is how completions and texts of a
    /// chat template are read.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        self.ids_of(text, false)
    }

    /// Ids of a plain text that begins a sequence, with the special tokens that the tokenizer itself adds (BOS for Llama).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<i32>> {
        self.ids_of(text, true)
    }

    fn ids_of(&self, text: &str, add_special_tokens: bool) -> Result<Vec<i32>> {
        let encoding =
            self.inner.encode_fast(text, add_special_tokens).map_err(|reason| self.error(reason.to_string()))?;
        Ok(encoding.get_ids().iter().map(|&id| id as i32).collect())
    }

    /// Text of ids, without special tokens.
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        let unsigned: std::result::Result<Vec<u32>, _> = ids.iter().map(|&id| u32::try_from(id)).collect();
        let unsigned = unsigned.map_err(|_| self.error("ids are never negative".into()))?;
        self.inner.decode(&unsigned, true).map_err(|reason| self.error(reason.to_string()))
    }

    /// Id of a token.
    pub fn id(&self, token: &str) -> Option<i32> {
        self.inner.token_to_id(token).map(|id| id as i32)
    }

    /// Tokens that end a response, ascending.
    pub fn eos_ids(&self) -> &[i32] {
        &self.eos
    }

    /// The token that a text is ended with where it has no end of its own: `eos_token` of tokenizer_config.json (a chat model's
    /// end of a turn), else the lowest of [`Tokenizer::eos_ids`].
    pub fn end_of_text(&self) -> Option<i32> {
        self.end_of_text.or_else(|| self.eos.first().copied())
    }

    /// One more than the largest id, added tokens included: where a padded vocabulary stops being real.
    pub fn vocab_size(&self) -> usize {
        self.tokens.last_key_value().map_or(0, |(&id, _)| id as usize + 1)
    }

    /// SHA-256, in hex, over the ids and tokens in order of id. Equal digests: the same tokenizer.
    pub fn map_digest(&self) -> String {
        let mut hash = Sha256::new();
        for (id, token) in &self.tokens {
            hash.update(id.to_le_bytes());
            hash.update((token.len() as u64).to_le_bytes());
            hash.update(token);
        }
        hex(&hash.finalize())
    }

    /// The lowest id at which two tokenizers differ, in words; `None` where they are the same.
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        let name = |token: Option<&String>| token.map_or("no token".to_owned(), |token| format!("`{token}`"));
        self.tokens
            .keys()
            .chain(other.tokens.keys())
            .filter(|id| self.tokens.get(id) != other.tokens.get(id))
            .min()
            .map(|id| {
                let (ours, theirs) = (name(self.tokens.get(id)), name(other.tokens.get(id)));
                format!("id {id} is {ours} in `{}` and {theirs} in `{}`", self.file, other.file)
            })
    }

    fn error(&self, reason: String) -> Error {
        Error::Tokenizer { file: self.file.clone(), reason }
    }
}

/// Refuses a file whose added tokens leave a hole: the tokenizers crate closes it by renumbering them, silently, and then the
/// weights mean other tokens.
fn check_added(text: &str, inner: &tokenizers::Tokenizer) -> std::result::Result<(), String> {
    #[derive(serde::Deserialize)]
    struct File {
        added_tokens: Vec<Added>,
    }
    #[derive(serde::Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let file: File = serde_json::from_str(text).map_err(|reason| reason.to_string())?;
    for Added { id, content } in file.added_tokens {
        let found = inner.token_to_id(&content);
        if found != Some(id) {
            let found = found.map_or("no id".to_owned(), |id| format!("id {id}"));
            return Err(format!(
                "added token `{content}` has id {id} in the file and gets {found}; leave no hole in the ids"
            ));
        }
    }
    Ok(())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
