//! BYTES: a teacher's top-k and a sampler's draws in few bytes. Pure: no I/O, no async, no torch, no Arrow.
//!
//! - [`TopColumn`], [`DrawColumn`]: plain ragged columns, rows of positions of entries ([`Layout`]);
//! - [`Level`]: what a packed column keeps. `lossless` every bit; `fast` and `compact` round log-probabilities, and what they decode to is
//!   a distribution: entries and tail add up to 1. Counts, ids and the log-probabilities of draws are exact at every level;
//! - [`encode_top`], [`encode_draws`]: refuse what would be a wrong answer later;
//! - [`PackedTop`], [`PackedDraws`]: read whole, by row, or the first entries of each list;
//! - [`truncate`], [`thin`]: the same budgets for plain columns; [`divergence()`]: what rounding cost.
//!
//! One invariant: bytes that were damaged in any way give a [`DecodeError`], never a panic, and never take more memory than
//! a small multiple of their length. `docs/codec.md` has the format byte by byte.
//!
//! ```
//! use codec::{Layout, Level, PackedTop, TopColumn, encode_top};
//! let mut layout = Layout::new();
//! layout.push_list(2);
//! layout.end_row();
//! let (half, quarter) = (0.5_f32.ln(), 0.25_f32.ln());
//! let column = TopColumn { layout, ids: vec![7, 3], logprobs: vec![half, quarter], tails: vec![quarter] };
//! let bytes = encode_top(&column, Level::Compact, 10)?;
//! let back = PackedTop::parse(&bytes)?.decode(usize::MAX)?;
//! assert_eq!(back.ids, column.ids);
//! assert!((back.logprobs[1] - quarter).abs() < 0.01);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]

mod budget;
mod bytes;
mod coded;
mod column;
mod compact;
mod crc;
mod dictionary;
mod divergence;
mod draws;
mod error;
mod expansion;
mod fast;
mod half;
mod header;
mod lossless;
mod model;
mod packed;
mod rans;
mod table;
mod values;

pub use budget::{thin, truncate};
pub use column::{DrawColumn, Layout, MAX_ENTRIES, MAX_LIST, MAX_VOCABULARY, TopColumn};
pub use divergence::divergence;
pub use error::{DecodeError, EncodeError};
pub use header::{Header, Level};
pub use packed::{PackedDraws, PackedTop, encode_draws, encode_top};
