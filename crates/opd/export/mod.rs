//! `opd export`: a store's tables as plain Parquet, which are Delta tables at the same time.
//!
//! Each table is a folder with files and a `_delta_log`; its last version says, for the run's id, up to which commit of the
//! run's log its rows are there ([`delta`]). So a second export knows what is new ([`tables`]) and adds only that, in one
//! version a table. An export that is interrupted leaves files that no version names, and the next one goes on.

pub mod delta;
pub mod parts;
pub mod stats;
pub mod tables;

use crate::{
    error::{CommandError, Result},
    output::show,
    progress::Line,
    stop::Stop,
};
use arrow::datatypes::{Schema, SchemaRef};
use clap::Args;
use delta::{Action, Txn, commit_info, creation, removal};
use parts::{Parts, delta_field};
use query::Session;
use record::{Commit, Event, Run};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use store::{Folder, Put, Store, StoreOptions};
use tables::{Since, TABLES, Table};

/// The file that says whose export a folder is. It is there before anything else.
const MARKER: &str = "opd-export.json";

/// What is exported, and where to.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// Where to: an empty directory or prefix, or an earlier export of the same run, which gets what is new.
    #[arg(value_name = "DIR_OR_URL")]
    to: String,
    /// The store as it was after this commit.
    #[arg(long, value_name = "SEQ")]
    at: Option<u64>,
    /// Only these tables: rollouts,scores,steps.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    tables: Vec<String>,
    /// Only rollouts that this SQL condition on `rollouts` selects, with their scores and step records.
    #[arg(long = "where", value_name = "SQL")]
    wanted: Option<String>,
}

/// What [`MARKER`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    format: u32,
    run_id: String,
    pipeline: String,
    #[serde(rename = "where")]
    wanted: Option<String>,
}

/// What was added to a table.
struct Added {
    table: &'static str,
    rows: u64,
    files: usize,
    bytes: u64,
    version: u64,
}

/// Exports, and shows what was added.
///
/// # Errors
/// No run, an unknown table, a condition that is no such, a folder that holds something else or another run's export, a
/// full disk. What is in the folder stays as it was, and the same command goes on.
pub async fn run(args: ExportArgs, stop: &Stop) -> Result<()> {
    let chosen = chosen(&args.tables)?;
    let store = Store::open(&args.store, StoreOptions::default()).await?;
    let commits = store.history(args.at).await?;
    let (run, at) = match commits.as_slice() {
        [Commit { event: Event::Run(run), .. }, .., last] => (run.as_ref().clone(), last.seq),
        [Commit { event: Event::Run(run), seq, .. }] => (run.as_ref().clone(), *seq),
        _ => return Err(CommandError::new(format!("the log of `{}` does not begin with a run", store.url()))),
    };
    let session = query::open(&store, Some(at)).await?;
    // The end of the line ends a comment, if it has one.
    let wanted = args.wanted.as_ref().map(|wanted| format!("{wanted}\n"));
    if let Some(wanted) = &wanted {
        let sql = format!("explain select count(*) from rollouts where ({wanted})");
        let place = || format!("--where `{}`", wanted.trim_end());
        session.run(&sql).await.map_err(|error| CommandError::from(error).at(place()))?;
    }
    let folder = take(&args, &store, &run).await?;
    let line = Line::new("export");
    let export = Export { folder, session, commits: &commits, run: &run, at, wanted: wanted.as_deref() };
    let mut all = Vec::new();
    for table in chosen {
        let added = export.table(table, &line, stop).await;
        if added.is_err() {
            line.clear();
        }
        all.extend(added?);
    }
    line.clear();
    show(&summary(&all, &export.run.pipeline, at, export.folder.url()))
}

/// The tables named, or all.
fn chosen(names: &[String]) -> Result<Vec<Table>> {
    let find = |name: &String| {
        let found = TABLES.iter().find(|table| table.name == name);
        found.copied().ok_or_else(|| {
            let known: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
            CommandError::new(format!("--tables: there is no table `{name}` to export"))
                .hint(format!("there are {}; `scored` and `tokens` are joins of the first three", known.join(", ")))
        })
    };
    if names.is_empty() { Ok(TABLES.to_vec()) } else { names.iter().map(find).collect() }
}

