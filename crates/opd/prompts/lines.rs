//! Rows from JSON lines.

use super::{Record, place};
use crate::error::{CommandError, Result};
use model::template::{Value, ValueKind};
use std::path::Path;

/// Reads each line that is not blank.
///
/// # Errors
/// A line that is not UTF-8 or no JSON object, and what `take` returns.
pub(super) fn read(path: &Path, mut take: impl FnMut(Record) -> Result<()>) -> Result<()> {
    let unreadable = |error| CommandError::new(format!("prompts `{}`: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    for (i, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = i + 1;
        let fault = |what: String| CommandError::new(what).at(place(path, number)).hint(HINT);
        let line = std::str::from_utf8(line).map_err(|error| fault(format!("not UTF-8: {error}")))?.trim();
        if line.is_empty() {
            continue;
        }
        // A value of the templates keeps the order of keys, as models saw it.
        let fields: Value = serde_json::from_str(line).map_err(|error| {
            let what = error.to_string();
            let what = what.split(" at line ").next().unwrap_or_default();
            fault(format!("not JSON: {what} at column {}", error.column()))
        })?;
        if fields.kind() != ValueKind::Map {
            return Err(fault(format!("a {}, expected an object", fields.kind())));
        }
        take(Record { line: number, fields })?;
    }
    Ok(())
}

const HINT: &str = "each line is an object like {\"prompt\": \"...\", \"answer\": \"...\"}";
