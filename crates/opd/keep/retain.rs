//! `opd retain`: gives up what is old, as the learner gives up weights and moments: in the log first. `opd gc` deletes then.

use super::{grid, open, quantity, work};
use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    output::{say, show},
    plan,
    status::size,
};
use record::{Event, PolicyVersion, Retirement, What};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use store::{Inventory, Named, Snapshot, Store};

/// The most that one commit names.
const NAMES: usize = 2_000;
/// How often it is planned anew where others commit pins in between.
const ATTEMPTS: usize = 8;

/// What is asked of `opd retain`.
///
/// Gives up batches all of whose rows have ended, with their scores, and step records; of a finished run also weights and moments,
/// but for the first policy, the newest, the checkpoint and those that wait for an evaluation. What a pin covers stays.
/// The log is kept: what was consumed and dropped, and every metric, is still there to be asked for.
#[derive(Debug, clap::Args)]
pub struct Retain {
    /// The store: a directory, file:///..., or s3://bucket/prefix.
    store: String,
    #[command(flatten)]
    limit: Limit,
    /// Only say what would be given up.
    #[arg(long)]
    dry_run: bool,
}

/// What is kept; one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Limit {
    /// Keep what the newest so many policy versions sampled, made or hold.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_versions: Option<u64>,
    /// Keep what was committed no longer ago than this, by the store's own clock: 30d.
    #[arg(long, value_name = "TIME", value_parser = quantity::time)]
    pub older_than: Option<Duration>,
    /// Keep the newest that take so much room in all: 10GB.
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    pub max_bytes: Option<u64>,
}

/// What is given up as one: a batch with its scores, a step record, weights, or moments.
#[derive(Clone, Debug, PartialEq)]
struct Portion {
    what: What,
    version: PolicyVersion,
    /// The commit that named its first object.
    seq: u64,
    objects: u64,
    bytes: u64,
}

impl Retain {
    /// Prints what is given up on standard output, and commits that it is.
    ///
    /// # Errors
    /// No run in the store, or one that cannot be read or written to.
    pub async fn run(self) -> Result<()> {
        let store = open(&self.store).await?;
        for _ in 0..ATTEMPTS {
            let (inventory, now) = look(&store, self.limit.older_than.is_some()).await?;
            let given_up = give_up(&inventory, &now, &self.limit);
            if self.dry_run || given_up.is_empty() {
                show(&table(&given_up))?;
                self.tell(&given_up, &inventory, &now, "would be given up");
                return Ok(());
            }
            if commit(&store, &now, &given_up).await? {
                show(&table(&given_up))?;
                self.tell(&given_up, &inventory, &now, "given up");
                say(&format!("`opd gc {}` deletes it once its grace period is over", self.store));
                return Ok(());
            }
        }
        Err(CommandError::new("others kept committing pins while this planned").hint("try again").passing())
    }

    fn tell(&self, given_up: &[Portion], inventory: &Inventory, now: &Snapshot, what: &str) {
        let bytes: u64 = given_up.iter().map(|portion| portion.bytes).sum();
        let left = kept_bytes(inventory).saturating_sub(bytes);
        say(&format!("{} {what}, {} are left", size(bytes), size(left)));
        let stays = stays(inventory, given_up);
        if stays > 0 {
            say(&format!(
                "{} of what is given up lie in archives beside what is kept: such a file goes as a whole",
                size(stays)
            ));
        }
        if let Some(most) = self.limit.max_bytes.filter(|most| left > *most) {
            say(&format!("that is more than {}: the rest is still needed, or pinned", size(most)));
        }
        if !now.finished {
            say(
                "weights and moments of a run that goes on are its learner's: learn.keep_policies says how many it keeps",
            );
        }
    }
}

/// The store, and its state after the last commit that the inventory holds.
pub(super) async fn look(store: &Store, ages: bool) -> Result<(Inventory, Snapshot)> {
    let inventory = store.inventory(ages).await?;
    let last = inventory.commits.last().map(|commit| commit.seq);
    Ok((inventory, store.snapshot(last).await?))
}

/// What was given up counts as gone, wherever its bytes still lie: else the same limit would give up more each time.
fn kept_bytes(inventory: &Inventory) -> u64 {
    inventory.named.iter().filter(|named| named.given_up.is_none()).map(|named| named.takes).sum()
}

/// How many bytes of what was given up, and of `more`, lie in an archive that stays for what else is in it.
fn stays(inventory: &Inventory, more: &[Portion]) -> u64 {
    let more: BTreeSet<String> = more.iter().map(|portion| id(&portion.what)).collect();
    // By archive: bytes that are given up, and whether any are kept.
    let mut archives: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    for named in &inventory.named {
        let Some(moved) = &named.moved else { continue };
        let (given_up, is_kept) = archives.entry(&moved.archive).or_default();
        match named.given_up.is_some() || more.contains(&id(&named.what)) {
            true => *given_up += named.takes,
            false => *is_kept = true,
        }
    }
    archives.into_values().filter(|(_, is_kept)| *is_kept).map(|(given_up, _)| given_up).sum()
}

/// The name of what is given up as one: a batch goes with its scores, whatever sets it has.
fn id(what: &What) -> String {
    match what {
        What::Rollouts(batch) | What::Scores { batch, .. } => format!("b{batch}"),
        other => format!("{other:?}"),
    }
}