/// Opens the folder and marks it as this run's, or sees that it is.
async fn take(args: &ExportArgs, store: &Store, run: &Run) -> Result<Folder> {
    let folder = Folder::open(&args.to, StoreOptions::default()).await?;
    let fault = |what: String| CommandError::new(format!("`{}` {what}", folder.url()));
    if folder.url().starts_with("memory:") {
        return Err(fault("would be gone with this command".into()).hint("name a folder or s3://bucket/prefix"));
    }
    if folder.is_within(store) {
        return Err(fault(format!("lies in the store `{}`, which holds nothing but its run", store.url()))
            .hint("name a folder beside it"));
    }
    let marker =
        Marker { format: 1, run_id: run.run_id.clone(), pipeline: run.pipeline.clone(), wanted: args.wanted.clone() };
    let mut there = folder.read(MARKER).await?;
    if there.is_none() {
        if let Some(file) = folder.any_file().await? {
            return Err(fault(format!("holds something else and no export: there is `{file}`"))
                .hint("name an empty folder or prefix, or an export of this run"));
        }
        let text = serde_json::to_string(&marker).map_err(|error| fault(error.to_string()))?;
        if let Put::Other(other) = folder.put_new(MARKER, text + "\n").await? {
            there = Some(other);
        }
    }
    if let Some(there) = there {
        let found: Marker = serde_json::from_slice(&there)
            .map_err(|error| fault(format!("has a `{MARKER}` that this program does not understand: {error}")))?;
        let of = |marker: &Marker| marker.wanted.as_ref().map_or("none".into(), |wanted| format!("`{wanted}`"));
        if found.run_id != marker.run_id {
            let (theirs, ours) = (&found.run_id, &marker.run_id);
            return Err(fault(format!(
                "is the export of another run: of `{theirs}` ({}), not of `{ours}` ({})",
                found.pipeline, marker.pipeline
            ))
            .hint("name an empty folder or prefix"));
        }
        if found != marker {
            return Err(fault(format!("was exported with --where {}, not {}", of(&found), of(&marker)))
                .hint("name an empty folder or prefix, or the same condition"));
        }
    }
    Ok(folder)
}

/// An export under way.
struct Export<'a> {
    folder: Folder,
    session: Session,
    commits: &'a [Commit],
    run: &'a Run,
    at: u64,
    wanted: Option<&'a str>,
}

