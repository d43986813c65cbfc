//! Estimators over fewer draws than were taken: what is linear in the draws estimates the same.

use super::{
    Advantage, Baseline, Correction, DrawnFrom, Estimator, ForwardKlMc, Head, ReverseKlHybrid, ReverseKlMc,
    oracle::{Position, assert_close, d_logits, over_all_draws},
};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

type Of<'a> = &'a dyn Fn(&[i64], &[i64]) -> (f64, Tensor);

/// The expectation of what `of` makes of `m` of the draws: the first, which is the sampled token, and m - 1 of the others, every
/// subset alike. `ids` are in the order in which they were drawn first.
fn over_thinnings(ids: &[i64], counts: &[i64], m: i64, vocab: i64, of: Of) -> (f64, Tensor) {
    let mut left = counts.to_vec();
    left[0] -= 1;
    let mut kept = vec![0; ids.len()];
    kept[0] = 1;
    let (mut value, mut gradient) = (0.0, Tensor::zeros([vocab], (Kind::Double, Device::Cpu)));
    choose(&left, m - 1, &mut kept, 0, 1.0, &mut |kept, ways| {
        let (ids, counts): (Vec<i64>, Vec<i64>) =
            ids.iter().zip(kept).filter(|(_, count)| **count > 0).map(|(id, count)| (*id, *count)).unzip();
        let (of_value, of_gradient) = of(&ids, &counts);
        value += ways * of_value;
        gradient += of_gradient * ways;
    });
    let all = binomial(counts.iter().sum::<i64>() - 1, m - 1);
    (value / all, gradient / all)
}

/// Every way to take `wanted` of what is left, with the number of subsets that it is.
fn choose(left: &[i64], wanted: i64, kept: &mut Vec<i64>, at: usize, ways: f64, found: &mut dyn FnMut(&[i64], f64)) {
    if at == left.len() {
        if wanted == 0 {
            found(kept, ways);
        }
        return;
    }
    for n in 0..=left[at].min(wanted) {
        kept[at] += n;
        choose(left, wanted - n, kept, at + 1, ways * binomial(left[at], n), found);
        kept[at] -= n;
    }
}

fn binomial(n: i64, k: i64) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn thinned_draws_estimate_what_the_others_do(seed in 0u64..1 << 40, vocab in 2i64..5, m in 1u32..=2) {
        tch::set_num_threads(1);
        let position = Position::random(seed, vocab, 1.0);
        let (advantage, correction) = (Advantage::Current, Correction::Importance {});
        let reverse = ReverseKlMc { draws: m as usize, advantage, correction };
        let forward = ForwardKlMc { draws: m as usize, from: DrawnFrom::Student };
        let head = position.sampler_top(1);
        let hybrid = ReverseKlHybrid { top_k: 1, draws: m as usize, head: Head::StudentTopK, baseline: Baseline::Tail };
        let plain = |rule: &dyn Estimator, ids: &[i64], counts: &[i64]| {
            let ruling = rule.rule(&position.candidates(ids, counts));
            (ruling.value.double_value(&[0]), d_logits(&position, &ruling, ids))
        };
        let of_reverse = |ids: &[i64], counts: &[i64]| plain(&reverse, ids, counts);
        let of_forward = |ids: &[i64], counts: &[i64]| plain(&forward, ids, counts);
        let of_hybrid = |ids: &[i64], counts: &[i64]| {
            let (candidates, ids) = position.head_and_draws(&head, ids, counts);
            let ruling = hybrid.rule(&candidates);
            (ruling.value.double_value(&[0]), d_logits(&position, &ruling, &ids))
        };
        let backward = (position.p() - position.q()) / position.temperature;
        for (of, value, gradient) in [
            (&of_reverse as Of, position.reverse_kl(), &position.d_reverse_kl()),
            (&of_forward, position.forward_kl(), &backward),
            (&of_hybrid, position.reverse_kl(), &position.d_reverse_kl()),
        ] {
            // Three draws were taken, of which m are read.
            let (found, d_found) = over_all_draws(&position, &position.b(), 3, |ids, counts| {
                over_thinnings(ids, counts, i64::from(m), vocab, of)
            });
            prop_assert!((found - value).abs() < 1e-9, "{} {}", found, value);
            assert_close(&d_found, gradient, 1e-9);
        }
    }
}
