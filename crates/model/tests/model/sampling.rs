use crate::fixtures::{assert_close, config, ids, model};
use crate::reference::Reference;
use model::{Prompt, SamplingParams, TopK, Transformer, chance, sample};
use record::{Finish, Sample};

fn params() -> SamplingParams {
    let top_k = Some(TopK { mass: 0.9, max: 8, floor: 0.0 });
    SamplingParams {
        temperature: 1.0,
        top_p: 1.0,
        max_new_tokens: 20,
        eos: vec![1],
        draws: 6,
        draws_kept: record::DrawsKept::All,
        top_k,
    }
}

fn prompts(model: &Transformer, n: u64) -> Vec<Prompt> {
    let length = |i: u64| 1 + (7 * i % 11) as usize;
    (0..n).map(|i| Prompt { ids: ids(i, length(i), model.config()), seed: chance::row_seed(3, i, 0, 0) }).collect()
}

/// What the reference says of every response position of a sample.
fn distributions(model: &Transformer, prompt: &[i32], sample: &Sample, temperature: f64) -> Vec<Vec<f64>> {
    let row = [prompt, &sample.response_ids].concat();
    let all = Reference::of(model).logprobs(&row, temperature);
    all[prompt.len() - 1..row.len() - 1].to_vec()
}

/// Everything a sample says is what the full float64 distribution at its positions says, at two temperatures; and each draw is
/// the id whose interval of the cumulative distribution holds its uniform.
#[test]
fn a_sample_is_what_the_reference_says() {
    for (tied, temperature) in [(true, 1.0), (false, 0.7), (true, 1.9)] {
        let model = model(config(tied), 11);
        let prompts = prompts(&model, 6);
        let params = SamplingParams { temperature, ..params() };
        for (prompt, sample) in prompts.iter().zip(sample(&model, &prompts, &params).unwrap()) {
            let truth = distributions(&model, &prompt.ids, &sample, temperature);
            for (t, p) in truth.iter().enumerate() {
                let at = |ids: &[i32]| ids.iter().map(|&id| p[id as usize]).collect::<Vec<_>>();
                let (ids, counts) = (sample.draw_ids.get(t), sample.draw_counts.get(t));
                assert_eq!(ids[0], sample.response_ids[t]);
                assert_eq!(counts.iter().sum::<i32>(), 6);
                assert_close(&sample.sampler_logprobs[t..=t], &at(&ids[..1]), 1e-4);
                assert_close(sample.draw_logprobs.get(t), &at(ids), 1e-4);

                let mut expected: Vec<(i32, i32)> = Vec::new();
                for draw in 0..6 {
                    let id = id_at(p, chance::uniform(prompt.seed, t as u64, draw));
                    match expected.iter_mut().find(|e| e.0 == id) {
                        Some(e) => e.1 += 1,
                        None => expected.push((id, 1)),
                    }
                }
                assert_eq!(ids.iter().copied().zip(counts.iter().copied()).collect::<Vec<_>>(), expected);

                let top = sample.sampler_top_ids.get(t);
                let mass = |ids: &[i32]| at(ids).iter().map(|x| x.exp()).sum::<f64>();
                assert!(top.len() == 8 || mass(top) >= 0.9 - 1e-5);
                assert!(mass(&top[..top.len() - 1]) < 0.9 + 1e-5);
                assert!(at(top).windows(2).all(|w| w[0] >= w[1] - 1e-5));
                assert_close(sample.sampler_top_logprobs.get(t), &at(top), 1e-4);
                let rest: Vec<i32> = (0..37).filter(|id| !top.contains(id)).collect();
                assert_close(&sample.sampler_tail_logprobs[t..=t], &[mass(&rest).ln()], 1e-4);
            }
        }
    }
}

/// The id whose interval of the cumulative distribution holds `u`; the test's uniforms do not fall on a border.
fn id_at(logprobs: &[f64], u: f64) -> i32 {
    let mut below = 0.0;
    for (id, logprob) in logprobs.iter().enumerate() {
        below += logprob.exp();
        if u < below {
            return id as i32;
        }
    }
    unreachable!("the masses sum to 1")
}

