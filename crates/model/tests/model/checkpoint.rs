use crate::fixtures::{config, configs, ids, model, values};
use model::{Device, Family, ModelConfig, Precision, RopeScaling, Transformer};
use serde_json::{Value, json};

/// The `config.json` of a small Qwen3, with some keys changed; null takes one away.
fn json_with(changes: Value) -> String {
    let mut value: Value = serde_json::from_str(&config(true).to_json("float32")).unwrap();
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    value.to_string()
}

fn read(changes: Value) -> Result<ModelConfig, String> {
    ModelConfig::from_json(&json_with(changes), "config.json").map_err(|error| error.to_string())
}

#[test]
fn a_config_goes_there_and_back() {
    for mut config in configs() {
        let read = ModelConfig::from_json(&config.to_json("float32"), "config.json").unwrap();
        config.real_vocab = config.vocab_size;
        assert_eq!(read, config);
        assert_eq!(read.with_real_vocab(37).unwrap().real_vocab, 37);
    }
}

#[test]
fn a_config_may_be_written_in_several_ways() {
    assert_eq!(read(json!({ "rope_theta": 5e5 })).unwrap().rope_theta, 5e5);
    let nested = json!({ "rope_theta": null, "rope_parameters": { "rope_theta": 1e6, "rope_type": "default" } });
    assert_eq!(read(nested).unwrap().rope_theta, 1e6);
    assert_eq!(read(json!({ "eos_token_id": 7 })).unwrap().eos_token_ids, [7]);
    assert_eq!(read(json!({ "eos_token_id": [9, 7, 9] })).unwrap().eos_token_ids, [7, 9]);
    assert!(read(json!({ "eos_token_id": null })).unwrap().eos_token_ids.is_empty());
    assert_eq!(read(json!({ "head_dim": null })).unwrap().head_dim, 128);
    assert_eq!(read(json!({ "dtype": null, "torch_dtype": "bfloat16" })).unwrap().hidden_size, 24);
}

/// What `transformers` 5.19 takes an absent or null key to mean, family by family.
#[test]
fn an_absent_key_means_what_its_family_says() {
    let absent = |family: &str, changes: Value| {
        let mut value: Value = serde_json::from_str(&config(true).to_json("float32")).unwrap();
        value["model_type"] = family.into();
        value["num_attention_heads"] = 64.into();
        value["hidden_size"] = 768.into();
        for key in ["num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "tie_word_embeddings"] {
            value.as_object_mut().unwrap().remove(key);
        }
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        ModelConfig::from_json(&value.to_string(), "config.json").unwrap()
    };
    for (family, key_heads, head_dim) in [("llama", 64, 12), ("qwen2", 32, 12), ("qwen3", 32, 128)] {
        let read = absent(family, json!({}));
        assert_eq!((read.num_key_value_heads, read.head_dim), (key_heads, head_dim), "{family}");
        assert_eq!((read.rms_norm_eps, read.rope_theta, read.rope_scaling), (1e-6, 10_000.0, None));
        assert!(!read.tie_word_embeddings);
        let read = absent(family, json!({ "num_key_value_heads": null, "head_dim": null }));
        assert_eq!((read.num_key_value_heads, read.head_dim), (64, head_dim), "{family}");
        // Qwen2 has no such key: its queries, keys and values have a bias whatever the file says.
        let read = absent(family, json!({ "attention_bias": true, "mlp_bias": true }));
        let expected = (family != "qwen2", family == "llama");
        assert_eq!((read.attention_bias, read.mlp_bias), expected, "{family}");
    }
}

