//! The fields of a row, by the keys that a pipeline gives them.

use crate::error::{CommandError, Result};
use model::template::{Value, ValueKind};

/// A field that a prompt is made of: its own name, and what it is called where that is another.
pub(super) type Key<'a> = (&'static str, &'a Option<String>);

/// The name that a field has in the file.
pub(super) fn name<'a>((own, key): Key<'a>) -> &'a str {
    key.as_deref().unwrap_or(own)
}

/// A row's fields.
pub(super) struct Fields<'a> {
    /// Those that were read, as a map.
    pub values: &'a Value,
    /// All that there are, where not all were read.
    pub columns: Option<&'a [String]>,
}

impl Fields<'_> {
    /// A field, unless it is not there or null.
    ///
    /// # Errors
    /// If a key names it and it is not there.
    pub fn get(&self, key: Key) -> Result<Option<Value>> {
        match (find(self.values, name(key)), key) {
            (None, (own, Some(_))) => Err(self.missing(key).hint(format!(
                "keys.{own} names the field that holds it; an eval set has the keys of [prompts], unless its table has \
                 others"
            ))),
            (found, _) => Ok(found.filter(|value| !value.is_none())),
        }
    }

    /// A field that is text; with `or_number`, a number is its text.
    ///
    /// # Errors
    /// As [`Fields::get`], or another value.
    pub fn text(&self, key: Key, or_number: bool) -> Result<Option<String>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        match value.kind() {
            ValueKind::String => Ok(value.to_str().map(|text| text.to_string())),
            ValueKind::Number if or_number => Ok(Some(value.to_string())),
            found => Err(unexpected(name(key), found, if or_number { "a text or a number" } else { "a text" })),
        }
    }

    /// That a field is null, or not there, and which are.
    pub fn missing(&self, key: Key) -> CommandError {
        if find(self.values, name(key)).is_some() {
            return CommandError::new(format!("`{}` is null", name(key)));
        }
        CommandError::new(format!("there is no `{}`; there is {}", name(key), self.listed()))
    }

    /// The names of all fields, for people.
    pub fn listed(&self) -> String {
        let names = self.columns.map_or_else(|| names(self.values), <[String]>::to_vec);
        format!("`{}`", names.join("`, `"))
    }
}

/// A field by its name, or by names with dots between where it is nested.
pub(super) fn find(fields: &Value, key: &str) -> Option<Value> {
    let there = |key: &str| fields.get_item(&Value::from(key)).ok().filter(|value| !value.is_undefined());
    there(key).or_else(|| {
        let (first, rest) = key.split_once('.')?;
        find(&there(first)?, rest)
    })
}

pub(super) fn names(fields: &Value) -> Vec<String> {
    fields.try_iter().map_or(Vec::new(), |names| names.map(|name| name.to_string()).collect())
}

pub(super) fn unexpected(name: &str, found: ValueKind, expected: &str) -> CommandError {
    CommandError::new(format!("`{name}` is a {found}, expected {expected}"))
}
