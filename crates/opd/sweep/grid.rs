//! What a sweep asks for: one TOML file, unfolded into runs.

use super::results::{IDENTITY, MEASURED};
use crate::{
    config::{Pipeline, from_table},
    error::{CommandError, Result},
    replay::Source,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// The key of an arm that is none of a pipeline's.
const REPLAY: &str = "replay";
/// The key of a pipeline that is each run's own.
const SEED: &str = "seed";

/// `SWEEP.toml`. Keys in `set`, `arms` and `grid` are a pipeline's, written as for `--set`: `"learn.steps" = 100`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Shown in messages and plots.
    pub name: String,
    /// The pipeline and the layers over it, relative to this file.
    pub pipeline: Vec<PathBuf>,
    /// Where the runs' stores lie, one below the other: a folder, or a prefix in a bucket.
    pub into: String,
    /// Each run is made once for each of these.
    pub seeds: Vec<u64>,
    /// Runs that are made at a time; 0 is one for every two cores, since a run's jobs overlap, of replays one for every
    /// `learn.threads`.
    #[serde(default)]
    pub at_once: usize,
    /// Recorded rows that each run is a replay of; without, they sample their own. An arm may name its own: `replay = { from = ... }`.
    #[serde(default)]
    pub replay: Option<Source>,
    /// What all runs have in common.
    #[serde(default)]
    pub set: Table,
    /// Named settings that are compared with each other.
    #[serde(default)]
    pub arms: BTreeMap<String, Table>,
    /// Keys with the values that each arm is run with: every combination.
    #[serde(default)]
    pub grid: BTreeMap<String, Vec<Value>>,
    /// Keys that have the value of a key of the grid: `"learn.max_staleness" = "rollout.lag"`.
    #[serde(default)]
    pub tie: BTreeMap<String, String>,
    /// What `--plot` draws.
    #[serde(default)]
    pub plot: Plot,
}

/// `[plot]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plot {
    /// The column of the results that is drawn upwards.
    #[serde(default = "accuracy")]
    pub y: String,
    /// The key of `grid` that is drawn along; its first one, or the arms if there is none.
    pub x: Option<String>,
    /// Whether `y` is drawn by its logarithm; means over seeds are geometric then.
    #[serde(default)]
    pub log: bool,
}

fn accuracy() -> String {
    "accuracy".into()
}

impl Default for Plot {
    fn default() -> Self {
        Self { y: accuracy(), x: None, log: false }
    }
}

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The name of its store, below the sweep's `into`.
    pub name: String,
    /// Its arm; empty where there are none.
    pub arm: String,
    /// Its values of the grid's keys, in the order of the keys.
    pub point: Vec<Value>,
    /// Its seed.
    pub seed: u64,
    /// Its settings, as for `--set`.
    pub sets: Vec<String>,
    /// The pipeline that comes of them.
    pub pipeline: Pipeline,
    /// What it is a replay of, if it is one.
    pub replay: Option<Source>,
}

impl Sweep {
    /// Reads a sweep.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown or mistyped key.
    pub fn load(file: &Path) -> Result<Self> {
        let what = format!("sweep `{}`", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| {
            CommandError::new(format!("{what}: {error}")).hint("see `pipelines/sweeps/` for examples")
        })?;
        let table = toml::from_str(&text)
            .map_err(|error| CommandError::new(format!("{what}: {}", error.to_string().trim_end())))?;
        let mut sweep: Self = from_table(&what, table)?;
        let folder = file.parent().unwrap_or(Path::new(""));
        for path in &mut sweep.pipeline {
            *path = folder.join(&*path);
        }
        Ok(sweep)
    }

