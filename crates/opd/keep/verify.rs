//! `opd verify`: reads a store and says what is not as it should be.

use crate::{
    error::{CommandError, Result},
    output::{say, show},
    progress::Line,
    status::size,
};
use store::{Depth, Seen};

/// What is asked of `opd verify`.
///
/// Standard output has a line for each finding: its key, what is expected there, what was found. Exit status: 0 all is as it
/// should be, 1 findings, 2 the store could not be read.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// Read the log, and of everything else only how long it is.
    #[arg(long)]
    quick: bool,
}

impl Verify {
    /// Prints what is found on standard output.
    ///
    /// # Errors
    /// A store that cannot be read, and, with another exit status, findings.
    pub async fn run(self) -> Result<()> {
        let store = super::open(&self.store).await?;
        let depth = if self.quick { Depth::Lengths } else { Depth::Everything };
        let (line, mut shown) = (Line::new("verify"), Ok(()));
        let mut tell = |seen: Seen<'_>| match seen {
            Seen::Commits(commits) => line.show(&format!("{commits} commits")),
            Seen::Objects(done, all) => line.show(&format!("{done} of {all} objects")),
            Seen::Finding(store::Finding { key, expected, found }) => {
                let text = format!("{key}: expected {expected}, found {found}\n");
                line.suspend(|| shown = std::mem::replace(&mut shown, Ok(())).and(show(&text)));
            }
        };
        let verified = store.verify(depth, &mut tell).await;
        line.clear();
        let verified = verified?;
        shown?;
        let read = match depth {
            Depth::Lengths => format!("lengths of {} objects", verified.objects),
            Depth::Everything => format!("{} objects ({})", verified.objects, size(verified.bytes)),
        };
        let read = format!("read {} commits and {read}", verified.commits);
        match verified.findings.len() {
            0 => {
                say(&format!("{read}: all is as it should be"));
                Ok(())
            }
            count => {
                Err(CommandError::new(format!("{read}: {count} finding{}", if count == 1 { "" } else { "s" }))
                    .finding())
            }
        }
    }
}
