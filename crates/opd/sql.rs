//! `opd sql`: asks stores questions. One on the command line, several from standard input, or any number in a shell.

mod command;
mod complete;
mod console;
mod editor;
mod history;
mod output;
mod shell;
mod statements;

use crate::{
    error::{CommandError, Result},
    output::unless_gone,
};
use console::{Console, End, only_one};
use std::{
    io::{BufWriter, IsTerminal, Read, Write},
    path::PathBuf,
};
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

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Csv => "csv",
            Format::Json => "json",
        }
    }
}

/// What is asked of `opd sql`.
///
/// Without a query it is a shell; where standard input is no terminal, statements are read from it, each ended by `;`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store: a directory, file:///..., or s3://bucket/prefix. With --store, the query stands here.
    store: Option<String>,
    /// The query; `show tables` lists what there is.
    query: Option<String>,
    /// Several stores under names of their own, each a schema: --store a=URL --store b=URL "select ... from a.steps".
    #[arg(long = "store", value_name = "NAME=STORE")]
    stores: Vec<String>,
    /// See the store as it was after this commit.
    #[arg(long, value_name = "SEQ")]
    at: Option<u64>,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Write the answer to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Prints answers on standard output.
///
/// # Errors
/// No run in a store, a query that is not understood or would write, a damaged object.
pub async fn run(args: Args) -> Result<()> {
    let (stores, query) = asked(&args)?;
    if args.at.is_some() {
        only_one("--at", stores.len())?;
    }
    let mut opened = Vec::new();
    for (name, url) in stores {
        opened.push((name, Store::open(&url, StoreOptions::default()).await?));
    }
    let mut console = Console::open(opened, args.at, args.format, args.out).await?;
    // Each ends the console, and with it what a query has spilt to disk.
    let end = match query {
        Some(query) => {
            let end = console.ask(&query).await;
            drop(console);
            end?
        }
        None if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() => shell::run(console).await?,
        None => all_of_stdin(console).await?,
    };
    match end {
        End::Done => Ok(()),
        End::Interrupted => crate::stop::leave(),
    }
}

/// Prints an answer on standard output.
///
/// # Errors
/// What comes up while it is computed.
pub async fn print(answer: query::Answer, format: Format) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    query::write(answer, output::format(format), &mut out).await?;
    unless_gone(out.flush())
}

/// A store's name, if it has one, and its address.
type Named = (Option<String>, String);

/// The stores by name, none where there is only one without a name, and the query.
fn asked(args: &Args) -> Result<(Vec<Named>, Option<String>)> {
    let hint = "opd sql STORE [QUERY], or opd sql --store a=STORE --store b=STORE [QUERY]";
    match (&args.stores[..], &args.store, &args.query) {
        ([], Some(store), query) => Ok((vec![(None, store.clone())], query.clone())),
        ([], None, _) => Err(CommandError::new("no store was given").hint(hint)),
        (_, Some(_), Some(query)) => {
            Err(CommandError::new(format!("`{query}` is one word too many beside --store")).hint(hint))
        }
        (stores, query, None) => {
            let named = stores.iter().map(|text| match text.split_once('=') {
                Some((name, url)) if !url.is_empty() => Ok((Some(name.trim().to_string()), url.to_string())),
                _ => Err(CommandError::new(format!("--store `{text}`: expected NAME=STORE")).hint(hint)),
            });
            Ok((named.collect::<Result<_>>()?, query.clone()))
        }
        (_, None, Some(_)) => Err(CommandError::new("no store was given").hint(hint)),
    }
}

/// Asks what stands on standard input, up to the first that has no answer.
async fn all_of_stdin(mut console: Console) -> Result<End> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| CommandError::new(format!("standard input: {error}")))?;
    let (mut inputs, rest) = statements::split(&text);
    if !statements::is_blank(rest) {
        inputs.push(statements::Input::Statement(rest.trim().into()));
    }
    for input in inputs {
        match console.take(&input).await? {
            Some(End::Done) => return Ok(End::Done),
            Some(End::Interrupted) => return Ok(End::Interrupted),
            None => {}
        }
    }
    Ok(End::Done)
}
