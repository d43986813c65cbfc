use crate::fixtures::{config, ids, model, values};
use model::{Prompt, SamplingParams, ScoreRow, ScoringParams, TopK, Transformer, device, load_cuda, sample, score};

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The same weights on a GPU sample the same tokens, score them the same, and have the same gradients.
#[test]
#[ignore = "needs a CUDA device"]
fn a_gpu_agrees_with_the_cpu() {
    load_cuda();
    let cpu = model(config(true), 51);
    let bytes = cpu.to_safetensors().unwrap();
    let mut gpu = Transformer::from_safetensors(config(true), &bytes, device("cuda").unwrap()).unwrap();
    gpu.set_weights(&bytes).unwrap();
    assert_eq!(gpu.weights_digest().unwrap(), cpu.weights_digest().unwrap());

    let prompts: Vec<Prompt> =
        (0..24).map(|i| Prompt { ids: ids(i, 1 + i as usize % 9, cpu.config()), seed: i }).collect();
    let rule = TopK { mass: 0.9, max: 8, floor: 0.0 };
    for (temperature, top_p, draws, top_k) in [(1.0, 1.0, 8, Some(rule)), (0.7, 0.8, 0, None), (0.0, 1.0, 0, None)] {
        let params = SamplingParams {
            temperature,
            top_p,
            max_new_tokens: 24,
            eos: vec![1],
            draws,
            draws_kept: record::DrawsKept::All,
            top_k,
        };
        let (a, b) = (sample(&cpu, &prompts, &params).unwrap(), sample(&gpu, &prompts, &params).unwrap());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!((&a.response_ids, &a.draw_ids), (&b.response_ids, &b.draw_ids));
            assert!(largest_difference(&a.sampler_logprobs, &b.sampler_logprobs) < 1e-4);
        }
        if temperature == 1.0 {
            let rows: Vec<ScoreRow> =
                prompts.iter().zip(&a).map(|(p, sample)| ScoreRow::new(&p.ids, sample, p.seed)).collect();
            let params = ScoringParams { temperature, top_k: Some(rule), draws: 0, max_tokens_per_batch: 128 };
            let (a, b) = (score(&cpu, &rows, &params).unwrap(), score(&gpu, &rows, &params).unwrap());
            for (a, b) in a.iter().zip(&b) {
                assert_eq!(a.teacher_top_ids, b.teacher_top_ids);
                assert!(largest_difference(&a.teacher_logprobs, &b.teacher_logprobs) < 1e-4);
                assert!(largest_difference(&a.teacher_tail_logprobs, &b.teacher_tail_logprobs) < 1e-4);
            }
        }
    }
    let gradients = |model: &Transformer| {
        let rows: Vec<&[i32]> = prompts.iter().map(|prompt| prompt.ids.as_slice()).collect();
        let hidden = model.hidden(&model.right_padded(&rows).unwrap()).unwrap();
        hidden.narrow(1, 0, 1).square().sum(tch::Kind::Float).backward();
        let on_cpu = |p: tch::Tensor| values(&p.grad().to_device(tch::Device::Cpu));
        model.parameters().into_iter().flat_map(|(_, p)| on_cpu(p)).collect::<Vec<_>>()
    };
    let expected = gradients(&cpu);
    let scale = expected.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    assert!(largest_difference(&gradients(&gpu), &expected) < 1e-4 * scale);
}
