//! The step as a whole, on tiny networks.

use super::*;
use crate::{
    Schedule, StepReport,
    estimator::{Advantage, Correction, ForwardKl, ReverseKlMc, Tail},
};
use model::{Device, ModelConfig, Prompt, SamplingParams, ScoreRow, ScoringParams, TopK, sample, score};
use record::{DrawsKept, NewRollout, PolicyVersion, RolloutBatch, RolloutBatchInfo, Sample, Score, ScoredBatch};

const MC: EstimatorConfig = EstimatorConfig::ReverseKlMc(ReverseKlMc {
    draws: 4,
    advantage: Advantage::Current,
    correction: Correction::Importance {},
});
const FORWARD: EstimatorConfig = EstimatorConfig::ForwardKl(ForwardKl { top_k: 5, tail: Tail::Bucket });
const EOS: i32 = 2;

/// A network of 30 ids, the last two of them padding, with weights large enough to have opinions.
fn network(seed: u64, tied: bool) -> Transformer {
    let json = format!(
        r#"{{"model_type": "qwen3", "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "max_position_embeddings": 32, "tie_word_embeddings": {tied}, "eos_token_id": {EOS}, "hidden_act": "silu"}}"#
    );
    let config = ModelConfig::from_json(&json, "config.json").unwrap().with_real_vocab(28).unwrap();
    let network = Transformer::new_random(config, seed, Device::Cpu).unwrap();
    let _guard = tch::no_grad_guard();
    for (_, parameter) in network.parameters().iter_mut().filter(|(_, parameter)| parameter.dim() > 1) {
        let _ = parameter.g_mul_scalar_(15.0);
    }
    network
}

/// Rollouts with scores, and their temperature.
struct Data {
    prompts: Vec<Vec<i32>>,
    samples: Vec<Sample>,
    scores: Vec<Score>,
    temperature: f32,
}

/// With four draws where a top-k is kept.
fn sampling(temperature: f64, max_new_tokens: usize, top_k: Option<TopK>) -> SamplingParams {
    let (eos, draws) = (vec![EOS], if top_k.is_some() { 4 } else { 0 });
    SamplingParams { temperature, top_p: 1.0, max_new_tokens, eos, draws, draws_kept: DrawsKept::All, top_k }
}

fn data(sampler: &Transformer, teacher: &Transformer, temperature: f32) -> Data {
    tch::set_num_threads(1);
    let prompts: Vec<Vec<i32>> = (0..6).map(|i| (0..=i % 4).map(|j| 3 + (5 * i + 7 * j) % 25).collect()).collect();
    let requests: Vec<Prompt> =
        prompts.iter().enumerate().map(|(i, ids)| Prompt { ids: ids.clone(), seed: i as u64 }).collect();
    let top_k = TopK { mass: 1.0, max: 6, floor: 0.0 };
    let samples = sample(sampler, &requests, &sampling(temperature.into(), 9, Some(top_k))).unwrap();
    let rows: Vec<ScoreRow> =
        requests.iter().zip(&samples).map(|(prompt, sample)| ScoreRow::new(&prompt.ids, sample, prompt.seed)).collect();
    let params =
        ScoringParams { temperature: f64::from(temperature), top_k: Some(top_k), draws: 4, max_tokens_per_batch: 512 };
    let scores = score(teacher, &rows, &params).unwrap();
    Data { prompts, samples, scores, temperature }
}

impl Data {
    fn rows(&self, staleness: u64) -> Vec<TrainRow<'_>> {
        let parts = self.prompts.iter().zip(&self.samples).zip(&self.scores);
        parts.map(|((p, sample), score)| TrainRow::sampled(p, sample, score, self.temperature, staleness)).collect()
    }
}

fn learner(student: Transformer, settings: LearnerSettings) -> Learner {
    let config = OptimizerConfig { learning_rate: 0.01, schedule: Schedule::default(), ..Default::default() };
    Learner::new(student, config, settings).unwrap()
}

fn rate(report: &StepReport, name: &str) -> f64 {
    let (numerator, denominator) = report.metrics[name];
    numerator / denominator
}

