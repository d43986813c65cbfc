//! The chunked head in float32 and float64 against full logits, float64 and autograd.

use super::*;
use crate::estimator::{
    Advantage, Correction, CrossEntropy, Divergence, DrawnFrom, ForwardKlMc, Jsd, ReverseKlTeacherTopK, SkewedKl,
    TopKOf, TopKPpo, oracle::numbers,
};
use proptest::prelude::*;
use tch::Device;

const N: i64 = 7;
const D: i64 = 5;
const J: i64 = 3;

struct Case {
    hidden: Tensor,
    weight: Tensor,
    positions: Positions,
}

fn random(seed: u64, shape: &[i64]) -> Tensor {
    Tensor::from_slice(&numbers(seed, shape.iter().product())).view(shape)
}

fn case(seed: u64, vocab: i64) -> Case {
    case_of(seed, vocab, Support::TeacherTopK { k: 64 })
}

/// N positions with J candidates each; the last candidate of the odd ones is padding. Teacher and sampler are other heads. In a
/// support of head and draws the second candidate is a draw.
fn case_of(seed: u64, vocab: i64, support: Support) -> Case {
    let (hidden, weight) = (random(seed, &[N, D]), random(seed + 1, &[vocab, D]));
    let temperature = random(seed + 2, &[N]) * 0.2 + 1.0;
    let logprobs = |head: u64| {
        (hidden.matmul(&random(seed + head, &[vocab, D]).tr()) / temperature.unsqueeze(1)).log_softmax(1, Kind::Double)
    };
    let (teacher, sampler) = (logprobs(3), logprobs(4));
    let (_, ids) = teacher.topk(J, 1, true, true);
    let mask = ids.ones_like().to_kind(Kind::Bool);
    for i in (1..N).step_by(2) {
        let _ = mask.get(i).get(J - 1).fill_(0);
        let first = ids.get(i).get(0);
        ids.get(i).get(J - 1).copy_(&first);
    }
    let select = |t: Tensor| t.where_scalarother(&mask, f64::NAN);
    let in_head = mask.copy();
    if matches!(support, Support::HeadAndDraws { .. }) {
        let _ = in_head.select(1, 1).fill_(0);
    }
    let teacher_tail = log_mass_outside(&teacher, &ids, &in_head);
    let columns = |support| Columns {
        support,
        ids: ids.copy(),
        mask: mask.copy(),
        in_head: in_head.copy(),
        draws: Tensor::full([N], 5.0, (Kind::Double, Device::Cpu)),
        counts: select((ids.remainder(3) + 1).to_kind(Kind::Double)),
        teacher_logprobs: select(teacher.gather(1, &ids, false)),
        sampler_logprobs: select(sampler.gather(1, &ids, false)),
        teacher_tail: teacher_tail.copy(),
    };
    let token_ids = ids.select(1, 0);
    let positions = Positions {
        token_ids,
        temperature,
        support: columns(support),
        draws: Some(columns(Support::Draws)),
        teacher_top_k: Some(columns(Support::TeacherTopK { k: 64 })),
        proximal: Proximal::Unknown,
    };
    Case { hidden, weight, positions }
}

/// Log of the mass outside the ids that are of the head, `[N]`.
fn log_mass_outside(logprobs: &Tensor, ids: &Tensor, in_head: &Tensor) -> Tensor {
    let mut inside = Tensor::zeros_like(&logprobs.detach());
    let _ = inside.scatter_add_(1, ids, &in_head.to_kind(Kind::Double));
    (logprobs.exp() * inside.eq(0.0)).sum_dim_intlist([1i64].as_slice(), false, None).log()
}

struct Reference {
    value: f64,
    /// How much the sum of all values moves at most with log p, for a rule that weighs by p / b or q / b.
    sensitivity: f64,
    d_hidden: Tensor,
    d_weight: Tensor,
}

