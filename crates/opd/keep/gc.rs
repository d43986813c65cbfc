//! `opd gc`: deletes what nobody needs.

use super::{grid, quantity};
use crate::{
    error::{CommandError, Result},
    output::{say, show},
    progress::Line,
    status::size,
};
use futures::StreamExt;
use std::time::Duration;
use store::{Collection, GRACE, Garbage, Lacking, Why};

/// Deletions that are on their way at once.
const AT_ONCE: usize = 16;

/// What is asked of `opd gc`.
///
/// Deletes objects that no commit names, objects that a commit gave up and those whose rows lie in an archive, once that has been so for longer than the grace period
/// by the store's own clock, and what killed writers left half-written in a folder. What was moved stays as long as the archive is not there
/// as it was committed. Keys that no store makes are reported and left.
#[derive(Debug, clap::Args)]
pub struct Gc {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// Only say what would be deleted, and why.
    #[arg(long)]
    dry_run: bool,
    /// For how long it must have been so; less than the default is safe only while no job is at work.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = quantity::time)]
    grace: Duration,
}

impl Gc {
    /// Prints what is deleted on standard output.
    ///
    /// # Errors
    /// No run in the store, or one that cannot be read or deleted from.
    pub async fn run(self) -> Result<()> {
        let store = super::open(&self.store).await?;
        let line = Line::new("gc");
        line.show("listing");
        let found = async {
            let inventory = store.inventory(true).await?;
            let tell = |done, all| line.show(&format!("reading archives: {done} of {all}"));
            store.collection(&inventory, self.grace, tell).await
        };
        let found = found.await;
        line.clear();
        let found = found?;
        show(&table(&found.old))?;
        for Lacking { archive, expected, found, objects } in &found.lacking {
            say(&format!(
                "{objects} archived objects stay: `{archive}` should hold them, expected {expected}, found {found}"
            ));
        }
        for key in &found.unknown {
            say(&format!("`{key}` is no part of a store and stays"));
        }
        let (old, young) = (total(&found.old), total(&found.young));
        if !found.young.is_empty() {
            say(&format!("{young} not needed either, but not for {} yet", quantity::short(self.grace)));
        }
        if self.dry_run {
            say(&format!("{old} would be deleted"));
            return ended(&found);
        }
        if self.grace < GRACE && !found.old.is_empty() {
            say(&format!(
                "grace period below {}: an object that a job has put and not yet committed may be among these",
                quantity::short(GRACE)
            ));
        }
        let mut deletions =
            futures::stream::iter(&found.old).map(|garbage| store.delete_garbage(garbage)).buffer_unordered(AT_ONCE);
        let mut done = 0;
        while let Some(deleted) = deletions.next().await {
            if let Err(error) = deleted {
                line.clear();
                return Err(CommandError::from(error).hint(format!("{done} were deleted; the same command goes on")));
            }
            done += 1;
            line.show(&format!("{done} of {} deleted", found.old.len()));
        }
        line.clear();
        say(&format!("{old} deleted"));
        ended(&found)
    }
}

/// An error if something stays that ought not to.
fn ended(found: &Collection) -> Result<()> {
    if found.lacking.is_empty() {
        return Ok(());
    }
    let what = format!("archives that are damaged or not there: {}", found.lacking.len());
    let hint = "bring them back from a copy: until then what was moved there is read from where it was put, and stays";
    Err(CommandError::new(what).hint(hint))
}

fn total(of: &[Garbage]) -> String {
    let bytes = of.iter().map(|garbage| garbage.bytes).sum();
    format!("{} object{} ({})", of.len(), if of.len() == 1 { "" } else { "s" }, size(bytes))
}

fn table(of: &[Garbage]) -> String {
    let why = |why: Why| match why {
        Why::GivenUp(seq) => format!("given up by commit {seq}"),
        Why::Moved(seq) => format!("archived by commit {seq}"),
        Why::Unnamed => "named by no commit".into(),
        Why::Unfinished => "left half-written".into(),
    };
    let row = |of: &Garbage| [why(of.why), quantity::short(of.age), of.bytes.to_string(), of.key.clone()];
    let rows: Vec<_> = of.iter().map(row).collect();
    grid::table(["why", "for", "bytes", "key"], [false, true, true, false], &rows)
}