/// The loss by autograd through the whole network, one row at a time, with full logits in float32; its gradients.
fn by_autograd(student: &Transformer, rows: &[TrainRow], estimator: Option<&EstimatorConfig>) -> (f64, Vec<Tensor>) {
    let parameters: Vec<Tensor> = student.parameters().into_iter().map(|(_, parameter)| parameter).collect();
    let trained: usize = rows.iter().map(|row| row.response_ids.len()).sum();
    let (mut loss, mut value) = (Tensor::from(0.0f32), 0.0);
    for row in rows {
        let ids: Vec<i64> = [row.prompt_ids, row.response_ids].concat().into_iter().map(i64::from).collect();
        let logits = student.hidden(&Tensor::from_slice(&ids).unsqueeze(0)).unwrap().squeeze_dim(0);
        let logits = logits.matmul(&student.head().narrow(0, 0, 28).tr()) / f64::from(row.temperature);
        let log_p = logits.log_softmax(1, None);
        for t in 0..row.response_ids.len() {
            let log_p = log_p.get((row.prompt_ids.len() - 1 + t) as i64);
            let at = |ids: &[i32]| {
                let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
                log_p.index_select(0, &Tensor::from_slice(&ids))
            };
            let term = match estimator {
                None => -at(&row.response_ids[t..=t]).sum(None),
                Some(EstimatorConfig::ForwardKl(rule)) => {
                    let lists = &row.teacher_top_k;
                    let k = rule.top_k.min(lists.ids[t].len());
                    let q = Tensor::from_slice(lists.teacher_logprobs[t]).exp();
                    let q = q.narrow(0, 0, k as i64);
                    let p = at(&lists.ids[t][..k]);
                    let (q_tail, p_tail): (Tensor, Tensor) = (1.0 - q.sum(None), 1.0 - p.exp().sum(None));
                    (&q * (q.log() - p)).sum(None) + &q_tail * (q_tail.log() - p_tail.log())
                }
                Some(EstimatorConfig::ReverseKlMc(_)) => {
                    let draws = &row.draws;
                    let counts: Vec<f32> = draws.counts[t].iter().map(|n| *n as f32).collect();
                    let p = at(draws.ids[t]);
                    let q = Tensor::from_slice(draws.teacher_logprobs[t]);
                    let b = Tensor::from_slice(draws.sampler_logprobs[t]);
                    let share = Tensor::from_slice(&counts) / counts.iter().sum::<f32>() as f64;
                    let c = (share * (p.detach() - b).exp() * (p.detach() - q)).detach();
                    value += c.sum(None).double_value(&[]);
                    (c * p).sum(None)
                }
                Some(other) => panic!("{other:?} is proved in head_tests.rs"),
            };
            if !matches!(estimator, Some(EstimatorConfig::ReverseKlMc(_))) {
                value += term.double_value(&[]);
            }
            loss += term;
        }
    }
    (value / trained as f64, Tensor::run_backward(&[loss / trained as f64], &parameters, false, false))
}

fn assert_same_gradients(found: &[Tensor], expected: &[Tensor], relative: f64) {
    let norm = |all: &[Tensor]| all.iter().map(|g| g.square().sum(None).double_value(&[])).sum::<f64>().sqrt();
    let differences: Vec<Tensor> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    let (gap, scale) = (norm(&differences), norm(expected));
    assert!(scale > 1e-3 && gap < relative * scale, "gradients differ by {gap} of {scale}");
}

#[test]
fn every_parameter_has_the_gradient_that_autograd_gives() {
    for tied in [true, false] {
        for temperature in [1.0, 1.4] {
            let (sampler, teacher) = (network(7, tied), network(8, tied));
            let data = data(&sampler, &teacher, temperature);
            let rows = data.rows(3);
            let learner = learner(network(9, tied), LearnerSettings { microbatch_tokens: 40, head_chunk: 4 });
            for estimator in [None, Some(&MC), Some(&FORWARD)] {
                let rule = estimator.map_or(&CrossEntropy as &dyn Estimator, EstimatorConfig::estimator);
                let (report, gradients) = learner.gradients(rule, &rows).unwrap();
                let (value, expected) = by_autograd(learner.student(), &rows, estimator);
                assert_same_gradients(&gradients.unwrap(), &expected, 1e-3);
                let loss = rate(&report.finish(None), "loss");
                assert!((loss - value).abs() < 1e-3 * (1.0 + value.abs()), "{}: {loss} {value}", rule.name());
            }
        }
    }
}

