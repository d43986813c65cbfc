use crate::fixtures::{config, model};
use model::{Device, Family, ModelConfig, Precision, Transformer};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// The header of a safetensors file as JSON, and its data.
fn taken_apart(bytes: &[u8]) -> (Map<String, Value>, Vec<u8>) {
    let size = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..size]).unwrap(), bytes[size..].to_vec())
}

fn put_together(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A checkpoint of `shards` files with an index.
fn save_in_shards(model: &Transformer, dir: &Path, shards: usize) {
    model.save(dir, Precision::F32).unwrap();
    let (mut header, data) = taken_apart(&model.to_safetensors().unwrap());
    header.remove("__metadata__");
    let mut index = Map::new();
    for shard in 0..shards {
        let (mut part, mut bytes) = (Map::new(), Vec::new());
        for (name, entry) in header.iter().skip(shard).step_by(shards) {
            let [start, end] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().unwrap() as usize);
            let at = bytes.len();
            bytes.extend_from_slice(&data[start..end]);
            let offsets = [at, bytes.len()];
            part.insert(name.clone(), json!({ "dtype": "F32", "shape": entry["shape"], "data_offsets": offsets }));
            index.insert(name.clone(), shard_name(shard).into());
        }
        fs::write(dir.join(shard_name(shard)), put_together(&part.into(), &bytes)).unwrap();
    }
    write_index(dir, &json!({ "metadata": {}, "weight_map": index }));
    fs::remove_file(dir.join("model.safetensors")).unwrap();
}

fn shard_name(shard: usize) -> String {
    format!("part-{shard}.safetensors")
}

