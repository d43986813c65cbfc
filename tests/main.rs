//! Whole programs, started as a user would start them.
//!
//! - [`arith`]: the pipeline in the repository keeps its promises;
//! - [`bad_input`]: what is wrong is said before any work, and nothing is written;
//! - [`crash`]: jobs killed between object and commit, and at any moment;
//! - [`run`]: the closed loop, synchronous and not, stopped and gone on with;
//! - [`screen`]: what people see.

mod arith;
mod bad_input;
mod crash;
mod run;
mod screen;
mod support;