#[test]
fn rope_scaling_may_be_written_in_several_ways() {
    let numbers = json!({
        "factor": 32.0, "low_freq_factor": 1, "high_freq_factor": 4.0, "original_max_position_embeddings": 64
    });
    let with = |changes: Value| {
        let mut value = numbers.clone();
        value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        value
    };
    let llama3 = |original| RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: original,
    };
    let found = |changes: Value| {
        let read = read(changes).unwrap();
        (read.rope_theta, read.rope_scaling)
    };
    let kind = with(json!({ "rope_type": "llama3" }));
    assert_eq!(found(json!({ "rope_scaling": kind })), (1e4, Some(llama3(64))));
    assert_eq!(found(json!({ "rope_scaling": with(json!({ "type": "llama3" })) })), (1e4, Some(llama3(64))));
    assert_eq!(found(json!({ "rope_scaling": kind, "rope_theta": 5e5 })), (5e5, Some(llama3(64))));
    let inside = with(json!({ "rope_type": "llama3", "rope_theta": 5e5 }));
    assert_eq!(found(json!({ "rope_parameters": inside, "rope_theta": null })), (5e5, Some(llama3(64))));
    // The older name wins, and without a number of its own the original context is the whole one.
    let shorter = with(json!({ "type": "llama3", "original_max_position_embeddings": null }));
    let both = json!({ "rope_scaling": shorter, "rope_parameters": { "rope_theta": 7.0, "rope_type": "default" } });
    assert_eq!(found(both), (1e4, Some(llama3(96))));
    assert_eq!(found(json!({ "rope_scaling": {}, "rope_parameters": inside })), (5e5, Some(llama3(64))));
    let linear = json!({ "rope_scaling": { "type": "linear", "factor": 2 } });
    assert_eq!(found(linear), (1e4, Some(RopeScaling::Linear { factor: 2.0 })));
    assert_eq!(found(json!({ "rope_scaling": { "rope_type": "default" } })), (1e4, None));
}

#[test]
fn what_a_config_gets_wrong_is_named() {
    let refused = |changes: Value, words: &[&str]| {
        let error = read(changes).unwrap_err();
        assert!(words.iter().chain(&["config.json"]).all(|word| error.contains(word)), "{error}");
    };
    refused(json!({ "model_type": "mamba" }), &["`mamba`", "known: llama, qwen2, qwen3"]);
    refused(json!({ "model_type": null }), &["`model_type`", "missing", "llama, qwen2, qwen3"]);
    refused(json!({ "hidden_size": null }), &["`hidden_size`", "missing"]);
    refused(json!({ "vocab_size": "many" }), &["`vocab_size`", "\"many\"", "whole number"]);
    refused(json!({ "num_hidden_layers": 0 }), &["`num_hidden_layers`", "is 0"]);
    refused(json!({ "num_key_value_heads": 3 }), &["`num_key_value_heads`", "divisor"]);
    refused(json!({ "head_dim": 7 }), &["`head_dim`", "even"]);
    refused(json!({ "num_hidden_layers": 2_000_000_000 }), &["`num_hidden_layers`", "at most 10000"]);
    refused(json!({ "head_dim": 2_000_000_000 }), &["`head_dim`", "at most 536870911 with 4 heads"]);
    refused(json!({ "rms_norm_eps": -1 }), &["`rms_norm_eps`", "above 0"]);
    refused(json!({ "hidden_act": "gelu" }), &["`hidden_act`", "gelu", "silu"]);
    refused(json!({ "attention_bias": "yes" }), &["`attention_bias`", "true or false"]);
    refused(json!({ "model_type": "llama", "head_dim": null, "hidden_size": 26 }), &["`head_dim`", "missing"]);
    refused(json!({ "use_sliding_window": true }), &["`use_sliding_window`"]);
    refused(json!({ "rope_scaling": { "type": "yarn" } }), &["`rope_scaling.type`", "\"yarn\"", "\"llama3\""]);
    refused(json!({ "rope_scaling": { "rope_type": 3 } }), &["`rope_scaling.rope_type`", "is 3"]);
    refused(json!({ "rope_scaling": "linear" }), &["`rope_scaling`", "an object or null"]);
    refused(json!({ "rope_scaling": { "type": "linear" } }), &["`rope_scaling.factor`", "missing"]);
    refused(json!({ "rope_scaling": { "type": "linear", "factor": 0 } }), &["`rope_scaling.factor`", "above 0"]);
    let equal = json!({ "rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4 });
    refused(json!({ "rope_parameters": equal }), &["`rope_parameters.high_freq_factor`", "above low_freq_factor (4)"]);
    let nested = json!({ "full_attention": { "rope_type": "default" } });
    refused(json!({ "rope_parameters": nested }), &["`rope_parameters`", "for all layers"]);
    refused(json!({ "partial_rotary_factor": 0.5 }), &["`partial_rotary_factor`", "0.5"]);
    refused(
        json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }),
        &["`rope_parameters.partial_rotary_factor`"],
    );
    refused(json!({ "rope_parameters": { "rope_type": "yarn" } }), &["`rope_parameters.rope_type`", "yarn"]);
    refused(json!({ "layer_types": ["sliding_attention"] }), &["`layer_types`"]);
    refused(json!({ "quantization_config": {} }), &["`quantization_config`"]);
    refused(json!({ "eos_token_id": -3 }), &["`eos_token_id`", "-3"]);
    refused(json!({ "tie_word_embeddings": 1 }), &["`tie_word_embeddings`", "true or false"]);
    assert!(ModelConfig::from_json("[", "config.json").unwrap_err().to_string().contains("not JSON"));
    assert!(ModelConfig::from_json("[]", "config.json").unwrap_err().to_string().contains("a JSON object"));
    assert!(config(true).with_real_vocab(41).unwrap_err().to_string().contains("at least the tokenizer's 41 ids"));
}

