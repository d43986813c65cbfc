//! docs/settings.md against what is read: every key, and every default that it gives as a value.

use super::*;
use crate::{
    sft::{ScoresSection, SftConfig, SftEval},
    sweep::{MEASURED, Plot, Sweep},
};
use serde::de::DeserializeOwned;
use toml::Value;

const PAGE: &str = include_str!("../../../docs/settings.md");

/// First and second cell of each line of the tables below a heading.
fn lines(heading: &str) -> Vec<(&'static str, &'static str)> {
    let below = PAGE.split_once(&format!("# {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}")).1;
    let here = below.split("\n#").next().unwrap_or_default();
    let cells = |line: &'static str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        Some((cells.next()?, cells.next()?))
    };
    let rows = here.lines().filter(|line| line.starts_with("| `")).filter_map(cells);
    rows.map(|(key, default)| (key.trim_matches('`'), default)).collect()
}

fn keys(heading: &str) -> Vec<&'static str> {
    lines(heading).into_iter().map(|(key, _)| key).collect()
}

/// The keys that a section has, from what is said of one that it has not.
fn known<T: DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
    let unknown = Table::from_iter([("?".to_string(), Value::Boolean(true))]);
    let said = serde_path_to_error::deserialize::<_, T>(Value::Table(unknown)).unwrap_err().inner().to_string();
    said.split('`').skip(3).step_by(2).map(str::to_string).collect()
}

#[test]
fn every_key_is_on_the_page_and_no_other() {
    assert_eq!(keys("`[store]`"), known::<StoreSection>());
    assert_eq!(keys("`[student]`, `[teacher]`, `[teachers.ID]`"), known::<TeacherSection>());
    assert_eq!(keys("`[prompts]`"), known::<PromptsSection>());
    assert_eq!(keys("`[rollout]`"), known::<RolloutSection>());
    assert_eq!(keys("`[score]`"), known::<ScoreSection>());
    assert_eq!(keys("`[learn]`"), known::<LearnSection>());
    assert_eq!(keys("`[learn.replay]`"), known::<ReplaySection>());
    assert_eq!(keys("`[learn.optimizer]`"), known::<OptimizerConfig>());
    assert_eq!(keys("`[learn.optimizer.schedule]`"), known::<learner::Schedule>());
    assert_eq!(keys("`[eval]`"), known::<EvalSection>());
    assert_eq!(keys("`[eval.sets.NAME]`"), known::<EvalSet>());
    assert_eq!(keys("`[run]`"), known::<RunSection>());
    assert_eq!(keys("`opd sft`"), known::<SftConfig>());
    assert_eq!(keys("`[scores]` of `opd sft`"), known::<ScoresSection>());
    assert_eq!(keys("`[eval]` of `opd sft`"), known::<SftEval>());
    assert_eq!(keys("A sweep"), known::<Sweep>());
    assert_eq!(&keys("`[plot]`")[..3], known::<Plot>());
    assert_eq!(&keys("`[plot]`")[3..], MEASURED);
    let mut top = keys("A pipeline");
    top.extend(["store", "student", "teacher", "teachers", "prompts", "rollout", "score", "learn", "eval", "run"]);
    assert_eq!(top, known::<Pipeline>());
}

#[test]
fn defaults_are_those_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("least.toml");
    let least = r#"
        name = "least"
        store.url = "runs/least"
        student.model = "student"
        prompts.path = "train.jsonl"
        rollout = { prompts_per_unit = 8, max_new_tokens = 32 }
        score = {}
        learn = { steps = 10, rows_per_step = 16, estimator = { name = "forward_kl", top_k = 64 } }
        eval.sets.held = "held.jsonl"
    "#;
    std::fs::write(&file, least).unwrap();
    let pipeline: Value = toml::from_str(&Pipeline::load(&[file], &[]).unwrap().to_toml()).unwrap();
    let sections =
        ["store", "prompts", "rollout", "score", "learn", "learn.optimizer", "learn.optimizer.schedule", "eval", "run"];
    let mut compared = 0;
    for section in sections {
        let read = section.split('.').fold(&pipeline, |table, key| &table[key]);
        for (key, said) in lines(&format!("`[{section}]`")) {
            let text = said.replace('`', "\"");
            let Ok(said) = toml::from_str::<Table>(&format!("x = {text}")) else { continue };
            assert_eq!(number(&read[key]), number(&said["x"]), "{section}.{key}");
            compared += 1;
        }
    }
    assert!(compared > 45, "{compared}");
}

/// Whole numbers as others, for `1` is written where 1.0 is meant.
fn number(value: &Value) -> Value {
    value.as_integer().map_or_else(|| value.clone(), |whole| Value::Float(whole as f64))
}
