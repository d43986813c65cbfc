//! What the pass before the pass gathers, and what it is made of, through the network.

use super::*;
use crate::estimator::{Advantage, DecoupledPpo, M2po};

const fn with(correction: Correction) -> EstimatorConfig {
    EstimatorConfig::ReverseKlMc(ReverseKlMc { draws: 4, advantage: Advantage::Current, correction })
}

const fn decoupled(minibatches: u64) -> EstimatorConfig {
    let rule = DecoupledPpo { minibatches, cap: 5.0, eps_low: 0.2, eps_high: 0.2, dual_clip: None };
    with(Correction::DecoupledPpo(rule))
}

const M2PO: EstimatorConfig = with(Correction::M2po(M2po { budget: 0.04 }));

fn weights(learner: &Learner) -> Vec<u8> {
    learner.student().to_safetensors().unwrap()
}

/// A learner that made `steps` steps on its own rollouts, and those rollouts.
fn stale(steps: u64) -> (Learner, Data) {
    let student = network(9, true);
    let data = data(&student, &network(8, true), 1.2);
    let mut learner = learner(student, LearnerSettings::default());
    for staleness in 0..steps {
        learner.step(&MC, &data.rows(staleness)).unwrap();
    }
    (learner, data)
}

#[test]
fn m2po_takes_its_margins_from_the_whole_minibatch_however_it_is_cut() {
    let (whole, data) = stale(4);
    let rows = data.rows(4);
    // Its draws, from the report of a pass with one draw a position: delta of the sampled tokens is not enough.
    let (mut harmful, batch) = (Vec::new(), Microbatch::cut(&rows, 4096));
    {
        let _guard = tch::no_grad_guard();
        for batch in &batch {
            let positions =
                pack::positions(&rows, &batch.places, crate::estimator::Support::Draws, Device::Cpu).unwrap();
            let hidden = batch.hidden(whole.student(), &rows).unwrap();
            let temperature = positions.temperature.unsqueeze(1);
            let log_p = whole.student().logits(&hidden).unwrap() / temperature;
            let log_p = log_p.to_kind(Kind::Double).log_softmax(1, None).gather(1, &positions.support.ids, false);
            let support = positions.support;
            for i in 0..batch.places.len() as i64 {
                for j in 0..support.mask.size()[1] {
                    let at = |t: &Tensor| t.double_value(&[i, j]);
                    let (p, q, b) = (at(&log_p), at(&support.teacher_logprobs), at(&support.sampler_logprobs));
                    if support.mask.int64_value(&[i, j]) == 1 && M2po::is_harmful(b - p, q - p) {
                        harmful.push((b - p, at(&support.counts)));
                    }
                }
            }
        }
    }
    // A budget that is exceeded, with tau well above the floors of the margins.
    let mean = |of: &dyn Fn(f64) -> f64| {
        harmful.iter().map(|(delta, n)| of(*delta) * n).sum::<f64>() / harmful.iter().map(|(_, n)| n).sum::<f64>()
    };
    let m2po = M2po { budget: 0.6 * mean(&|delta| delta * delta) };
    let tau = m2po.threshold(&harmful).unwrap();
    assert!((mean(&|delta| (delta * delta).min(tau * tau)) - m2po.budget).abs() < 1e-12);
    let clip = m2po.clip(&harmful);
    let gradients = |estimator: EstimatorConfig, learner: &Learner| {
        let (report, gradients) = learner.gradients(estimator.estimator(), &rows).unwrap();
        (report.finish(None), gradients.unwrap())
    };
    let (by_hand, expected) = gradients(with(Correction::Ppo(clip)), &whole);
    let clipped = by_hand.metrics["is/clip_frac"];
    assert!(clipped.0 > 0.0 && clipped.0 < 0.5 * clipped.1, "{clipped:?}, {clip:?}");
    let mut learner = whole;
    for (microbatch_tokens, head_chunk) in [(4096, 128), (1, 1), (25, 3), (60, 7)] {
        learner.settings = LearnerSettings { microbatch_tokens, head_chunk };
        let (found, cut) = gradients(with(Correction::M2po(m2po)), &learner);
        assert_eq!(found.metrics["is/clip_frac"], clipped);
        assert_same_gradients(&cut, &expected, 1e-4);
    }
    // Of one row alone the margins are others: the whole minibatch counts, and not each microbatch.
    let alone = learner.gradients(with(Correction::M2po(m2po)).estimator(), &rows[..1]).unwrap().0.finish(None);
    assert!(alone.metrics["is/clip_frac"].0 < clipped.0);
    // Within the budget it is the unclipped form, floors or not.
    let loose = with(Correction::M2po(M2po { budget: 2.0 * mean(&|delta| delta * delta) }));
    assert_same_gradients(&gradients(loose, &learner).1, &gradients(MC, &learner).1, 1e-6);
}

