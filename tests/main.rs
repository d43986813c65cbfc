//! Whole programs, started as a user would start them.
//!
//! - [`arith`]: the pipeline in the repository keeps its promises;
//! - [`bad_input`]: what is wrong is said before any work, and nothing is written;
//! - [`codec`]: packed scores and rollouts, read as plain ones;
//! - [`collect`]: a store as a data set, and policies as Hugging Face directories;
//! - [`compact`]: a score set once more in fewer bytes;
//! - [`crash`]: jobs killed between object and commit, and at any moment;
//! - [`estimate`]: bias, variance and bytes of every estimator on a store;
//! - [`forecast`]: what a run would be with other workers;
//! - [`full_disk`]: a store that is full, and goes on once there is room;
//! - [`golden`]: a store of each format version is still read;
//! - [`hybrid`]: draws of the tail, and of the teacher: stored, learned from, refused where they are not enough;
//! - [`prompts`]: what is asked, from chats, templates and Parquet, and how its answers are counted;
//! - [`proxy`]: a bucket behind a network that loses answers;
//! - [`queries`]: the page of queries names what there is, and each of them has an answer;
//! - [`replay`]: recorded rows trained on again, and what is said where that is not possible;
//! - [`rescore`]: recorded rollouts scored anew, beside the run's own scores;
//! - [`run`]: the closed loop, synchronous and not, stopped and gone on with;
//! - [`s3`]: the same in a bucket, with the same weights;
//! - [`screen`]: what people see;
//! - [`smollm2`]: real weights, and the pipeline around them;
//! - [`teachers`]: several teachers, each for its own prompts.

mod arith;
mod bad_input;
mod codec;
mod collect;
mod compact;
mod crash;
mod estimate;
mod forecast;
mod full_disk;
mod golden;
mod hybrid;
mod prompts;
mod proxy;
mod queries;
mod replay;
mod rescore;
mod run;
mod s3;
mod screen;
mod smollm2;
mod support;
mod teachers;
