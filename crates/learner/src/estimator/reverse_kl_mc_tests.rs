//! Expectations over all draws, of every correction and both advantages. What is biased is shown to estimate what it says.

use super::*;
use crate::estimator::{
    DecoupledPpo, M2po,
    oracle::{Position, assert_close, by_autograd, d_logits, expectation, faults},
    ppo::{self, Clip},
};
use proptest::prelude::*;
use tch::{Device, Kind};

const RULE: ReverseKlMc = rule(Advantage::Current, Correction::Importance {});
const PPO: Clip = Clip { eps_low: 0.2, eps_high: 0.2, dual_clip: None };
const DUAL: Clip = Clip { eps_low: 0.3, eps_high: 0.1, dual_clip: Some(1.5) };
const DECOUPLED: DecoupledPpo =
    DecoupledPpo { minibatches: 4, cap: 1.6, eps_low: 0.2, eps_high: 0.2, dual_clip: Some(2.5) };
const M2PO: Correction = Correction::M2po(M2po { budget: 0.04 });

/// Those whose weight at a draw depends on that draw alone, so that the expectation is the same for every m.
const DRAW_BY_DRAW: [Correction; 6] = [
    Correction::None {},
    Correction::Importance {},
    Correction::Truncated { c: 1.2 },
    Correction::Ppo(PPO),
    Correction::Ppo(DUAL),
    Correction::DecoupledPpo(DECOUPLED),
];

const fn rule(advantage: Advantage, correction: Correction) -> ReverseKlMc {
    ReverseKlMc { draws: 2, advantage, correction }
}

fn all() -> impl Iterator<Item = ReverseKlMc> {
    let corrections = DRAW_BY_DRAW.into_iter().chain([Correction::SelfNormalised {}]);
    corrections.flat_map(|correction| [Advantage::Current, Advantage::Rollout].map(|a| rule(a, correction)))
}