#[test]
fn how_a_minibatch_is_cut_changes_nothing_beyond_rounding() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let rows = data.rows(1);
    for estimator in [&MC, &FORWARD] {
        let run = |settings, rows: &[TrainRow]| {
            let learner = learner(network(9, true), settings);
            let (report, gradients) = learner.gradients(estimator.estimator(), rows).unwrap();
            (report.finish(None), gradients.unwrap())
        };
        let (whole, expected) = run(LearnerSettings { microbatch_tokens: 10_000, head_chunk: 10_000 }, &rows);
        for (microbatch_tokens, head_chunk) in [(1, 1), (25, 3), (60, 7), (10_000, 5)] {
            let (cut, found) = run(LearnerSettings { microbatch_tokens, head_chunk }, &rows);
            assert_same_gradients(&found, &expected, 1e-4);
            assert!((rate(&cut, "loss") - rate(&whole, "loss")).abs() < 1e-5);
            for (a, b) in cut.rows.iter().zip(&whole.rows) {
                let gap = a.learner_logprobs.iter().zip(&b.learner_logprobs).map(|(a, b)| (a - b).abs());
                assert!(gap.fold(0.0, f32::max) < 1e-4, "reports come in the caller's order");
            }
        }
        // In another order too.
        let reversed: Vec<TrainRow> = rows.iter().rev().cloned().collect();
        let (_, found) = run(LearnerSettings { microbatch_tokens: 25, head_chunk: 3 }, &reversed);
        assert_same_gradients(&found, &expected, 1e-4);
    }
}

#[test]
fn all_sampled_tokens_are_trained_and_seen_as_the_scorer_sees_them() {
    let student = network(7, true);
    let data = data(&student, &network(8, true), 1.2);
    assert!(data.samples.iter().any(|s| s.response_ids.last() == Some(&EOS)), "no EOS in the test's rollouts");
    let rows: Vec<ScoreRow> = data.prompts.iter().zip(&data.samples).map(|(p, s)| ScoreRow::new(p, s, 0)).collect();
    let params = ScoringParams { temperature: 1.2f32.into(), top_k: None, draws: 0, max_tokens_per_batch: 512 };
    let seen = score(&student, &rows, &params).unwrap();
    let report = learner(student, LearnerSettings::default()).step(&MC, &data.rows(0)).unwrap();
    assert_eq!(report.trained_tokens, data.samples.iter().map(|s| s.response_ids.len()).sum::<usize>());
    for (row, score) in report.rows.iter().zip(&seen) {
        for (a, b) in row.learner_logprobs.iter().zip(&score.teacher_logprobs) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        for (a, b) in row.entropy.iter().zip(score.teacher_entropy.as_ref().unwrap()) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
    // At staleness 0 sampler and learner agree.
    assert!(rate(&report, "mismatch_kl").abs() < 1e-6, "{:?}", report.metrics);
    assert!((rate(&report, "is/mean") - 1.0).abs() < 1e-4 && (rate(&report, "is/ess") - 1.0).abs() < 1e-4);
    assert_eq!(rate(&report, "is/clamped_frac"), 0.0);
}

#[test]
fn the_report_says_what_the_step_saw() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let mut rows = data.rows(0);
    rows[1].staleness = Some(3);
    rows[2].draws = Default::default();
    let report = learner(network(9, true), LearnerSettings::default()).step(&FORWARD, &rows).unwrap();
    let tokens: usize = rows.iter().map(|row| row.response_ids.len()).sum();
    assert_eq!(report.trained_tokens, tokens);
    assert_eq!(report.metrics["sample/staleness_mean"], (3.0, 6.0));
    assert_eq!(report.metrics["sample/staleness_max"], (3.0, 1.0));
    assert_eq!(report.metrics["completions/mean_length"], (tokens as f64, 6.0));
    assert_eq!(report.metrics["lr"], (0.01, 1.0));
    assert_eq!(report.metrics["skipped_steps"], (0.0, 1.0));
    assert_eq!(report.metrics["mismatch_kl"].1 as usize, tokens - rows[1].response_ids.len());
    assert_eq!(report.metrics["reverse_kl"].1 as usize, tokens - rows[2].response_ids.len());
    assert!(report.rows[2].reverse_kl.is_none() && report.rows[2].forward_kl.is_some());
    // A row of another run counts in all but what compares versions.
    rows[1].staleness = None;
    let foreign = learner(network(9, true), LearnerSettings::default()).step(&FORWARD, &rows).unwrap();
    assert_eq!(foreign.metrics["sample/staleness_mean"], (0.0, 5.0));
    assert_eq!(foreign.metrics["sample/staleness_max"], (0.0, 1.0));
    assert_eq!(foreign.metrics["mismatch_kl"], report.metrics["mismatch_kl"]);
    assert_eq!(
        (&foreign.metrics["is/ess"], &foreign.metrics["loss"]),
        (&report.metrics["is/ess"], &report.metrics["loss"])
    );
    for name in ["loss", "forward_kl", "entropy", "teacher_entropy", "teacher_mass"] {
        assert_eq!(report.metrics[name].1 as usize, tokens, "{name}");
    }
    let mean = |rows: Vec<f32>| rows.iter().map(|x| f64::from(*x)).sum::<f64>() / tokens as f64;
    let forward = mean(report.rows.iter().flat_map(|row| row.forward_kl.clone().unwrap()).collect());
    // The stored top-k is 6, of which the loss reads 5: the report reads all, and so is at least as large.
    assert!(
        (forward - rate(&report, "forward_kl")).abs() < 1e-5 && rate(&report, "forward_kl") >= rate(&report, "loss")
    );
    let ess = rate(&report, "is/ess");
    assert!(ess > 0.0 && ess < 1.0, "{ess}");
    let mass: Vec<f32> = data.scores.iter().flat_map(|s| s.teacher_top_logprobs.values()).map(|x| x.exp()).collect();
    assert!((rate(&report, "teacher_mass") - mean(mass)).abs() < 1e-5);
}