/// A row samples the same alone, among others, and in another order, while rows around it end and are dropped.
#[test]
fn a_row_does_not_know_its_batch() {
    let model = model(config(true), 12);
    let prompts = prompts(&model, 24);
    let together = sample(&model, &prompts, &params()).unwrap();
    let mut reversed: Vec<Prompt> = prompts.clone();
    reversed.reverse();
    let mut other = sample(&model, &reversed, &params()).unwrap();
    other.reverse();
    for ((prompt, one), two) in prompts.iter().zip(&together).zip(&other) {
        let alone = &sample(&model, std::slice::from_ref(prompt), &params()).unwrap()[0];
        for sample in [one, two] {
            assert_eq!(sample.response_ids, alone.response_ids);
            assert_eq!((&sample.draw_ids, &sample.draw_counts), (&alone.draw_ids, &alone.draw_counts));
            let expected: Vec<f64> = alone.sampler_logprobs.iter().copied().map(f64::from).collect();
            assert_close(&sample.sampler_logprobs, &expected, 1e-4);
            assert_eq!(sample.finish, alone.finish);
        }
    }
    let lengths: std::collections::BTreeSet<usize> = together.iter().map(|s| s.response_ids.len()).collect();
    assert!(lengths.len() > 3, "rows end at different lengths: {lengths:?}");
}

/// Rows that continue one prompt are what they are alone, each by its own seed, wherever they stand.
#[test]
fn a_prompt_may_be_continued_many_times() {
    let model = model(config(false), 17);
    let prompts = prompts(&model, 3);
    let seed = |row: u64| chance::row_seed(5, row % 7, 0, 0);
    let rows: Vec<Prompt> = (0..8)
        .map(|row| Prompt { ids: prompts[[2, 0, 2, 1, 0, 2, 2, 2][row]].ids.clone(), seed: seed(row as u64) })
        .collect();
    let samples = sample(&model, &rows, &params()).unwrap();
    for (row, found) in rows.iter().zip(&samples) {
        let alone = &sample(&model, std::slice::from_ref(row), &params()).unwrap()[0];
        assert_eq!((&found.response_ids, &found.draw_ids), (&alone.response_ids, &alone.draw_ids));
        let expected: Vec<f64> = alone.sampler_logprobs.iter().copied().map(f64::from).collect();
        assert_close(&found.sampler_logprobs, &expected, 1e-4);
    }
    assert_ne!(samples[0].response_ids, samples[2].response_ids);
    assert_ne!(samples[5].response_ids, samples[6].response_ids);
}

/// Draws of the tail are those of all draws that lie outside the top-k, and their number is kept beside them.
#[test]
fn of_the_tail_only_draws_outside_the_top_k_are_kept() {
    let model = model(config(true), 18);
    let prompts = prompts(&model, 8);
    let all = sample(&model, &prompts, &params()).unwrap();
    let tail = SamplingParams { draws_kept: record::DrawsKept::Tail, ..params() };
    let (mut inside, mut outside) = (0, 0);
    for (all, tail) in all.iter().zip(sample(&model, &prompts, &tail).unwrap()) {
        assert!(all.draws_taken.is_none());
        assert_eq!(tail.draws_taken, Some(vec![6; all.response_ids.len()]));
        assert_eq!((&tail.response_ids, &tail.sampler_top_ids), (&all.response_ids, &all.sampler_top_ids));
        for t in 0..all.response_ids.len() {
            let draws = |s: &Sample| -> Vec<(i32, i32, f32)> {
                let counts = s.draw_counts.get(t).iter().zip(s.draw_logprobs.get(t));
                s.draw_ids.get(t).iter().zip(counts).map(|(id, (n, logprob))| (*id, *n, *logprob)).collect()
            };
            let (mut expected, found) = (draws(all), draws(&tail));
            expected.retain(|draw| !all.sampler_top_ids.get(t).contains(&draw.0));
            assert_eq!(found, expected);
            outside += found.len();
            inside += draws(all).len() - found.len();
        }
    }
    assert!(inside > 20 && outside > 5, "both occur: {inside} {outside}");
}

/// The number of draws and the top-k never change what is sampled.
#[test]
fn what_is_kept_does_not_change_what_is_sampled() {
    let model = model(config(true), 13);
    let prompts = prompts(&model, 5);
    let bare = sample(&model, &prompts, &SamplingParams { draws: 0, top_k: None, ..params() }).unwrap();
    for (kept, bare) in sample(&model, &prompts, &params()).unwrap().iter().zip(&bare) {
        assert_eq!(kept.response_ids, bare.response_ids);
        assert_eq!(kept.sampler_logprobs, bare.sampler_logprobs);
        let n = bare.response_ids.len();
        assert_eq!([bare.draw_ids.len(), bare.sampler_top_ids.len(), bare.sampler_tail_logprobs.len()], [n; 3]);
        assert!(bare.draw_ids.values().is_empty() && bare.sampler_top_ids.values().is_empty());
    }
}