/// Full logits in float64, differentiated by autograd. The forward KL is differentiated itself; where the gradient is an
/// estimate, what is differentiated is `sum_j c_j log p_j` with c from the rule on these logprobs.
fn reference(case: &Case, estimator: &dyn Estimator, scale: f64) -> Reference {
    let (hidden, weight) = (case.hidden.copy().set_requires_grad(true), case.weight.copy().set_requires_grad(true));
    let p = &case.positions;
    let logits = hidden.matmul(&weight.tr()) / p.temperature.unsqueeze(1);
    let log_p = logits.log_softmax(1, Kind::Double);
    let Columns { ids, mask, teacher_logprobs, teacher_tail, .. } = &p.support;
    let at = log_p.gather(1, ids, false);
    let tail = log_mass_outside(&log_p, ids, &p.support.in_head);
    let zero = at.zeros_like();
    let weights = (at.detach().exp() + teacher_logprobs.exp()) / p.support.sampler_logprobs.exp();
    let moved = weights * ((at.detach() - teacher_logprobs).abs() + 1.0);
    let sensitivity = moved.where_self(mask, &zero).sum(None).double_value(&[]);
    let (value, loss) = if estimator.divergence() == Some(Divergence::ForwardKl) {
        // Autograd would multiply padding's NaN by 0.
        let log_q = teacher_logprobs.where_self(mask, &zero);
        let terms = (log_q.exp() * (&log_q - &at)).where_self(mask, &zero);
        let value = terms.sum(None) + (teacher_tail.exp() * (teacher_tail - &tail)).sum(None);
        (value.double_value(&[]), value)
    } else {
        let ruling = estimator.rule(&Candidates {
            mask: mask.copy(),
            in_head: p.support.in_head.copy(),
            draws: p.support.draws.copy(),
            counts: p.support.counts.copy(),
            learner_logprobs: at.detach(),
            proximal_logprobs: at.full_like(f64::NAN),
            teacher_logprobs: teacher_logprobs.copy(),
            sampler_logprobs: p.support.sampler_logprobs.copy(),
            learner_tail: tail.detach(),
            teacher_tail: teacher_tail.copy(),
        });
        (ruling.value.sum(None).double_value(&[]), (ruling.coefficients * &at).sum(None))
    };
    let mut gradients = Tensor::run_backward(&[loss * scale], &[&hidden, &weight], false, false);
    let d_weight = gradients.remove(1);
    Reference { value, sensitivity, d_hidden: gradients.remove(0), d_weight }
}

fn run(case: &Case, estimator: &dyn Estimator, scale: f64, chunk: usize) -> (HeadOutput, Tensor) {
    run_in(Kind::Float, case, estimator, scale, chunk)
}

