//! The pin by which a parent keeps what a replay of it reads, whatever retention says.

use super::parent::ParentRun;
use crate::{error::Result, keep, output::say};
use record::{Event, Pin, PolicyVersion, Run};
use store::Snapshot;

/// Pins the versions from the first to the last that sampled rows which are read, in the parent's log, once, under the name of the run
/// that reads them. A parent that cannot be written to is read all the same, and that is said.
///
/// # Errors
/// As reading the parent's log.
pub(super) async fn keep(
    parent: &ParentRun,
    versions: Option<(PolicyVersion, PolicyVersion)>,
    child: &Run,
) -> Result<()> {
    let Some((first, last)) = versions else { return Ok(()) };
    let pin = Pin { name: format!("replay-{}", child.run_id), upto: parent.seq, first, last };
    let mut follower = parent.store.follow().await?;
    let event = |now: &Snapshot| (!now.pins.contains_key(&pin.name)).then(|| Event::Pin(pin.clone()));
    if let Err(error) = follower.append(keep::work("replay"), event).await {
        let url = parent.store.url();
        say(&format!(
            "warning: `{url}` is not pinned: {error}\n  what this run reads there is kept as long as retention leaves it; whoever looks after \
             that store can pin it with `opd pin`"
        ));
    }
    Ok(())
}
