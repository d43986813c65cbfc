use crate::fixtures::{assert_close, config, ids, model};
use crate::reference::Reference;
use model::{Prompt, SamplingParams, ScoreRow, ScoringParams, TopK, Transformer, sample, score};
use record::{Ragged, Sample, Score};

const TEMPERATURE: f64 = 0.8;
const RULE: TopK = TopK { mass: 0.8, max: 5, floor: 0.0 };

fn rollouts(student: &Transformer, n: u64) -> (Vec<Prompt>, Vec<Sample>) {
    let prompt = |i: u64| Prompt { ids: ids(i, 1 + (5 * i % 9) as usize, student.config()), seed: i };
    let prompts: Vec<Prompt> = (0..n).map(prompt).collect();
    let top_k = Some(TopK { mass: 0.8, max: 5, floor: 0.0 });
    let params = SamplingParams {
        temperature: TEMPERATURE,
        top_p: 1.0,
        max_new_tokens: 14,
        eos: vec![1],
        draws: 4,
        draws_kept: record::DrawsKept::All,
        top_k,
    };
    let samples = sample(student, &prompts, &params).unwrap();
    (prompts, samples)
}

fn rows<'a>(prompts: &'a [Prompt], samples: &'a [Sample]) -> Vec<ScoreRow<'a>> {
    prompts.iter().zip(samples).map(|(prompt, sample)| ScoreRow::new(&prompt.ids, sample, prompt.seed)).collect()
}

fn params(top_k: TopK) -> ScoringParams {
    ScoringParams { temperature: TEMPERATURE, top_k: Some(top_k), draws: 0, max_tokens_per_batch: 64 }
}

/// Every number of a score is what the teacher's full float64 distribution says, at the rollouts' temperature.
#[test]
fn a_score_is_what_the_reference_says() {
    let (student, teacher) = (model(config(true), 21), model(config(false), 22));
    let (prompts, samples) = rollouts(&student, 10);
    let rule = TopK { mass: 0.95, max: 12, floor: 0.0 };
    let scores = score(&teacher, &rows(&prompts, &samples), &params(rule)).unwrap();
    let reference = Reference::of(&teacher);
    for ((prompt, sample), score) in prompts.iter().zip(&samples).zip(&scores) {
        let row = [prompt.ids.as_slice(), &sample.response_ids].concat();
        let truth = &reference.logprobs(&row, TEMPERATURE)[prompt.ids.len() - 1..row.len() - 1];
        let n = sample.response_ids.len();
        assert_eq!(
            [score.teacher_logprobs.len(), score.teacher_top_ids.len(), score.teacher_tail_logprobs.len()],
            [n; 3]
        );
        let entropy = score.teacher_entropy.as_ref().unwrap();
        for (t, p) in truth.iter().enumerate() {
            let at = |ids: &[i32]| ids.iter().map(|&id| p[id as usize]).collect::<Vec<_>>();
            let mass = |ids: &[i32]| at(ids).iter().map(|x| x.exp()).sum::<f64>();
            let outside = |ids: &[i32]| mass(&(0..37).filter(|id| !ids.contains(id)).collect::<Vec<_>>()).ln();
            assert_close(&score.teacher_logprobs[t..=t], &at(&sample.response_ids[t..=t]), 1e-4);
            assert_close(score.draw_teacher_logprobs.get(t), &at(sample.draw_ids.get(t)), 1e-4);
            let top = score.teacher_top_ids.get(t);
            assert!(top.len() == 12 || mass(top) >= 0.95 - 1e-5);
            assert!(mass(&top[..top.len() - 1]) < 0.95 + 1e-5);
            assert_close(score.teacher_top_logprobs.get(t), &at(top), 1e-4);
            assert_close(&score.teacher_tail_logprobs[t..=t], &[outside(top)], 1e-4);
            let support = sample.sampler_top_ids.get(t);
            assert_close(score.sampler_top_teacher_logprobs.get(t), &at(support), 1e-4);
            assert_close(&score.sampler_top_teacher_tail_logprobs[t..=t], &[outside(support)], 1e-4);
            assert_close(&entropy[t..=t], &[p.iter().map(|x| -x.exp() * x).sum()], 1e-4);
        }
    }
}

