//! Questions to a small run, answered.
//!
//! - [`fixture`]: the run, made through the store's own API
//! - [`log`]: tables of the log, and `--at`
//! - [`objects`]: tables of objects: rows, pruning, damage
//! - [`tokens`]: one row a position, the functions over it, and the views
//! - [`refusals`]: what is refused, and what misspelt names get
//! - [`sessions`]: sessions that follow their logs, and several stores at once
//! - [`formats`]: table, csv, json

mod fixture;
mod formats;
mod log;
mod objects;
mod refusals;
mod sessions;
mod tokens;