impl Export<'_> {
    /// Adds to a table what is new, as one version of its log; `None` if it is there already.
    async fn table(&self, table: Table, line: &Line, stop: &Stop) -> Result<Option<Added>> {
        let there = self.versions(table).await?;
        let after = there.seq(&self.run.run_id);
        if after == Some(self.at) {
            return Ok(None);
        }
        if let Some(after) = after.filter(|after| *after > self.at) {
            let what = format!("`{}` has the run up to commit {after}, --at is {}", self.path(table, ""), self.at);
            return Err(CommandError::new(what).hint("an earlier moment needs a folder of its own"));
        }
        let schema = self.schema(table)?;
        if let Some((column, theirs, ours)) = there.difference(&schema) {
            let what = format!("`{}` has {theirs} as column `{column}`, now it is {ours}", self.path(table, ""));
            return Err(CommandError::new(what).hint("another version of opd exported it; name an empty folder"));
        }
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let since = Since { commits: self.commits, after, mixes: self.run.parent.is_some() };
        let questions = table.questions(&names, since, self.wanted);
        let (mut adds, mut rows, mut versions) = (Vec::new(), 0, 0);
        for question in &questions {
            let mut parts = Parts::new(&self.folder, table.name, &schema, table.partition());
            if there.next == 0 && table.partition().is_none() {
                parts.begin()?;
            }
            let mut answer = self.session.run(&question.sql).await?;
            while let Some(batch) = answer.next().await? {
                rows += batch.num_rows() as u64;
                parts.write(&batch).await?;
                if stop.is_asked() {
                    return Err(CommandError::new(format!("stopped; `{}` is as it was", self.path(table, "")))
                        .hint("the same command goes on; what it had written without naming it stays, and is no row"));
                }
                let of = table.partition().map_or(String::new(), |_| format!("{versions} policy versions  "));
                line.show(&format!("{}  {of}{rows} rows", table.name));
            }
            versions += question.versions;
            adds.extend(parts.finish().await?);
        }
        let added = Added {
            table: table.name,
            rows,
            files: adds.len(),
            bytes: adds.iter().map(|add| add.size).sum(),
            version: there.next,
        };
        self.commit(table, &there, &schema, adds).await?;
        Ok(Some(added))
    }

    /// Puts the table's next version.
    async fn commit(&self, table: Table, there: &delta::Table, schema: &Schema, adds: Vec<delta::Add>) -> Result<()> {
        let now = store::now_ms();
        let mut actions = vec![commit_info(table.is_replaced(), self.at, now)];
        if there.next == 0 {
            let id = table_id(&self.run.run_id, table.name);
            actions.extend(creation(&id, table.name, schema, table.partition(), now));
        }
        let txn = Txn { app_id: self.run.run_id.clone(), version: self.at, last_updated: Some(now) };
        actions.push(Action::Txn(txn));
        if table.is_replaced() {
            actions.extend(there.files().map(|add| removal(add, now)));
        }
        actions.extend(adds.into_iter().map(Action::Add));
        let path = self.path(table, &delta::entry(there.next));
        let text = delta::to_text(&actions).map_err(|error| CommandError::new(format!("`{path}`: {error}")))?;
        match self.folder.put_new(&path, text).await? {
            Put::Made => Ok(()),
            Put::Other(_) => Err(CommandError::new(format!("`{path}` was written by another program meanwhile"))
                .hint("one export at a time; the same command goes on from there")),
        }
    }

    /// What the versions of a table's log add up to.
    async fn versions(&self, table: Table) -> Result<delta::Table> {
        let mut there = delta::Table::default();
        loop {
            let path = self.path(table, &delta::entry(there.next));
            let Some(bytes) = self.folder.read(&path).await? else { return Ok(there) };
            let text = String::from_utf8_lossy(&bytes);
            there.fold(&text).map_err(|what| {
                CommandError::new(format!("`{path}` is not understood: {what}"))
                    .hint("another program has written to the table; name an empty folder")
            })?;
        }
    }

    /// A table's columns, partition included, as Delta has them.
    fn schema(&self, table: Table) -> Result<Schema> {
        let found = self.session.tables().find(|(name, _)| *name == table.name).map(|(_, schema)| schema.clone());
        let schema: SchemaRef =
            found.ok_or_else(|| CommandError::new(format!("the store has no table `{}`", table.name)))?;
        let fields: Vec<_> = schema.fields().iter().map(|field| delta_field(field)).collect();
        if let Some(field) = fields.iter().find(|field| delta::type_json(field.data_type()).is_none()) {
            let what = format!("`{}.{}` is {}, which no Delta table has", table.name, field.name(), field.data_type());
            return Err(CommandError::new(what).hint("please report this"));
        }
        Ok(Schema::new_with_metadata(fields, schema.metadata().clone()))
    }

    fn path(&self, table: Table, within: &str) -> String {
        format!("{}/{within}", table.name)
    }
}

/// A table's id, shaped as Delta's are: the same for the same table of the same run.
fn table_id(run_id: &str, table: &str) -> String {
    let digest = record::Digest::of(format!("{run_id}/{table}").as_bytes()).to_string();
    let hex = digest.trim_start_matches("sha256:");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

/// A line for each table that got something.
fn summary(added: &[Added], pipeline: &str, at: u64, url: &str) -> String {
    if added.is_empty() {
        return format!("`{pipeline}` up to commit {at} is in {url} already\n");
    }
    let mut text = format!("{:14} {:>10} {:>7} {:>12}  delta version\n", "table", "new rows", "files", "bytes");
    for Added { table, rows, files, bytes, version } in added {
        // A String takes everything.
        let _ = writeln!(text, "{table:14} {rows:>10} {files:>7} {bytes:>12}  {version}");
    }
    let _ = writeln!(text, "`{pipeline}` up to commit {at} is in {url}");
    text
}
