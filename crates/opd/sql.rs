//! `opd sql`: asks a store a question.

use crate::{
    error::Result,
    output::{say, unless_gone},
};
use std::io::{BufWriter, IsTerminal, Write};
use store::{Store, StoreOptions};

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; long values are cut to fit the terminal.
    Table,
    /// Comma-separated, with a header line.
    Csv,
    /// An array of objects.
    Json,
}

/// Characters of a line where there is no terminal to ask.
const WIDTH: usize = 120;

/// Prints the answer to `query` on standard output.
///
/// # Errors
/// No run in the store, a query that is not understood or would write, a damaged object.
pub async fn run(store: &str, query: &str, at: Option<u64>, format: Format) -> Result<()> {
    let store = Store::open(store, StoreOptions::default()).await?;
    let session = query::open(&store, at).await?;
    if let Some(why) = session.without() {
        say(&format!("{why}; the rollouts that it recorded are not shown"));
    }
    print(session.run(query).await?, format).await
}

/// Prints an answer on standard output.
///
/// # Errors
/// What comes up while it is computed.
pub async fn print(answer: query::Answer, format: Format) -> Result<()> {
    let format = match format {
        Format::Table => query::Format::Table { width: terminal_width() },
        Format::Csv => query::Format::Csv,
        Format::Json => query::Format::Json,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    query::write(answer, format, &mut out).await?;
    unless_gone(out.flush())
}

fn terminal_width() -> usize {
    match std::io::stdout().is_terminal() {
        true => rustix::termios::tcgetwinsize(std::io::stdout()).map_or(WIDTH, |size| usize::from(size.ws_col).max(40)),
        false => WIDTH,
    }
}
