//! The whole menu, as a pipeline names it, through the network on sampled rows.

use super::*;
use crate::CandidateLists;
use crate::estimator::oracle::{Position, assert_close, d_logits, expectation, over_all_draws};

/// Every estimator; those with `true` have no gradient at p = q = b, whatever was drawn.
const MENU: [(&str, bool); 26] = [
    (r#"{"name": "forward_kl", "top_k": 5}"#, true),
    (r#"{"name": "forward_kl", "top_k": 5, "tail": "drop"}"#, false),
    (r#"{"name": "reverse_kl_teacher_top_k", "top_k": 5}"#, true),
    (r#"{"name": "reverse_kl_student_top_k", "top_k": 5}"#, true),
    (r#"{"name": "reverse_kl_student_top_k", "top_k": 5, "tail": "drop"}"#, false),
    (r#"{"name": "skewed_kl", "top_k": 5, "alpha": 0.3}"#, true),
    (r#"{"name": "skewed_kl", "top_k": 5, "support": "student_top_k"}"#, true),
    (r#"{"name": "jsd", "top_k": 5, "support": "student_top_k"}"#, true),
    (r#"{"name": "jsd", "top_k": 5, "beta": 0.2, "tail": "drop"}"#, true),
    (r#"{"name": "reverse_kl_mc", "draws": 4}"#, true),
    (r#"{"name": "reverse_kl_mc", "draws": 4, "advantage": "rollout"}"#, true),
    (r#"{"name": "reverse_kl_mc", "draws": 4, "correction": "none"}"#, true),
    (r#"{"name": "reverse_kl_mc", "draws": 4, "correction": {"name": "truncated", "c": 1.5}}"#, true),
    (r#"{"name": "reverse_kl_mc", "draws": 4, "correction": "self_normalised"}"#, true),
    (r#"{"name": "reverse_kl_mc", "draws": 4, "correction": {"name": "ppo", "dual_clip": 3}}"#, true),
    (r#"{"name": "reverse_kl_mc", "draws": 4, "correction": "m2po"}"#, true),
    (r#"{"name": "reverse_kl_mc", "draws": 4, "correction": {"name": "decoupled_ppo", "minibatches": 2}}"#, true),
    (r#"{"name": "reverse_kl_hybrid", "top_k": 3, "draws": 4}"#, true),
    (r#"{"name": "reverse_kl_hybrid", "top_k": 3, "draws": 4, "head": "teacher_top_k", "baseline": "none"}"#, true),
    (r#"{"name": "reverse_kl_hybrid", "top_k": 3, "draws": 4, "head": "union"}"#, true),
    (r#"{"name": "reverse_kl_hybrid", "top_k": 3, "draws": 4, "baseline": "leave_one_out"}"#, true),
    (r#"{"name": "forward_kl_mc", "draws": 4}"#, false),
    (r#"{"name": "forward_kl_mc", "draws": 4, "from": "teacher"}"#, false),
    (r#"{"name": "top_k_ppo", "top_k": 5}"#, true),
    (r#"{"name": "exact", "divergence": "reverse_kl"}"#, true),
    (r#"{"name": "exact", "divergence": "jsd", "beta": 0.3}"#, true),
];

pub fn menu() -> impl Iterator<Item = (EstimatorConfig, bool)> {
    MENU.into_iter().map(|(json, vanishes)| (serde_json::from_str(json).unwrap(), vanishes))
}

/// Those that train on scores as they are stored.
pub fn scored() -> impl Iterator<Item = EstimatorConfig> {
    let at_hand = |of: &EstimatorConfig| of.estimator().support() == crate::estimator::Support::Vocabulary;
    menu().map(|(estimator, _)| estimator).filter(move |estimator| !at_hand(estimator))
}

pub fn norm(gradients: &[Tensor]) -> f64 {
    gradients.iter().map(|g| g.square().sum(None).double_value(&[])).sum::<f64>().sqrt()
}

/// By a learner that some steps have taken away from the sampler, amid a batch of minibatches, at a temperature other than 1:
/// microbatches, chunks, the order of the rows, and what the rows are padded to.
#[test]
fn how_a_minibatch_is_cut_changes_nothing_for_any_of_them() {
    let student = network(9, true);
    let data = data(&student, &network(8, true), 1.2);
    let proximal: EstimatorConfig = serde_json::from_str(
        r#"{"name": "reverse_kl_mc", "draws": 4, "correction": {"name": "decoupled_ppo", "minibatches": 8}}"#,
    )
    .unwrap();
    let mut learner = learner(student, LearnerSettings::default());
    learner.set_teacher(Some(network(8, true))).unwrap();
    for staleness in 0..3 {
        learner.step(&proximal, &data.rows(staleness)).unwrap();
    }
    let rows = data.rows(3);
    // A row that trains nothing, but is the longest: rows in its microbatch are padded to it.
    let (long, untrained) = ([5; 20], [0; 3]);
    let padding = TrainRow { prompt_ids: &long, loss_mask: Some(&untrained), ..three_tokens(&rows) };
    let reversed: Vec<TrainRow> = rows.iter().rev().cloned().collect();
    let padded = [&[padding], &rows[..]].concat();
    for (estimator, _) in menu() {
        let mut run = |rows: &[TrainRow], microbatch_tokens, head_chunk| {
            learner.settings = LearnerSettings { microbatch_tokens, head_chunk };
            let (report, gradients) = learner.gradients(estimator.estimator(), rows).unwrap();
            (report.finish(None), gradients.unwrap())
        };
        let (report, expected) = run(&rows, 4096, 128);
        for (rows, microbatch_tokens, head_chunk) in
            [(&rows, 1, 1), (&rows, 25, 3), (&rows, 60, 7), (&rows, 4096, 2), (&reversed, 25, 3), (&padded, 4096, 128)]
        {
            let (other, found) = run(rows, microbatch_tokens, head_chunk);
            // Coefficients of a divergence with p in a denominator are the coarsest.
            assert_same_gradients(&found, &expected, 1e-4);
            for (name, (numerator, denominator)) in &report.metrics {
                let of_rows = name.starts_with("sample/") || name == "completions/mean_length";
                let gap = (numerator / denominator - rate(&other, name)).abs();
                assert!(of_rows || gap < 1e-4 * (1.0 + (numerator / denominator).abs()), "{estimator:?} {name}");
            }
        }
    }
}

/// The first row with its first three tokens only.
fn three_tokens<'a>(rows: &[TrainRow<'a>]) -> TrainRow<'a> {
    let row = rows.iter().find(|row| row.response_ids.len() >= 3).unwrap();
    let lists = |lists: &CandidateLists<'a>| CandidateLists {
        ids: lists.ids[..3].to_vec(),
        counts: lists.counts.iter().take(3).copied().collect(),
        teacher_logprobs: lists.teacher_logprobs[..3].to_vec(),
        sampler_logprobs: lists.sampler_logprobs.iter().take(3).copied().collect(),
        teacher_tail: lists.teacher_tail.get(..3).unwrap_or_default(),
    };
    TrainRow {
        response_ids: &row.response_ids[..3],
        sampler_logprobs: &row.sampler_logprobs[..3],
        teacher_logprobs: &row.teacher_logprobs[..3],
        teacher_entropy: &row.teacher_entropy[..3],
        draws: lists(&row.draws),
        teacher_draws: lists(&row.teacher_draws),
        teacher_top_k: lists(&row.teacher_top_k),
        sampler_top_k: lists(&row.sampler_top_k),
        ..row.clone()
    }
}

/// Each batch is used twice: the second step is stale.
#[test]
fn each_of_them_brings_the_student_nearer_to_the_teacher() {
    let teacher = network(8, true);
    for (estimator, _) in menu() {
        let mut learner = learner(network(9, true), LearnerSettings::default());
        learner.set_teacher(Some(network(8, true))).unwrap();
        let mut kl = Vec::new();
        for _ in 0..6 {
            let data = data(learner.student(), &teacher, 1.0);
            let report = learner.step(&estimator, &data.rows(0)).unwrap();
            kl.push(rate(&report, "forward_kl") + rate(&report, "reverse_kl"));
            learner.step(&estimator, &data.rows(1)).unwrap();
        }
        let (early, late): (f64, f64) = (kl[..2].iter().sum(), kl[4..].iter().sum());
        assert!(late < 0.9 * early, "{estimator:?}: {kl:?}");
    }
}

/// b the student that sampled, p what real steps made of it: what is unbiased is so at that staleness.
#[test]
fn the_unbiased_ones_are_so_at_the_staleness_that_real_steps_make() {
    let prompt = [4, 9, 6];
    let logits = |network: &Transformer| {
        let _guard = tch::no_grad_guard();
        let hidden = network.hidden(&network.right_padded(&[prompt]).unwrap()).unwrap();
        network.logits(&hidden.select(1, 2)).unwrap().squeeze_dim(0).to_kind(Kind::Double)
    };
    let (teacher, estimator): (_, EstimatorConfig) =
        (network(8, true), serde_json::from_str(r#"{"name": "forward_kl_mc", "draws": 4}"#).unwrap());
    let mut learner = learner(network(9, true), LearnerSettings::default());
    let sampler_logits = logits(learner.student());
    let data = data(learner.student(), &teacher, 1.2);
    for staleness in 0..2 {
        learner.step(&estimator, &data.rows(staleness)).unwrap();
    }
    let position = Position {
        learner_logits: logits(learner.student()),
        teacher_logits: logits(&teacher),
        sampler_logits,
        temperature: 1.2,
    };
    assert!((position.p() - position.b()).abs().max().double_value(&[]) > 1e-3, "stale enough to matter");
    let (value, gradient) = expectation(estimator.estimator(), &position, 1);
    assert!((value - position.forward_kl()).abs() < 1e-9);
    assert_close(&gradient, &((position.p() - position.q()) / 1.2), 1e-9);

    let hybrid: EstimatorConfig =
        serde_json::from_str(r#"{"name": "reverse_kl_hybrid", "top_k": 3, "draws": 1}"#).unwrap();
    for head in [position.sampler_top(3), position.teacher_top(3)] {
        let (value, gradient) = over_all_draws(&position, &position.b(), 1, |draws, counts| {
            let (candidates, ids) = position.head_and_draws(&head, draws, counts);
            let ruling = hybrid.estimator().rule(&candidates);
            (ruling.value.double_value(&[0]), d_logits(&position, &ruling, &ids))
        });
        assert!((value - position.reverse_kl()).abs() < 1e-9);
        assert_close(&gradient, &position.d_reverse_kl(), 1e-9);
    }
}

/// What is stored of the draws when only those outside the sampler's top-k are kept.
fn tail_only(sample: &Sample) -> Sample {
    let draws = |t: usize| {
        let lists = (sample.draw_ids.get(t), sample.draw_counts.get(t), sample.draw_logprobs.get(t));
        let kept = (0..lists.0.len()).filter(move |j| !sample.sampler_top_ids.get(t).contains(&lists.0[*j]));
        kept.map(move |j| (lists.0[j], lists.1[j], lists.2[j]))
    };
    let positions = 0..sample.response_ids.len();
    Sample {
        draw_ids: positions.clone().map(|t| draws(t).map(|draw| draw.0)).collect(),
        draw_counts: positions.clone().map(|t| draws(t).map(|draw| draw.1)).collect(),
        draw_logprobs: positions.map(|t| draws(t).map(|draw| draw.2)).collect(),
        draws_taken: Some(sample.draw_counts.iter().map(|counts| counts.iter().sum()).collect()),
        ..sample.clone()
    }
}

#[test]
fn draws_of_the_tail_are_all_that_the_hybrid_reads() {
    let (sampler, teacher) = (network(7, true), network(8, true));
    let mut data = data(&sampler, &teacher, 1.2);
    let learner = learner(network(9, true), LearnerSettings::default());
    let read = |json: &str| -> EstimatorConfig { serde_json::from_str(json).unwrap() };
    let whole_heads = [
        read(r#"{"name": "reverse_kl_hybrid", "top_k": 6, "draws": 4}"#),
        read(r#"{"name": "reverse_kl_hybrid", "top_k": 6, "draws": 4, "baseline": "leave_one_out"}"#),
        read(r#"{"name": "reverse_kl_hybrid", "top_k": 6, "draws": 4, "head": "union"}"#),
    ];
    let forward = read(r#"{"name": "forward_kl", "top_k": 5}"#);
    let of = |data: &Data, estimator: &EstimatorConfig| {
        let (report, gradients) = learner.gradients(estimator.estimator(), &data.rows(1)).unwrap();
        (report.finish(None), gradients.unwrap())
    };
    let expected: Vec<_> = whole_heads.iter().map(|estimator| of(&data, estimator)).collect();
    let kept: usize = data.samples.iter().map(|sample| sample.draw_ids.values().len()).sum();

    data.samples = data.samples.iter().map(tail_only).collect();
    let prompts: Vec<&[i32]> = data.prompts.iter().map(Vec::as_slice).collect();
    let rows: Vec<ScoreRow> = prompts.iter().zip(&data.samples).map(|(p, s)| ScoreRow::new(p, s, 0)).collect();
    let top_k = Some(TopK { mass: 1.0, max: 6, floor: 0.0 });
    let params = ScoringParams { temperature: 1.2f32.into(), top_k, draws: 0, max_tokens_per_batch: 512 };
    let scores = score(&teacher, &rows, &params).unwrap();
    drop(rows);
    data.scores = scores;
    assert!(data.samples.iter().map(|sample| sample.draw_ids.values().len()).sum::<usize>() < kept / 2);
    for (estimator, (report, gradients)) in whole_heads.iter().zip(&expected) {
        let (found, d) = of(&data, estimator);
        assert_same_gradients(&d, gradients, 1e-5);
        for name in ["loss", "reverse_kl"] {
            assert!((rate(&found, name) - rate(report, name)).abs() < 1e-6, "{estimator:?} {name}");
        }
    }
    // Whatever is trained on, every position's reverse KL is the hybrid's, also where all draws were inside.
    let (report, _) = of(&data, &forward);
    assert_eq!(report.metrics["reverse_kl"].1 as usize, report.trained_tokens);
    assert!((rate(&report, "reverse_kl") - rate(&expected[0].0, "reverse_kl")).abs() < 1e-6);

    for (json, says) in [
        (r#"{"name": "reverse_kl_mc", "draws": 4}"#, ["draws_taken", "all draws", "outside the sampler's top-k"]),
        (r#"{"name": "forward_kl_mc", "draws": 4}"#, ["draws_taken", "all draws", "draws_kept"]),
        (r#"{"name": "reverse_kl_hybrid", "top_k": 5, "draws": 4}"#, ["sampler_top_ids", "6 ids", "it takes 5"]),
        (
            r#"{"name": "reverse_kl_hybrid", "top_k": 6, "draws": 4, "head": "teacher_top_k"}"#,
            ["draws_taken", "all draws", "outside the sampler's top-k"],
        ),
        (r#"{"name": "forward_kl_mc", "draws": 4, "from": "teacher"}"#, ["teacher_draw_ids", "score.draws", "none"]),
    ] {
        let row = &data.rows(0)[0];
        let said = row.check(0, read(json).estimator().support(), 28).unwrap_err().to_string();
        assert!(says.iter().all(|words| said.contains(words)), "{json}: {said}");
    }
}

/// Over the whole vocabulary a stored top-k says what the teacher itself says.
#[test]
fn exact_is_what_a_top_k_of_all_ids_gives() {
    let teacher = network(8, true);
    let mut data = data(&network(7, true), &teacher, 1.2);
    let rows: Vec<ScoreRow> = data.prompts.iter().zip(&data.samples).map(|(p, s)| ScoreRow::new(p, s, 0)).collect();
    let top_k = Some(TopK { mass: 1.0, max: 28, floor: 0.0 });
    let params = ScoringParams { temperature: 1.2f32.into(), top_k, draws: 0, max_tokens_per_batch: 512 };
    let scores = score(&teacher, &rows, &params).unwrap();
    drop(rows);
    data.scores = scores;
    let mut learner = learner(network(9, false), LearnerSettings { microbatch_tokens: 40, head_chunk: 5 });
    let exact = |divergence: &str| -> EstimatorConfig {
        serde_json::from_str(&format!(r#"{{"name": "exact", "divergence": "{divergence}"}}"#)).unwrap()
    };
    let said = learner.step(&exact("reverse_kl"), &data.rows(0)).unwrap_err().to_string();
    assert!(said.contains("`estimator` is exact") && said.contains("no teacher is beside this learner"), "{said}");
    learner.set_teacher(Some(teacher)).unwrap();
    for (divergence, top_k) in
        [("forward_kl", "forward_kl"), ("reverse_kl", "reverse_kl_teacher_top_k"), ("jsd", "jsd")]
    {
        let whole: EstimatorConfig = serde_json::from_str(&format!(r#"{{"name": "{top_k}", "top_k": 28}}"#)).unwrap();
        let of = |estimator: &EstimatorConfig| learner.gradients(estimator.estimator(), &data.rows(1)).unwrap();
        let ((report, found), (expected_report, expected)) = (of(&exact(divergence)), of(&whole));
        assert_same_gradients(&found.unwrap(), &expected.unwrap(), 1e-4);
        let (report, expected) = (report.finish(None), expected_report.finish(None));
        assert!((rate(&report, "loss") - rate(&expected, "loss")).abs() < 1e-5);
        assert!((rate(&report, "forward_kl") - rate(&expected, "forward_kl")).abs() < 1e-5);
        assert_eq!(report.metrics["reverse_kl"].1 as usize, report.trained_tokens);
    }
}
