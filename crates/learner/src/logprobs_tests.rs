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
        "teacher_tail_logprobs" | "sampler_top_teacher_tail_logprobs" => {
            let of_teacher = column == "teacher_tail_logprobs";
            let lists = if of_teacher { &mut row.teacher_top_k } else { &mut row.sampler_top_k };
            lists.teacher_tail = other(lists.teacher_tail, 1);
            // Three ids are left at the position: of more than are read, the rest would go to the tail.
            lists.ids[1] = &lists.ids[1][..3];
            for column in [&mut lists.teacher_logprobs, &mut lists.sampler_logprobs] {
                column.iter_mut().skip(1).take(1).for_each(|list| *list = &list[..3]);
            }
        }
        _ => {
            let lists: &mut Vec<&'a [f32]> = match column {
                "draw_logprobs" => &mut row.draws.sampler_logprobs,
                "teacher_draw_logprobs" => &mut row.teacher_draws.teacher_logprobs,
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

const COLUMNS: [&str; 10] = [
    "teacher_draw_logprobs",
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
    // The hybrid reads a draw inside its head from there: its zeros are in reverse_kl_hybrid_tests.rs.
    for estimator in menu::scored().filter(|of| of.estimator().name() != "reverse_kl_hybrid") {
        let name = estimator.estimator().name();
        let config = format!("{estimator:?}");
        let (student, drops) = (config.contains("StudentTopK"), config.contains("tail: Drop"));
        let of_teacher = config.contains("from: Teacher");
        let (draws, reverse) = (name.ends_with("_mc"), name.starts_with("reverse") || name == "skewed_kl");
        for column in COLUMNS {
            let expected = match column {
                "sampler_logprobs" | "teacher_logprobs" => Some(["row 2", column, "finite"]),
                "teacher_draw_logprobs" if of_teacher => Some(["row 2", name, "a draw has"]),
                "draw_logprobs" | "draw_teacher_logprobs" if draws && !of_teacher => {
                    Some(["row 2", name, "a draw has"])
                }
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