/// What `limit` does not keep, of what may be given up at all; oldest first.
fn give_up(inventory: &Inventory, now: &Snapshot, limit: &Limit) -> Vec<Portion> {
    let mut over = limit.max_bytes.map(|most| kept_bytes(inventory).saturating_sub(most));
    let mut may_go = may_go(inventory, now);
    may_go.retain(|portion| {
        let is_of_old_version = |keep: u64| portion.version.0.saturating_add(keep) <= now.version.0;
        let is_older = |than: Duration| inventory.age_of_commit(portion.seq).is_some_and(|age| age > than);
        let is_too_much = match &mut over {
            Some(over) if *over > 0 => {
                *over = over.saturating_sub(portion.bytes);
                true
            }
            _ => false,
        };
        limit.keep_versions.is_some_and(is_of_old_version) || limit.older_than.is_some_and(is_older) || is_too_much
    });
    may_go
}

/// How many bytes would go if only what the newest `keep` versions sampled, made or hold were kept.
pub(super) fn freed_by_versions(inventory: &Inventory, now: &Snapshot, keep: u64) -> u64 {
    let limit = Limit { keep_versions: Some(keep), older_than: None, max_bytes: None };
    give_up(inventory, now, &limit).iter().map(|portion| portion.bytes).sum()
}

/// Gives up everything that may be: for a simulation, with nothing shown.
#[cfg(test)]
pub(crate) async fn give_up_all(store: &Store) -> Result<bool> {
    let (inventory, now) = look(store, false).await?;
    let given_up = may_go(&inventory, &now);
    if given_up.is_empty() { Ok(false) } else { commit(store, &now, &given_up).await }
}

/// Everything that nobody needs: no row of it is live, no resume reads it, no pin covers it.
fn may_go(inventory: &Inventory, now: &Snapshot) -> Vec<Portion> {
    let is_free = is_free(now);
    let mut portions: BTreeMap<String, Portion> = BTreeMap::new();
    for named in inventory.named.iter().filter(|named| named.given_up.is_none()) {
        let Named { what, seq, version: Some(version), takes, .. } = named else { continue };
        let id = id(what);
        let what = match what {
            What::Scores { batch, .. } => What::Rollouts(batch.clone()),
            other => other.clone(),
        };
        let portion = Portion { what, version: *version, seq: *seq, objects: 0, bytes: 0 };
        let portion = portions.entry(id).or_insert(portion);
        portion.objects += 1;
        portion.bytes += takes;
    }
    let mut portions: Vec<Portion> = portions.into_values().filter(is_free).collect();
    portions.sort_by(|a, b| a.seq.cmp(&b.seq).then_with(|| format!("{:?}", a.what).cmp(&format!("{:?}", b.what))));
    portions
}

fn is_free(now: &Snapshot) -> impl Fn(&Portion) -> bool + '_ {
    let settings = now.settings.clone().and_then(|settings| serde_json::from_value::<Pipeline>(settings).ok());
    let (policies, moments) = match settings.filter(|_| now.finished) {
        Some(pipeline) => plan::retire(now, 1, &|version| plan::awaits_eval(now, &pipeline, version)),
        None => (Vec::new(), Vec::new()),
    };
    let policies: BTreeSet<PolicyVersion> = policies.into_iter().collect();
    let moments: BTreeSet<PolicyVersion> = moments.into_iter().collect();
    move |portion| {
        let is_pinned = || now.pins.values().any(|pin| pin.covers(portion.seq, portion.version));
        match &portion.what {
            What::Rollouts(batch) => !now.batches.contains_key(batch) && !is_pinned(),
            What::StepRecord(_) => !is_pinned(),
            What::Weights(version) => policies.contains(version),
            What::Moments(version) => moments.contains(version),
            What::File(_) | What::Scores { .. } | What::Archive => false,
        }
    }
}

/// Commits that `portions` are given up, as planned from `then`. False if another has pinned something since.
async fn commit(store: &Store, then: &Snapshot, portions: &[Portion]) -> Result<bool> {
    let mut follower = store.follow().await?;
    for portions in portions.chunks(NAMES) {
        let mut retired = Retirement::default();
        for portion in portions {
            match &portion.what {
                What::Rollouts(batch) => retired.batches.push(batch.clone()),
                What::StepRecord(step) => retired.steps.push(*step),
                What::Weights(version) => retired.policies.push(*version),
                What::Moments(version) => retired.moments.push(*version),
                What::File(_) | What::Scores { .. } | What::Archive => {}
            }
        }
        let event = |now: &Snapshot| (now.pins == then.pins).then(|| Event::Retire(retired.clone()));
        if follower.append(work("retain"), event).await?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn table(given_up: &[Portion]) -> String {
    let mut kinds: BTreeMap<&str, (u64, u64, u64, u64)> = BTreeMap::new();
    for portion in given_up {
        let kind = match portion.what {
            What::StepRecord(_) => "steps",
            What::Weights(_) => "policies",
            What::Moments(_) => "optimizer",
            _ => "rollouts and scores",
        };
        let version = portion.version.0;
        let (first, last, objects, bytes) = kinds.entry(kind).or_insert((version, version, 0, 0));
        (*first, *last) = ((*first).min(version), (*last).max(version));
        *objects += portion.objects;
        *bytes += portion.bytes;
    }
    let row = |(kind, (first, last, objects, bytes)): (&str, (u64, u64, u64, u64))| {
        [kind.to_string(), format!("{first}..{last}"), objects.to_string(), bytes.to_string()]
    };
    let rows: Vec<_> = kinds.into_iter().map(row).collect();
    grid::table(["kind", "policy versions", "objects", "bytes"], [false, true, true, true], &rows)
}