#[test]
fn rows_end_by_their_own_eos_or_at_the_length() {
    let model = model(config(true), 14);
    let prompts = prompts(&model, 32);
    let params = SamplingParams { eos: vec![1, 2, 3], ..params() };
    let samples = sample(&model, &prompts, &params).unwrap();
    for sample in &samples {
        let (last, rest) = sample.response_ids.split_last().unwrap();
        assert!(rest.iter().all(|id| !params.eos.contains(id)));
        let stopped = params.eos.contains(last);
        assert_eq!(sample.finish, Some(if stopped { Finish::Stop } else { Finish::Length }));
        assert!(stopped || sample.response_ids.len() == 20);
    }
    let stopped = samples.iter().filter(|s| s.finish == Some(Finish::Stop)).count();
    assert!((1..32).contains(&stopped), "both endings occur: {stopped} of 32 stopped");
    let forever = sample(&model, &prompts[..2], &SamplingParams { eos: vec![], ..params }).unwrap();
    assert!(forever.iter().all(|s| s.response_ids.len() == 20 && s.finish == Some(Finish::Length)));
}

/// A response longer than the first room of the cache, up to the last position of the context.
#[test]
fn the_cache_grows() {
    let model = model(config(true), 15);
    let prompt = Prompt { ids: ids(1, 4, model.config()), seed: 1 };
    let params = SamplingParams { eos: vec![], max_new_tokens: 92, ..params() };
    let sample = &sample(&model, std::slice::from_ref(&prompt), &params).unwrap()[0];
    let truth = distributions(&model, &prompt.ids, sample, 1.0);
    let expected: Vec<f64> = truth.iter().zip(&sample.response_ids).map(|(p, &id)| p[id as usize]).collect();
    assert_eq!(expected.len(), 92);
    assert_close(&sample.sampler_logprobs, &expected, 1e-4);
}

#[test]
fn temperature_zero_is_greedy() {
    let model = model(config(false), 16);
    let prompts = prompts(&model, 4);
    let params = SamplingParams { temperature: 0.0, draws: 0, top_k: None, ..params() };
    for (prompt, sample) in prompts.iter().zip(sample(&model, &prompts, &params).unwrap()) {
        for (t, p) in distributions(&model, &prompt.ids, &sample, 1.0).iter().enumerate() {
            let best = (0..37).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap();
            assert_eq!(sample.response_ids[t], best as i32);
            assert_close(&sample.sampler_logprobs[t..=t], &[p[best]], 1e-4);
        }
    }
}

/// With top_p every token comes from the nucleus, and its logprob is still that of the full vocabulary.
#[test]
fn top_p_samples_from_the_nucleus() {
    let model = model(config(true), 17);
    let prompts = prompts(&model, 16);
    let params = SamplingParams { top_p: 0.5, draws: 0, top_k: None, ..params() };
    for (prompt, sample) in prompts.iter().zip(sample(&model, &prompts, &params).unwrap()) {
        for (t, p) in distributions(&model, &prompt.ids, &sample, 1.0).iter().enumerate() {
            let own = p[sample.response_ids[t] as usize];
            let above: f64 = p.iter().filter(|&&x| x > own + 1e-9).map(|x| x.exp()).sum();
            assert!(above < 0.5 + 1e-5, "an id outside the nucleus: {above} of the mass is likelier");
            assert_close(&sample.sampler_logprobs[t..=t], &[own], 1e-4);
        }
    }
}

#[test]
fn what_cannot_be_sampled_is_an_error() {
    let model = model(config(true), 18);
    let good = prompts(&model, 2);
    let refused =
        |prompts: &[Prompt], params: SamplingParams| sample(&model, prompts, &params).unwrap_err().to_string();
    let with = |ids: Vec<i32>| vec![good[0].clone(), Prompt { ids, seed: 0 }];
    assert!(refused(&with(vec![]), params()).contains("row 1: the prompt is empty"));
    let error = refused(&with(vec![5; 77]), params());
    assert!(error.contains("77 tokens and 20 new ones do not fit the context of 96"), "{error}");
    assert!(refused(&with(vec![38]), params()).contains("token id 38"));
    assert!(refused(&good, SamplingParams { temperature: -1.0, ..params() }).contains("`temperature` is -1"));
    assert!(refused(&good, SamplingParams { temperature: 0.0, ..params() }).contains("`temperature` is 0"));
    for (draws, top_k) in [(0, params().top_k), (6, None)] {
        let tail = SamplingParams { draws, top_k, draws_kept: record::DrawsKept::Tail, ..params() };
        assert!(refused(&good, tail).contains("`draws_kept` is tail"));
    }
    assert!(refused(&good, SamplingParams { top_p: 0.0, ..params() }).contains("`top_p` is 0"));
    assert!(refused(&good, SamplingParams { max_new_tokens: 0, ..params() }).contains("`max_new_tokens` is 0"));
    assert!(sample(&model, &[], &params()).unwrap().is_empty());

    let _guard = tch::no_grad_guard();
    let _ = model.head().f_fill_(f64::NAN).unwrap();
    drop(_guard);
    assert!(refused(&good, params()).contains("the weights have diverged"));
}
