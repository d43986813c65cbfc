use model::{ModelConfig, Tokenizer};
use serde_json::{Value, json};

/// Letters as bytes-to-be, two merges, an added EOS.
fn file() -> Value {
    json!({
        "version": "1.0",
        "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
        "padding": null,
        "added_tokens": [{
            "id": 7, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true
        }],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Fuse" },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false,
            "vocab": { "a": 0, "b": 1, "c": 2, " ": 3, "ab": 4, "abc": 5, "1": 6 },
            "merges": [["a", "b"], ["ab", "c"]]
        }
    })
}

fn tokenizer(value: &Value) -> Tokenizer {
    Tokenizer::from_json(&value.to_string(), "tokenizer.json").unwrap()
}

#[test]
fn text_goes_there_and_back() {
    let tokenizer = tokenizer(&file());
    let ids = tokenizer.encode("abc ab1 c<eos>").unwrap();
    assert_eq!(ids, [5, 3, 4, 6, 3, 2, 7]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "abc ab1 c");
    assert_eq!(tokenizer.decode(&[]).unwrap(), "");
    assert_eq!((tokenizer.vocab_size(), tokenizer.id("<eos>"), tokenizer.id("no")), (8, Some(7), None));
    assert!(tokenizer.decode(&[-1]).unwrap_err().to_string().contains("never negative"));
}

#[test]
fn a_plain_prompt_gets_the_special_tokens_that_the_tokenizer_adds() {
    let mut with_bos = file();
    with_bos["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<eos>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<eos>": { "id": "<eos>", "ids": [7], "tokens": ["<eos>"] } }
    });
    let with_bos = tokenizer(&with_bos);
    assert_eq!(with_bos.encode_prompt("ab").unwrap(), [7, 4]);
    assert_eq!(with_bos.encode("ab").unwrap(), [4]);
    assert_eq!(tokenizer(&file()).encode_prompt("ab").unwrap(), [4]);
}

#[test]
fn tokenizers_are_the_same_iff_their_maps_are() {
    let one = tokenizer(&file());
    let mut same = file();
    same["truncation"] = Value::Null;
    same["model"]["merges"] = json!([["a", "b"]]);
    assert_eq!(tokenizer(&same).map_digest(), one.map_digest());
    assert_eq!(tokenizer(&same).first_difference(&one), None);

    let mut swapped = file();
    (swapped["model"]["vocab"]["c"], swapped["model"]["vocab"]["1"]) = (json!(6), json!(2));
    assert_ne!(tokenizer(&swapped).map_digest(), one.map_digest());
    let words = tokenizer(&swapped).first_difference(&one).unwrap();
    assert!(words.contains("id 2 is `1`") && words.contains("and `c`"), "{words}");

    let mut without = file();
    without["added_tokens"] = json!([]);
    let words = one.first_difference(&tokenizer(&without)).unwrap();
    assert!(words.contains("id 7 is `<eos>`") && words.contains("no token"), "{words}");
    assert_ne!(tokenizer(&without).map_digest(), one.map_digest());
}

#[test]
fn a_folder_says_eos_and_the_real_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("tokenizer.json", file());
    assert!(Tokenizer::load(dir.path()).unwrap().eos_ids().is_empty());
    write("tokenizer_config.json", json!({ "eos_token": { "content": "<eos>" } }));
    assert_eq!(Tokenizer::load(dir.path()).unwrap().eos_ids(), [7]);
    write("generation_config.json", json!({ "eos_token_id": [6, 7] }));
    let several = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(several.eos_ids(), [6, 7]);
    assert_eq!(several.end_of_text(), Some(7), "the one that tokenizer_config.json names, not the lowest");

    let config: Value = serde_json::from_str(&crate::fixtures::config(true).to_json("float32")).unwrap();
    write("config.json", config.clone());
    let read = ModelConfig::load(dir.path()).unwrap();
    assert_eq!((read.vocab_size, read.real_vocab), (40, 8));
    assert_eq!(read.eos_token_ids, [1, 6, 7]);
    write("config.json", json!({ "vocab_size": 8, "eos_token_id": 12 }));
    assert!(Tokenizer::load(dir.path()).err().unwrap().to_string().contains("`eos_token_id` 12"));
    write("tokenizer_config.json", json!({ "eos_token": "</s>" }));
    assert!(Tokenizer::load(dir.path()).err().unwrap().to_string().contains("`</s>`"));
}

#[test]
fn a_broken_file_is_named() {
    for broken in ["", "{}", "[1]"] {
        let error = Tokenizer::from_json(broken, "x/tokenizer.json").err().unwrap().to_string();
        assert!(error.contains("tokenizer `x/tokenizer.json`"), "{error}");
    }
    let mut hole = file();
    hole["added_tokens"][0]["id"] = json!(8);
    let error = Tokenizer::from_json(&hole.to_string(), "x").err().unwrap().to_string();
    assert!(error.contains("`<eos>` has id 8 in the file and gets id 7"), "{error}");
    let missing = Tokenizer::load(std::path::Path::new("no/such/folder")).err().unwrap().to_string();
    assert!(missing.contains("no/such/folder/tokenizer.json"), "{missing}");
}
