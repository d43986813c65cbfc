//! Tiny networks with weights large enough that their distributions are far from even.

use model::{Device, Family, ModelConfig, RopeScaling, Transformer, chance};

/// Grouped queries (4 heads on 2), a head width apart from hidden / heads, three padded ids.
pub fn config(tied: bool) -> ModelConfig {
    ModelConfig {
        family: Family::Qwen3,
        vocab_size: 40,
        real_vocab: 37,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 10,
        rms_norm_eps: 1e-6,
        attention_bias: false,
        mlp_bias: false,
        rope_theta: 10_000.0,
        rope_scaling: None,
        max_position_embeddings: 96,
        tie_word_embeddings: tied,
        eos_token_ids: vec![1],
    }
}

/// One network of each family and of each way it may differ from [`config`].
pub fn configs() -> Vec<ModelConfig> {
    let qwen3 = |tied| config(tied);
    let qwen2 = ModelConfig { family: Family::Qwen2, ..config(true) };
    let llama = ModelConfig { family: Family::Llama, ..config(false) };
    let llama3 = RopeScaling::Llama3 {
        factor: 4.0,
        low_freq_factor: 1.0,
        high_freq_factor: 3.0,
        original_max_position_embeddings: 16,
    };
    vec![
        qwen3(true),
        qwen3(false),
        ModelConfig { attention_bias: true, num_key_value_heads: 4, ..qwen3(true) },
        ModelConfig { num_key_value_heads: 1, ..qwen2.clone() },
        ModelConfig { tie_word_embeddings: false, rope_scaling: Some(RopeScaling::Linear { factor: 2.5 }), ..qwen2 },
        llama.clone(),
        ModelConfig { attention_bias: true, rope_scaling: Some(llama3), rope_theta: 300.0, ..llama.clone() },
        ModelConfig { mlp_bias: true, tie_word_embeddings: true, ..llama },
    ]
}

/// A network whose matrices are drawn with standard deviation 0.2 whose norms differ from 1 and whose biases differ from 0.
pub fn model(config: ModelConfig, seed: u64) -> Transformer {
    tch::set_num_threads(1);
    let model = Transformer::new_random(config, seed, Device::Cpu).unwrap();
    let _guard = tch::no_grad_guard();
    for (n, (name, mut tensor)) in model.parameters().into_iter().enumerate() {
        if tensor.dim() == 2 {
            let _ = tensor.f_mul_scalar_(10.0).unwrap();
        } else {
            let least = if name.ends_with(".bias") { -0.5 } else { 0.5 };
            let values: Vec<f32> =
                (0..tensor.numel() as u64).map(|i| (least + chance::uniform(seed, i, n as u64)) as f32).collect();
            tensor.f_copy_(&tch::Tensor::from_slice(&values)).unwrap();
        }
    }
    drop(_guard);
    model
}

/// A row of real ids, none of them EOS (1).
pub fn ids(seed: u64, length: usize, config: &ModelConfig) -> Vec<i32> {
    let real = config.real_vocab as f64 - 2.0;
    (0..length as u64).map(|i| 2 + (chance::uniform(seed, i, 99) * real) as i32).collect()
}

/// All values of a tensor.
pub fn values(tensor: &tch::Tensor) -> Vec<f32> {
    let tensor = tensor.detach().contiguous();
    let mut values = vec![0.0; tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    values
}

/// Whether two lists of numbers agree; the panic says where they do not.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "lengths");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let same = f64::from(f) == e || (f64::from(f) - e).abs() <= tolerance;
        assert!(same, "at {i}: found {f}, expected {e}");
    }
}