    /// Every run: each arm at each point of the grid with each seed, seeds last, so that a sweep that is cut short has
    /// tried everything that it could once.
    ///
    /// # Errors
    /// No seed, or one that is set otherwise, an empty list in the grid, settings that no pipeline has (said of the first run with them), names that are
    /// not unique.
    pub fn members(&self) -> Result<Vec<Member>> {
        let fault = |what: String| CommandError::new(format!("sweep `{}`: {what}", self.name));
        if self.seeds.is_empty() {
            return Err(fault("`seeds` is empty".into()).hint("seeds = [1, 2, 3]"));
        }
        let in_arms = self.arms.values().flat_map(Table::keys);
        if self.set.keys().chain(in_arms).chain(self.grid.keys()).chain(self.tie.keys()).any(|key| key == SEED) {
            let what = fault(format!("`{SEED}` is set as a key of the pipeline, and each run has its own"));
            return Err(what.hint("list them as seeds = [1, 2, 3]"));
        }
        if let Some((key, _)) = self.grid.iter().find(|(_, values)| values.is_empty()) {
            return Err(fault(format!("`grid.\"{key}\"` is empty")).hint("give it a value, or leave it out"));
        }
        if let Some((key, to)) = self.tie.iter().find(|(_, to)| !self.grid.contains_key(*to)) {
            let known: Vec<&str> = self.grid.keys().map(String::as_str).collect();
            return Err(fault(format!("`tie.\"{key}\"` is `{to}`, which is no key of the grid"))
                .hint(format!("the grid has {}", if known.is_empty() { "none".into() } else { known.join(", ") })));
        }
        let none = BTreeMap::from([(String::new(), Table::new())]);
        let arms = if self.arms.is_empty() { &none } else { &self.arms };
        let mut members = Vec::new();
        for seed in &self.seeds {
            for (arm, settings) in arms {
                for point in self.points() {
                    members.push(self.member(arm, settings, point, *seed)?);
                }
            }
        }
        let mut names = BTreeSet::new();
        match members.iter().find(|member| !names.insert(&member.name)) {
            Some(twice) => Err(fault(format!("two runs are named `{}`", twice.name)).hint("is a value given twice?")),
            None => Ok(members),
        }
    }

    /// Every combination of the grid's values.
    fn points(&self) -> Vec<Vec<Value>> {
        self.grid.values().fold(vec![Vec::new()], |points, values| {
            let with = |point: &Vec<Value>, value: &Value| point.iter().chain([value]).cloned().collect();
            points.iter().flat_map(|point| values.iter().map(move |value| with(point, value))).collect()
        })
    }

    fn member(&self, arm: &str, settings: &Table, point: Vec<Value>, seed: u64) -> Result<Member> {
        let at_point: Vec<(&String, &Value)> = self.grid.keys().zip(&point).collect();
        let mut words: Vec<String> = vec![arm.into()];
        words.extend(at_point.iter().map(|(key, value)| format!("{}{}", last_word(key), short(value))));
        words.push(format!("seed{seed}"));
        let name = words.iter().filter(|word| !word.is_empty()).map(|word| plain(word)).collect::<Vec<_>>().join("-");
        let tied = self.tie.iter().filter_map(|(key, to)| Some((key, at_point.iter().find(|(of, _)| *of == to)?.1)));
        let replay = self.replay_of(arm, settings)?;
        let settings = settings.iter().filter(|(key, _)| *key != REPLAY);
        let all = self.set.iter().chain(settings).chain(at_point.iter().copied()).chain(tied);
        let mut sets = all.map(|(key, value)| as_set(key, value)).collect::<Result<Vec<_>>>()?;
        sets.push(format!("{SEED}={seed}"));
        let url = Value::String(format!("{}/{name}", self.into.trim_end_matches('/')));
        sets.push(format!("store.url={url}"));
        let mut pipeline = Pipeline::load(&self.pipeline, &sets)
            .map_err(|error| error.at(format!("sweep `{}`, run `{name}`", self.name)))?;
        if let Some(set) = replay.as_ref().and_then(|replay| replay.score_set.as_ref()) {
            pipeline.score.set.clone_from(set);
        }
        Ok(Member { name, arm: arm.into(), point, seed, sets, pipeline, replay })
    }