/// The teacher's own draws are inverse CDF at uniforms of the row alone: whatever the batch, and apart from the sampler's.
#[test]
fn draws_of_the_teacher_are_a_function_of_the_row() {
    let (student, teacher) = (model(config(true), 31), model(config(false), 32));
    let (prompts, samples) = rollouts(&student, 8);
    let params =
        |max_tokens_per_batch, draws| ScoringParams { draws, max_tokens_per_batch, top_k: None, ..params(RULE) };
    let all = rows(&prompts, &samples);
    let (alone, together) =
        (score(&teacher, &all, &params(1, 5)).unwrap(), score(&teacher, &all, &params(10_000, 5)).unwrap());
    let reference = Reference::of(&teacher);
    let mut as_sampled = 0;
    for (i, (one, two)) in alone.iter().zip(&together).enumerate() {
        let (one, two) = (one.teacher_draws.as_ref().unwrap(), two.teacher_draws.as_ref().unwrap());
        assert_eq!((&one.ids, &one.counts), (&two.ids, &two.counts));
        let row = [prompts[i].ids.as_slice(), &samples[i].response_ids].concat();
        let truth = &reference.logprobs(&row, TEMPERATURE)[prompts[i].ids.len() - 1..row.len() - 1];
        assert_eq!(one.ids.len(), truth.len());
        for (t, p) in truth.iter().enumerate() {
            assert_eq!(one.counts.get(t).iter().sum::<i32>(), 5);
            let at: Vec<f64> = one.ids.get(t).iter().map(|&id| p[id as usize]).collect();
            assert_close(one.logprobs.get(t), &at, 1e-4);
            as_sampled += usize::from(one.ids.get(t) == samples[i].draw_ids.get(t));
        }
        assert!(together[i].teacher_top_ids.iter().all(|ids| ids.is_empty()), "no top-k was asked for");
    }
    let positions: usize = samples.iter().map(|sample| sample.response_ids.len()).sum();
    assert!(as_sampled < positions / 2, "other uniforms than the sampler's: {as_sampled} of {positions}");
    assert!(score(&teacher, &all, &params(40, 0)).unwrap().iter().all(|score| score.teacher_draws.is_none()));
}

/// A row with another seed has other draws, and over many of them they are as likely as the teacher says.
#[test]
fn draws_of_the_teacher_are_from_its_whole_distribution() {
    let teacher = model(config(true), 33);
    let none = Ragged::new();
    let row =
        |seed| ScoreRow { prompt_ids: &[5, 6], response_ids: &[7], draw_ids: &none, sampler_top_ids: &none, seed };
    let params = ScoringParams { draws: 400, top_k: None, ..params(RULE) };
    let scores = score(&teacher, &[row(1), row(2)], &params).unwrap();
    let draws: Vec<_> = scores.iter().map(|score| score.teacher_draws.as_ref().unwrap()).collect();
    assert_ne!(draws[0], draws[1]);
    let truth = &Reference::of(&teacher).logprobs(&[5, 6, 7], TEMPERATURE)[1];
    for (id, logprob) in truth.iter().enumerate() {
        let of = |draws: &record::Draws| {
            let place = draws.ids.get(0).iter().position(|drawn| *drawn == id as i32);
            place.map_or(0.0, |j| f64::from(draws.counts.get(0)[j]))
        };
        let (share, p) = ((of(draws[0]) + of(draws[1])) / 800.0, logprob.exp());
        assert!((share - p).abs() < 5.0 * (p * (1.0 - p) / 800.0).sqrt() + 1e-3, "{id}: {share} {p}");
    }
}

/// A student that scores its own samples finds the logprobs it sampled with: the cache and the full pass are one network.
#[test]
fn the_student_agrees_with_itself() {
    let student = model(config(true), 23);
    let (prompts, samples) = rollouts(&student, 16);
    let scores = score(&student, &rows(&prompts, &samples), &params(TopK { mass: 0.8, max: 5, floor: 0.0 })).unwrap();
    let wide = |list: &[f32]| list.iter().copied().map(f64::from).collect::<Vec<_>>();
    for (sample, score) in samples.iter().zip(&scores) {
        assert_close(&score.teacher_logprobs, &wide(&sample.sampler_logprobs), 1e-4);
        assert_close(score.draw_teacher_logprobs.values(), &wide(sample.draw_logprobs.values()), 1e-4);
        assert_close(score.sampler_top_teacher_logprobs.values(), &wide(sample.sampler_top_logprobs.values()), 1e-4);
        assert_close(&score.sampler_top_teacher_tail_logprobs, &wide(&sample.sampler_tail_logprobs), 1e-4);
        assert_eq!(score.teacher_top_ids, sample.sampler_top_ids);
    }
}

/// However rows are put into batches, they get the same scores, in the order they were given.
#[test]
fn batching_changes_nothing() {
    let (student, teacher) = (model(config(true), 24), model(config(true), 25));
    let (prompts, samples) = rollouts(&student, 12);
    let with = |max_tokens_per_batch| {
        let params = ScoringParams { max_tokens_per_batch, ..params(TopK { mass: 0.9, max: 6, floor: 0.0 }) };
        score(&teacher, &rows(&prompts, &samples), &params).unwrap()
    };
    let alone = with(1);
    for scores in [with(40), with(10_000)] {
        for (one, two) in scores.iter().zip(&alone) {
            let expected: Vec<f64> = two.teacher_logprobs.iter().copied().map(f64::from).collect();
            assert_close(&one.teacher_logprobs, &expected, 1e-5);
            assert_eq!(one.teacher_top_ids, two.teacher_top_ids);
        }
    }
}