#[test]
fn with_one_minibatch_a_batch_decoupled_ppo_is_rho_masked_at_the_cap() {
    let (mut learner, data) = stale(2);
    let rows = data.rows(2);
    let gradients = |learner: &Learner, estimator: &EstimatorConfig| {
        learner.gradients(estimator.estimator(), &rows).unwrap().1.unwrap()
    };
    // No ratio is beyond 5 here: the mask at the cap is in decoupled_ppo_tests.rs.
    assert_same_gradients(&gradients(&learner, &decoupled(1)), &gradients(&learner, &MC), 1e-9);
    learner.step(&decoupled(1), &rows).unwrap();
    assert!(learner.proximal.is_none(), "nothing is copied");
}

#[test]
fn proximal_logprobs_are_those_of_the_weights_from_before_the_batch() {
    let (mut learner, data) = stale(4);
    let rows = data.rows(0);
    let before = weights(&learner);
    for step in 4..7 {
        learner.step(&decoupled(4), &rows).unwrap();
        let (taken, proximal) = learner.proximal.as_ref().unwrap();
        assert_eq!((*taken, proximal.to_safetensors().unwrap()), (4, before.clone()), "after step {step}");
    }
    // A rollout that those very weights made: p_prox = b, and so it is the PPO rule on rho.
    let mut sampler = network(1, true);
    sampler.set_weights(&before).unwrap();
    let fresh = super::data(&sampler, &network(8, true), 0.9);
    let gradients = |estimator: &EstimatorConfig| {
        let (report, gradients) = learner.gradients(estimator.estimator(), &fresh.rows(3)).unwrap();
        (report.finish(None).metrics["is/clip_frac"], gradients.unwrap())
    };
    let ppo = with(Correction::Ppo(crate::estimator::Clip { eps_low: 0.2, eps_high: 0.2, dual_clip: None }));
    let ((found, cut), (expected, by_ppo)) = (gradients(&decoupled(4)), gradients(&ppo));
    assert!(found.0 > 0.0 && found == expected, "{found:?} {expected:?}");
    assert_same_gradients(&cut, &by_ppo, 1e-4);
    // The batch after it begins at a multiple.
    learner.step(&decoupled(4), &rows).unwrap();
    let next = weights(&learner);
    learner.step(&decoupled(4), &rows).unwrap();
    assert_eq!(learner.proximal.as_ref().unwrap().0, 8);
    assert_eq!(learner.proximal.as_ref().unwrap().1.to_safetensors().unwrap(), next);
}

#[test]
fn a_learner_resumed_at_a_multiple_of_minibatches_gives_the_same_bits() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let settings = LearnerSettings { microbatch_tokens: 50, head_chunk: 8 };
    let mut straight = learner(network(9, true), settings);
    let mut checkpoints = Vec::new();
    for step in 0..7 {
        let moments = straight.optimizer().to_safetensors().unwrap();
        checkpoints.push((weights(&straight), moments));
        straight.step(&decoupled(3), &data.rows(step)).unwrap();
    }
    let resumed = |from: usize| {
        let mut other = learner(network(10, true), settings);
        other.student_mut().set_weights(&checkpoints[from].0).unwrap();
        other.optimizer_mut().load_safetensors(&checkpoints[from].1).unwrap();
        (from..7).for_each(|step| drop(other.step(&decoupled(3), &data.rows(step as u64)).unwrap()));
        weights(&other)
    };
    assert_eq!(resumed(3), weights(&straight));
    assert_eq!(resumed(6), weights(&straight));
    // Amid a batch the weights from before it are gone: what is kept there cannot give the same.
    assert_ne!(resumed(4), weights(&straight));
}

/// Other settings amid a batch: what is left of it has the proximal weights of the moment in which they came.
#[test]
fn a_learner_that_takes_up_a_batch_in_the_middle_has_its_weights_of_then() {
    let (mut learner, data) = stale(2);
    let then = weights(&learner);
    for (step, begun) in [(2, 2), (3, 2), (4, 4)] {
        learner.step(&decoupled(4), &data.rows(0)).unwrap();
        assert_eq!(learner.proximal.as_ref().unwrap().0, begun, "step {step}");
    }
    assert_ne!(weights(&learner), then);
    learner.step(&M2PO, &data.rows(0)).unwrap();
    assert!(learner.proximal.is_none(), "an estimator without proximal weights gives them up");
    learner.step(&decoupled(4), &data.rows(0)).unwrap();
    learner.student_mut();
    assert!(learner.proximal.is_none(), "weights of another version begin anew");
}