    /// What the runs of an arm replay: what the arm says, or else the sweep.
    fn replay_of(&self, arm: &str, settings: &Table) -> Result<Option<Source>> {
        match settings.get(REPLAY) {
            None => Ok(self.replay.clone()),
            Some(Value::Table(table)) => {
                from_table(&format!("sweep `{}`: `arms.{arm}.{REPLAY}`", self.name), table.clone()).map(Some)
            }
            Some(other) => {
                let what = format!("sweep `{}`: `arms.{arm}.{REPLAY}` is {other}", self.name);
                Err(CommandError::new(what).hint("a table: replay = { from = \"runs/demo\" }"))
            }
        }
    }

    /// The columns of the results that hold the grid's values: the last word of each key, or the whole where another column has
    /// that name.
    pub fn point_columns(&self) -> Vec<String> {
        let is_taken = |word: &str| IDENTITY.contains(&word) || MEASURED.contains(&word);
        let is_unique = |word: &str| self.grid.keys().filter(|key| last_word(key) == word).count() == 1;
        let is_enough = |word: &str| is_unique(word) && !is_taken(word);
        let column =
            |key: &String| if is_enough(last_word(key)) { last_word(key).into() } else { key.replace('.', "_") };
        self.grid.keys().map(column).collect()
    }
}

/// A value of the grid for people.
pub fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn last_word(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// What may stand in a key of a store.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' }).collect()
}

