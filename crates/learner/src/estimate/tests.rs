//! The closed forms against the enumeration of every outcome, on vocabularies small enough for that.

use super::*;
use crate::estimator::{
    Advantage, Baseline, Clip, Correction, DrawnFrom, Estimator, ForwardKl, ForwardKlMc, Head, M2po, ReverseKlHybrid,
    ReverseKlMc, ReverseKlStudentTopK, ReverseKlTeacherTopK, Tail, TopKPpo,
    oracle::{Position, d_logits},
};
use distributions::Target;
use figures::numbers;
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

fn distributions(positions: &[Position]) -> Distributions {
    let stack =
        |of: fn(&Position) -> Tensor| Tensor::stack(&positions.iter().map(|p| of(p).log()).collect::<Vec<_>>(), 0);
    let temperature: Vec<f64> = positions.iter().map(|position| position.temperature).collect();
    Distributions::new(stack(Position::p), stack(Position::q), stack(Position::b), &Tensor::from_slice(&temperature))
}

fn square(of: &Tensor) -> f64 {
    of.square().sum(None).double_value(&[])
}

/// Error, mean, product with the exact gradient, and spread at m draws, by going through all outcomes.
struct Enumerated {
    error: f64,
    mean: f64,
    along: f64,
    spread: f64,
}

fn enumerate(position: &Position, exact: &Tensor, m: u32, gradient: impl Fn(&[i64]) -> Tensor) -> Enumerated {
    let vocabulary = position.learner_logits.size()[0];
    let b = Vec::<f64>::try_from(position.b()).unwrap();
    let (mut mean, mut second) = (exact.zeros_like(), 0.0);
    for outcome in 0..vocabulary.pow(m) {
        let draws: Vec<i64> = (0..m).map(|i| outcome / vocabulary.pow(i) % vocabulary).collect();
        let chance: f64 = draws.iter().map(|a| b[*a as usize]).product();
        let gradient = gradient(&draws);
        second += chance * square(&gradient);
        mean += gradient * chance;
    }
    Enumerated {
        error: square(&(&mean - exact)),
        mean: square(&mean),
        along: (&mean * exact).sum(None).double_value(&[]),
        spread: second - square(&mean),
    }
}

fn exact(position: &Position, target: Target) -> Tensor {
    match target {
        Target::ForwardKl => (position.p() - position.q()) / position.temperature,
        _ => position.d_reverse_kl(),
    }
}

fn assert_same(found: &Moments, i: usize, draws: f64, expected: &Enumerated, what: &str) {
    for (name, found, expected) in [
        ("error", found.error[i], expected.error),
        ("mean", found.mean[i], expected.mean),
        ("along", found.along[i], expected.along),
        ("spread", found.spread[i] / draws, expected.spread),
    ] {
        assert!(
            (found - expected).abs() < 1e-9 * (1.0 + expected.abs()),
            "{what}: {name} {found}, expected {expected}"
        );
    }
}

