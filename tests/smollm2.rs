//! SmolLM2's real weights, tokenizer and chat template: what this program makes of them is what `transformers` makes
//! (tests/golden/smollm2, written by the script there).

use crate::support::{opd, succeeded, text};
use model::{ChatTemplate, Device, Tokenizer, Transformer};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The folder of a converted model.
fn model(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/smollm2").join(name);
    assert!(dir.join("model.safetensors").exists(), "{}: run `make smollm2` first", dir.display());
    dir
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2").join(name)
}

fn golden_json() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(golden("golden.json")).unwrap()).unwrap()
}

#[test]
fn logits_are_those_of_transformers() {
    tch::set_num_threads(1);
    let tensors: std::collections::HashMap<String, Tensor> =
        Tensor::read_safetensors(golden("golden.safetensors")).unwrap().into_iter().collect();
    let _guard = tch::no_grad_guard();
    for name in ["teacher", "student"] {
        let network = Transformer::load(&model(name), Device::Cpu).unwrap();
        for i in 0..2 {
            let get = |what: &str| &tensors[&format!("{name}.{i}.{what}")];
            let ids: Vec<i32> = Vec::<i64>::try_from(get("ids")).unwrap().iter().map(|&id| id as i32).collect();
            let hidden = network.hidden(&network.right_padded(&[&ids]).unwrap()).unwrap().squeeze_dim(0);
            let logits = network.logits(&hidden).unwrap();
            let difference = |ours: &Tensor, theirs: &Tensor| (ours - theirs).abs().max().double_value(&[]);
            for (what, ours) in [
                ("top_logits", logits.gather(1, get("top_ids"), false)),
                ("log_sum_exp", logits.logsumexp([-1], false)),
                ("last", logits.get(-1)),
            ] {
                assert_eq!(ours.size(), get(what).size());
                let off = difference(&ours, get(what));
                println!("{name} {i} {what}: off by at most {off:.1e}");
                assert!(off <= 1e-4, "{name} {i} {what}: off by {off}");
            }
            assert_eq!(logits.argmax(-1, false).to_kind(Kind::Int64), get("top_ids").select(1, 0), "{name} {i}");
        }
    }
}

#[test]
fn chats_and_ids_are_those_of_transformers() {
    let golden = golden_json();
    let dir = model("student");
    let (tokenizer, template) = (Tokenizer::load(&dir).unwrap(), ChatTemplate::load(&dir).unwrap().unwrap());
    let chats = golden["chats"].as_array().unwrap();
    assert_eq!(chats.len(), 3);
    for chat in chats {
        let rendered = template.render(&chat["messages"], &serde_json::json!({}), true).unwrap();
        assert_eq!(rendered, chat["text"].as_str().unwrap());
    }
    let texts = golden["texts"].as_array().unwrap();
    assert_eq!(texts.len(), 5);
    for one in texts {
        let ids: Vec<i32> = serde_json::from_value(one["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(one["text"].as_str().unwrap()).unwrap(), ids);
    }
}

#[test]
fn the_pipeline_holds_together() {
    model("teacher");
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/smollm2.toml");
    let dir = tempfile::tempdir().unwrap();
    let store = format!("store.url={}", dir.path().join("store").display());
    let output = opd().arg("run").arg(pipeline).args(["--dry-run", "--set", &store]).output().unwrap();
    succeeded(&output);
    assert!(text(&output.stdout).contains("chat = true"));
}

#[test]
fn no_held_out_problem_occurs_in_training() {
    let prompts = |file: &str| -> std::collections::BTreeSet<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/smollm2/prompts").join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let prompt = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["prompt"].as_str().unwrap().trim().to_lowercase()
        };
        text.lines().map(prompt).collect()
    };
    let train = prompts("train.jsonl");
    assert!(train.len() >= 500, "{}", train.len());
    for file in ["heldout.jsonl", "gsm8k.jsonl"] {
        let heldout = prompts(file);
        assert!(heldout.len() >= 100, "{file}: {}", heldout.len());
        assert_eq!(train.intersection(&heldout).next(), None, "{file}");
    }
}