#[test]
fn weights_go_there_and_back_byte_for_byte() {
    for config in configs() {
        let tied = config.tie_word_embeddings;
        let one = model(config.clone(), 31);
        let bytes = one.to_safetensors().unwrap();
        assert_eq!(bytes.len() % 8, 0);
        let two = Transformer::from_safetensors(config, &bytes, Device::Cpu).unwrap();
        assert_eq!(two.to_safetensors().unwrap(), bytes);
        assert_eq!(two.weights_digest().unwrap(), one.weights_digest().unwrap());
        assert_eq!(one.weights_digest().unwrap().len(), 64);
        let names: Vec<String> = one.parameters().into_iter().map(|(name, _)| name).collect();
        assert!(names.is_sorted() && names.contains(&one.head_name().to_owned()));
        assert_eq!(names.contains(&"lm_head.weight".to_owned()), !tied);
        assert!(one.parameters().iter().all(|(_, p)| p.requires_grad() && p.kind() == tch::Kind::Float));
    }
}

#[test]
fn a_seed_makes_the_weights() {
    let new = |seed| Transformer::new_random(config(true), seed, Device::Cpu).unwrap();
    assert_eq!(new(1).weights_digest().unwrap(), new(1).weights_digest().unwrap());
    assert_ne!(new(1).weights_digest().unwrap(), new(2).weights_digest().unwrap());
    let biased = ModelConfig { family: Family::Llama, attention_bias: true, mlp_bias: true, ..config(false) };
    let biased = Transformer::new_random(biased, 1, Device::Cpu).unwrap().parameters();
    for (name, parameter) in new(1).parameters().into_iter().chain(biased) {
        let values = values(&parameter);
        if name.contains("norm") || name.ends_with(".bias") {
            assert!(values.iter().all(|&x| x == if name.contains("norm") { 1.0 } else { 0.0 }), "{name}");
        } else {
            let variance = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
            assert!((0.016..0.024).contains(&variance.sqrt()), "{name}: {}", variance.sqrt());
        }
    }
}

/// New weights arrive in the same tensors; bad ones leave the old untouched.
#[test]
fn weights_are_set_in_place() {
    let (mut student, newer) = (model(config(true), 33), model(config(true), 34));
    let handles = student.parameters();
    student.set_weights(&newer.to_safetensors().unwrap()).unwrap();
    assert_eq!(student.weights_digest().unwrap(), newer.weights_digest().unwrap());
    for ((_, old), (_, new)) in handles.iter().zip(newer.parameters()) {
        assert_eq!(values(old), values(&new));
        assert!(old.requires_grad() && old.is_leaf());
    }
    assert!(student.set_weights(&model(config(false), 1).to_safetensors().unwrap()[..99]).is_err());
    assert_eq!(student.weights_digest().unwrap(), newer.weights_digest().unwrap());
}

