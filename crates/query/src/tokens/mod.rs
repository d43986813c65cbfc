//! `tokens`: one row is one position of a rollout with scores, beside what its step's learner saw there.
//!
//! A part of the table is the rows of one batch that one step trained on, or those that no step did: so filters on step,
//! staleness and policy version choose objects by the log.

mod read;
mod spread;

pub(crate) use read::TokenRows;

use crate::{
    columns::{comment, field},
    log::{Log, step_of},
    parts::{ObjectTable, Part, Source, int, text, version},
};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use record::{
    ObjectRef, RowSet, ScoreCommit,
    schema::{ROLLOUTS, SCORES, STEPS},
};
use std::{collections::HashMap, sync::Arc};

/// Where a column of the table comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// A column of the batch's rows, repeated along each response.
    Row,
    /// A column of the rollouts with one entry a position.
    Rollouts,
    /// A column of the scores with one entry a position.
    Scores,
    /// A column of the step record with one entry a position.
    Record,
}

/// Columns that come from a stored one: (name, where from, the stored column, what it holds).
const STORED: [(&str, From, &str, &str); 26] = [
    ("prompt_id", From::Row, "prompt_id", "The prompt's line in the prompt set, from 0."),
    ("source", From::Row, "source", "The prompt's `data_source`; empty where the prompt set names none."),
    ("token_id", From::Rollouts, "response_ids", "The token that was sampled."),
    ("sampler_logprob", From::Rollouts, "sampler_logprobs", "The sampler's log-probability of it; nats."),
    ("teacher_logprob", From::Scores, "teacher_logprobs", "The teacher's log-probability of it; nats."),
    (
        "learner_logprob",
        From::Record,
        "learner_logprobs",
        "The learner's log-probability of it, before the update; nats. Null where no step trained on the row.",
    ),
    (
        "reverse_kl",
        From::Record,
        "reverse_kl",
        "Unbiased estimate of KL(learner || teacher), by the draws; nats. Null where there is none.",
    ),
    (
        "forward_kl",
        From::Record,
        "forward_kl",
        "KL(teacher || learner) over the teacher's top-k and a tail bucket; nats. Null where there is none.",
    ),
    ("entropy", From::Record, "entropy", "Entropy of the learner; nats. Null where no step trained on the row."),
    (
        "teacher_entropy",
        From::Scores,
        "teacher_entropy",
        "Entropy of the teacher; nats. Null where it does not give it.",
    ),
    ("teacher_top_ids", From::Scores, "teacher_top_ids", "The teacher's top-k by mass, most likely first."),
    (
        "teacher_top_logprobs",
        From::Scores,
        "teacher_top_logprobs",
        "The teacher's log-probability of each of `teacher_top_ids`; nats.",
    ),
    (
        "teacher_tail_logprob",
        From::Scores,
        "teacher_tail_logprobs",
        "Log of the teacher's mass outside `teacher_top_ids`; nats, -inf where it is empty.",
    ),
    (
        "draw_ids",
        From::Rollouts,
        "draw_ids",
        "Distinct ids of the Monte-Carlo draws; where `draws_taken` is not null only those outside `sampler_top_ids`.",
    ),
    ("draw_counts", From::Rollouts, "draw_counts", "How often each of `draw_ids` was drawn."),
    ("draw_logprobs", From::Rollouts, "draw_logprobs", "The sampler's log-probability of each of `draw_ids`; nats."),
    (
        "draw_teacher_logprobs",
        From::Scores,
        "draw_teacher_logprobs",
        "The teacher's log-probability of each of `draw_ids`; nats.",
    ),
    ("draws_taken", From::Rollouts, "draws_taken", "How many draws were taken, m; null where all are kept."),
    ("sampler_top_ids", From::Rollouts, "sampler_top_ids", "The sampler's top-k by mass, most likely first."),
    (
        "sampler_top_logprobs",
        From::Rollouts,
        "sampler_top_logprobs",
        "The sampler's log-probability of each of `sampler_top_ids`; nats.",
    ),
    (
        "sampler_tail_logprob",
        From::Rollouts,
        "sampler_tail_logprobs",
        "Log of the sampler's mass outside `sampler_top_ids`; nats, -inf where it is empty.",
    ),
    (
        "sampler_top_teacher_logprobs",
        From::Scores,
        "sampler_top_teacher_logprobs",
        "The teacher's log-probability of each of `sampler_top_ids`; nats.",
    ),
    (
        "sampler_top_teacher_tail_logprob",
        From::Scores,
        "sampler_top_teacher_tail_logprobs",
        "Log of the teacher's mass outside `sampler_top_ids`; nats, -inf where it is empty.",
    ),
    (
        "teacher_draw_ids",
        From::Scores,
        "teacher_draw_ids",
        "Distinct ids of Monte-Carlo draws from the teacher; null where none were taken.",
    ),
    (
        "teacher_draw_counts",
        From::Scores,
        "teacher_draw_counts",
        "How often each of `teacher_draw_ids` was drawn; null where none were taken.",
    ),
    (
        "teacher_draw_logprobs",
        From::Scores,
        "teacher_draw_logprobs",
        "The teacher's log-probability of each of `teacher_draw_ids`; nats. Null where none were taken.",
    ),
];

/// Columns whose value the log tells, one for all rows of a part.
const KNOWN: [&str; 7] = ["batch", "score_set", "policy_version", "unit", "teacher_id", "step", "staleness"];