fn write_index(dir: &Path, index: &Value) {
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A shard's header after `change`, with the same data.
fn change_header(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let (mut header, data) = taken_apart(&fs::read(path).unwrap());
    change(&mut header);
    fs::write(path, put_together(&header.into(), &data)).unwrap();
}

/// Checking and loading give one message, with all of the words in it.
#[track_caller]
fn refused(dir: &Path, words: &[&str]) {
    let config = ModelConfig::load(dir).unwrap();
    let checked = Transformer::check(dir, &config).unwrap_err().to_string();
    let loaded = Transformer::load(dir, Device::Cpu).err().unwrap().to_string();
    assert_eq!(checked, loaded);
    assert!(words.iter().all(|word| checked.contains(word)), "{checked}");
}

#[test]
fn shards_are_read_by_their_index() {
    let one = model(config(true), 39);
    let dir = tempfile::tempdir().unwrap();
    save_in_shards(&one, dir.path(), 3);
    Transformer::check(dir.path(), one.config()).unwrap();
    let two = Transformer::load(dir.path(), Device::Cpu).unwrap();
    assert_eq!(two.weights_digest().unwrap(), one.weights_digest().unwrap());
}

#[test]
fn what_shards_get_wrong_is_named() {
    let one = model(config(true), 39);
    let whole = tempfile::tempdir().unwrap();
    save_in_shards(&one, whole.path(), 3);
    // Each damage is done to a fresh copy.
    let damaged = |damage: &dyn Fn(&Path), words: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(whole.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        damage(dir.path());
        refused(dir.path(), words);
    };
    let remove = |dir: &Path, shard| fs::remove_file(dir.join(shard_name(shard))).unwrap();
    damaged(&|dir| remove(dir, 1), &["`part-1.safetensors` is missing", "1 of the 3 files", "index.json"]);
    damaged(
        &|dir| [0, 2].into_iter().for_each(|i| remove(dir, i)),
        &["`part-0.safetensors` is missing", "2 of the 3 files"],
    );
    let changed = |name: &'static str, shard, key: &'static str, value: Value, words: &[&str]| {
        let file = shard_name(shard);
        let damage = |dir: &Path| {
            change_header(&dir.join(&file), |header| {
                match value.is_null() {
                    true => drop(header.remove(name).unwrap()),
                    false => header.get_mut(name).unwrap()[key] = value.clone(),
                };
            });
        };
        damaged(&damage, words);
    };
    // Names ascend, and this is the first.
    let embedding = "model.embed_tokens.weight";
    let shape = json!([24, 40]);
    changed(embedding, 0, "shape", shape, &["part-0.safetensors`", embedding, "[24, 40]", "asks for [40, 24]"]);
    changed(embedding, 0, "dtype", json!("F8_E4M3"), &["part-0.safetensors`", embedding, "is F8_E4M3", "convert"]);
    changed(embedding, 0, "dtype", json!(4), &["part-0.safetensors`", embedding, "is 4;"]);
    changed(embedding, 0, "dtype", json!("F16"), &[embedding, "[40, 24] of 2-byte numbers", "1920 bytes", "0 to 3840"]);
    changed(embedding, 0, "shape", json!([1_u64 << 40, 1_u64 << 40]), &[embedding, "more than any file"]);
    changed(embedding, 0, "shape", json!([0, u64::MAX]), &[embedding, "which is 0 bytes"]);
    changed(embedding, 0, "shape", json!([-40, 24]), &[embedding, "has shape [-40,24]", "a list of sizes"]);
    changed(embedding, 0, "data_offsets", json!([8, 3848]), &[embedding, "starts at byte", "expected"]);
    changed(embedding, 0, "data_offsets", json!([3840, 0]), &[embedding, "data_offsets 3840 to 0"]);
    changed(embedding, 0, "data_offsets", json!([0]), &[embedding, "data_offsets [0]"]);
    let last = json!([u64::MAX - 3840, u64::MAX]);
    changed(embedding, 0, "data_offsets", last, &[embedding, "data_offsets"]);
    // An empty stand-in takes no data, so the rest of the file still lies where it did.
    let damage = |dir: &Path| {
        change_header(&dir.join(shard_name(0)), |header| {
            let empty = json!({ "dtype": "F32", "shape": [0], "data_offsets": [0, 0] });
            header.insert("model.layers.9.mlp.up_proj.weight".into(), empty);
        });
    };
    damaged(&damage, &["part-0.safetensors`", "`model.layers.9.mlp.up_proj.weight`", "not part of the network"]);
    let twice = |dir: &Path| fs::copy(dir.join(shard_name(0)), dir.join(shard_name(1))).map(drop).unwrap();
    damaged(&twice, &["part-1.safetensors`", embedding, "part-0.safetensors` too"]);
    let fewer = |dir: &Path| write_index(dir, &json!({ "weight_map": { embedding: "part-0.safetensors" } }));
    damaged(&fewer, &["is missing, expected with shape [", "belong together"]);
    let cut = |dir: &Path| {
        let file = fs::OpenOptions::new().write(true).open(dir.join(shard_name(2))).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    };
    damaged(&cut, &["part-2.safetensors`", "`model.norm.weight` ends at", "cut short; copy it again"]);
}

#[test]
fn an_index_stays_in_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    model(config(true), 39).save(&dir.path().join("inner"), Precision::F32).unwrap();
    let inner = dir.path().join("inner");
    fs::rename(inner.join("model.safetensors"), dir.path().join("outside.safetensors")).unwrap();
    for file in
        ["../outside.safetensors", "/etc/passwd", "..", ".", "", "a/b.safetensors", "a/", "..\\outside.safetensors"]
    {
        write_index(&inner, &json!({ "weight_map": { "model.norm.weight": file } }));
        refused(&inner, &["index.json`", "`weight_map` is \"", "files beside it"]);
    }
    for (map, found) in [(json!(null), "null"), (json!({}), "empty"), (json!({ "x": 3 }), "is 3"), (json!([1]), "[1]")]
    {
        write_index(&inner, &json!({ "weight_map": map }));
        refused(&inner, &["`weight_map`", found]);
    }
    fs::write(inner.join("model.safetensors.index.json"), "{").unwrap();
    refused(&inner, &["`weight_map` is not JSON"]);
    fs::write(inner.join("model.safetensors.index.json"), "\n".repeat(100_000_001)).unwrap();
    refused(&inner, &["in a file of 100000001 bytes"]);
}