#[test]
fn the_short_types_are_half_the_bytes_and_round_once() {
    let one = model(config(true), 35);
    // Of 8 and of 11 significant bits; float16 has none below 2^-24.
    for (precision, relative, absolute) in [(Precision::Bf16, 1.0 / 256.0, 0.0), (Precision::F16, 1.0 / 2048.0, 6e-8)] {
        let small = one.to_safetensors_in(precision).unwrap();
        assert!(small.len() < one.to_safetensors().unwrap().len() * 6 / 10);
        let two = Transformer::from_safetensors(config(true), &small, Device::Cpu).unwrap();
        assert_eq!(two.to_safetensors_in(precision).unwrap(), small);
        for ((_, a), (_, b)) in one.parameters().into_iter().zip(two.parameters()) {
            let close = |(x, y): (&f32, f32)| (x - y).abs() <= x.abs() * relative + absolute;
            assert!(values(&a).iter().zip(values(&b)).all(close), "{precision:?}");
        }
    }
}

#[test]
fn a_weight_that_float16_would_make_infinite_is_refused_by_name() {
    let large = model(config(true), 35);
    let (name, weight) = large.parameters().into_iter().last().unwrap();
    let _ = tch::no_grad(|| weight.shallow_clone().fill_(7e4));
    large.to_safetensors_in(Precision::Bf16).unwrap();
    let error = large.to_safetensors_in(Precision::F16).unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("bfloat16"), "{error}");
}

/// A tied head stored a second time is the embedding again.
#[test]
fn a_repeated_head_is_left_out() {
    let untied = model(config(false), 37);
    let loaded = Transformer::from_safetensors(config(true), &untied.to_safetensors().unwrap(), Device::Cpu).unwrap();
    assert!(loaded.is_head_tied());
    assert_eq!(loaded.head().size(), [40, 24]);
    assert_eq!(values(&loaded.head()), values(&loaded.parameters()[0].1));
}

#[test]
fn folders_are_saved_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Transformer::load(dir.path(), Device::Cpu).err().unwrap().to_string();
    assert!(missing.contains("config.json") && missing.contains("cannot be read"), "{missing}");

    let one = model(config(false), 38);
    let inner = dir.path().join("new/folder");
    one.save(&inner, Precision::F32).unwrap();
    std::fs::write(inner.join("generation_config.json"), r#"{"eos_token_id": [5, 3]}"#).unwrap();
    let two = Transformer::load(&inner, Device::Cpu).unwrap();
    assert_eq!(two.weights_digest().unwrap(), one.weights_digest().unwrap());
    assert_eq!(two.config().eos_token_ids, [1, 3, 5]);
    assert_eq!(two.real_vocab(), 40);

    std::fs::remove_file(inner.join("model.safetensors")).unwrap();
    let missing = Transformer::load(&inner, Device::Cpu).err().unwrap().to_string();
    assert!(missing.contains("model.safetensors"), "{missing}");
}

/// A disk that is full, say, costs no weights that were there.
#[test]
fn what_cannot_be_written_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (model(config(true), 38), model(config(true), 39));
    one.save(dir.path(), Precision::F32).unwrap();
    let blocked = dir.path().join(".model.safetensors.part");
    std::fs::create_dir(&blocked).unwrap();
    let error = two.save(dir.path(), Precision::F32).unwrap_err().to_string();
    assert!(error.contains("model.safetensors` cannot be written"), "{error}");
    let kept = Transformer::load(dir.path(), Device::Cpu).unwrap();
    assert_eq!(kept.weights_digest().unwrap(), one.weights_digest().unwrap());
    std::fs::remove_dir(&blocked).unwrap();
    two.save(dir.path(), Precision::F32).unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}

/// Reading the same bytes gives the same logits bit for bit.
#[test]
fn a_loaded_network_computes_the_same() {
    let one = model(config(true), 40);
    let two = Transformer::from_safetensors(config(true), &one.to_safetensors().unwrap(), Device::Cpu).unwrap();
    let row = ids(1, 8, one.config());
    let hidden = |model: &Transformer| values(&model.hidden(&model.right_padded(&[&row]).unwrap()).unwrap());
    assert_eq!(hidden(&one), hidden(&two));
}
