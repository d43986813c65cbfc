//! The parameters' gradient by estimators on rows that were sampled and scored, against the exact one.

use super::*;
use crate::estimate::{InParameters, in_parameters};

/// Rows with four draws and the teacher's top-k of all 28 ids.
fn whole_lists(sampler: &Transformer, teacher: &Transformer) -> Data {
    let mut data = data(sampler, teacher, 1.2);
    let rows: Vec<ScoreRow> = data.prompts.iter().zip(&data.samples).map(|(p, s)| ScoreRow::new(p, s, 0)).collect();
    let top_k = Some(TopK { mass: 1.0, max: 28, floor: 0.0 });
    let params = ScoringParams { temperature: 1.2f32.into(), top_k, draws: 0, max_tokens_per_batch: 512 };
    let scores = score(teacher, &rows, &params).unwrap();
    drop(rows);
    data.scores = scores;
    data
}

#[test]
fn a_list_of_all_ids_is_exact_and_draws_are_not() {
    let teacher = network(8, true);
    let data = whole_lists(&network(7, true), &teacher);
    let mut learner = learner(network(9, true), LearnerSettings { microbatch_tokens: 40, head_chunk: 5 });
    learner.set_teacher(Some(teacher)).unwrap();
    let mut told = Vec::new();
    let found = in_parameters(&learner, &data.rows(2), |taken, total| told.push((taken, total))).unwrap();
    let of = |name: &str| -> &InParameters {
        found.lines.iter().find(|line| line.estimator == name).unwrap_or_else(|| panic!("{name}: {found:?}"))
    };
    for name in ["forward_kl", "forward_kl/drop", "reverse_kl_teacher_top_k", "skewed_kl", "jsd"] {
        let InParameters { k, m, relative_error, cosine, .. } = *of(name);
        assert!((k, m) == (28, 0) && relative_error < 1e-3 && (cosine - 1.0).abs() < 1e-6, "{:?}", of(name));
    }
    for (name, k, m) in
        [("reverse_kl_mc", 0, 4), ("reverse_kl_mc/m2po", 0, 4), ("reverse_kl_hybrid/leave_one_out", 6, 4)]
    {
        let line = of(name);
        assert!((line.k, line.m) == (k, m) && line.relative_error > 1e-2 && line.cosine < 0.9999, "{line:?}");
    }
    // By the two gradients, put end to end.
    let gradient = |json: &str| {
        let estimator: EstimatorConfig = serde_json::from_str(json).unwrap();
        let parts = learner.gradients(estimator.estimator(), &data.rows(2)).unwrap().1.unwrap();
        Tensor::cat(&parts.iter().map(|part| part.reshape([-1])).collect::<Vec<_>>(), 0).to_kind(Kind::Double)
    };
    let g = gradient(r#"{"name": "reverse_kl_mc", "draws": 4}"#);
    let exact = gradient(r#"{"name": "exact", "divergence": "reverse_kl"}"#);
    let number = |x: Tensor| x.double_value(&[]);
    let (norm, whole) = (number(g.norm()), number(exact.norm()));
    assert!((of("reverse_kl_mc").relative_error - number((&g - &exact).norm()) / whole).abs() < 1e-6);
    assert!((of("reverse_kl_mc").cosine - number(g.dot(&exact)) / norm / whole).abs() < 1e-6);

    let [(name, why)] = &found.left_out[..] else { panic!("{:?}", found.left_out) };
    let why = why.to_string();
    assert!(*name == "forward_kl_mc/teacher" && why.contains("teacher_draw_ids") && why.contains("none"), "{why}");
    let total = told[0].1;
    let expected: Vec<_> = (0..total - 1).map(|taken| (taken, total)).collect();
    assert_eq!(told, expected, "one was left out");
}

#[test]
fn without_a_teacher_or_a_position_there_is_nothing_to_compare_with() {
    let teacher = network(8, true);
    let data = whole_lists(&network(7, true), &teacher);
    let mut learner = learner(network(9, true), LearnerSettings::default());
    let said = in_parameters(&learner, &data.rows(0), |_, _| ()).unwrap_err().to_string();
    assert!(said.contains("no teacher is beside this learner"), "{said}");
    learner.set_teacher(Some(teacher)).unwrap();
    let untrained: Vec<Vec<i32>> = data.rows(0).iter().map(|row| vec![0; row.response_ids.len()]).collect();
    let mut rows = data.rows(0);
    rows.iter_mut().zip(&untrained).for_each(|(row, mask)| row.loss_mask = Some(mask));
    let said = in_parameters(&learner, &rows, |_, _| ()).unwrap_err().to_string();
    assert!(said.contains("loss_mask") && said.contains("a trained position"), "{said}");
}
