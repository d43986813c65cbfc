//! Logits against those of `transformers` 5.19.0, on the checkpoints in tests/golden (made by make.py there).

use crate::config::Family;
use crate::decoder::Decoder;
use crate::host;
use crate::transformer::Transformer;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Largest difference of any logit. They reach 14 to 30, where neighbouring float32 numbers are 1e-6 to 2e-6 apart.
const TOLERANCE: f64 = 1e-4;

struct Golden {
    name: String,
    model: Transformer,
    rows: Vec<Vec<i32>>,
    /// `[B, T, real_vocab]`.
    logits: Tensor,
}

impl Golden {
    fn load(dir: &Path) -> Self {
        tch::set_num_threads(1);
        let model = Transformer::load(dir, Device::Cpu).unwrap();
        let bytes = std::fs::read(dir.join("logits.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let ids = file.tensor("ids").unwrap();
        let words = ids.data().chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap()));
        let rows = words.collect::<Vec<_>>().chunks(ids.shape()[1]).map(<[i32]>::to_vec).collect();
        let logits = file.tensor("logits").unwrap();
        let shape: Vec<i64> = logits.shape().iter().map(|&n| n as i64).collect();
        let logits = Tensor::from_data_size(logits.data(), &shape, tch::Kind::Float);
        let logits = logits.narrow(2, 0, model.real_vocab() as i64);
        Self { name: dir.file_name().unwrap().display().to_string(), model, rows, logits }
    }

    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut dirs: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        dirs.retain(|path| path.is_dir());
        dirs.sort();
        assert_eq!(dirs.len(), 7);
        dirs.iter().map(|dir| Self::load(dir)).collect()
    }

    /// The largest difference between logits found and those of row `row` from position `first` on.
    fn difference(&self, found: &Tensor, row: usize, first: usize) -> f64 {
        let expected = self.logits.get(row as i64).narrow(0, first as i64, found.size()[0]);
        assert_eq!(found.size(), expected.size());
        (found - expected).abs().max().double_value(&[])
    }
}

#[test]
fn a_whole_pass_agrees_with_transformers() {
    for golden in Golden::all() {
        let Golden { model, rows, .. } = &golden;
        // The second row is cut short, so that it is padded.
        let rows = [&rows[0][..], &rows[1][..17]];
        let _guard = tch::no_grad_guard();
        let hidden = model.hidden(&model.right_padded(&rows).unwrap()).unwrap();
        let difference = |(row, ids): (usize, &&[i32])| {
            let hidden = hidden.get(row as i64).narrow(0, 0, ids.len() as i64);
            golden.difference(&model.logits(&hidden).unwrap(), row, 0)
        };
        let largest = rows.iter().enumerate().map(difference).fold(0.0, f64::max);
        println!("{}: {largest:.1e}", golden.name);
        assert!(largest <= TOLERANCE, "{}: {largest}", golden.name);
    }
}

/// Prompts of different lengths are read at once, then each row goes on token by token; in the middle one row is let go.
#[test]
fn cached_decoding_agrees_with_transformers() {
    for golden in Golden::all() {
        let Golden { model, rows, .. } = &golden;
        let _guard = tch::no_grad_guard();
        // What is read of each row of the decoder: the row, and how far.
        let mut read = vec![(0, 11), (1, 3), (0, 1)];
        let prompts: Vec<&[i32]> = read.iter().map(|&(row, end)| &rows[row][..end]).collect();
        let (mut decoder, mut hidden) = Decoder::start(model, &prompts).unwrap();
        let mut largest = 0.0_f64;
        for step in 0..29 {
            let logits = model.logits(&hidden).unwrap();
            for (i, &(row, end)) in read.iter().enumerate() {
                largest = largest.max(golden.difference(&logits.narrow(0, i as i64, 1), row, end - 1));
            }
            if step == 9 {
                decoder.keep(&[2, 1]).unwrap();
                read = vec![read[2], read[1]];
            }
            let next: Vec<i64> = read.iter().map(|&(row, end)| i64::from(rows[row][end])).collect();
            hidden = decoder.step(&next).unwrap();
            read.iter_mut().for_each(|(_, end)| *end += 1);
        }
        println!("{}: {largest:.1e}", golden.name);
        assert!(largest <= TOLERANCE, "{}: {largest}", golden.name);
    }
}

/// The files differ in what they are meant to differ in, or the other tests would prove less than they say.
#[test]
fn golden_checkpoints_are_as_unusual_as_they_say() {
    let all = Golden::all();
    for family in Family::ALL {
        let of_family: Vec<&Golden> = all.iter().filter(|golden| golden.model.config().family == family).collect();
        assert!(of_family.iter().any(|golden| golden.model.is_head_tied()));
        assert!(of_family.iter().any(|golden| !golden.model.is_head_tied()));
    }
    for golden in &all {
        assert!(golden.logits.abs().max().double_value(&[]) > 10.0, "{}", golden.name);
        for (name, parameter) in golden.model.parameters() {
            let values = host::to_floats(&parameter.detach()).unwrap();
            assert!(values.iter().any(|&x| (x - values[0]).abs() > 0.1), "{}: {name} is constant", golden.name);
        }
    }
    let named = |name: &str| all.iter().find(|golden| golden.name == name).unwrap();
    let padded = named("qwen2-padded").model.config();
    assert_eq!((padded.real_vocab, padded.vocab_size, &padded.eos_token_ids[..]), (57, 64, &[5][..]));
    assert_eq!(named("qwen2-shards").model.config().eos_token_ids, [4, 58]);
    assert_eq!(named("qwen3-biases").model.config().eos_token_ids, [1, 66]);
    assert_eq!(named("qwen3-wide").model.config().head_dim, 128);
    assert_eq!(named("llama-biases").model.config().num_key_value_heads, 5);
    // Without its scaling the network is another one.
    let scaled = named("llama-scaled");
    let plain = crate::ModelConfig { rope_scaling: None, ..scaled.model.config().clone() };
    let bytes = scaled.model.to_safetensors().unwrap();
    let plain = Transformer::from_safetensors(plain, &bytes, Device::Cpu).unwrap();
    let _guard = tch::no_grad_guard();
    let hidden = plain.hidden(&plain.right_padded(&scaled.rows[..1]).unwrap()).unwrap();
    assert!(scaled.difference(&plain.logits(&hidden.get(0)).unwrap(), 0, 0) > 1.0);
}
