//! Tables of settings laid over each other, `--set`, and what is said of a key that nobody knows.

use crate::error::{CommandError, Result};
use toml::{Table, Value};

/// Lays `layer` over `base`; tables are merged key by key, all else is replaced.
pub(super) fn merge(base: &mut Table, layer: Table) {
    for (key, value) in layer {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Applies each `a.b=value`; a value that is not TOML is taken as a string.
///
/// # Errors
/// A set without `=` or key, or one that goes through a value.
pub fn apply_sets(table: &mut Table, sets: &[String]) -> Result<()> {
    sets.iter().try_for_each(|set| apply(table, set))
}

fn apply(table: &mut Table, set: &str) -> Result<()> {
    let fault =
        |what: &str| CommandError::new(format!("--set `{set}`: {what}")).hint("for example --set learn.steps=100");
    let (path, text) = set.split_once('=').ok_or_else(|| fault("there is no `=`"))?;
    let value = toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(text.trim().to_string()));
    let mut keys: Vec<&str> = path.split('.').map(str::trim).collect();
    let last = keys.pop().filter(|key| !key.is_empty()).ok_or_else(|| fault("there is no key"))?;
    let mut here = table;
    for key in keys {
        let entry = here.entry(key).or_insert_with(|| Value::Table(Table::new()));
        here = entry.as_table_mut().ok_or_else(|| fault(&format!("`{key}` is not a table")))?;
    }
    here.insert(last.to_string(), value);
    Ok(())
}

/// Deserialises a table, naming the key at fault; `what` says what the table is.
///
/// # Errors
/// An unknown key (with the nearest known one), a missing or mistyped one.
pub fn from_table<T: serde::de::DeserializeOwned>(what: &str, table: Table) -> Result<T> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        let message = error.inner().to_string();
        let message = message.trim_end();
        let place = if path == "." { String::new() } else { format!(" at `{path}`") };
        let fault = CommandError::new(format!("{what}{place}: {message}"));
        match nearest(message) {
            Some(name) => fault.hint(format!("did you mean `{name}`?")),
            None => fault,
        }
    })
}

/// From serde's "unknown field `x`, expected one of `a`, `b`", the known name most like the unknown one.
fn nearest(message: &str) -> Option<&str> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown").then(|| quoted.next()).flatten()?;
    let likeness = |name: &str| strsim::jaro_winkler(name, unknown);
    quoted.filter(|name| likeness(name) > 0.7).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}