/// The table over the score set `set`.
pub(crate) fn tokens(log: &Log, set: Option<&str>) -> ObjectTable {
    let trained = trained_rows(log);
    let of_set = log.scorings().filter(|(scores, ..)| Some(scores.score_set.as_str()) == set);
    let parts = of_set.flat_map(|(scores, of, borrowed)| {
        let trained = trained.get(of.batch.as_str()).map_or(&[][..], Vec::as_slice);
        let untrained = trained.iter().fold(RowSet::first(of.of.rows.len()), |rows, one| rows.minus(one.rows));
        // What no step of a replay trained on is none of its rows.
        let untrained = (!untrained.is_empty() && !borrowed).then(|| part(scores, log, &untrained, None, false));
        let trained = trained.iter().map(|one| part(scores, log, one.rows, Some(one), borrowed));
        trained.chain(untrained).collect::<Vec<_>>()
    });
    let known = KNOWN.map(known_field).to_vec();
    let mut fields = vec![
        field("rollout_id", DataType::Utf8, "The rollout."),
        field("row", DataType::Int64, "Its row in the batch, from 0."),
        field("position", DataType::Int32, "The position in the response, from 0."),
        field("token", DataType::Utf8, "The text of the token that was sampled."),
    ];
    fields.extend(known.iter().cloned());
    fields.extend(STORED.map(|(name, from, stored, text)| {
        let nullable = from == From::Record || stored_field(from, stored).is_nullable();
        field(name, item_type(from, stored), text).with_nullable(nullable)
    }));
    let text = "One row is one position of a rollout that has scores in the run's default score set; tokens_in('SET') \
                has another's.";
    ObjectTable {
        name: "tokens",
        schema: Arc::new(Schema::new_with_metadata(fields, comment(text))),
        known: Arc::new(Schema::new(known)),
        parts: parts.collect(),
    }
}

fn known_field(name: &str) -> Field {
    let (data_type, text, nullable) = match name {
        "batch" => (DataType::Utf8, "The batch it is stored in.", false),
        "score_set" => (DataType::Utf8, "The score set.", false),
        "policy_version" => (DataType::Int64, "The policy version that sampled the rollout.", false),
        "unit" => (DataType::Int64, "The slice of the prompt order it was sampled for.", false),
        "teacher_id" => (DataType::Utf8, "The teacher that scored it.", false),
        "step" => (DataType::Int64, "The step that trained on it; null where none did.", true),
        _ => (
            DataType::Int64,
            "step - 1 - policy_version; null where no step trained on it, or on a row that `learn.replay` mixed in.",
            true,
        ),
    };
    field(name, data_type, text).with_nullable(nullable)
}

fn stored_field(from: From, stored: &str) -> &'static Field {
    let schema = match from {
        From::Row | From::Rollouts => &ROLLOUTS,
        From::Scores => &SCORES,
        From::Record => &STEPS,
    };
    // The names are those of the schema files, and a test goes through all of them.
    schema.field_with_name(stored).expect("a column of schemas/")
}

fn item_type(from: From, stored: &str) -> DataType {
    match (from, stored_field(from, stored).data_type()) {
        (From::Row, whole) => whole.clone(),
        (_, DataType::List(item)) => item.data_type().clone(),
        (_, other) => other.clone(),
    }
}

/// Rows of a batch that one step trained on.
struct Trained<'a> {
    step: u64,
    /// None where it was given up.
    record: Option<&'a ObjectRef>,
    rows: &'a RowSet,
}

fn trained_rows(log: &Log) -> HashMap<&str, Vec<Trained<'_>>> {
    let mut of_batch: HashMap<&str, Vec<Trained>> = HashMap::new();
    for step in log.commits().iter().filter_map(step_of) {
        let record = (!log.record_is_retired(step.step)).then_some(&step.record);
        for consumed in step.trained() {
            let trained = Trained { step: step.step, record, rows: &consumed.rows };
            of_batch.entry(&consumed.batch).or_default().push(trained);
        }
    }
    of_batch
}

fn part(scores: &ScoreCommit, log: &Log, rows: &RowSet, trained: Option<&Trained>, borrowed: bool) -> Part {
    let of = log.delivered(&scores.batch);
    let step = trained.map(|one| one.step as i64);
    // The learner held version `step - 1` when it took the rows up.
    let staleness = step.filter(|_| !borrowed || log.parents_versions_count());
    // None where the row's version is the later, which a replay in another order comes to.
    let staleness = staleness.map(|step| step - 1 - of.policy_version.0 as i64).filter(|staleness| *staleness >= 0);
    let known = vec![
        text(&of.batch),
        text(&scores.score_set),
        version(of),
        int(of.of.unit),
        text(&of.teacher_id),
        ScalarValue::Int64(step),
        ScalarValue::Int64(staleness),
    ];
    let source = Source::Tokens(TokenRows {
        rollouts: of.object.clone(),
        scores: scores.object.clone(),
        record: trained.and_then(|one| one.record.cloned()),
        rows: rows.iter().collect(),
    });
    Part { known, rows: of.of.rows.len() as usize, batch: Some(of.batch.clone()), borrowed, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_column_is_one_of_the_schemas() {
        for (name, from, stored, _) in STORED {
            let nested = !matches!(from, From::Row);
            assert_eq!(matches!(stored_field(from, stored).data_type(), DataType::List(_)), nested, "{name}");
        }
    }
}
