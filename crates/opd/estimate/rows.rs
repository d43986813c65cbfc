//! Which positions are looked at: some of the rows that match, by the run's seed, of those whose sampler is still kept.

use crate::{
    error::{CommandError, Result},
    output::say,
};
use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{Float32Type, Int32Type, Int64Type},
};
use model::chance;
use record::PolicyVersion;
use std::collections::BTreeMap;
use store::{Snapshot, Store};

/// Most positions of one row where they are looked at one by one: a network reads the whole row for any, but neighbours are alike.
const PER_ROW: usize = 32;

/// Which rows are wanted.
pub(super) struct Wanted<'a> {
    /// SQL.
    pub condition: Option<&'a str>,
    /// About how many positions.
    pub count: usize,
    /// Whether whole rows, whose samplers need not be kept, and not some positions of each.
    pub whole: bool,
}

/// Chosen positions of a rollout.
pub(super) struct Row {
    pub rollout_id: String,
    /// Who sampled it.
    pub version: PolicyVersion,
    /// Who is to score it.
    pub teacher: String,
    pub temperature: f64,
    pub prompt_ids: Vec<i32>,
    pub response_ids: Vec<i32>,
    /// Trained ones, ascending.
    pub positions: Vec<usize>,
    /// The row's own chance.
    pub seed: u64,
}

/// Rows that match but cannot be looked at, by the version that sampled them.
#[derive(Default)]
struct LeftOut {
    gone: BTreeMap<u64, u64>,
    later: u64,
}

/// Chooses about as many positions as are wanted of the rows that match, for a student of `version`.
///
/// # Errors
/// A condition that cannot be asked, or one that leaves no row.
pub(super) async fn choose(
    store: &Store,
    now: &Snapshot,
    version: PolicyVersion,
    wanted: Wanted<'_>,
) -> Result<Vec<Row>> {
    let Wanted { condition, count, whole } = wanted;
    let filter = condition.map_or(String::new(), |condition| format!(" where ({condition})"));
    let sql = format!(
        "select rollout_id, policy_version, teacher_id, temperature, top_p, prompt_ids, response_ids, loss_mask \
         from rollouts{filter}"
    );
    let asked = |error: query::QueryError| match condition {
        Some(condition) => CommandError::from(error).at(format!("--where `{condition}`")),
        None => error.into(),
    };
    let session = query::open(store, Some(now.seq)).await?;
    let mut answer = session.run(&sql).await.map_err(asked)?;
    // The rows of least chance so far, so that memory does not grow with the store.
    let mut chosen: BTreeMap<u64, Row> = BTreeMap::new();
    let (mut matched, mut left_out) = (0, LeftOut::default());
    while let Some(batch) = answer.next().await.map_err(asked)? {
        for row in read(&batch, now.run.seed)? {
            matched += 1;
            if row.version > version {
                left_out.later += 1;
            } else if !whole && !now.policies.contains_key(&row.version) {
                *left_out.gone.entry(row.version.0).or_default() += 1;
            } else if !row.positions.is_empty() {
                chosen.insert(row.seed, row);
                if chosen.len() > count {
                    chosen.pop_last();
                }
            }
        }
    }
    left_out.say(version);
    if chosen.is_empty() {
        return Err(none(now, version, condition, matched));
    }
    let mut room = count;
    let mut rows = Vec::new();
    for mut row in chosen.into_values() {
        if room == 0 {
            break;
        }
        row.thin(if whole { room } else { PER_ROW.min(room) });
        room -= row.positions.len();
        rows.push(row);
    }
    Ok(rows)
}

impl Row {
    /// Keeps `most` of its positions, by its own chance.
    fn thin(&mut self, most: usize) {
        let seed = self.seed;
        let chance = |t: &usize| chance::uniform(seed, *t as u64, u64::MAX);
        self.positions.sort_by(|a, b| chance(a).total_cmp(&chance(b)));
        self.positions.truncate(most);
        self.positions.sort_unstable();
    }
}

impl LeftOut {
    fn say(&self, version: PolicyVersion) {
        if self.later > 0 {
            say(&format!("left out: {} rows of later policies than {version}", self.later));
        }
        if let (Some((first, _)), Some((last, _))) = (self.gone.first_key_value(), self.gone.last_key_value()) {
            let rows: u64 = self.gone.values().sum();
            say(&format!(
                "left out: {rows} rows of {} policies from {first} to {last} whose weights are not kept \
                 (learn.keep_policies says how many are)",
                self.gone.len()
            ));
        }
    }
}

fn none(now: &Snapshot, version: PolicyVersion, condition: Option<&str>, matched: u64) -> CommandError {
    let what = match (matched, condition) {
        (0, Some(condition)) => {
            return CommandError::new(format!("--where `{condition}` selects no rollout"))
                .hint("ask the store what there is: opd sql STORE \"select * from rollouts limit 3\"");
        }
        (0, None) => {
            return CommandError::new("the store has no rollouts").hint("`opd run` or `opd rollout` makes some");
        }
        (matched, _) => format!(
            "none of the {matched} rollouts that match was sampled by a policy that is kept and not later than {version}"
        ),
    };
    let kept: Vec<String> = now.policies.keys().map(|version| version.0.to_string()).collect();
    CommandError::new(what).hint(format!(
        "weights are kept of {}: ask for rollouts of those, or keep more of the next run: learn.keep_policies",
        kept.join(", ")
    ))
}

/// The rows of an answer.
fn read(batch: &RecordBatch, seed: u64) -> Result<Vec<Row>> {
    // The columns are those that were asked for, of the types in schemas/rollouts.toml.
    let texts = |i: usize| batch.column(i).as_string::<i32>();
    let longs = batch.column(1).as_primitive::<Int64Type>();
    let floats = |i: usize| batch.column(i).as_primitive::<Float32Type>();
    let list = |i: usize, row: usize| -> Vec<i32> {
        batch.column(i).as_list::<i32>().value(row).as_primitive::<Int32Type>().values().to_vec()
    };
    (0..batch.num_rows())
        .map(|i| {
            let rollout_id = texts(0).value(i).to_string();
            let top_p = floats(4).value(i);
            if top_p < 1.0 {
                let what = format!("rollout `{rollout_id}` was sampled with top_p = {top_p}: its draws are not of the whole distribution");
                return Err(CommandError::new(what).hint("leave such rows out: --where \"top_p = 1\""));
            }
            let mask = list(7, i);
            Ok(Row {
                version: PolicyVersion(longs.value(i) as u64),
                teacher: texts(2).value(i).to_string(),
                temperature: f64::from(floats(3).value(i)),
                prompt_ids: list(5, i),
                response_ids: list(6, i),
                positions: (0..mask.len()).filter(|t| mask[*t] != 0).collect(),
                seed: chance::row_seed(seed, chance::name_key(&rollout_id), 0, 0),
                rollout_id,
            })
        })
        .collect()
}