#[test]
fn without_a_trained_position_nothing_moves() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let mut learner = learner(network(9, true), LearnerSettings::default());
    let before = learner.student().to_safetensors().unwrap();
    let mask = [0; 32];
    let rows: Vec<TrainRow> = data
        .rows(0)
        .into_iter()
        .map(|row| TrainRow { loss_mask: Some(&mask[..row.response_ids.len()]), ..row })
        .collect();
    for rows in [&rows[..], &[]] {
        let report = learner.step(&MC, rows).unwrap();
        assert!(report.update.is_none() && report.trained_tokens == 0);
        assert_eq!(report.metrics["skipped_steps"], (1.0, 1.0));
        assert!(!report.metrics.contains_key("loss"));
    }
    assert_eq!(learner.student().to_safetensors().unwrap(), before);
    assert_eq!(learner.optimizer().step(), 0);
}

#[test]
fn a_bad_row_is_named_and_nothing_moves() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let mut learner = learner(network(9, true), LearnerSettings { microbatch_tokens: 20, head_chunk: 2 });
    let before = learner.student().to_safetensors().unwrap();
    let mut refused = |estimator: &EstimatorConfig, spoil: &dyn Fn(&mut TrainRow)| {
        let mut rows = data.rows(0);
        spoil(&mut rows[4]);
        let message = learner.step(estimator, &rows).unwrap_err().to_string();
        assert!(message.starts_with("row 4"), "{message}");
        assert_eq!(learner.student().to_safetensors().unwrap(), before);
        message
    };
    static LONG: [i32; 40] = [3; 40];
    static IMPOSSIBLE: [f32; 8] = [f32::NEG_INFINITY; 8];
    let says = |message: String, words: &[&str]| words.iter().for_each(|w| assert!(message.contains(w), "{message}"));
    says(refused(&MC, &|row| row.draws = Default::default()), &["draw_ids", "none"]);
    says(refused(&FORWARD, &|row| row.teacher_top_k = Default::default()), &["teacher_top_ids", "none"]);
    says(refused(&MC, &|row| row.response_ids = &[]), &["response_ids"]);
    says(refused(&MC, &|row| row.prompt_ids = &[]), &["prompt_ids"]);
    says(refused(&MC, &|row| row.prompt_ids = &[28]), &["prompt_ids", "0 to 27", "28"]);
    says(refused(&MC, &|row| row.prompt_ids = &LONG), &["33", "49"]);
    says(refused(&MC, &|row| row.temperature = 0.0), &["temperature"]);
    says(refused(&MC, &|row| row.loss_mask = Some(&[1])), &["loss_mask"]);
    says(refused(&MC, &|row| row.sampler_logprobs = &[-1.0]), &["sampler_logprobs"]);
    says(refused(&MC, &|row| row.draws.counts[1] = &[]), &["draw_ids", "position 1"]);
    says(refused(&MC, &|row| row.draws.ids[0] = &[-1]), &["draw_ids"]);
    says(refused(&FORWARD, &|row| row.teacher_top_k.ids[1] = &[3, 4, 5, 6, 7, 3]), &["teacher_top_ids", "3 twice"]);
    says(
        refused(&MC, &|row| {
            let n = row.draws.ids[1].len();
            row.draws.teacher_logprobs[1] = &IMPOSSIBLE[..n];
        }),
        &["position 1", "reverse_kl_mc", "-inf"],
    );
    says(
        refused(&MC, &|row| {
            row.draws.ids[1] = &[];
            row.draws.counts[1] = &[];
            row.draws.teacher_logprobs[1] = &[];
            row.draws.sampler_logprobs[1] = &[];
        }),
        &["position 1", "no draw"],
    );
}

