//! The pin by which a parent keeps what a replay of it reads, whatever retention says.

use super::{parent::ParentRun, script::Script};
use crate::{error::Result, keep, output::say};
use record::{Event, Pin, Run};
use store::Snapshot;

/// Pins the versions that sampled the script's rows in the parent's log, once, under the name of the replay. A parent that cannot be
/// written to is read all the same, and that is said.
///
/// # Errors
/// As reading the parent's log.
pub(super) async fn keep(parent: &ParentRun, script: &Script, child: &Run) -> Result<()> {
    let Some((first, last)) = script.versions() else { return Ok(()) };
    let pin = Pin { name: format!("replay-{}", child.run_id), upto: parent.seq, first, last };
    let mut follower = parent.store.follow().await?;
    let event = |now: &Snapshot| (!now.pins.contains_key(&pin.name)).then(|| Event::Pin(pin.clone()));
    if let Err(error) = follower.append(keep::work("replay"), event).await {
        let url = parent.store.url();
        say(&format!("`{url}` is not pinned, so that retention there may take rows from this replay: {error}"));
    }
    Ok(())
}
