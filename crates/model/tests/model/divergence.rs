use crate::fixtures::{config, configs, ids, model};
use crate::reference::Reference;
use model::{ModelConfig, Transformer, reverse_kl};
use proptest::prelude::*;

/// A network whose logits are `sharpness` times as large.
fn sharpened(config: ModelConfig, seed: u64, sharpness: f64) -> Transformer {
    let model = model(config, seed);
    let norm = model.parameters().into_iter().find(|(name, _)| name == "model.norm.weight");
    let _guard = tch::no_grad_guard();
    let _ = norm.unwrap().1.f_mul_scalar_(sharpness).unwrap();
    model
}

fn oracle(student: &Reference, teacher: &Reference, prompt: &[i32], response: &[i32], temperature: f64) -> Vec<f64> {
    let ids = [prompt, response].concat();
    let (p, q) = (student.logprobs(&ids, temperature), teacher.logprobs(&ids, temperature));
    let kl = |t: usize| p[t].iter().zip(&q[t]).map(|(p, q)| p.exp() * (p - q)).sum();
    (prompt.len() - 1..ids.len() - 1).map(kl).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every family against every other, padded to other widths, from even distributions to such as hold nearly one id.
    #[test]
    fn reverse_kl_is_the_sum_over_the_full_vocabulary(
        (of_student, of_teacher) in (0..configs().len(), 0..configs().len()), seed in 0_u64..1000, padded in 37_usize..60,
        sharpness in prop::sample::select(vec![0.1, 1.0, 8.0]), temperature in prop::sample::select(vec![0.5, 1.0, 1.7]),
        lengths in prop::collection::vec((1_usize..6, 0_usize..6), 1..5), most in 1_usize..40,
    ) {
        let student = sharpened(configs()[of_student].clone(), seed, sharpness);
        let wider = ModelConfig { vocab_size: padded, ..configs()[of_teacher].clone() };
        let teacher = sharpened(wider, seed + 1, sharpness);
        let rows: Vec<(Vec<i32>, Vec<i32>)> = lengths.iter().enumerate().map(|(i, &(prompt, response))| {
            let i = 2 * i as u64;
            (ids(seed + i, prompt, student.config()), ids(seed + i + 1, response, student.config()))
        }).collect();
        let borrowed: Vec<(&[i32], &[i32])> = rows.iter().map(|(p, r)| (p.as_slice(), r.as_slice())).collect();
        let found = reverse_kl(&student, &teacher, &borrowed, temperature, most).unwrap();
        prop_assert_eq!(found.len(), rows.len());
        let (p, q) = (Reference::of(&student), Reference::of(&teacher));
        for ((prompt, response), found) in rows.iter().zip(&found) {
            let expected = oracle(&p, &q, prompt, response, temperature);
            prop_assert_eq!(found.len(), expected.len());
            for (&found, &expected) in found.iter().zip(&expected) {
                // The networks' own rounding, which sharper logits enlarge.
                let bound = 1e-5 * (1.0 + sharpness) * (1.0 + expected);
                prop_assert!((f64::from(found) - expected).abs() < bound, "{found} {expected}");
                prop_assert!(found >= 0.0);
            }
        }
    }
}

/// A network is at distance 0 from itself, and a small step away at a small distance: half the variance of the change.
#[test]
fn small_divergences_are_not_noise() {
    let student = model(config(true), 51);
    let (prompt, response) = (ids(1, 5, student.config()), ids(2, 9, student.config()));
    let rows = [(prompt.as_slice(), response.as_slice())];
    let same = reverse_kl(&student, &model(config(true), 51), &rows, 1.0, 64).unwrap();
    assert_eq!(same, [[0.0; 9]]);
    let near = sharpened(config(true), 51, 1.0 + 1e-3);
    let found = reverse_kl(&student, &near, &rows, 1.0, 64).unwrap();
    let expected = oracle(&Reference::of(&student), &Reference::of(&near), &prompt, &response, 1.0);
    for (&found, &expected) in found[0].iter().zip(&expected) {
        assert!(expected < 1e-4 && (f64::from(found) - expected).abs() < 0.02 * expected, "{found} {expected}");
    }
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let (student, teacher) = (model(config(true), 52), model(config(false), 53));
    let refused = |teacher: &Transformer, rows: &[(&[i32], &[i32])], temperature: f64, words: &[&str]| {
        let error = reverse_kl(&student, teacher, rows, temperature, 64).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    refused(&teacher, &[(&[3], &[4]), (&[], &[4])], 1.0, &["row 1", "prompt is empty"]);
    refused(&teacher, &[(&[3], &[37])], 1.0, &["row 0", "token id 37"]);
    refused(&teacher, &[(&[3], &[4; 96])], 1.0, &["row 0", "97 tokens", "context of 96"]);
    let short = model(ModelConfig { max_position_embeddings: 8, ..config(true) }, 54);
    refused(&short, &[(&[3], &[4; 8])], 1.0, &["row 0", "9 tokens", "context of 8"]);
    let fewer = model(config(true).with_real_vocab(36).unwrap(), 55);
    refused(&fewer, &[(&[3], &[4])], 1.0, &["teacher's vocabulary", "is 36", "37 ids"]);
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        refused(&teacher, &[(&[3], &[4])], temperature, &["`temperature`", "above 0"]);
    }
    let broken = sharpened(config(true), 56, f64::NAN);
    refused(&broken, &[(&[3], &[4, 5])], 1.0, &["row 0", "position 0", "NaN"]);
    assert!(reverse_kl(&student, &teacher, &[], 1.0, 64).unwrap().is_empty());
}
