//! The processes of a sweep's runs.

use super::grid::{Member, Sweep};
use crate::{
    error::{CommandError, Result},
    stop,
};
use std::{collections::VecDeque, process::Stdio};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

/// Lines of a run that failed that are shown.
const LAST_WORDS: usize = 8;

/// What a process does for a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Doing {
    /// All of it.
    Run,
    /// The steps of one that replays.
    Replay,
    /// The evaluations of one that has replayed so many steps.
    Eval { steps: u64 },
}

/// Starts it; the second value is the last of what it says.
pub(super) fn start(sweep: &Sweep, member: &Member, what: Doing) -> Result<(Child, JoinHandle<VecDeque<String>>)> {
    let fault = |error: std::io::Error| CommandError::new(format!("cannot start run `{}`: {error}", member.name));
    let mut command = Command::new(std::env::current_exe().map_err(fault)?);
    match (what, &member.replay) {
        (Doing::Replay, Some(source)) => {
            command.arg("replay").args(source.args()).arg(format!("--into={}", member.pipeline.store.url))
        }
        (Doing::Eval { .. }, _) => command.arg("eval"),
        (Doing::Run | Doing::Replay, _) => command.arg("run"),
    };
    command.args(&sweep.pipeline).args(member.sets.iter().flat_map(|set| ["--set", set]));
    if let Doing::Eval { steps } = what {
        // The last step is due, whichever it is.
        command.args(["--set", &format!("learn.steps={steps}")]);
    }
    // A Ctrl-C is ours to pass on; should this process die, the end of its standard input tells the run to end.
    command.env(stop::SUPERVISED, "1").process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(fault)?;
    let stderr = child.stderr.take();
    let words = tokio::spawn(async move {
        let mut last = VecDeque::new();
        let Some(stderr) = stderr else { return last };
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            last.push_back(line);
            if last.len() > LAST_WORDS {
                last.pop_front();
            }
        }
        last
    });
    Ok((child, words))
}
