//! Places at which a test ends a job as `kill -9` would.
//!
//! `OPD_FAILPOINT=rollout.after_put:3` kills the process, with SIGKILL to itself, the third time it comes to the point
//! `after_put` of the rollout job. Several are separated by commas. The points lie around the only moment that matters:
//! between object and commit.

use record::Job;
use std::sync::atomic::{AtomicU32, Ordering};

/// How often each point was passed; a process has one job.
static PASSED: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

/// Where in a job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Point {
    /// The work is done, nothing is stored.
    BeforePut,
    /// The object is stored, no commit names it.
    AfterPut,
    /// The commit is in the log.
    AfterCommit,
}

/// Passes `point` of `job`, unless the environment says that the process ends here.
pub fn pass(job: Job, point: Point) {
    let Ok(wanted) = std::env::var("OPD_FAILPOINT") else { return };
    let here = match point {
        Point::BeforePut => "before_put",
        Point::AfterPut => "after_put",
        Point::AfterCommit => "after_commit",
    };
    let here = format!("{}.{here}", job.as_str());
    let split = |one: &'_ str| -> (String, u32) {
        let (name, nth) = one.split_once(':').unwrap_or((one, "1"));
        (name.trim().to_string(), nth.parse().unwrap_or(1))
    };
    let Some((_, nth)) = wanted.split(',').map(split).find(|(name, _)| *name == here) else { return };
    if PASSED[point as usize].fetch_add(1, Ordering::SeqCst) + 1 == nth {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
