//! Scores that are none, in the words that people meet, and those that mean something.

use super::*;
use crate::{CandidateLists, logprobs::check};

const BAD: [(f32, &str); 3] = [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (0.5, "0.5")];

/// Puts `value` at position 1 of the column.
fn spoiled<'a>(row: &TrainRow<'a>, column: &str, value: f32) -> TrainRow<'a> {
    let mut row = row.clone();
    // A test may leak what its rows borrow.
    let other = |old: &'a [f32], at: usize| -> &'a [f32] {
        let mut new = old.to_vec();
        new[at] = value;
        new.leak()
    };
    match column {
        "sampler_logprobs" => row.sampler_logprobs = other(row.sampler_logprobs, 1),
        "teacher_logprobs" => row.teacher_logprobs = other(row.teacher_logprobs, 1),
        "teacher_tail_logprobs" => row.teacher_top_k.teacher_tail = other(row.teacher_top_k.teacher_tail, 1),
        "sampler_top_teacher_tail_logprobs" => {
            row.sampler_top_k.teacher_tail = other(row.sampler_top_k.teacher_tail, 1)
        }
        _ => {
            let lists: &mut Vec<&'a [f32]> = match column {
                "draw_logprobs" => &mut row.draws.sampler_logprobs,
                "draw_teacher_logprobs" => &mut row.draws.teacher_logprobs,
                "teacher_top_logprobs" => &mut row.teacher_top_k.teacher_logprobs,
                "sampler_top_logprobs" => &mut row.sampler_top_k.sampler_logprobs,
                "sampler_top_teacher_logprobs" => &mut row.sampler_top_k.teacher_logprobs,
                _ => panic!("{column}"),
            };
            lists[1] = other(lists[1], 0);
        }
    }
    row
}

const COLUMNS: [&str; 9] = [
    "sampler_logprobs",
    "teacher_logprobs",
    "draw_logprobs",
    "draw_teacher_logprobs",
    "teacher_top_logprobs",
    "teacher_tail_logprobs",
    "sampler_top_logprobs",
    "sampler_top_teacher_logprobs",
    "sampler_top_teacher_tail_logprobs",
];

#[test]
fn a_score_that_is_none_is_refused_by_row_column_and_position() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let mut learner = learner(network(9, true), LearnerSettings::default());
    let before = learner.student().to_safetensors().unwrap();
    for column in COLUMNS {
        for (value, name) in BAD {
            let mut rows = data.rows(1);
            rows[2] = spoiled(&rows[2], column, value);
            // Whatever reads it or not: it is reported beside.
            for estimator in [&MC, &FORWARD] {
                let said = learner.step(estimator, &rows).unwrap_err().to_string();
                assert!(said.starts_with(&format!("row 2, `{column}`: expected a")), "{said}");
                assert!(said.contains("at most 0") && said.ends_with(&format!("found {name} at position 1")), "{said}");
            }
            // Nobody reads a position that is not trained.
            let mask: Vec<i32> = (0..rows[2].response_ids.len()).map(|t| i32::from(t != 1)).collect();
            rows[2].loss_mask = Some(&mask);
            for estimator in [&MC, &FORWARD] {
                assert!(learner.gradients(estimator.estimator(), &rows).is_ok());
                assert!(check(&rows[2], 2).is_ok(), "{column}");
            }
        }
        // Rounding is no fault.
        check(&spoiled(&data.rows(1)[2], column, 1e-6), 2).unwrap();
    }
    assert_eq!(learner.student().to_safetensors().unwrap(), before);
}

/// The table of zeros, for each estimator: which column may say that something is impossible.
#[test]
fn minus_infinity_is_what_the_table_of_zeros_says() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let learner = learner(network(9, true), LearnerSettings::default());
    let says = |estimator: &EstimatorConfig, column: &str| {
        let mut rows = data.rows(1);
        rows[2] = spoiled(&rows[2], column, f32::NEG_INFINITY);
        check(&rows[2], 2).and_then(|()| learner.gradients(estimator.estimator(), &rows)).err().map(|e| e.to_string())
    };
    for (estimator, _) in menu::menu() {
        let name = estimator.estimator().name();
        let config = format!("{estimator:?}");
        let (student, drops) = (config.contains("StudentTopK"), config.contains("tail: Drop"));
        let (draws, reverse) = (name.ends_with("_mc"), name.starts_with("reverse") || name == "skewed_kl");
        for column in COLUMNS {
            let expected = match column {
                "sampler_logprobs" | "teacher_logprobs" => Some(["row 2", column, "finite"]),
                "draw_logprobs" | "draw_teacher_logprobs" if draws => Some(["row 2", name, "a draw has"]),
                "teacher_top_logprobs" if !student && !draws && reverse => Some(["row 2", name, "the teacher gives"]),
                "sampler_top_teacher_logprobs" if (student && reverse) || name == "top_k_ppo" => {
                    Some(["row 2", name, "the teacher gives"])
                }
                "sampler_top_logprobs" if name == "top_k_ppo" => Some(["row 2", name, "the sampler gives"]),
                "teacher_tail_logprobs" if !student && !draws && reverse && !drops => {
                    Some(["row 2", name, "score with a tail"])
                }
                "sampler_top_teacher_tail_logprobs" if student && reverse && !drops => {
                    Some(["row 2", name, "score with a tail"])
                }
                _ => None,
            };
            match (says(&estimator, column), expected) {
                (None, None) => {}
                (Some(said), Some(words)) if words.iter().all(|words| said.contains(words)) => {
                    assert!(said.contains("position 1"), "{said}");
                }
                (said, expected) => panic!("{estimator:?}, {column}: {said:?}, not {expected:?}"),
            }
        }
    }
}

#[test]
fn what_nobody_gave_is_no_fault() {
    check(&TrainRow::completion(&[1], &[3, 4]), 0).unwrap();
    let lists = CandidateLists { ids: vec![&[4], &[]], teacher_logprobs: vec![&[-1.0], &[]], ..Default::default() };
    check(&TrainRow { teacher_top_k: lists, ..TrainRow::completion(&[1], &[3, 4]) }, 0).unwrap();
}
