//! `opd pin` and `opd unpin`: what is kept whatever retention says.

use super::{grid, open, work};
use crate::{
    error::{CommandError, Result},
    output::{say, show},
};
use record::{Event, Pin, PolicyVersion};
use store::Snapshot;

/// What is asked of `opd pin`.
///
/// A pin keeps what commits up to one of them name, as far as it is kept now: rollouts, scores, step records, weights and moments.
/// Without a name, the pins there are.
#[derive(Debug, clap::Args)]
pub struct PinArgs {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// What the pin is called.
    name: Option<String>,
    /// Cover commits up to this one; without, all there are now.
    #[arg(long, value_name = "SEQ", requires = "name")]
    at: Option<u64>,
    /// Cover only these policy versions: 0..100, or 100.
    #[arg(long, value_name = "FIRST..LAST", requires = "name", value_parser = versions)]
    versions: Option<(u64, u64)>,
}

/// What is asked of `opd unpin`.
#[derive(Debug, clap::Args)]
pub struct Unpin {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// The pin.
    name: String,
}

fn versions(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.strip_prefix('v').unwrap_or(text).parse::<u64>();
    match (number(first), number(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("a policy version, or the first and the last as in 0..100".into()),
    }
}

impl PinArgs {
    /// Commits the pin, or prints those there are on standard output.
    ///
    /// # Errors
    /// No run, a log that does not reach `--at`, versions that there were not then, another pin of that name.
    pub async fn run(self) -> Result<()> {
        let store = open(&self.store).await?;
        let mut follower = store.follow().await?;
        let Some(name) = self.name else { return show(&table(follower.snapshot())) };
        // Commits before the pin's own are there for ever: what is looked up here stays true.
        let then = store.snapshot(Some(self.at.unwrap_or(follower.snapshot().seq))).await?;
        let (first, last) = self.versions.unwrap_or((0, then.version.0));
        if last > then.version.0 {
            let what =
                format!("--versions goes to {last}, but after commit {} the run was at {}", then.seq, then.version);
            return Err(CommandError::new(what).hint("pin later, or fewer versions"));
        }
        let pin = Pin { name: name.clone(), upto: then.seq, first: PolicyVersion(first), last: PolicyVersion(last) };
        let event = |now: &Snapshot| (!now.pins.contains_key(&name)).then(|| Event::Pin(pin.clone()));
        let made = follower.append(work("pin"), event).await?;
        let Some(there) = follower.snapshot().pins.get(&name).filter(|there| made.is_some() || **there == pin) else {
            let what = format!("there is another pin `{name}`");
            return Err(CommandError::new(what).hint(format!("`opd unpin {} {name}` takes it away", self.store)));
        };
        say(&format!(
            "`{name}` keeps what commits up to {} name of policy {} to {}",
            there.upto, there.first, there.last
        ));
        Ok(())
    }
}

impl Unpin {
    /// Commits that the pin is taken away.
    ///
    /// # Errors
    /// No run, or no such pin.
    pub async fn run(self) -> Result<()> {
        let store = open(&self.store).await?;
        let mut follower = store.follow().await?;
        let name = &self.name;
        let event = |now: &Snapshot| now.pins.contains_key(name).then(|| Event::Unpin { name: name.clone() });
        if follower.append(work("unpin"), event).await?.is_none() {
            let pins: Vec<&str> = follower.snapshot().pins.keys().map(String::as_str).collect();
            let there = if pins.is_empty() { "none".into() } else { pins.join(", ") };
            return Err(CommandError::new(format!("there is no pin `{name}`")).hint(format!("there are: {there}")));
        }
        say(&format!("`{name}` is taken away"));
        Ok(())
    }
}

fn table(now: &Snapshot) -> String {
    let row = |pin: &Pin| [pin.name.clone(), pin.upto.to_string(), pin.first.0.to_string(), pin.last.0.to_string()];
    let rows: Vec<_> = now.pins.values().map(row).collect();
    grid::table(["pin", "upto", "first", "last"], [false, true, true, true], &rows)
}
