//! The tables that lie in objects: which objects a table has, and what the log already knows of each.

use crate::{
    columns::{comment, field},
    log::{Log, step_of},
    tokens::{TokenRows, tokens},
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use record::{
    Event, ObjectRef, RolloutCommit,
    schema::{COMMENT, ROLLOUTS, SCORES, STEPS},
};
use std::sync::Arc;

/// A table whose rows lie in objects.
#[derive(Clone, Debug)]
pub(crate) struct ObjectTable {
    pub name: &'static str,
    pub schema: SchemaRef,
    /// Columns with one value an object that the log tells: filters on them choose objects before any is opened.
    pub known: SchemaRef,
    /// Its objects, in the order of the log.
    pub parts: Vec<Part>,
}

/// The rows of one batch or one step record, or the positions of some of them.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The values of the table's `known` columns.
    pub known: Vec<ScalarValue>,
    /// How many rows the log says the batch or step record has.
    pub rows: usize,
    /// The batch; none for a step record.
    pub batch: Option<String>,
    /// Whether the batch lies in the parent's store.
    pub borrowed: bool,
    /// Where the rows lie.
    pub source: Source,
}

/// What has to be opened for the rows of a [`Part`].
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Rollouts(ObjectRef),
    Scores(ObjectRef),
    Scored { rollouts: ObjectRef, scores: ObjectRef },
    StepRecord(ObjectRef),
    Tokens(TokenRows),
}

impl Source {
    /// The object that decides how many rows there are.
    pub fn key(&self) -> &str {
        match self {
            Source::Rollouts(object) | Source::Scores(object) | Source::StepRecord(object) => &object.key,
            Source::Scored { scores, .. } => &scores.key,
            Source::Tokens(of) => &of.rollouts.key,
        }
    }

    /// The length of its objects, but for step records beside others.
    pub fn bytes(&self) -> u64 {
        match self {
            Source::Rollouts(object) | Source::Scores(object) | Source::StepRecord(object) => object.bytes,
            Source::Scored { rollouts, scores } => rollouts.bytes + scores.bytes,
            Source::Tokens(of) => of.rollouts.bytes + of.scores.bytes,
        }
    }
}

impl Part {
    /// The keys of the objects that have to be opened for the columns of `schema`; `known` are those the log tells.
    pub fn opens(&self, schema: &Schema, known: &Schema) -> Vec<&str> {
        let told = |name: &str| {
            known.field_with_name(name).is_ok() || (self.batch.is_some() && matches!(name, "row" | "rollout_id"))
        };
        let all_told = schema.fields().iter().all(|field| told(field.name()));
        match &self.source {
            Source::Tokens(of) => of.opens(schema),
            _ if all_told => vec![],
            Source::Rollouts(object) | Source::Scores(object) | Source::StepRecord(object) => vec![&object.key],
            Source::Scored { rollouts, scores } => vec![&rollouts.key, &scores.key],
        }
    }
}

/// Every table of objects.
pub(crate) fn object_tables(log: &Log) -> [ObjectTable; 5] {
    [rollouts(log), scores(log), scored(log, log.score_set()), step_records(log), tokens(log, log.score_set())]
}

fn batch_field() -> Field {
    field("batch", DataType::Utf8, "The batch it is stored in.")
}

fn row_field() -> Field {
    field("row", DataType::Int64, "Its row in the batch, from 0.")
}

fn score_set_field() -> Field {
    field("score_set", DataType::Utf8, "The score set.")
}

fn fields(schema: &Schema) -> Vec<Field> {
    schema.fields().iter().map(|field| field.as_ref().clone()).collect()
}

fn table(name: &'static str, text: &str, fields: Vec<Field>, known: &[&str], parts: Vec<Part>) -> ObjectTable {
    let chosen = known.iter().filter_map(|name| fields.iter().find(|field| field.name() == name).cloned());
    let known = Arc::new(Schema::new(chosen.collect::<Vec<_>>()));
    ObjectTable { name, schema: Arc::new(Schema::new_with_metadata(fields, comment(text))), known, parts }
}

