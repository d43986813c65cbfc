//! JOBS: the command line and the jobs of a run, one file each.
//!
//! A job is a loop: follow the log, plan what is next ([`plan`], pure), do it, put an object, append the commit that names
//! it ([`events`], pure). How far the jobs run apart is [`pace`]. [`rollout`], [`score`], [`learn`] and [`eval`] are such loops;
//! [`mod@run`] starts them as processes and watches the log; [`status`], [`sql`], [`mod@trace`], [`forecast`] and
//! [`mod@estimate`] read it, [`mod@export`], [`export_policy`], [`compact`] and [`sft`] make something of it, [`replay`] learns
//! from it anew, [`rescore`] scores it anew, [`keep`] looks after it.
//! [`config`] is the pipeline that all of them are given, [`preflight`] what is checked before any of them works.
#![warn(missing_docs)]

pub mod answers;
pub mod beside;
pub mod cli;
pub mod compact;
pub mod config;
pub mod context;
pub mod error;
pub mod estimate;
pub mod eval;
pub mod events;
pub mod export;
pub mod export_policy;
pub mod failpoint;
pub mod forecast;
pub mod identity;
pub mod interrupt;
pub mod keep;
pub mod learn;
pub mod model_files;
pub mod output;
pub mod pace;
pub mod patience;
pub mod plan;
pub mod policy;
pub mod preflight;
pub mod progress;
pub mod prompts;
pub mod recorded;
pub mod replay;
pub mod rescore;
pub mod rollout;
pub mod run;
pub mod score;
pub mod score_set;
pub mod selection;
pub mod sft;
pub mod share;
pub mod simulation;
pub mod sql;
pub mod status;
pub mod stop;
pub mod svg;
pub mod sweep;
pub mod teachers;
pub mod trace;
pub mod verdicts;
pub mod warnings;
