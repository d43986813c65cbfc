//! The small files of a Hugging Face directory beside config.json and tokenizer.json: how a model is prompted and when it
//! stops. They go where the model goes: into the store, and into every directory that is written.

use crate::error::{CommandError, Result};
use std::{collections::BTreeMap, io::ErrorKind, path::Path};

/// Their names; a model may have any of them.
pub const NAMES: [&str; 4] =
    ["tokenizer_config.json", "generation_config.json", "chat_template.jinja", "special_tokens_map.json"];

/// The texts of those that `dir` has, by name.
///
/// # Errors
/// If one cannot be read or is not UTF-8.
pub fn read(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for name in NAMES {
        let path = dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => drop(files.insert(name.to_string(), text)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(CommandError::new(format!("`{}`: {error}", path.display()))),
        }
    }
    Ok(files)
}