fn run_in(kind: Kind, case: &Case, estimator: &dyn Estimator, scale: f64, chunk: usize) -> (HeadOutput, Tensor) {
    let float = |t: &Tensor| t.to_kind(kind);
    let mut d_weight = float(&case.weight.zeros_like());
    let output = chunked_head(
        &float(&case.hidden),
        &float(&case.weight),
        &case.positions,
        estimator,
        scale,
        chunk,
        &mut d_weight,
    )
    .unwrap();
    (output, d_weight)
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Of all kinds. What jumps, the PPO rule, has margins that nothing reaches: float32 may be on the other side of a margin.
const RULES: [&dyn Estimator; 10] = [
    &FORWARD_KL,
    &REVERSE_KL,
    &CrossEntropy,
    &ForwardKl { top_k: 64, tail: Tail::Drop },
    &ReverseKlTeacherTopK { top_k: 64, tail: Tail::Bucket },
    &SkewedKl { top_k: 64, support: TopKOf::StudentTopK, alpha: 0.3, tail: Tail::Bucket },
    &ReverseKlMc { draws: 4, advantage: Advantage::Rollout, correction: Correction::Truncated { c: 1.5 } },
    &ForwardKlMc { draws: 4, from: DrawnFrom::Student },
    &TopKPpo { top_k: 64, advantage: Advantage::Current, eps_low: 1.0, eps_high: 1e9, dual_clip: 1e9 },
    &Jsd { top_k: 64, support: TopKOf::TeacherTopK, beta: 0.4, tail: Tail::Bucket },
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn value_and_gradients_are_those_of_full_logits(seed in 0u64..1 << 30, vocab in 4i64..40, chunk in 1usize..9) {
        tch::set_num_threads(1);
        let case = case(seed, vocab);
        for rule in RULES {
            let expected = reference(&case, rule, 0.3);
            let weighs = matches!(rule.support(), Support::Draws | Support::SamplerTopK { .. });
            let sensitivity = if weighs { expected.sensitivity } else { 0.0 };
            let scale = 1.0 + sensitivity + expected.value.abs() + expected.d_weight.abs().max().double_value(&[]);
            for (kind, tolerance) in [(Kind::Float, 1e-5 * scale), (Kind::Double, 1e-11 * scale)] {
                let (found, d_weight) = run_in(kind, &case, rule, 0.3, chunk);
                prop_assert!(found.fault.is_none(), "{:?}", found.fault);
                let value = found.value.sum(None).double_value(&[]);
                prop_assert!((value - expected.value).abs() < tolerance, "{} {value} {}", rule.name(), expected.value);
                prop_assert!(gap(&found.d_hidden, &expected.d_hidden) < tolerance, "{}", rule.name());
                prop_assert!(gap(&d_weight, &expected.d_weight) < tolerance, "{}", rule.name());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn so_they_are_where_only_some_candidates_are_of_the_head(seed in 0u64..1 << 30, vocab in 5i64..40, chunk in 1usize..9) {
        tch::set_num_threads(1);
        for baseline in [Baseline::Tail, Baseline::LeaveOneOut, Baseline::None] {
            let rule = ReverseKlHybrid { top_k: 64, draws: 5, head: Head::TeacherTopK, baseline };
            let case = case_of(seed, vocab, rule.support());
            let expected = reference(&case, &rule, 0.3);
            let scale = 1.0 + expected.sensitivity + expected.value.abs() + expected.d_weight.abs().max().double_value(&[]);
            for (kind, tolerance) in [(Kind::Float, 1e-5 * scale), (Kind::Double, 1e-11 * scale)] {
                let (found, d_weight) = run_in(kind, &case, &rule, 0.3, chunk);
                prop_assert!(found.fault.is_none(), "{:?}", found.fault);
                let value = found.value.sum(None).double_value(&[]);
                prop_assert!((value - expected.value).abs() < tolerance, "{baseline:?} {value} {}", expected.value);
                prop_assert!(gap(&found.d_hidden, &expected.d_hidden) < tolerance, "{baseline:?}");
                prop_assert!(gap(&d_weight, &expected.d_weight) < tolerance, "{baseline:?}");
            }
        }
    }
}

#[test]
fn both_divergences_and_the_entropy_are_reported_whatever_is_trained_on() {
    tch::set_num_threads(1);
    let case = case(5, 20);
    let reverse = reference(&case, &REVERSE_KL, 1.0).value;
    let forward = reference(&case, &FORWARD_KL, 1.0).value;
    let p = (case.hidden.matmul(&case.weight.tr()) / case.positions.temperature.unsqueeze(1)).softmax(1, Kind::Double);
    let entropy = -(&p * p.log()).sum_dim_intlist([1i64].as_slice(), false, None);
    let tokens = p.log().gather(1, &case.positions.token_ids.unsqueeze(1), false).squeeze_dim(1);
    for rule in RULES {
        let (found, _) = run(&case, rule, 1.0, 3);
        let sum = |t: &Option<Tensor>| t.as_ref().unwrap().sum(None).double_value(&[]);
        assert!((sum(&found.reverse_kl) - reverse).abs() < 1e-4 * (1.0 + reverse.abs()), "{}", rule.name());
        assert!((sum(&found.forward_kl) - forward).abs() < 1e-4, "{}", rule.name());
        assert!(gap(&found.entropy, &entropy) < 1e-5 && gap(&found.learner_logprobs, &tokens) < 1e-5);
    }
}

/// Where the estimator looks at the draws itself, they are not packed a second time.
#[test]
fn reverse_kl_is_reported_from_the_draws_that_another_estimator_trains_on() {
    tch::set_num_threads(1);
    let mut case = case(5, 20);
    let reverse = reference(&case, &REVERSE_KL, 1.0).value;
    case.positions.draws = None;
    let (found, _) = run(&case, &ForwardKlMc { draws: 4, from: DrawnFrom::Student }, 1.0, 3);
    let sum = found.reverse_kl.unwrap().sum(None).double_value(&[]);
    assert!((sum - reverse).abs() < 1e-4 * (1.0 + reverse.abs()));
    let (found, _) = run(&case, &ForwardKl { top_k: 64, tail: Tail::Drop }, 1.0, 3);
    assert!(found.reverse_kl.is_none(), "a top-k is not draws");
}

/// A student so sure of itself that its tail is 1e-8 of the teacher's: q_T / p_T is 1e6, and what is left of `c_j - p_j sum c`
/// is a number near 1.
#[test]
fn a_confident_student_gets_an_exact_gradient() {
    tch::set_num_threads(1);
    let (vocab, sure) = (50, 22.0);
    let hidden = Tensor::ones([1, 1], (Kind::Double, Device::Cpu));
    let mut logits = numbers(3, vocab);
    logits[7] = sure;
    let weight = Tensor::from_slice(&logits).view([vocab, 1]);
    let float = |values: &[f32]| Tensor::from_slice(values).view([1, -1]);
    let columns = || Columns {
        ids: Tensor::from_slice(&[7i64, 9]).view([1, 2]),
        support: Support::TeacherTopK { k: 64 },
        mask: Tensor::ones([1, 2], (Kind::Bool, Device::Cpu)),
        in_head: Tensor::ones([1, 2], (Kind::Bool, Device::Cpu)),
        draws: float(&[f32::NAN]).view([1]),
        counts: float(&[1.0, 1.0]),
        teacher_logprobs: float(&[0.6f32.ln(), 0.3f32.ln()]),
        sampler_logprobs: float(&[f32::NAN; 2]),
        teacher_tail: Tensor::from_slice(&[0.1f32.ln()]),
    };
    let positions = Positions {
        token_ids: Tensor::from_slice(&[7i64]),
        temperature: Tensor::from_slice(&[1.0f32]),
        support: columns(),
        draws: None,
        teacher_top_k: None,
        proximal: Proximal::Unknown,
    };
    let case = Case { hidden, weight, positions };
    let expected = reference(&case, &FORWARD_KL, 1.0);
    let (found, d_weight) = run(&case, &FORWARD_KL, 1.0, 8);
    assert!((found.value.double_value(&[0]) - expected.value).abs() < 1e-5);
    // With h = 1, d W is d logits.
    assert!(gap(&d_weight, &expected.d_weight) < 1e-6, "{}", gap(&d_weight, &expected.d_weight));
}

#[test]
fn a_fault_names_its_position() {
    tch::set_num_threads(1);
    let case = case(5, 20);
    let _ = case.positions.support.teacher_logprobs.get(4).get(0).fill_(f64::NEG_INFINITY);
    let _ = case.positions.support.teacher_logprobs.get(6).get(0).fill_(f64::NEG_INFINITY);
    for chunk in [1, 3, 10] {
        let (found, _) = run(&case, &REVERSE_KL, 1.0, chunk);
        assert_eq!(found.fault, Some((4, Fault::ImpossibleDraw)));
    }
    let _ = case.positions.support.teacher_tail.get(2).fill_(f64::NAN);
    assert_eq!(run(&case, &FORWARD_KL, 1.0, 2).0.fault, Some((2, Fault::NotFinite)));
}
