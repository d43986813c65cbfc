//! WORDS: the ids, rows, batches and commits that every other crate speaks in. Pure: no I/O, no async, no torch.
//!
//! - [`Sample`] and [`Score`]: what a sampler and a teacher say of one sequence;
//! - [`RolloutBatch`] and [`ScoredBatch`]: many of them as checked views over Arrow columns, read without a copy;
//! - [`pack`], [`unpack`]: columns of a batch in few bytes, as it lies in its file; [`Budget`]: how much of them is read;
//! - [`unread()`], [`fill_unread`]: columns that a budget asks nothing of;
//! - [`Commit`]: one entry of the log, whose [`Event`] says what happened;
//! - [`RowSet`], [`PolicyVersion`], [`Digest`]: what rows, weights and bytes are known by.
//!
//! One invariant: a value of these types has been checked when it was made, so whoever holds one trusts it.
//!
//! ```
//! use record::RowSet;
//! let pending = RowSet::first(8).minus(&RowSet::first(3));
//! assert_eq!(serde_json::to_string(&pending).unwrap(), "[[3,8]]");
//! ```
#![warn(missing_docs)]

mod archive;
mod budget;
mod column;
mod commit;
mod error;
mod ids;
mod kept;
mod named;
mod packed;
mod ragged;
mod replay;
mod rollouts;
mod row;
mod row_set;
pub mod schema;
mod scores;
mod steps;
mod unread;
mod work;

pub use archive::{Archive, Footer, Move};
pub use budget::Budget;
pub use column::Lists;
pub use commit::{
    BatchId, BatchRows, Claims, Commit, DropReason, Dropped, EvalCommit, Event, FORMAT, ObjectRef, Policy, PromptSet,
    Ratio, RolloutCommit, Run, SamplerTopK, ScoreCommit, ScoreSet, ScoreSetCommit, StepCommit, UnitRows, Units,
};
pub use error::RecordError;
pub use ids::{Digest, PolicyVersion};
pub use kept::{Pin, Retirement};
pub use named::What;
pub use packed::{Codec, Packing, pack, stored_columns, unpack, unpack_within};
pub use ragged::Ragged;
pub use replay::{Parent, ReplayOrder, Replayed};
pub use rollouts::{NewRollout, Rollout, RolloutBatch, RolloutBatchInfo, rollout_id};
pub use row::{Draws, DrawsKept, Finish, Sample, Score};
pub use row_set::RowSet;
pub use scores::{ScoredBatch, ScoredRollout};
pub use steps::{ConsumedRollout, encode_step};
pub use unread::{fill_unread, unread};
pub use work::{Job, Work};
