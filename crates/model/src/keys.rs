//! A JSON object read key by key, with complaints that name the file and the key.

use crate::{Error, Result};
use serde_json::{Map, Value};

/// A JSON object whose complaints name the file and the key.
pub(crate) struct Keys<'a> {
    file: &'a str,
    map: Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(crate) fn parse(text: &str, file: &'a str) -> Result<Self> {
        let error = |found: String| Error::Config {
            file: file.into(),
            key: "(the whole file)".into(),
            expected: "a JSON object".into(),
            found,
        };
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Self { file, map }),
            Ok(other) => Err(error(shown(&other))),
            Err(reason) => Err(error(format!("not JSON ({reason})"))),
        }
    }

    /// The value at a key, `a.b` for `b` inside `a`; null counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        match key.split_once('.') {
            Some((outer, inner)) => self.nested(outer, inner),
            None => self.map.get(key).filter(|value| !value.is_null()),
        }
    }

    /// Whether the file says null at a key at the top.
    pub(crate) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    fn nested(&self, outer: &str, inner: &str) -> Option<&Value> {
        self.get(outer)?.get(inner).filter(|value| !value.is_null())
    }

    pub(crate) fn error(&self, key: &str, expected: &str) -> Error {
        Error::Config {
            file: self.file.into(),
            key: key.into(),
            expected: expected.into(),
            found: self.get(key).map_or("missing".into(), shown),
        }
    }

    /// Reads a key; `absent` stands in where the file lacks it, and without one the key must be there.
    fn read<T>(&self, key: &str, what: &str, absent: Option<T>, read: impl Fn(&Value) -> Option<T>) -> Result<T> {
        match self.get(key) {
            Some(value) => read(value),
            None => absent,
        }
        .ok_or_else(|| self.error(key, what))
    }

    pub(crate) fn size(&self, key: &str, absent: Option<usize>) -> Result<usize> {
        // Ids and sizes are int32 in every schema and in most kernels.
        let read = |value: &Value| value.as_u64().filter(|n| (1..=i32::MAX as u64).contains(n)).map(|n| n as usize);
        self.read(key, "a whole number from 1 to 2147483647", absent, read)
    }

    pub(crate) fn positive(&self, key: &str, absent: Option<f64>) -> Result<f64> {
        self.read(key, "a number above 0", absent, |value| value.as_f64().filter(|x| *x > 0.0 && x.is_finite()))
    }

    pub(crate) fn flag(&self, key: &str, absent: bool) -> Result<bool> {
        self.read(key, "true or false", Some(absent), Value::as_bool)
    }

    pub(crate) fn ids(&self, key: &str) -> Result<Vec<i32>> {
        let id = |value: &Value| value.as_i64().and_then(|id| i32::try_from(id).ok()).filter(|id| *id >= 0);
        let mut ids = self.read(key, "a token id or a list of them", Some(Vec::new()), |value| match value {
            Value::Array(list) => list.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

/// A value as messages show it, cut where it is long.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}