fn doc(schema: &Schema) -> &str {
    schema.metadata().get(COMMENT).map_or("", String::as_str)
}

fn rollouts(log: &Log) -> ObjectTable {
    let mut columns = fields(&ROLLOUTS);
    columns.extend([batch_field(), row_field()]);
    let delivered = log.batches().filter_map(|(commit, borrowed)| match &commit.event {
        Event::Rollouts(rollouts) if !log.batch_is_retired(&rollouts.batch) => Some((rollouts, borrowed)),
        _ => None,
    });
    let parts = delivered.map(|(of, borrowed)| Part {
        known: vec![text(&of.batch), version(of), int(of.of.unit), text(&of.teacher_id)],
        rows: of.of.rows.len() as usize,
        batch: Some(of.batch.clone()),
        borrowed,
        source: Source::Rollouts(of.object.clone()),
    });
    table("rollouts", doc(&ROLLOUTS), columns, &["batch", "policy_version", "unit", "teacher_id"], parts.collect())
}

fn scores(log: &Log) -> ObjectTable {
    let mut columns = fields(&SCORES);
    let version_text = "The policy version that sampled the rollout.";
    let version_field = field("policy_version", DataType::Int64, version_text);
    columns.extend([score_set_field(), version_field, batch_field(), row_field()]);
    let parts = log.scorings().map(|(scores, of, borrowed)| Part {
        known: vec![text(&of.batch), text(&scores.score_set), version(of)],
        rows: of.of.rows.len() as usize,
        batch: Some(of.batch.clone()),
        borrowed,
        source: Source::Scores(scores.object.clone()),
    });
    table("scores", doc(&SCORES), columns, &["batch", "score_set", "policy_version"], parts.collect())
}

/// The table over the score set `set`.
pub(crate) fn scored(log: &Log, set: Option<&str>) -> ObjectTable {
    let mut columns = fields(&ROLLOUTS);
    // Equal in both, or, for `teacher_id`, the teacher that was asked for.
    columns.extend(fields(&SCORES).into_iter().filter(|field| ROLLOUTS.field_with_name(field.name()).is_err()));
    columns.extend([score_set_field(), batch_field(), row_field()]);
    let of_set = log.scorings().filter(|(scores, ..)| Some(scores.score_set.as_str()) == set);
    let parts = of_set.map(|(scores, of, borrowed)| Part {
        known: vec![text(&of.batch), text(&scores.score_set), version(of), int(of.of.unit), text(&of.teacher_id)],
        rows: of.of.rows.len() as usize,
        batch: Some(of.batch.clone()),
        borrowed,
        source: Source::Scored { rollouts: of.object.clone(), scores: scores.object.clone() },
    });
    let comment =
        "One row is one rollout with its scores in the run's default score set; scored_in('SET') has another's.";
    let known = ["batch", "score_set", "policy_version", "unit", "teacher_id"];
    table("scored", comment, columns, &known, parts.collect())
}

fn step_records(log: &Log) -> ObjectTable {
    let kept = log.commits().iter().filter_map(step_of).filter(|step| !log.record_is_retired(step.step));
    let parts = kept.map(|step| Part {
        known: vec![int(step.step)],
        rows: step.rows() as usize,
        batch: None,
        borrowed: false,
        source: Source::StepRecord(step.record.clone()),
    });
    table("step_records", doc(&STEPS), fields(&STEPS), &["step"], parts.collect())
}

pub(crate) fn text(value: &str) -> ScalarValue {
    ScalarValue::Utf8(Some(value.into()))
}

pub(crate) fn int(value: u64) -> ScalarValue {
    ScalarValue::Int64(Some(value as i64))
}

pub(crate) fn version(of: &RolloutCommit) -> ScalarValue {
    int(of.policy_version.0)
}
