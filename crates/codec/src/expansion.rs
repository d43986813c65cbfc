//! A bound on what bytes may claim to hold, so that damaged ones cannot ask for memory: coded symbols may cost next to nothing, so
//! whoever packs adds zeros until there is a byte for every 32 things, and whoever unpacks refuses more.

use crate::{DecodeError, bytes::Reader};

const PER_BYTE: usize = 32;

/// Appends zeros until the bytes behind `start` may hold `n` things.
pub(crate) fn pad(out: &mut Vec<u8>, start: usize, n: usize) {
    let needed = start + n.div_ceil(PER_BYTE);
    if out.len() < needed {
        out.resize(needed, 0);
    }
}

/// Checks that what is left of `reader` may hold `n` of `what`.
pub(crate) fn check(reader: &Reader<'_>, what: &str, n: u32) -> Result<(), DecodeError> {
    let most = reader.left().saturating_mul(PER_BYTE);
    match n as usize <= most {
        true => Ok(()),
        false => Err(reader.damaged(format!("at most {most} {what} in {} bytes", reader.left()), n)),
    }
}