fn over_draws() -> Vec<(Box<dyn Estimator>, Target)> {
    let mc = |advantage, correction| -> (Box<dyn Estimator>, Target) {
        (Box::new(ReverseKlMc { draws: 2, advantage, correction }), Target::ReverseKl)
    };
    let clip = Clip { eps_low: 0.2, eps_high: 0.2, dual_clip: None };
    vec![
        mc(Advantage::Current, Correction::Importance {}),
        mc(Advantage::Rollout, Correction::None {}),
        mc(Advantage::Current, Correction::Truncated { c: 1.5 }),
        mc(Advantage::Current, Correction::Ppo(clip)),
        (Box::new(ForwardKlMc { draws: 2, from: DrawnFrom::Student }), Target::ForwardKl),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn draws_in_closed_form_are_the_enumeration_of_all_of_them(
        seed in 0u64..1 << 40, vocabulary in 2i64..6, m in 1u32..=2, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
    ) {
        tch::set_num_threads(1);
        // Two positions at once, so that rows are not mixed up.
        let positions = [Position::random(seed, vocabulary, temperature), Position::random(seed + 1, vocabulary, 1.3)];
        let of = distributions(&positions);
        for (rule, target) in over_draws() {
            let mut moments = Moments::default();
            let coefficients = draws::coefficients(rule.as_ref(), &of, &of.log_q, None);
            draws::add(&mut moments, &of, &of.exact(target), &of.b, &coefficients, None);
            for (i, position) in positions.iter().enumerate() {
                let found = enumerate(position, &exact(position, target), m, |ids| {
                    d_logits(position, &rule.rule(&position.candidates(ids, &vec![1; ids.len()])), ids)
                });
                assert_same(&moments, i, f64::from(m), &found, &format!("{rule:?}"));
            }
        }
    }

    #[test]
    fn a_constant_baseline_changes_the_spread_as_said_and_the_mean_not(seed in 0u64..1 << 40, c in -1.0f64..1.0) {
        tch::set_num_threads(1);
        let position = Position::random(seed, 4, 1.2);
        let rule = ReverseKlMc { draws: 1, advantage: Advantage::Current, correction: Correction::Importance {} };
        let of = distributions(std::slice::from_ref(&position));
        let coefficients = draws::coefficients(&rule, &of, &of.log_q, None);
        let (mut moments, mut baseline) = (Moments::default(), draws::Baseline::default());
        draws::add(&mut moments, &of, &of.exact(Target::ReverseKl), &of.b, &coefficients, None);
        baseline.add(&rule, &of, &coefficients);
        let (p, b) = (position.p(), position.b());
        let advantage = position.q().log() - p.log();
        let found = enumerate(&position, &position.d_reverse_kl(), 1, |ids| {
            let coefficient = -(&p / &b * (&advantage - c)).double_value(&[ids[0]]);
            let gradient = &p * -coefficient;
            let _ = gradient.get(ids[0]).g_add_scalar_(coefficient);
            gradient / position.temperature
        });
        moments.spread[0] += 2.0 * c * baseline.cross[0] + c * c * baseline.unit[0];
        assert_same(&moments, 0, 1.0, &found, "baseline");
        prop_assert!((baseline.advantage[0] - (b * advantage).sum(None).double_value(&[])).abs() < 1e-12);
    }

    #[test]
    fn a_support_is_asked_once_and_leaves_nothing_to_chance(
        seed in 0u64..1 << 40, vocabulary in 3i64..12, k in 1i64..12, mass in prop_oneof![Just(1.0), 0.3f64..0.95],
    ) {
        tch::set_num_threads(1);
        let positions = [Position::random(seed, vocabulary, 0.8), Position::random(seed + 1, vocabulary, 1.0)];
        let of = distributions(&positions);
        let ppo = TopKPpo { top_k: 9, advantage: Advantage::Current, eps_low: 0.2, eps_high: 0.2, dual_clip: 3.0 };
        let rules: [(Box<dyn Estimator>, Target, bool); 5] = [
            (Box::new(ForwardKl { top_k: 9, tail: Tail::Bucket }), Target::ForwardKl, true),
            (Box::new(ReverseKlTeacherTopK { top_k: 9, tail: Tail::Bucket }), Target::ReverseKl, true),
            (Box::new(ReverseKlStudentTopK { top_k: 9, tail: Tail::Bucket }), Target::ReverseKl, false),
            (Box::new(ReverseKlStudentTopK { top_k: 9, tail: Tail::Drop }), Target::ReverseKl, false),
            (Box::new(ppo), Target::ReverseKl, false),
        ];
        for (rule, target, teacher) in rules {
            let log = if teacher { &of.log_q } else { &of.log_b };
            let ranked = support::Ranked::by(log, &of, &Lists { sizes: vec![12], mass, floor: 0.0 });
            let mut moments = Moments::default();
            ranked.add(&mut moments, rule.as_ref(), k, &of, &of.exact(target));
            for (i, position) in positions.iter().enumerate() {
                let mut ids = if teacher { position.teacher_top(k.min(vocabulary)) } else { position.sampler_top(k.min(vocabulary)) };
                let own = if teacher { position.q() } else { position.b() };
                let mut sum = 0.0;
                let needed = ids.iter().take_while(|id| { let short = sum < mass; sum += own.double_value(&[**id]); short }).count();
                ids.truncate(if mass < 1.0 { needed } else { ids.len() });
                prop_assert_eq!(ranked.entries(k).double_value(&[i as i64]), ids.len() as f64);
                let gradient = d_logits(position, &rule.rule(&position.candidates(&ids, &vec![1; ids.len()])), &ids);
                let found = enumerate(position, &exact(position, target), 1, |_| gradient.copy());
                assert_same(&moments, i, 1.0, &found, &format!("{rule:?} {ids:?}"));
            }
        }
    }

    #[test]
    fn every_head_of_the_hybrid_is_its_enumeration(seed in 0u64..1 << 40, vocabulary in 2i64..6, m in 1u32..=2) {
        tch::set_num_threads(1);
        let position = Position::random(seed, vocabulary, 1.4);
        let mut prefixes = Prefixes::new(8);
        prefixes.add(&distributions(std::slice::from_ref(&position)));
        let (p, q, b) = (position.p(), position.q(), position.b());
        for k in 0..=vocabulary {
            let head = position.sampler_top(k);
            let outside = p.ones_like().index_fill(0, &Tensor::from_slice(&head), 0.0);
            let c = ((&p * &outside).sum(None) / (&q * &outside).sum(None)).log();
            let advantage = if k == vocabulary { p.zeros_like() } else { (&p / &q).log() - c };
            let gradient = |coefficients: Tensor| (&coefficients - &p * coefficients.sum(None)) / position.temperature;
            let inside = gradient(&p * &advantage * (-&outside + 1.0));
            let found = enumerate(&position, &position.d_reverse_kl(), m, |ids| {
                let drawn = p.zeros_like().index_add(0, &Tensor::from_slice(ids), &Tensor::ones([ids.len() as i64], (Kind::Double, Device::Cpu)));
                &inside + gradient(drawn * &p / &b * &advantage * &outside / f64::from(m))
            });
            // f32 is what is kept of each position.
            prop_assert!((prefixes.spread_at(0, k as usize, f64::from(m), Baseline::Tail) / f64::from(m) - found.spread).abs() < 1e-6 * (1.0 + found.spread));
            prop_assert!(found.error < 1e-18 || k == vocabulary, "unbiased: {}", found.error);
            let distinct = |m: f64| (&outside * (-(-&b + 1.0).pow_tensor_scalar(m) + 1.0)).sum(None).double_value(&[]);
            for m in [1.0, 2.0, 3.0, 6.0, 16.0, 96.0] {
                let found = prefixes.bytes_at(0, k as usize, m, &Cost::PACKED);
                prop_assert!((found - 8.0 * distinct(m)).abs() < 1e-5, "{k} {m}");
            }
            let mass = (&b * &outside).sum(None).double_value(&[]);
            prop_assert!((prefixes.bytes_at(0, k as usize, 7.0, &Cost::RAW) - 84.0 * mass).abs() < 1e-4);
        }
    }
}

/// Replicates are an estimate: of a rule whose closed form is known they must come near, and so must its bias, far within the noise.
#[test]
fn replicates_find_what_the_closed_form_says() {
    tch::set_num_threads(1);
    let positions: Vec<Position> = (0..400).map(|seed| Position::random(seed, 7, 1.0)).collect();
    let of = distributions(&positions);
    let exact = of.exact(Target::ReverseKl);
    let rule = ReverseKlMc { draws: 4, advantage: Advantage::Current, correction: Correction::None {} };
    let (mut closed, mut sampled) = (Moments::default(), Moments::default());
    let coefficients = draws::coefficients(&rule, &of, &of.log_q, None);
    draws::add(&mut closed, &of, &exact, &of.b, &coefficients, None);
    let uniforms: Vec<f64> = (0..400 * 64).map(|i| model::chance::uniform(5, i / 64, i % 64)).collect();
    let ids = replicates::draw(&of, &Tensor::from_slice(&uniforms).view([400, 64]));
    replicates::add(&mut sampled, &rule, 4, &of, &exact, &ids, None);
    let sum = |of: &[f64]| of.iter().sum::<f64>();
    let share = sum(&sampled.spread) / sum(&closed.spread);
    assert!((share - 1.0).abs() < 0.05, "{share}");
    let share = sum(&sampled.error) / sum(&closed.error);
    assert!((share - 1.0).abs() < 0.05, "{share}");
    assert!((sum(&sampled.mean) / sum(&closed.mean) - 1.0).abs() < 0.1);
}

/// A head among replicates: with the tail's baseline as the closed form has it, with leave-one-out near what is reckoned.
#[test]
fn replicates_of_a_head_find_what_the_closed_form_says() {
    tch::set_num_threads(1);
    let n = 300;
    let positions: Vec<Position> = (0..n).map(|seed| near(Position::random(seed, 12, 0.8))).collect();
    let of = distributions(&positions);
    let exact = of.exact(Target::ReverseKl);
    let lists = Lists { sizes: vec![3], mass: 1.0, floor: 0.0 };
    let ranked = support::Ranked::by(&of.log_b, &of, &lists);
    let mut prefixes = Prefixes::new(3);
    prefixes.add(&of);
    let m = 16;
    let uniforms: Vec<f64> = (0..n * 256).map(|i| model::chance::uniform(6, i / 256, i % 256)).collect();
    let ids = replicates::draw(&of, &Tensor::from_slice(&uniforms).view([n as i64, 256]));
    for (baseline, tolerance) in [(Baseline::Tail, 0.05), (Baseline::None, 0.05), (Baseline::LeaveOneOut, 0.12)] {
        let rule = ReverseKlHybrid { top_k: 3, draws: m, head: Head::StudentTopK, baseline };
        let mut sampled = Moments::default();
        replicates::add(&mut sampled, &rule, m as i64, &of, &exact, &ids, Some((&ranked, 3)));
        let closed: f64 = (0..n as usize).map(|i| prefixes.spread_at(i, 3, m as f64, baseline)).sum();
        let sum = |of: &[f64]| of.iter().sum::<f64>();
        let share = sum(&sampled.spread) / closed;
        assert!((share - 1.0).abs() < tolerance, "{baseline:?}: {share}");
        let noise = closed / m as f64 / replicates::REPLICATES as f64;
        assert!(sum(&sampled.error).abs() < 0.3 * noise, "{baseline:?}: unbiased, {} of {noise}", sum(&sampled.error));
        assert!((sum(&sampled.mean) / sum(&numbers(&(&exact.square * &of.inverse_square))) - 1.0).abs() < 0.1);
    }
}

/// A sampler that is not far from the learner, as staleness makes it.
fn near(mut position: Position) -> Position {
    position.sampler_logits = &position.learner_logits * 0.9 + position.sampler_logits * 0.1;
    position
}

/// A study over two groups: unbiased estimators have bias 0, variance goes as 1 / m, and a support that is the vocabulary is exact.
#[test]
fn lines_say_what_is_known() {
    tch::set_num_threads(1);
    let mut study = Study::new(Budgets {
        teacher_top_k: Lists { sizes: vec![1, 5], mass: 1.0, floor: 0.0 },
        sampler_top_k: Lists { sizes: vec![1, 5], mass: 1.0, floor: 0.0 },
        draws: vec![1, 2, 4],
        head: 4,
    });
    for seed in [3, 9] {
        let positions = [Position::random(seed, 5, 1.0), Position::random(seed + 1, 5, 0.7)];
        study.add(&distributions(&positions), seed, |i, draw| model::chance::uniform(seed, i as u64, draw as u64));
    }
    let lines = study.lines(&[0, 0, 2, 2], &Cost::RAW);
    let find = |name: &str, k, m, group| {
        let found = lines.iter().find(|l| l.estimator == name && (l.k, l.m, l.group) == (k, m, group));
        found.unwrap_or_else(|| panic!("{name} {k} {m} {group}"))
    };
    for group in [0, 2] {
        for name in ["reverse_kl_mc", "forward_kl_mc", "reverse_kl_mc/constant_baseline"] {
            let [one, four] = [1, 4].map(|m| find(name, 0, m, group).figures);
            assert!(one.bias < 1e-9 && (one.variance / four.variance - 4.0).abs() < 1e-9, "{name}");
            assert!((one.cosine - 1.0 / (1.0 + one.variance).sqrt()).abs() < 1e-9, "unbiased: the cosine follows");
        }
        for name in ["forward_kl", "reverse_kl_teacher_top_k", "skewed_kl", "jsd", "jsd/student_top_k"] {
            let (short, whole) = (find(name, 1, 0, group).figures, find(name, 5, 0, group).figures);
            assert!(
                whole.bias < 1e-7 && whole.variance == 0.0 && (whole.cosine - 1.0).abs() < 1e-9,
                "{name}: {whole:?}"
            );
            assert!(short.bias > 0.01, "{name}: {short:?}");
        }
        assert_eq!(find("reverse_kl_mc", 0, 4, group).bytes_per_token, 48.0);
        assert_eq!(find("forward_kl", 5, 0, group).bytes_per_token, 44.0);
        assert!(find("reverse_kl_mc/self_normalised", 0, 4, group).sampled);
        // The rule itself and the closed form of every head must say the same.
        let members = if group == 0 { [0, 1] } else { [2, 3] };
        let exact: f64 = members.iter().map(|i| study.exact()[*i]).sum();
        let closed: f64 = members.iter().map(|i| study.prefixes().spread_at(*i, 1, 4.0, Baseline::Tail)).sum();
        let hybrid = |k, m| find("reverse_kl_hybrid", k, m, group);
        let found = hybrid(1, 4).figures;
        assert!(
            found.bias < 1e-9 && (found.variance - closed / exact / 4.0).abs() < 1e-6 * found.variance,
            "{found:?}"
        );
        for name in ["reverse_kl_hybrid/teacher_top_k", "forward_kl_mc/teacher"] {
            let k = usize::from(name.contains("top_k"));
            assert!(find(name, k, 2, group).figures.bias < 1e-9, "{name}");
        }
        assert!(hybrid(1, 4).figures.variance < find("reverse_kl_mc", 0, 4, group).figures.variance);
        assert!(hybrid(5, 4).figures.variance < 1e-9, "nothing is outside");
    }
}

#[test]
fn an_allocation_fits_its_budget_and_nothing_near_it_is_better() {
    tch::set_num_threads(1);
    let positions: Vec<Position> = (0..40).map(|seed| Position::random(seed, 60, 0.5)).collect();
    let mut prefixes = Prefixes::new(60);
    prefixes.add(&distributions(&positions));
    let exact = vec![1.0; 40];
    let all: Vec<usize> = (0..40).collect();
    let mut before = f64::INFINITY;
    for budget in [20.0, 50.0, 100.0, 200.0] {
        let best = Allocation::least_variance(&prefixes, &exact, &all, &Cost::PACKED, budget, 60).unwrap();
        assert!(best.bytes_per_token <= budget && best.variance < before, "{best:?}");
        before = best.variance;
        let Allocation { floor, most, draws, baseline } = best.allocation;
        for other in [(floor * 1.5, draws), (floor / 1.5, draws), (floor, draws + 1)] {
            let other = Allocation { floor: other.0, most, draws: other.1, baseline }.over(
                &prefixes,
                &exact,
                &all,
                &Cost::PACKED,
            );
            let better = other.bytes_per_token <= budget && other.variance < 0.99 * best.variance;
            assert!(!better, "{other:?} beats {best:?}");
        }
    }
    assert_eq!(Allocation::least_variance(&prefixes, &exact, &all, &Cost::PACKED, 1.0, 60), None);
}

/// Its margins are those of the group: none within the budget, and else what the enumeration of all draws of the group says.
#[test]
fn m2po_takes_a_group_for_its_minibatch() {
    tch::set_num_threads(1);
    let none = || Lists { sizes: vec![], mass: 1.0, floor: 0.0 };
    let budgets = Budgets { teacher_top_k: none(), sampler_top_k: none(), draws: vec![2], head: 0 };
    let close = |seed| {
        let position = near(Position::random(seed, 6, 1.0));
        Position { sampler_logits: &position.learner_logits * 0.99 + &position.sampler_logits * 0.01, ..position }
    };
    let groups = [[close(3), close(4)], [Position::random(5, 6, 1.0), Position::random(6, 6, 0.7)]];
    let mut study = Study::of(budgets, |name| ["reverse_kl_mc", "reverse_kl_mc/m2po"].contains(&name));
    assert!(study.asks_twice());
    // Each position comes by itself: the margins are not those of a chunk.
    let each =
        || groups.iter().enumerate().flat_map(|(group, of)| of.iter().map(move |position| (group as u64, position)));
    for (group, position) in each() {
        study.prepare(&distributions(std::slice::from_ref(position)), group);
    }
    for (group, position) in each() {
        study.add(&distributions(std::slice::from_ref(position)), group, |_, _| 0.5);
    }
    let lines = study.lines(&[0, 0, 1, 1], &Cost::RAW);
    let of = |name: &str, group| lines.iter().find(|l| l.estimator == name && l.group == group).unwrap().figures;
    assert_eq!(of("reverse_kl_mc/m2po", 0), of("reverse_kl_mc", 0), "within the budget: importance");

    let logs = |of: &Tensor| Vec::<f64>::try_from(of.log()).unwrap();
    let mut harmful = Vec::new();
    for position in &groups[1] {
        let (p, q, b) = (logs(&position.p()), logs(&position.q()), logs(&position.b()));
        let draws = (0..6).map(|a| (b[a] - p[a], q[a] - p[a], b[a].exp()));
        harmful.extend(draws.filter(|d| M2po::is_harmful(d.0, d.1)).map(|(delta, _, weight)| (delta, weight)));
    }
    let clip = M2po { budget: 0.04 }.clip(&harmful);
    assert!(clip.eps_high.is_finite(), "beyond the budget");
    let rule = ReverseKlMc { draws: 2, advantage: Advantage::Current, correction: Correction::Ppo(clip) };
    let (mut error, mut spread, mut whole) = (0.0, 0.0, 0.0);
    for position in &groups[1] {
        let exact = position.d_reverse_kl();
        let found = enumerate(position, &exact, 2, |ids| {
            d_logits(position, &rule.rule(&position.candidates(ids, &vec![1; ids.len()])), ids)
        });
        error += found.error;
        spread += found.spread;
        whole += square(&exact);
    }
    let found = of("reverse_kl_mc/m2po", 1);
    assert!(found.bias > 0.01, "something is clipped: {found:?}");
    assert!((found.bias - (error / whole).sqrt()).abs() < 1e-9 && (found.variance - spread / whole).abs() < 1e-9);
}