/// What draw by draw rules descend in expectation, as a function of p: `E_b[-W(rho) A]` with A a constant and
/// `dW / d log p = w`.
fn objective(rule: &ReverseKlMc, position: &Position, p: &Tensor) -> Tensor {
    let (q, b) = (position.q(), position.b());
    let rho = p / &b;
    let advantage = match rule.advantage {
        Advantage::Current => q.log() - p.detach().log(),
        Advantage::Rollout => q.log() - b.log(),
    };
    let weighted = match rule.correction {
        Correction::None {} => &advantage * p.log(),
        Correction::Importance {} => &advantage * &rho,
        Correction::Truncated { c } => &advantage * rho.where_self(&rho.le(c), &(p.log() * c)),
        Correction::Ppo(clip) => ppo::objective(&clip, &rho, &advantage),
        Correction::DecoupledPpo(DecoupledPpo { cap, eps_low, eps_high, dual_clip, .. }) => {
            let (proximal, clip) = (position.proximal(), Clip { eps_low, eps_high, dual_clip });
            let behind = &proximal / &b;
            let kept = behind.where_self(&behind.le(cap), &behind.zeros_like());
            kept * ppo::objective(&clip, &(p / &proximal), &advantage)
        }
        Correction::M2po(_) => panic!("it is `ppo` once it is settled"),
        Correction::SelfNormalised {} => panic!("its weights depend on the other draws"),
    };
    -(b * weighted).sum(None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn unbiased_as_an_identity_over_all_draws(
        seed in 0u64..1 << 40, vocab in 2i64..6, m in 1u32..=2, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
    ) {
        tch::set_num_threads(1);
        // p, q and b are three distributions: the rollout is stale.
        let position = Position::random(seed, vocab, temperature);
        let (value, gradient) = expectation(&RULE, &position, m);
        prop_assert!((value - position.reverse_kl()).abs() < 1e-9, "{} {}", value, position.reverse_kl());
        assert_close(&gradient, &position.d_reverse_kl(), 1e-9);
    }

    #[test]
    fn the_biased_ones_estimate_what_they_say_and_their_value_is_unbiased(
        seed in 0u64..1 << 40, vocab in 2i64..5, m in 1u32..=2, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
    ) {
        tch::set_num_threads(1);
        let position = Position::random(seed, vocab, temperature);
        for rule in all() {
            let (value, gradient) = expectation(&rule, &position, m);
            prop_assert!((value - position.reverse_kl()).abs() < 1e-9, "{:?}", rule);
            if rule.correction != (Correction::SelfNormalised {}) {
                let (_, expected) = by_autograd(&position, |p| objective(&rule, &position, p));
                assert_close(&gradient, &expected, 1e-9);
            }
        }
    }

    #[test]
    fn a_student_that_is_teacher_and_sampler_has_nothing_to_learn(seed in 0u64..1 << 40) {
        tch::set_num_threads(1);
        let mut position = Position::random(seed, 3, 0.7);
        position.teacher_logits = position.learner_logits.copy();
        position.sampler_logits = position.learner_logits.copy();
        for rule in all() {
            let (value, gradient) = expectation(&rule, &position, 2);
            prop_assert!(value.abs() < 1e-12);
            assert_close(&gradient, &Tensor::zeros([3], (Kind::Double, Device::Cpu)), 1e-12);
        }
    }

    #[test]
    fn without_staleness_every_correction_is_unbiased(seed in 0u64..1 << 40, m in 1u32..=2) {
        tch::set_num_threads(1);
        let mut position = Position::random(seed, 3, 1.3);
        position.sampler_logits = position.learner_logits.copy();
        for rule in all() {
            assert_close(&expectation(&rule, &position, m).1, &position.d_reverse_kl(), 1e-9);
        }
    }
}

/// The statistic in expectation: each token is a draw as often as b has it.
fn settled(rule: &ReverseKlMc, position: &Position) -> Clip {
    let Correction::M2po(m2po) = rule.correction else { panic!("{rule:?}") };
    let vocab = position.b().size()[0];
    let counts = position.b().unsqueeze(0);
    let all = Candidates { counts, ..position.candidates(&(0..vocab).collect::<Vec<_>>(), &vec![1; vocab as usize]) };
    m2po.clip(&M2po::harmful(rule.advantage, &[all]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn m2po_descends_the_clipped_objective_with_the_minibatchs_margins(
        seed in 0u64..1 << 40, vocab in 2i64..5, m in 1u32..=2, temperature in prop_oneof![Just(1.0), 0.5f64..4.0],
    ) {
        tch::set_num_threads(1);
        let mut position = Position::random(seed, vocab, temperature);
        for advantage in [Advantage::Current, Advantage::Rollout] {
            let clip = settled(&rule(advantage, M2PO), &position);
            let ppo = rule(advantage, Correction::Ppo(clip));
            let (value, gradient) = expectation(&ppo, &position, m);
            prop_assert!((value - position.reverse_kl()).abs() < 1e-9);
            // Margins without an end are the unclipped form; autograd through the clamp would meet infinity.
            let plain = if clip.eps_low.is_infinite() { Correction::Importance {} } else { ppo.correction };
            let (_, expected) = by_autograd(&position, |p| objective(&rule(advantage, plain), &position, p));
            assert_close(&gradient, &expected, 1e-9);
        }
        position.sampler_logits = position.learner_logits.copy();
        prop_assert_eq!(settled(&rule(Advantage::Current, M2PO), &position).eps_low, f64::INFINITY);
    }

    /// Where a draw counts, r v = rho: the bias of both is the exact gradient's part at the tokens that are cut.
    #[test]
    fn the_bias_of_m2po_and_decoupled_ppo_is_what_they_cut(seed in 0u64..1 << 40, m in 1u32..=2) {
        tch::set_num_threads(1);
        let position = Position::random(seed, 4, 0.8);
        let (p, q, b) = (position.p(), position.q(), position.b());
        let (advantage, proximal) = (q.log() - p.log(), position.proximal());
        let cut_by = |clip: Clip, ratio: Tensor| clip.weights(&ratio, &advantage).1;
        let clip = settled(&rule(Advantage::Current, M2PO), &position);
        let Correction::DecoupledPpo(decoupled) = DRAW_BY_DRAW[5] else { panic!("the last one") };
        let margins = Clip { eps_low: 0.2, eps_high: 0.2, dual_clip: decoupled.dual_clip };
        let beyond = (&proximal / &b).gt(decoupled.cap);
        for (correction, cut) in [
            (Correction::Ppo(clip), cut_by(clip, &p / &b)),
            (Correction::DecoupledPpo(decoupled), cut_by(margins, &p / &proximal).logical_or(&beyond)),
        ] {
            let (_, bias) = by_autograd(&position, |of| {
                let lost = (&p * &advantage).where_self(&cut, &p.zeros_like());
                (lost * of.log()).sum(None)
            });
            let (_, gradient) = expectation(&rule(Advantage::Current, correction), &position, m);
            assert_close(&(gradient - bias), &position.d_reverse_kl(), 1e-9);
        }
    }
}

/// The two whose objective has a name of its own.
#[test]
fn what_the_biased_ones_descend_in_closed_form() {
    tch::set_num_threads(1);
    let position = Position::random(11, 4, 0.8);
    let (q, b) = (position.q(), position.b());
    let found = |advantage, correction| expectation(&rule(advantage, correction), &position, 2).1;
    // `none`: half the mean square of log p - log q under the sampler.
    let (_, square) = by_autograd(&position, |p| (&b * (p.log() - q.log()).square() * 0.5).sum(None));
    assert_close(&found(Advantage::Current, Correction::None {}), &square, 1e-9);
    // `importance` with `rollout`: KL(p || q) - KL(p || b).
    let (_, difference) = by_autograd(&position, |p| (p * (b.log() - q.log())).sum(None));
    assert_close(&found(Advantage::Rollout, Correction::Importance {}), &difference, 1e-9);
    // The bias of `truncated` is the weight it cuts: sum_a max(p_a - c b_a, 0) (log p_a - log q_a) grad log p_a.
    let c = 1.3;
    let (_, cut) = by_autograd(&position, |p| {
        let excess = (p - &b * c).clamp_min(0.0).detach();
        (excess * (p.log() - q.log()).detach() * p.log()).sum(None)
    });
    assert!(cut.norm().double_value(&[]) > 1e-3, "something is cut");
    let truncated = found(Advantage::Current, Correction::Truncated { c });
    assert_close(&(truncated + cut), &position.d_reverse_kl(), 1e-9);
}

/// Draw by draw in plain numbers, without ids, counts or masks.
fn self_normalised_by_hand(position: &Position, m: u32) -> Vec<f64> {
    let [p, q, b] = [position.p(), position.q(), position.b()].map(|t| Vec::<f64>::try_from(t).unwrap());
    let vocab = p.len();
    let mut gradient = vec![0.0; vocab];
    for outcome in 0..vocab.pow(m) {
        let draws: Vec<usize> = (0..m).map(|i| outcome / vocab.pow(i) % vocab).collect();
        let chance: f64 = draws.iter().map(|a| b[*a]).product();
        let total: f64 = draws.iter().map(|a| p[*a] / b[*a]).sum();
        for a in draws {
            let c = p[a] / b[a] / total * (p[a].ln() - q[a].ln());
            for (v, g) in gradient.iter_mut().enumerate() {
                *g += chance * c * (f64::from(u8::from(v == a)) - p[v]) / position.temperature;
            }
        }
    }
    gradient
}

#[test]
fn self_normalised_weights_average_to_one_and_the_bias_falls_with_m() {
    tch::set_num_threads(1);
    let position = Position::random(21, 3, 1.1);
    let rule = rule(Advantage::Current, Correction::SelfNormalised {});
    let bias: Vec<f64> = [1, 2, 5]
        .map(|m| {
            let (_, gradient) = expectation(&rule, &position, m);
            assert_close(&gradient, &Tensor::from_slice(&self_normalised_by_hand(&position, m)), 1e-9);
            (gradient - position.d_reverse_kl()).norm().double_value(&[])
        })
        .to_vec();
    assert!(bias[0] > bias[1] && bias[1] > bias[2] && bias[2] > 1e-4, "{bias:?}");
    let none = ReverseKlMc { correction: Correction::None {}, ..rule };
    assert_close(&expectation(&rule, &position, 1).1, &expectation(&none, &position, 1).1, 1e-12);

    // Another normalisation of b changes nothing; c over A are weights with mean 1.
    let ids = [0, 2];
    let mut c = position.candidates(&ids, &[1, 3]);
    let ruling = rule.rule(&c);
    let weights = -(&ruling.coefficients / Advantage::Current.of(&c));
    assert!((weights.sum(None).double_value(&[]) - 1.0).abs() < 1e-12);
    c.sampler_logprobs += 0.7;
    assert_close(&rule.rule(&c).coefficients, &ruling.coefficients, 1e-12);
}

#[test]
fn the_closed_form_is_what_autograd_gives() {
    tch::set_num_threads(1);
    let position = Position::random(8, 6, 1.4);
    let (_, gradient) = by_autograd(&position, |p| (p * (p.log() - position.q().log())).sum(None));
    assert_close(&position.d_reverse_kl(), &gradient, 1e-12);
}

/// Draws 1 and 3, drawn 3 times and once, with rho = e^30 and 1.
fn far() -> Candidates {
    let row = |x: [f64; 2]| Tensor::from_slice(&x).unsqueeze(0);
    Candidates {
        learner_logprobs: row([-1.0, -1.0]),
        teacher_logprobs: row([-2.0, -1.5]),
        sampler_logprobs: row([-31.0, -1.0]),
        ..Position::random(2, 5, 1.0).candidates(&[1, 3], &[3, 1])
    }
}

#[test]
fn weights_beyond_the_limit_are_held_and_counted() {
    tch::set_num_threads(1);
    let ruling = RULE.rule(&far());
    let expected = Tensor::from_slice(&[0.75 * 20f64.exp(), 0.25 * 0.5]).unsqueeze(0);
    assert_close(&ruling.coefficients, &expected, 1e-3);
    let rates = |ruling: &Ruling| -> Vec<(&str, f64, f64)> {
        let number = |t: &Tensor| t.double_value(&[]);
        ruling.tallies.iter().map(|t| (t.name, number(&t.numerator), number(&t.denominator))).collect()
    };
    assert_eq!(rates(&ruling), [("is/clamped_frac", 3.0, 4.0)]);
    let truncated = rule(Advantage::Current, Correction::Truncated { c: 2.0 }).rule(&far().padded(2));
    assert_close(&truncated.coefficients.narrow(1, 0, 2), &Tensor::from_slice(&[1.5, 0.125]).unsqueeze(0), 1e-12);
    assert_eq!(rates(&truncated), [("is/clamped_frac", 3.0, 4.0), ("is/clip_frac", 3.0, 4.0)]);
    assert_close(&truncated.value, &ruling.value, 0.0);
    // The first one's advantage is negative: only the dual clip stops it.
    for (clip, coefficient, clipped) in [(PPO, 0.75 * 20f64.exp(), 0.0), (DUAL, 0.0, 3.0)] {
        let ruling = rule(Advantage::Current, Correction::Ppo(clip)).rule(&far().padded(2));
        assert!((ruling.coefficients.double_value(&[0, 0]) - coefficient).abs() < 1e-3);
        assert_eq!(rates(&ruling)[1], ("is/clip_frac", clipped, 4.0));
    }
}

#[test]
fn zeros() {
    tch::set_num_threads(1);
    let position = Position::random(2, 5, 1.0);
    let plain = || position.candidates(&[1, 3], &[1, 1]);
    let impossible = || Tensor::from_slice(&[-1.0, f64::NEG_INFINITY]).unsqueeze(0);
    for rule in all() {
        let fault = |c: &Candidates| faults(&rule.rule(c));
        assert_eq!(fault(&plain()), []);
        assert_eq!(fault(&plain().padded(2)), [], "padding holds NaN and is selected out");
        assert_eq!(fault(&Candidates { learner_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
        assert_eq!(fault(&Candidates { teacher_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
        assert_eq!(fault(&Candidates { sampler_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
        if rule.pass() != Pass::None {
            assert_eq!(fault(&Candidates { proximal_logprobs: impossible(), ..plain() }), [Fault::ImpossibleDraw]);
        }
        assert_eq!(fault(&position.candidates(&[], &[]).padded(1)), [Fault::NoDraw]);
        let (padded, ruling) = (rule.rule(&plain().padded(2)), rule.rule(&plain()));
        assert_close(&padded.value, &ruling.value, 0.0);
        assert_close(&padded.coefficients.narrow(1, 0, 2), &ruling.coefficients, 0.0);
        assert_eq!(padded.coefficients.narrow(1, 2, 2).abs().sum(None).double_value(&[]), 0.0);
        assert_close(&d_logits(&position, &padded, &[1, 3]), &d_logits(&position, &ruling, &[1, 3]), 0.0);
    }
}
