//! The small files of a Hugging Face directory beside config.json and tokenizer.json: how a model is prompted and when it
//! stops. They go where the model goes: into the store, and into every directory that is written.

use crate::error::{CommandError, Result};
use model::Precision;
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

/// The type of the weights in a file, as config.json names it.
///
/// # Errors
/// If it is another word; `key` is where it stands.
pub fn precision(key: &str, dtype: &str) -> Result<Precision> {
    match dtype {
        "float32" => Ok(Precision::F32),
        "bfloat16" => Ok(Precision::Bf16),
        "float16" => Ok(Precision::F16),
        _ => {
            let what = format!("{key} is `{dtype}`");
            Err(CommandError::new(what).hint("it is `float32`, `bfloat16` or `float16`"))
        }
    }
}
