//! The header of a safetensors file: what tensors it has and where. Weights are not read here.

use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use tch::Kind;

/// Longest header, as the format has it.
const LONGEST: u64 = 100_000_000;

/// One tensor of a file.
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) shape: Vec<i64>,
    /// First byte in the file, and number of bytes.
    pub(crate) start: u64,
    pub(crate) bytes: u64,
}

/// Reads the header of a file of `length` bytes. The tensors are checked to fill the rest of the file without a gap, so each one
/// lies inside it; `file` is what messages call it.
pub(crate) fn read(source: &mut impl Read, length: u64, file: &str) -> Result<BTreeMap<String, Entry>> {
    let error = |reason: String| Error::Safetensors { file: file.into(), reason };
    let unread = |reason: std::io::Error| match reason.kind() {
        ErrorKind::UnexpectedEof => {
            error(format!("it ends after {length} bytes, before its header does; copy it again"))
        }
        _ => error(reason.to_string()),
    };
    let mut first = [0; 8];
    source.read_exact(&mut first).map_err(unread)?;
    if &first == b"version " {
        return Err(error(
            "it is a Git LFS pointer, not the file itself; run `git lfs pull` where it came from".into(),
        ));
    }
    let size = u64::from_le_bytes(first);
    if size > LONGEST.min(length.saturating_sub(8)) {
        return Err(error(format!(
            "its header would have {size} bytes, of {length} in the file (and at most {LONGEST}); copy it again"
        )));
    }
    let mut text = vec![0; size as usize];
    source.read_exact(&mut text).map_err(unread)?;
    let header: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|reason| error(format!("its header is not a JSON object ({reason})")))?;

    let mut entries = BTreeMap::new();
    for (name, value) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let entry = entry(value, 8 + size).map_err(|reason| error(format!("tensor `{name}` {reason}")))?;
        entries.insert(name.clone(), entry);
    }
    let mut order: Vec<(&String, &Entry)> = entries.iter().collect();
    order.sort_by_key(|(_, entry)| (entry.start, entry.bytes));
    let mut end = 8 + size;
    for (name, entry) in order {
        if entry.start != end {
            let reason =
                format!("tensor `{name}` starts at byte {}, expected {end}, where the one before ends", entry.start);
            return Err(error(reason));
        }
        end = entry.start + entry.bytes;
        if end > length {
            let reason =
                format!("it has {length} bytes, but tensor `{name}` ends at {end}: it is cut short; copy it again");
            return Err(error(reason));
        }
    }
    if end < length {
        return Err(error(format!("it has {length} bytes, but its last tensor ends at {end}; copy it again")));
    }
    Ok(entries)
}

/// One entry of a header whose tensors begin at byte `data` of the file, or what is wrong with it.
fn entry(value: &Value, data: u64) -> std::result::Result<Entry, String> {
    let (kind, width) = match value["dtype"].as_str() {
        Some("F32") => (Kind::Float, 4),
        Some("BF16") => (Kind::BFloat16, 2),
        Some("F16") => (Kind::Half, 2),
        Some("F64") => (Kind::Double, 8),
        _ => {
            let found = value["dtype"].as_str().map_or(value["dtype"].to_string(), str::to_owned);
            return Err(format!("is {found}; F32, BF16, F16 and F64 are read: convert the checkpoint to one of these"));
        }
    };
    let numbers = |key: &str| {
        let list: Option<Vec<u64>> = value[key].as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
        list.ok_or_else(|| format!("has {key} {}, expected a list of sizes", value[key]))
    };
    let (shape, offsets) = (numbers("shape")?, numbers("data_offsets")?);
    let &[start, end] = offsets.as_slice() else {
        return Err(format!("has data_offsets {offsets:?}, expected where it starts and ends"));
    };
    let expected = shape.iter().try_fold(width, |product: u64, &n| product.checked_mul(n));
    let found = end.checked_sub(start);
    let (Some(bytes), true) = (found, found == expected && data.checked_add(end).is_some()) else {
        let expected = expected.map_or("more than any file".into(), |bytes| bytes.to_string());
        let shape = format!("{shape:?} of {width}-byte numbers");
        return Err(format!("has shape {shape}, which is {expected} bytes, but data_offsets {start} to {end}"));
    };
    // Each size is at most the number of bytes, unless that is 0.
    let shape = shape.iter().map(|&n| i64::try_from(n)).collect::<std::result::Result<_, _>>();
    let shape = shape.map_err(|_| "has a shape beyond any memory".to_owned())?;
    Ok(Entry { kind, shape, start: data + start, bytes })
}