#[test]
fn what_weights_get_wrong_is_named() {
    let bytes = model(config(true), 36).to_safetensors().unwrap();
    let refused = |config: ModelConfig, bytes: &[u8]| match Transformer::from_safetensors(config, bytes, Device::Cpu) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    let error = refused(config(false), &bytes);
    assert!(error.contains("`lm_head.weight` is missing") && error.contains("[40, 24]"), "{error}");
    let wider = ModelConfig { intermediate_size: 41, ..config(true) };
    let error = refused(wider, &bytes);
    assert!(error.contains("mlp.down_proj") && error.contains("[24, 40]") && error.contains("[24, 41]"), "{error}");
    let error = refused(ModelConfig { num_hidden_layers: 1, ..config(true) }, &bytes);
    assert!(error.contains("`model.layers.1.") && error.contains("not part of the network"), "{error}");
    let error = refused(ModelConfig { family: Family::Qwen2, ..config(true) }, &bytes);
    assert!(error.contains("k_norm.weight` with shape [10] is not part of the network"), "{error}");

    let longer = [&bytes[..], &[0]].concat();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec();
    let unbounded = json!({ "dtype": "F32", "shape": [0, u64::MAX], "data_offsets": [0, 0] });
    let sized = |size: u64| [&size.to_le_bytes()[..], &bytes[8..]].concat();
    for (broken, words) in [
        (bytes[..bytes.len() - 1].to_vec(), "cut short"),
        (longer, "its last tensor ends at"),
        (bytes[..4].to_vec(), "ends after 4 bytes"),
        (Vec::new(), "ends after 0 bytes"),
        (b"not safetensors at all".to_vec(), "its header would have"),
        (sized(u64::MAX), "its header would have 18446744073709551615 bytes"),
        (sized(1 << 40), "its header would have 1099511627776 bytes"),
        (sized(5), "its header is not a JSON object"),
        (put_together(&json!([1]), &[]), "its header is not a JSON object"),
        (put_together(&json!({ "x": 1 }), &[]), "tensor `x` is null"),
        (put_together(&json!({ "x": unbounded }), &[]), "tensor `x` has a shape beyond any memory"),
        (pointer, "git lfs pull"),
    ] {
        let error = refused(config(true), &broken);
        assert!(error.contains("`weights` is not a safetensors file") && error.contains(words), "{error}");
    }
}

/// Old Llama checkpoints hold the rotary frequencies, which config.json gives anyway.
#[test]
fn stored_frequencies_are_left_out() {
    let one = model(ModelConfig { family: Family::Llama, ..config(false) }, 41);
    let (mut header, mut data) = taken_apart(&one.to_safetensors().unwrap());
    let entry = json!({ "dtype": "F32", "shape": [5], "data_offsets": [data.len(), data.len() + 20] });
    header.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), entry);
    data.extend([0; 20]);
    let bytes = put_together(&header.into(), &data);
    let two = Transformer::from_safetensors(one.config().clone(), &bytes, Device::Cpu).unwrap();
    assert_eq!(two.weights_digest().unwrap(), one.weights_digest().unwrap());
}

/// The check reads headers only: a checkpoint of 140 GB, all of it a hole in the disk, is checked like any other.
#[test]
fn a_large_checkpoint_is_checked_without_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let large = json!({
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 8192, "intermediate_size": 28_672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    });
    let config = ModelConfig::from_json(&large.to_string(), "config.json").unwrap();
    let mut header = Map::new();
    let mut end = 0_u64;
    let mut add = |name: String, shape: &[u64]| {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        header.insert(name, json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }));
    };
    for name in ["model.embed_tokens", "lm_head"] {
        add(format!("{name}.weight"), &[128_256, 8192]);
    }
    add("model.norm.weight".into(), &[8192]);
    for layer in 0..80 {
        for (part, shape) in [
            ("input_layernorm", &[8192][..]),
            ("post_attention_layernorm", &[8192]),
            ("self_attn.q_proj", &[8192, 8192]),
            ("self_attn.k_proj", &[1024, 8192]),
            ("self_attn.v_proj", &[1024, 8192]),
            ("self_attn.o_proj", &[8192, 8192]),
            ("mlp.gate_proj", &[28_672, 8192]),
            ("mlp.up_proj", &[28_672, 8192]),
            ("mlp.down_proj", &[8192, 28_672]),
        ] {
            add(format!("model.layers.{layer}.{part}.weight"), shape);
        }
    }
    let path = dir.path().join("model.safetensors");
    fs::write(&path, put_together(&header.into(), &[])).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len() + end;
    file.set_len(length).unwrap();
    assert!(end > 140_000_000_000);
    Transformer::check(dir.path(), &config).unwrap();
    file.set_len(length - 1).unwrap();
    let error = Transformer::check(dir.path(), &config).unwrap_err().to_string();
    assert!(error.contains("model.safetensors`") && error.contains("cut short"), "{error}");
}

proptest! {
    /// Damage of any kind is an error or nothing, never a panic.
    #[test]
    fn damaged_headers_never_panic(changes in prop::collection::vec((0_usize..2400, any::<u8>()), 1..6), cut in 0_usize..9000) {
        let mut bytes = model(config(true), 36).to_safetensors().unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut / 8 * (cut % 2));
        let _ = Transformer::from_safetensors(config(true), &bytes, Device::Cpu);
    }
}
