//! The arith pipeline keeps its promises.

use crate::support::{arith, opd, succeeded};
use record::Digest;
use std::collections::{BTreeMap, BTreeSet};

fn prompts(file: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(arith().join("prompts").join(file)).unwrap();
    let read = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        (value["prompt"].as_str().unwrap().to_string(), value["answer"].as_str().unwrap().to_string())
    };
    text.lines().map(read).collect()
}

/// The normalised form of README.md, written again from its words: names, things and places do not count, numbers do.
fn normalise(words: &BTreeSet<String>, prompt: &str) -> String {
    let lower = prompt.to_lowercase();
    let parts = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit()).filter(|part| !part.is_empty());
    parts.map(|part| if words.contains(part) { "_" } else { part }).collect::<Vec<_>>().join(" ")
}

#[test]
fn no_held_out_problem_occurs_in_training() {
    let lists = std::fs::read_to_string(arith().join("words.json")).unwrap();
    let lists: BTreeMap<String, Vec<String>> = serde_json::from_str(&lists).unwrap();
    let words: BTreeSet<String> = lists.into_values().flatten().map(|word| word.to_lowercase()).collect();
    let forms =
        |file| -> BTreeSet<String> { prompts(file).iter().map(|(prompt, _)| normalise(&words, prompt)).collect() };
    let (train, heldout) = (forms("train.jsonl"), forms("heldout.jsonl"));
    assert!(train.len() > 4_000 && heldout.len() >= 200, "{} and {}", train.len(), heldout.len());
    assert_eq!(train.intersection(&heldout).next(), None);
    // Cold starts draw other problems than train.jsonl does, so the rule itself must hold: by the form's digest.
    let is_held_out =
        |form: &String| u8::from_str_radix(&Digest::of(form.as_bytes()).hex()[..2], 16).unwrap().is_multiple_of(64);
    assert!(heldout.iter().all(is_held_out));
    assert!(!train.iter().any(is_held_out));
}

#[test]
fn the_pipeline_passes_its_own_preflight() {
    let pipeline = arith().with_extension("toml");
    let output = opd().arg("run").arg(pipeline).arg("--dry-run").output().unwrap();
    succeeded(&output);
}

#[test]
fn weights_are_small_and_have_the_shape_they_say() {
    let mut bytes = 0;
    for name in ["student", "teacher"] {
        let dir = arith().join(name);
        bytes += std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
        model::Transformer::load(&dir, model::Device::Cpu).unwrap();
    }
    assert!(bytes < 10_000_000, "{bytes}");
}