/// A vocabulary of which a chunk holds few positions: chunks end inside rows.
#[test]
fn chunks_end_inside_rows() {
    let mut wide = config(true);
    (wide.vocab_size, wide.real_vocab) = (1 << 17, 1 << 17);
    let teacher = model(wide, 26);
    let (prompt, response) = (vec![5, 9], vec![100_000, 7, 131_071, 3, 4, 50, 1]);
    let none = Ragged::new();
    let row =
        ScoreRow { prompt_ids: &prompt, response_ids: &response, draw_ids: &none, sampler_top_ids: &none, seed: 7 };
    let scored = score(&teacher, &[row], &params(TopK { mass: 0.5, max: 9, floor: 0.0 })).unwrap();
    let truth = Reference::of(&teacher).logprobs(&[prompt.as_slice(), &response].concat(), TEMPERATURE);
    let expected: Vec<f64> = response.iter().zip(&truth[1..]).map(|(&id, p)| p[id as usize]).collect();
    assert_close(&scored[0].teacher_logprobs, &expected, 1e-4);
    assert_eq!(scored[0].draw_teacher_logprobs.len(), 7);
    assert!(scored[0].sampler_top_teacher_tail_logprobs.is_empty());
}

/// A teacher so sure of itself that its tail is 1e-8 and less: the log of the tail is still right.
#[test]
fn small_tails_are_exact() {
    let teacher = model(config(false), 27);
    let _guard = tch::no_grad_guard();
    let _ = teacher.head().f_mul_scalar_(8.0).unwrap();
    drop(_guard);
    let (prompt, response) = (ids(1, 3, teacher.config()), ids(2, 30, teacher.config()));
    let none = Ragged::new();
    let row =
        ScoreRow { prompt_ids: &prompt, response_ids: &response, draw_ids: &none, sampler_top_ids: &none, seed: 7 };
    let truth = Reference::of(&teacher).logprobs(&[prompt.as_slice(), &response].concat(), TEMPERATURE);
    let mut smallest = 0.0_f64;
    for max in [1, 4, 12, 20] {
        let Score { teacher_top_ids, teacher_tail_logprobs, .. } =
            &score(&teacher, &[row], &params(TopK { mass: 1.0, max, floor: 0.0 })).unwrap()[0];
        for (t, p) in truth[2..32].iter().enumerate() {
            let top = teacher_top_ids.get(t);
            assert_eq!(top.len(), max);
            let outside: f64 = (0..37).filter(|id| !top.contains(id)).map(|id| p[id as usize].exp()).sum();
            smallest = smallest.min(outside.ln());
            assert_close(&teacher_tail_logprobs[t..=t], &[outside.ln()], 5e-4);
        }
    }
    assert!(smallest < 1e-8_f64.ln(), "the smallest tail was e^{smallest}");
}

#[test]
fn what_cannot_be_scored_is_an_error() {
    let teacher = model(config(true), 28);
    let none = Ragged::new();
    let two: Ragged<i32> = [vec![3], vec![4]].into_iter().collect();
    let good = ScoreRow { prompt_ids: &[5], response_ids: &[6, 7], draw_ids: &two, sampler_top_ids: &none, seed: 7 };
    let rule = TopK { mass: 0.9, max: 4, floor: 0.0 };
    let refused = |row: ScoreRow| score(&teacher, &[good, row], &params(rule)).unwrap_err().to_string();
    assert!(refused(ScoreRow { prompt_ids: &[], ..good }).contains("row 1: the prompt is empty"));
    assert!(refused(ScoreRow { response_ids: &[6, 40], ..good }).contains("token id 40"));
    assert!(refused(ScoreRow { response_ids: &[6], ..good }).contains("`draw_ids` has 2 lists"));
    assert!(refused(ScoreRow { response_ids: &[6; 96], draw_ids: &none, ..good }).contains("97 tokens"));
    let cold = ScoringParams { temperature: 0.0, ..params(rule) };
    assert!(score(&teacher, &[good], &cold).unwrap_err().to_string().contains("`temperature` is 0"));
    let empty = ScoreRow { response_ids: &[], draw_ids: &none, ..good };
    assert!(score(&teacher, &[empty], &params(rule)).unwrap()[0].teacher_logprobs.is_empty());
}
