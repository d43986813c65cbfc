//! `opd archive`: moves batches whose rows have all ended, their scores and step records into Parquet files, in which they take less
//! room. Every answer stays what it was. `opd gc` then deletes the objects that they came from.

mod groups;
mod mover;

use super::{grid, open, quantity, retain::look};
use crate::{
    error::{CommandError, Result},
    output::{say, show},
    progress::Line,
    status::size,
    stop::Stop,
};
use groups::{Group, Kind, Sum, groups};
use mover::Mover;
use std::{collections::BTreeMap, time::Duration};
use store::{Inventory, Named, Snapshot};

/// How often in a row it is planned anew where another archives meanwhile and nothing is moved.
const ATTEMPTS: usize = 8;

/// What is asked of `opd archive`.
///
/// Moves batches all of whose rows have ended, their scores in every score set, and step records into Parquet files. Every question is
/// answered as before, at every moment of the log, and other programs read the files. An older opd refuses the store from then on.
#[derive(Debug, clap::Args)]
pub struct Archive {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// Only what policy versions before this one sampled, and the records of the steps that made them.
    #[arg(long, value_name = "VERSION", value_parser = version)]
    before: Option<u64>,
    /// Only what was committed longer ago than this, by the store's own clock: 30d.
    #[arg(long, value_name = "TIME", value_parser = quantity::time)]
    older_than: Option<Duration>,
    /// Only say what would be moved.
    #[arg(long)]
    dry_run: bool,
}

fn version(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix('v').unwrap_or(text).parse();
    number.map_err(|_| "a policy version, as in 100".into())
}

impl Archive {
    /// Prints what is moved on standard output, and commits that it is.
    ///
    /// # Errors
    /// No run in the store, or one that cannot be read or written to; a version that there is not; objects that cannot be read.
    pub async fn run(self, stop: &Stop) -> Result<()> {
        let store = open(&self.store).await?;
        let mut mover = Mover { store: &store, stop, line: Line::new("archive"), sums: BTreeMap::new(), unread: 0 };
        let ended = self.plan_and_move(&mut mover).await;
        mover.line.clear();
        match ended {
            Ok(left) => self.report(&mover, left),
            Err(error) => {
                // What is moved is moved, whatever came then.
                if !mover.sums.is_empty() {
                    self.show(&mover)?;
                }
                Err(error)
            }
        }
    }

    /// Moves what may be, planned anew as often as others archive meanwhile; says how many objects it was stopped before. None where nothing
    /// is moved and there is nothing to report.
    async fn plan_and_move(&self, mover: &mut Mover<'_>) -> Result<Option<usize>> {
        let mut attempts = Attempts::default();
        loop {
            mover.line.show("listing");
            let looked = look(mover.store, self.older_than.is_some()).await;
            mover.line.clear();
            let (inventory, now) = looked?;
            let groups = self.plan(&inventory, &now)?;
            if groups.is_empty() && mover.sums.is_empty() {
                say("nothing to archive: what has ended, as far as it is asked for, is archived or given up");
                return Ok(None);
            }
            if self.dry_run {
                return would_move(groups).map(|()| None);
            }
            mover.unread = 0;
            if let Some(left) = mover.move_all(groups, &now).await? {
                return Ok(Some(left));
            }
            if attempts.are_over(mover.archives()) {
                return Err(CommandError::new("others kept archiving while this planned").hint("try again").passing());
            }
        }
    }

    /// What may be moved and is asked for.
    fn plan(&self, inventory: &Inventory, now: &Snapshot) -> Result<Vec<Group>> {
        if let Some(before) = self.before.filter(|before| *before > now.version.0 + 1) {
            let what = format!("--before {before}: the run is at {}", now.version);
            return Err(CommandError::new(what).hint("leave --before away to archive all that has ended"));
        }
        let is_old = |named: &Named| {
            let of_before = self.before.is_none_or(|before| named.version.is_some_and(|version| version.0 < before));
            let age = || inventory.age_of_commit(named.seq);
            of_before && self.older_than.is_none_or(|than| age().is_some_and(|age| age > than))
        };
        Ok(groups(inventory, now, is_old))
    }

    /// What was moved so far.
    fn show(&self, mover: &Mover<'_>) -> Result<()> {
        show(&table(&mover.sums, true))?;
        let (bytes, archived) = mover.bytes();
        say(&format!("{} moved into archives of {}", size(bytes), size(archived)));
        say(&format!("`opd gc {}` deletes what they came from once its grace period is over", self.store));
        Ok(())
    }

    fn report(&self, mover: &Mover<'_>, left: Option<usize>) -> Result<()> {
        let Some(left) = left else { return Ok(()) };
        self.show(mover)?;
        if left > 0 {
            say(&format!("stopped with {left} objects to go; the same command goes on"));
        }
        if mover.unread > 0 {
            let what = format!("{} objects cannot be read and stay where they are", mover.unread);
            return Err(CommandError::new(what).hint("bring them back from a copy; the same command then moves them"));
        }
        Ok(())
    }
}

/// How often in a row a plan came to nothing.
#[derive(Debug, Default)]
struct Attempts {
    /// Archives that were made before.
    made: usize,
    count: usize,
}

impl Attempts {
    /// Counts one more; or none, if the plan before led to more archives than were `made` until then.
    fn are_over(&mut self, made: usize) -> bool {
        self.count = if made > self.made { 0 } else { self.count + 1 };
        self.made = made;
        self.count == ATTEMPTS
    }
}

fn would_move(groups: Vec<Group>) -> Result<()> {
    let mut sums: BTreeMap<Kind, Sum> = BTreeMap::new();
    for group in groups {
        let sum = group.sum(group.objects.iter(), 0);
        sums.entry(group.kind).and_modify(|all| all.add(&sum)).or_insert(sum);
    }
    show(&table(&sums, false))?;
    let (objects, bytes) = sums.values().fold((0, 0), |(n, bytes), sum| (n + sum.objects, bytes + sum.bytes));
    say(&format!("{objects} objects ({}) would be moved", size(bytes)));
    Ok(())
}

/// A line a kind; `is_made` says that the archives are there.
fn table(sums: &BTreeMap<Kind, Sum>, is_made: bool) -> String {
    let row = |(kind, sum): (&Kind, &Sum)| {
        let Sum { first, last, objects, bytes, archives, archived } = *sum;
        let archived = if is_made { size(archived) } else { "?".into() };
        [
            kind.name().to_string(),
            kind.score_set().into(),
            format!("{}..{}", first.0, last.0),
            objects.to_string(),
            size(bytes),
            archives.to_string(),
            archived,
        ]
    };
    let rows: Vec<_> = sums.iter().map(row).collect();
    let names = ["kind", "score set", "policy versions", "objects", "size", "archives", "size there"];
    grid::table(names, [false, false, true, true, true, true, true], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn attempts_are_over_when_nothing_is_moved_many_times_in_a_row() {
        let mut attempts = Attempts::default();
        for made in 1..100 {
            assert!(!attempts.are_over(made), "each time something was moved");
        }
        for _ in 1..ATTEMPTS {
            assert!(!attempts.are_over(99));
        }
        assert!(attempts.are_over(99));
    }
}