#[test]
fn the_same_input_gives_the_same_bits_and_a_resumed_run_goes_on_with_them() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let settings = LearnerSettings { microbatch_tokens: 50, head_chunk: 8 };
    let mut straight = learner(network(9, true), settings);
    let mut first = learner(network(9, true), settings);
    for estimator in [&MC, &FORWARD] {
        straight.step(estimator, &data.rows(0)).unwrap();
        first.step(estimator, &data.rows(0)).unwrap();
    }
    let (weights, moments) = (first.student().to_safetensors().unwrap(), first.optimizer().to_safetensors().unwrap());
    assert_eq!(weights, straight.student().to_safetensors().unwrap());
    let mut second = learner(network(10, true), settings);
    second.student_mut().set_weights(&weights).unwrap();
    second.optimizer_mut().load_safetensors(&moments).unwrap();
    straight.step(&MC, &data.rows(1)).unwrap();
    second.step(&MC, &data.rows(1)).unwrap();
    assert_eq!(second.student().to_safetensors().unwrap(), straight.student().to_safetensors().unwrap());
    assert_eq!(second.optimizer().to_safetensors().unwrap(), straight.optimizer().to_safetensors().unwrap());
}

#[test]
fn padding_rows_of_the_vocabulary_never_move() {
    for tied in [true, false] {
        let data = data(&network(7, tied), &network(8, tied), 1.0);
        let mut learner = learner(network(9, tied), LearnerSettings::default());
        let padding = |learner: &Learner| {
            let rows = learner.student().head().detach().narrow(0, 28, 2).reshape([-1]);
            Vec::<f32>::try_from(rows).unwrap()
        };
        let before = padding(&learner);
        learner.step(&FORWARD, &data.rows(0)).unwrap();
        assert_eq!(padding(&learner), before);
    }
}

#[test]
fn distillation_brings_the_student_nearer_to_the_teacher() {
    for (estimator, name) in [(&MC, "reverse_kl"), (&FORWARD, "forward_kl")] {
        let teacher = network(8, true);
        let mut learner = learner(network(9, true), LearnerSettings::default());
        let mut kl = Vec::new();
        for _ in 0..12 {
            let data = data(learner.student(), &teacher, 1.0);
            kl.push(rate(&learner.step(estimator, &data.rows(0)).unwrap(), name));
        }
        let (early, late): (f64, f64) = (kl[..3].iter().sum(), kl[9..].iter().sum());
        assert!(late < 0.7 * early, "{name}: {kl:?}");
    }
}

#[test]
fn cross_entropy_learns_one_batch_by_heart() {
    tch::set_num_threads(1);
    let mut learner = learner(network(9, true), LearnerSettings::default());
    let rows: [(&[i32], &[i32]); 3] =
        [(&[3, 4, 5], &[6, 7, EOS]), (&[9, 10], &[11, 12, 13, 14, EOS]), (&[20], &[21, EOS])];
    let first = rate(&learner.sft_step(&rows).unwrap(), "loss");
    for _ in 0..150 {
        learner.sft_step(&rows).unwrap();
    }
    let report = learner.sft_step(&rows).unwrap();
    assert!(first > 2.0 && rate(&report, "loss") < 0.05, "{first} to {}", rate(&report, "loss"));
    assert_eq!(report.trained_tokens, 10);
    assert!(!report.metrics.contains_key("is/mean") && !report.metrics.contains_key("reverse_kl"));
    // It says by heart what it was taught, EOS included.
    let prompts: Vec<Prompt> = rows.iter().map(|(prompt, _)| Prompt { ids: prompt.to_vec(), seed: 0 }).collect();
    for (sample, (_, completion)) in
        sample(learner.student(), &prompts, &sampling(0.0, 8, None)).unwrap().iter().zip(&rows)
    {
        assert_eq!(sample.response_ids, *completion);
    }
}

