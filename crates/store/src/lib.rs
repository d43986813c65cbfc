//! MEMORY: one store is one run, and a run is one log of commits over immutable objects, in a folder, an S3 bucket or
//! memory. `storage/README.md` specifies the layout and what it promises.
//!
//! - [`Store`]: objects, put once and read back verified: batches, weights, moments, step records;
//! - [`Follower`]: an observer of the log; [`Follower::append`] is the one way to add to it;
//! - [`Snapshot`]: live state after a commit, the pure fold of the log that every job plans from;
//! - [`Selection`]: which live rows are wanted, and [`Store::scored`], the stream of them;
//! - [`Store::put_archive`]: batches and step records as a Parquet file, from which they are then read;
//! - [`Inventory`]: what lies there beside what the log names; [`Store::verify`] reads all of it;
//! - [`Folder`]: files for other programs, which are no store;
//! - [`StoreError`]: what can go wrong, with the key, both values and what to do.
//!
//! One invariant: object, then commit. An object that no commit names does not exist for anyone, and one that a commit
//! names never changes, so a crash at any instant leaves at most something nobody sees.
//!
//! ```
//! # use record::*;
//! # use std::collections::BTreeMap;
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! # let file = ObjectRef { key: "policies/a.json".into(), bytes: 0, digest: Digest::of(b"") };
//! # let digest = file.digest;
//! # let work = Work { worker: "run".into(), incarnation: "a".into(), job: Job::Run, started: 0, busy_s: 0.0, waited_s: 0.0, tokens: 0 };
//! let store = store::Store::memory();
//! let weights = store.put_policy(PolicyVersion(0), "weights").await?;
//! # let run = Run {
//! #     run_id: store::unique_id(), pipeline: "arith".into(), seed: 0, tokenizer: digest, teachers: BTreeMap::new(),
//! #     prompts: PromptSet { digest, count: 1 }, units: Units { prompts: 1, samples: 8 }, score_sets: BTreeMap::new(),
//! #     student_config: file.clone(), student_tokenizer: file, student_files: BTreeMap::new(),
//! #     policy: Policy { version: PolicyVersion(0), weights }, parent: None,
//! # };
//! let mut follower = store.create(run, work.clone()).await?;
//! let unit = UnitRows { unit: 0, rows: RowSet::first(8) };
//! let commit = follower.append(work, |now| {
//!     let claim = Claims { units: vec![unit.clone()], batches: vec![] };
//!     (now.next_unit == 0).then_some(Event::Claim(claim)) // asked again after each commit that comes first
//! });
//! assert_eq!(commit.await?.map(|commit| commit.seq), Some(1));
//! assert_eq!(store.get(&follower.snapshot().newest_policy().weights).await?, "weights");
//! # Ok::<(), store::StoreError>(()) }).unwrap();
//! ```
#![warn(missing_docs)]

mod archive;
mod backend;
mod batches;
mod cache;
mod chance;
mod checked;
mod clock;
mod durable;
mod error;
mod folder;
mod follower;
mod garbage;
mod held;
mod history;
mod inventory;
mod ipc;
mod keys;
mod log;
mod object;
mod options;
mod selection;
#[doc(hidden)]
pub mod simulated;
mod snapshot;
mod store;
mod stream;
mod verify;
mod waiting;

pub use archive::Archived;
pub use chance::{now_ms, unique_id};
pub use error::{Result, StoreError};
pub use folder::{Folder, Put};
pub use follower::Follower;
pub use garbage::{Collection, Garbage, Lacking, Why};
pub use inventory::{Inventory, Lying, Moved, Named, named};
pub use keys::{Key, Kind};
pub use object::Usage;
pub use options::{CacheOptions, GRACE, StoreOptions};
pub use selection::{SelectedBatch, Selection, Staleness, Versions};
pub use snapshot::{Batch, Ended, FoldError, Snapshot, UnitClaim, Worker};
pub use store::Store;
pub use stream::{BatchError, Scored};
pub use verify::{Depth, Finding, Seen, Verified};

pub(crate) use log::Landed;
