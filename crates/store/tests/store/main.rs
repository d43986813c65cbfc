//! The store's promises, against every backend.
//!
//! - `conformance`: what every backend must keep, in memory, in a folder (with and without fsync) and in a bucket;
//! - `races`: many writers, one log;
//! - `faults`: a backend that fails, hangs and loses acknowledgements;
//! - `history`: snapshots and segments change nothing but speed;
//! - `kept`: pins, and what is given up;
//! - `score_sets`: score sets beside the run's own;
//! - `streaming`: selections and the stream of scored batches;
//! - `caching`: copies on a local disk change nothing but the number of requests;
//! - `polling`: how often who waits looks, and how soon it sees;
//! - `upkeep`: what is deleted, and what is found;
//! - `archives`: what is moved reads as before, and what may be deleted then;
//! - `damaged_archives`: those that are damaged or not there, and what is moved meanwhile;
//! - `damage`: truncated, flipped and missing files;
//! - `documents`: what `schemas/commit.md` says is what is read.

mod archives;
mod bed;
mod caching;
mod conformance;
mod damage;
mod damaged_archives;
mod documents;
mod faults;
mod history;
mod kept;
mod material;
mod polling;
mod races;
mod score_sets;
mod streaming;
mod upkeep;
