//! Token ids as text, by the vocabulary of the run's own tokenizer, which is read from the store when it is first wanted.

use crate::{QueryError, Result};
use record::ObjectRef;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};
use store::Store;

/// The run's tokenizer, perhaps not read yet.
#[derive(Debug)]
pub(crate) struct RunTokenizer {
    object: ObjectRef,
    read: OnceLock<Arc<Vocabulary>>,
}

impl RunTokenizer {
    /// The tokenizer that lies in `object`.
    pub fn new(object: ObjectRef) -> Self {
        Self { object, read: OnceLock::new() }
    }

    /// Where it lies.
    pub fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// Its vocabulary.
    pub async fn load(&self, store: &Store) -> Result<Arc<Vocabulary>> {
        if let Some(read) = self.read.get() {
            return Ok(read.clone());
        }
        let vocabulary = Vocabulary::read(&store.get(&self.object).await?).map_err(|found| QueryError::Rows {
            key: self.object.key.clone(),
            expected: "a tokenizer.json whose vocabulary gives tokens as text".into(),
            found,
        })?;
        // Another query may have read it meanwhile: the same bytes.
        Ok(self.read.get_or_init(|| Arc::new(vocabulary)).clone())
    }

    /// Its vocabulary, if it was read.
    pub fn loaded(&self) -> Option<&Vocabulary> {
        self.read.get().map(Arc::as_ref)
    }
}

/// The bytes of each token. Text is their concatenation: a character may be cut across tokens.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    bytes: HashMap<i32, Vec<u8>>,
}

impl Vocabulary {
    /// Reads a tokenizer.json; what is wrong with it if it cannot.
    fn read(json: &[u8]) -> Result<Self, String> {
        let file: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let decoder = file["decoder"].to_string();
        let is = |kind: &str| decoder.contains(&format!("\"type\":\"{kind}\""));
        let spelling = match () {
            () if is("ByteLevel") => Spelling::ByteLevel(byte_level()),
            () if is("Metaspace") || is("ByteFallback") => Spelling::Metaspace,
            () => return Err(format!("the decoder {decoder} (known: ByteLevel, Metaspace, ByteFallback)")),
        };
        let mut bytes: HashMap<i32, Vec<u8>> = HashMap::new();
        let mut put = |id: Option<i64>, text: Vec<u8>| {
            if let Some(id) = id.and_then(|id| i32::try_from(id).ok()) {
                bytes.insert(id, text);
            }
        };
        match &file["model"]["vocab"] {
            Value::Object(tokens) => tokens.iter().for_each(|(token, id)| put(id.as_i64(), spelling.bytes(token))),
            // Unigram: pairs of token and score, the id is the place.
            Value::Array(tokens) => (0i64..)
                .zip(tokens)
                .for_each(|(id, token)| put(Some(id), spelling.bytes(token[0].as_str().unwrap_or_default()))),
            _ => return Err("no `model.vocab`".into()),
        }
        for added in file["added_tokens"].as_array().into_iter().flatten() {
            put(added["id"].as_i64(), added["content"].as_str().unwrap_or_default().as_bytes().to_vec());
        }
        Ok(Self { bytes })
    }

    /// The text of `ids`, special tokens included; bytes that are no whole character become `�`, ids without a token `<id>`.
    pub fn text(&self, ids: &[i32]) -> String {
        let mut text = Vec::new();
        for id in ids {
            match self.bytes.get(id) {
                Some(bytes) => text.extend_from_slice(bytes),
                None => text.extend_from_slice(format!("<{id}>").as_bytes()),
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// How a vocabulary spells bytes.
enum Spelling {
    /// Each byte as one printable character (GPT-2).
    ByteLevel(HashMap<char, u8>),
    /// `▁` for a blank, `<0x0A>` for a byte (SentencePiece).
    Metaspace,
}

impl Spelling {
    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            // A character outside the alphabet stands for itself.
            Spelling::ByteLevel(alphabet) => token
                .chars()
                .flat_map(|c| alphabet.get(&c).map_or_else(|| c.to_string().into_bytes(), |byte| vec![*byte]))
                .collect(),
            Spelling::Metaspace => {
                let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => token.replace('▁', " ").into_bytes(),
                }
            }
        }
    }
}

/// The byte-level alphabet: printable bytes of Latin-1 stand for themselves, the others follow from U+0100 on in order.
fn byte_level() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let (themselves, others): (Vec<u8>, Vec<u8>) = (0..=u8::MAX).partition(printable);
    let others = ('\u{100}'..).zip(others);
    themselves.into_iter().map(|byte| (char::from(byte), byte)).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_level_alphabet_has_every_byte_once() {
        let alphabet = byte_level();
        let mut bytes: Vec<u8> = alphabet.values().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
        // As byte-level vocabularies write them: blank, line feed, tab, DEL, soft hyphen.
        for (c, byte) in [('Ġ', b' '), ('Ċ', b'\n'), ('ĉ', b'\t'), ('ġ', 0x7f), ('Ń', 0xad), ('A', b'A'), ('é', 0xe9)]
        {
            assert_eq!(alphabet[&c], byte, "{c}");
        }
    }

    #[test]
    fn tokens_are_joined_as_bytes() {
        let file = r#"{"decoder": {"type": "ByteLevel"}, "added_tokens": [{"id": 9, "content": "<|end|>"}],
            "model": {"vocab": {"Ġhi": 0, "Ã": 1, "©": 2, "<|end|>": 9}}}"#;
        let vocabulary = Vocabulary::read(file.as_bytes()).unwrap();
        assert_eq!(vocabulary.text(&[0, 1, 2, 9]), " hié<|end|>");
        assert_eq!(vocabulary.text(&[1]), "\u{fffd}");
        assert_eq!(vocabulary.text(&[77, 0]), "<77> hi");
    }

    #[test]
    fn sentencepiece_has_blanks_and_bytes() {
        let file = r#"{"decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
            "model": {"vocab": [["<unk>", 0.0], ["▁hi", -1.0], ["<0xC3>", -1.0], ["<0xA9>", -1.0]]}}"#;
        let vocabulary = Vocabulary::read(file.as_bytes()).unwrap();
        assert_eq!(vocabulary.text(&[1, 2, 3, 0]), " hié<unk>");
    }

    #[test]
    fn another_kind_of_vocabulary_is_refused() {
        let error = |file: &str| Vocabulary::read(file.as_bytes()).unwrap_err();
        assert!(error(r#"{"decoder": {"type": "WordPiece"}, "model": {"vocab": {}}}"#).contains("WordPiece"));
        assert!(error(r#"{"decoder": {"type": "ByteLevel"}}"#).contains("model.vocab"));
        assert!(error("{").contains("EOF"), "{}", error("{"));
    }
}