fn as_set(key: &str, value: &Value) -> Result<String> {
    // `--set` replaces what it names: a whole section would lose what the pipeline says in it.
    if !key.contains('.') && value.is_table() {
        let what = format!("`{key}` would replace the whole section");
        return Err(CommandError::new(what).hint(format!("name the key within it, in quotes: \"{key}.steps\" = 100")));
    }
    Ok(format!("{key}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPELINE: &str = r#"
        name = "small"
        store.url = "runs/small"
        student.model = "student"
        teacher.model = "teacher"
        prompts.path = "train.jsonl"
        rollout = { prompts_per_unit = 8, max_new_tokens = 32, draws = 16 }
        score = { top_k_max = 64 }
        learn = { steps = 10, rows_per_step = 16, estimator = { name = "forward_kl", top_k = 64, tail = "bucket" } }
    "#;

    fn members(text: &str) -> Result<Vec<Member>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("p.toml"), PIPELINE).unwrap();
        let file = dir.path().join("s.toml");
        std::fs::write(&file, text).unwrap();
        Sweep::load(&file)?.members()
    }

    const SWEEP: &str = r#"
        name = "lag"
        pipeline = ["p.toml"]
        into = "runs/lag"
        seeds = [1, 2]
        set = { "learn.steps" = 7 }
        [arms.forward]
        [arms.reverse]
        "learn.estimator" = { name = "reverse_kl_mc", draws = 16 }
        [grid]
        "rollout.lag" = [0, 16]
        [tie]
        "learn.max_staleness" = "rollout.lag"
    "#;

    #[test]
    fn every_arm_at_every_point_with_every_seed_and_seeds_last() {
        let members = members(SWEEP).unwrap();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names.len(), 8);
        assert_eq!(
            names[..5],
            [
                "forward-lag0-seed1",
                "forward-lag16-seed1",
                "reverse-lag0-seed1",
                "reverse-lag16-seed1",
                "forward-lag0-seed2"
            ]
        );
        let last = &members[7];
        assert_eq!((last.pipeline.seed, last.pipeline.rollout.lag, last.pipeline.learn.steps), (2, 16, 7));
        assert_eq!(last.pipeline.store.url, "runs/lag/reverse-lag16-seed2");
        assert_eq!(last.pipeline.learn.max_staleness, 16);
        assert_eq!(last.pipeline.learn.estimator.needs().teacher_top_k, 0);
    }

    #[test]
    fn without_arms_and_grid_there_is_a_run_a_seed() {
        let members = members("name = \"s\"\npipeline = [\"p.toml\"]\ninto = \"x\"\nseeds = [3]").unwrap();
        assert_eq!(members.len(), 1);
        assert_eq!((members[0].name.as_str(), members[0].arm.as_str()), ("seed3", ""));
    }

    #[test]
    fn a_column_of_the_grid_has_a_name_of_its_own() {
        let columns = |keys: &str| {
            let grid = keys.split(' ').map(|key| format!("\"{key}\" = [1]\n")).collect::<String>();
            let text = format!("name = \"s\"\npipeline = []\ninto = \"x\"\nseeds = [1]\n[grid]\n{grid}");
            toml::from_str::<Sweep>(&text).unwrap().point_columns()
        };
        assert_eq!(columns("rollout.draws rollout.lag"), ["draws", "lag"]);
        assert_eq!(columns("rollout.draws score.draws score.top_k_max"), ["rollout_draws", "score_draws", "top_k_max"]);
        assert_eq!(columns("learn.steps a.arm a.run a.seed"), ["a_arm", "a_run", "a_seed", "learn_steps"]);
    }

    #[test]
    fn an_arm_may_replay_another_store_than_the_sweep() {
        let text = SWEEP.replace("set =", "replay = { from = \"runs/demo\", order = \"seeded\" }\nset =").replace(
            "[arms.reverse]",
            "[arms.reverse]\nreplay = { from = \"b\", at = 9, where = \"x > 1\", score_set = \"small\" }",
        );
        let members = members(&text).unwrap();
        let of = |arm: &str| members.iter().find(|member| member.arm == arm).unwrap();
        let args = |arm: &str| of(arm).replay.as_ref().unwrap().args();
        assert_eq!(args("forward"), ["--from=runs/demo", "--order=seeded"]);
        assert_eq!(args("reverse"), ["--from=b", "--at=9", "--where=x > 1", "--order=recorded", "--score-set=small"]);
        assert_eq!(
            (of("forward").pipeline.score.set.as_str(), of("reverse").pipeline.score.set.as_str()),
            ("main", "small")
        );
        assert!(of("reverse").sets.iter().all(|set| !set.starts_with("replay")), "{:?}", of("reverse").sets);
    }

    #[test]
    fn a_fault_names_the_run_and_the_key() {
        for (from, to, says) in [
            ("[1, 2]", "[]", "`seeds` is empty"),
            ("[0, 16]", "[]", "`grid.\"rollout.lag\"` is empty"),
            ("[0, 16]", "[16, 16]", "two runs are named `forward-lag16-seed1`"),
            ("learn.steps", "learn.stps", "run `forward-lag0-seed1`: pipeline at `learn.stps`: unknown field"),
            ("learn.steps", "learn.stps", "did you mean `steps`?"),
            ("= \"rollout.lag\"", "= \"rollout.lug\"", "which is no key of the grid\nhint: the grid has rollout.lag"),
            ("\"learn.estimator\" = {", "learn = {", "would replace the whole section"),
            ("seeds", "seds", "did you mean `seeds`?"),
            ("\"rollout.lag\" = [0, 16]", "seed = [0, 16]", "`seed` is set as a key of the pipeline"),
            ("{ \"learn.steps\" = 7 }", "{ seed = 7 }", "hint: list them as seeds = [1, 2, 3]"),
            ("p.toml", "q.toml", "q.toml`: No such file"),
            ("[arms.forward]", "[arms.forward]\nreplay = 3", "`arms.forward.replay` is 3\nhint: a table"),
            ("[arms.forward]", "[arms.forward]\nreplay = { form = \"x\" }", "unknown field `form`"),
            ("[arms.forward]", "[arms.forward]\nreplay = { from = \"x\", order = \"any\" }", "unknown variant `any`"),
            ("set =", "replay = { frm = \"x\" }\nset =", "did you mean `from`?"),
        ] {
            let error = members(&SWEEP.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
