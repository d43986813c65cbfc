//! The crate through its public door.
//!
//! - `round_trip`: what comes back, level by level, with the error that docs/codec.md states; budgets;
//! - `refused`: columns that are not packed, in the words a person reads;
//! - `damage`: truncation, flips, hostile headers, memory;
//! - `fuzz`: seeded mutation that knows the structure and repairs checksums; `OPD_FUZZ_SECONDS` says how long;
//! - `golden`: bytes of format version 1, read for ever.

mod allocation;
mod damage;
mod fuzz;
mod golden;
mod refused;
mod round_trip;
mod support;
