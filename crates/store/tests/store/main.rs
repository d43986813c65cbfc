//! The store's promises, against every backend.
//!
//! - `conformance`: what every backend must keep, in memory, in a folder (with and without fsync) and in a bucket;
//! - `races`: many writers, one log;
//! - `faults`: a backend that fails, hangs and loses acknowledgements;
//! - `history`: snapshots and segments change nothing but speed;
//! - `streaming`: selections and the stream of scored batches;
//! - `caching`: copies on a local disk change nothing but the number of requests;
//! - `waiting`: how often who waits looks, and how soon it sees;
//! - `damage`: truncated, flipped and missing files;
//! - `documents`: what `schemas/commit.md` says is what is read.

mod bed;
mod caching;
mod conformance;
mod damage;
mod documents;
mod faults;
mod history;
mod material;
mod races;
mod streaming;
mod waiting;
