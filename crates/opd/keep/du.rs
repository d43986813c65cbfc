//! `opd du`: what takes how much room.

use super::{
    grid, open,
    retain::{freed_by_versions, look},
};
use crate::{
    error::Result,
    output::{say, show},
    status::size,
};
use record::{PolicyVersion, What};
use std::collections::{BTreeMap, HashMap};
use store::{Inventory, Kind, Named, Snapshot};

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people: a line a kind, and what retention would free.
    Table,
    /// Comma-separated, with a header line: a line a kind and policy version.
    Csv,
}

/// What is asked of `opd du`.
#[derive(Debug, clap::Args)]
pub struct Du {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What objects are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    kind: Kind,
    score_set: String,
    codec: String,
    state: &'static str,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    objects: u64,
    bytes: u64,
}

impl Du {
    /// Prints it on standard output.
    ///
    /// # Errors
    /// No run in the store, or one that cannot be read.
    pub async fn run(self) -> Result<()> {
        let store = open(&self.store).await?;
        let (inventory, now) = look(&store, false).await?;
        let sums = count(&inventory, &now);
        match self.format {
            Format::Csv => show(&csv(&sums)),
            Format::Table => {
                show(&table(&sums))?;
                show(&retention(&inventory, &now))?;
                let collection = inventory.collection(store::GRACE);
                if !collection.unknown.is_empty() {
                    say(&format!(
                        "{} keys are no part of a store, `{}` for one",
                        collection.unknown.len(),
                        collection.unknown[0]
                    ));
                }
                Ok(())
            }
        }
    }
}

/// Objects and bytes by group and policy version.
fn count(inventory: &Inventory, now: &Snapshot) -> BTreeMap<Group, BTreeMap<Option<PolicyVersion>, Sum>> {
    let named: HashMap<&str, &Named> = inventory.named.iter().map(|named| (named.object.key.as_str(), named)).collect();
    let unknown = inventory.collection(store::GRACE).unknown;
    let unknown: std::collections::HashSet<&str> = unknown.iter().map(String::as_str).collect();
    let mut sums: BTreeMap<Group, BTreeMap<Option<PolicyVersion>, Sum>> = BTreeMap::new();
    for (key, lying) in inventory.lying.iter().chain(&inventory.temporaries) {
        let of = named.get(key.as_str());
        let state = match of {
            _ if unknown.contains(key.as_str()) => "unknown",
            None if inventory.temporaries.contains_key(key) => "unfinished",
            None if Kind::of(key) == Kind::Log => "kept",
            None => "unnamed",
            Some(of) if of.given_up.is_some() => "given up",
            Some(of) if of.moved.is_some() => "moved",
            Some(of) if is_live(of, now) => "live",
            Some(_) => "kept",
        };
        let score_set = match of.map(|of| &of.what) {
            Some(What::Scores { score_set, .. }) => score_set.clone(),
            _ => String::new(),
        };
        let codec = now.score_set(&score_set).map_or_else(String::new, |set| set.codec.clone());
        let group = Group { kind: Kind::of(key), score_set, codec, state };
        let sum = sums.entry(group).or_default().entry(of.and_then(|of| of.version)).or_default();
        sum.objects += 1;
        sum.bytes += lying.bytes;
    }
    sums
}

/// Whether its rows have not all ended, or a resume reads it.
fn is_live(of: &Named, now: &Snapshot) -> bool {
    match &of.what {
        What::File(_) => true,
        What::Rollouts(batch) | What::Scores { batch, .. } => now.batches.contains_key(batch),
        What::Weights(version) => *version == now.checkpoint || *version == now.newest_policy().version,
        What::Moments(version) => *version == now.checkpoint,
        What::StepRecord(_) | What::Archive => false,
    }
}

fn csv(sums: &BTreeMap<Group, BTreeMap<Option<PolicyVersion>, Sum>>) -> String {
    let rows: Vec<_> = sums
        .iter()
        .flat_map(|(group, versions)| versions.iter().map(move |(version, sum)| (group, version, sum)))
        .map(|(Group { kind, score_set, codec, state }, version, sum)| {
            let version = version.map_or_else(String::new, |version| version.0.to_string());
            let (objects, bytes) = (sum.objects.to_string(), sum.bytes.to_string());
            [kind.as_str().into(), version, score_set.clone(), codec.clone(), (*state).into(), objects, bytes]
        })
        .collect();
    grid::csv(["kind", "policy_version", "score_set", "codec", "state", "objects", "bytes"], &rows)
}

fn table(sums: &BTreeMap<Group, BTreeMap<Option<PolicyVersion>, Sum>>) -> String {
    let row = |(group, versions): (&Group, &BTreeMap<Option<PolicyVersion>, Sum>)| {
        let known = || versions.keys().flatten();
        let range = known().min().zip(known().max()).map(|(first, last)| format!("{}..{}", first.0, last.0));
        let (objects, bytes) =
            versions.values().fold((0, 0), |(objects, bytes), sum| (objects + sum.objects, bytes + sum.bytes));
        let Group { kind, score_set, codec, state } = group;
        let (range, objects) = (range.unwrap_or_default(), objects.to_string());
        [kind.as_str().into(), score_set.clone(), codec.clone(), (*state).into(), range, objects, size(bytes)]
    };
    let rows: Vec<_> = sums.iter().map(row).collect();
    let names = ["kind", "score set", "codec", "state", "policy versions", "objects", "size"];
    grid::table(names, [false, false, false, false, true, true, true], &rows)
}

/// What keeping fewer and fewer versions would free.
fn retention(inventory: &Inventory, now: &Snapshot) -> String {
    let keep: Vec<u64> = (0..).map(|i| 1_u64 << (2 * i)).take_while(|keep| *keep <= now.version.0).collect();
    let row = |keep: &u64| [keep.to_string(), size(freed_by_versions(inventory, now, *keep))];
    let rows: Vec<_> = keep.iter().rev().map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", grid::table(["retain --keep-versions", "frees"], [true, true], &rows))
}