/// At a prompt's end, with b the student that sampled, p what one real step made of it, and q the teacher: the mean of the
/// estimate over all draws is the gradient of KL(p || q), and that of one taken without rho is not.
#[test]
fn unbiased_at_the_staleness_that_a_real_step_makes() {
    use crate::estimator::oracle::{Position, assert_close, d_logits};
    let (prompt, temperature) = ([4, 9, 6], 1.2);
    let logits = |network: &Transformer| {
        let _guard = tch::no_grad_guard();
        let hidden = network.hidden(&network.right_padded(&[prompt]).unwrap()).unwrap();
        network.logits(&hidden.select(1, 2)).unwrap().squeeze_dim(0).to_kind(Kind::Double)
    };
    let teacher = network(8, true);
    let mut learner = learner(network(9, true), LearnerSettings::default());
    let sampler_logits = logits(learner.student());
    let data = data(learner.student(), &teacher, 1.2);
    learner.step(&MC, &data.rows(0)).unwrap();
    let mut position = Position {
        learner_logits: logits(learner.student()),
        teacher_logits: logits(&teacher),
        sampler_logits,
        temperature,
    };
    let mean = |position: &Position| {
        let b = Vec::<f64>::try_from(position.b()).unwrap();
        let mut gradient = position.b().zeros_like();
        for (id, chance) in b.iter().enumerate() {
            let ruling = MC.estimator().rule(&position.candidates(&[id as i64], &[1]));
            gradient += d_logits(position, &ruling, &[id as i64]) * *chance;
        }
        gradient
    };
    let (p, q) = (position.p(), position.q());
    let exact = &p * (p.log() - q.log() - position.reverse_kl()) / temperature;
    assert_close(&mean(&position), &exact, 1e-9);
    // Stale enough to matter: taking b for p is wrong.
    position.learner_logits = position.sampler_logits.copy();
    assert!((mean(&position) - exact).abs().max().double_value(&[]) > 1e-4);
}

#[test]
fn rows_out_of_a_stored_batch_are_the_rows_that_were_sampled() {
    let data = data(&network(7, true), &network(8, true), 1.2);
    let info = RolloutBatchInfo {
        batch: "b".into(),
        policy_version: PolicyVersion(0),
        teacher_id: "teacher".into(),
        temperature: data.temperature,
        top_p: 1.0,
        started_at: 0,
        finished_at: 0,
    };
    let new = |(prompt_ids, sample): (&Vec<i32>, &Sample)| NewRollout {
        unit: 0,
        prompt_id: 0,
        sample_index: 0,
        source: String::new(),
        prompt_ids: prompt_ids.clone(),
        seed: 0,
        sample: sample.clone(),
    };
    let rollouts: Vec<NewRollout> = data.prompts.iter().zip(&data.samples).map(new).collect();
    let batch = ScoredBatch::encode(RolloutBatch::encode(&info, &rollouts).unwrap(), &data.scores).unwrap();
    let stored: Vec<TrainRow> = batch.rows().map(|row| TrainRow::scored(&row, Some(2))).collect();
    for (stored, sampled) in stored.iter().zip(&data.rows(2)) {
        let sampled = TrainRow { loss_mask: stored.loss_mask, ..sampled.clone() };
        assert_eq!(format!("{stored:?}"), format!("{sampled:?}"));
        assert!((0..stored.response_ids.len()).all(|t| stored.is_trained(t)));
    }
}

#[test]
fn a_learner_can_be_handed_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Learner>();
}

#[path = "menu_tests.rs"]
mod menu;

#[path = "logprobs_tests.rs"]
mod logprobs;

#[path = "peers_bugs_tests.rs"]
mod peers_bugs;

#[path = "pass_tests.rs"]
mod pass_before;

#[path = "estimate/parameters_tests.rs"]
mod in_parameters;
