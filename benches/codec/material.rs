//! Teacher's scores to pack: SmolLM2-135M-Instruct (49,152 ids) on the answers it samples itself to 256 problems of its pipeline, or
//! on the rollouts of the store that `STORE` names; its full top-128 with the tail at each position.
//!
//! A set of 152k ids is made from it, for no model of that size may lie here: `Set::split`.

use crate::AnyError;
use codec::{Level, PackedTop, TopColumn, encode_top, truncate};
use model::{
    ChatTemplate, Device, Prompt, SamplingParams, ScoreRow, ScoringParams, Tokenizer, TopK, Transformer, chance,
};
use record::{Event, Ragged};
use std::{
    env, fs,
    path::{Path, PathBuf},
};
use store::{Store, StoreError, StoreOptions};

/// Rows of a batch.
const ROWS: usize = 32;
const BATCHES: usize = 8;
const LONGEST: usize = 128;
const SMOLLM2: u32 = 49_152;
/// Qwen2.5 and Qwen3 have as many.
const QWEN: u32 = 151_936;

/// Columns of one vocabulary and one rule for their length.
pub struct Set {
    pub vocabulary: u32,
    pub k: String,
    pub batches: Vec<TopColumn>,
}

impl Set {
    pub fn vocabulary_name(&self) -> String {
        if self.vocabulary == SMOLLM2 { SMOLLM2.to_string() } else { format!("{} synthetic", self.vocabulary) }
    }

    pub fn positions(&self) -> usize {
        self.batches.iter().map(|batch| batch.layout.positions()).sum()
    }

    pub fn entries(&self) -> usize {
        self.batches.iter().map(|batch| batch.layout.entries()).sum()
    }

    fn map(&self, k: String, batch: impl Fn(usize, &TopColumn) -> TopColumn) -> Self {
        let batches = self.batches.iter().enumerate().map(|(i, column)| batch(i, column)).collect();
        Self { vocabulary: self.vocabulary, k, batches }
    }

    /// The first `k` at each position.
    pub fn first(&self, k: usize) -> Self {
        self.map(k.to_string(), |_, column| truncate(column.clone(), k))
    }

    /// The fewest that reach `mass`, as `score.top_k_mass` has it, and at most 128.
    pub fn by_mass(&self, mass: f64) -> Self {
        let cut = TopK { mass, max: LONGEST, floor: 0.0 };
        self.map(format!("mass {mass}"), |_, column| {
            let mut out = TopColumn::default();
            for row in 0..column.layout.rows() {
                for t in column.layout.row(row) {
                    let range = column.layout.list(t);
                    let (kept, tail) = cut.keep(&column.logprobs[range.clone()], column.tails[t]);
                    out.ids.extend(&column.ids[range.clone()][..kept]);
                    out.logprobs.extend(&column.logprobs[range][..kept]);
                    out.tails.push(tail);
                    out.layout.push_list(kept);
                }
                out.layout.end_row();
            }
            out
        })
    }

    /// The same scores with every id split into three of a vocabulary three times as large: a row uses the first of an id's three
    /// with probability 0.55, the second with 0.3, the third with 0.15, by a hash of row and id. Log-probabilities, ranks and
    /// reuse within a row stay as they are; an id costs up to 1.4 bits more and a batch has up to three times as many.
    pub fn split(&self, parts: i32) -> Self {
        let mut set = self.map(self.k.clone(), |batch, column| {
            let mut out = column.clone();
            for row in 0..column.layout.rows() {
                for at in column.layout.row(row).flat_map(|t| column.layout.list(t)) {
                    let id = column.ids[at];
                    let draw = chance::row_seed(7, id as u64, (batch * ROWS + row) as u64, 0) % 100;
                    out.ids[at] = id * parts
                        + if draw < 55 {
                            0
                        } else if draw < 85 {
                            1
                        } else {
                            2
                        };
                }
            }
            out
        });
        set.vocabulary = QWEN;
        set
    }
}

/// The real scores, from the cache if they are there.
pub fn real() -> Result<Set, AnyError> {
    let home = env::var("HOME").map(|home| Path::new(&home).join(".cache/opd"));
    let cache = env::var("OPD_CACHE").map(PathBuf::from).or(home)?.join("bench-codec");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/smollm2");
    let recipe =
        fs::canonicalize(folder.join("teacher")).map_err(|error| format!("{error}: run `make smollm2` first"))?;
    let recipe = recipe.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
    let store = env::var("STORE").ok().filter(|url| !url.is_empty());
    let paths: Vec<PathBuf> = (0..BATCHES).map(|i| cache.join(format!("top128-{recipe}-{i}.opdc"))).collect();
    if store.is_none() && paths.iter().all(|path| path.exists()) {
        println!("scores of {}", cache.display());
        let read = |path: &PathBuf| Ok(PackedTop::parse(&fs::read(path)?)?.decode(usize::MAX)?);
        let batches = paths.iter().map(read).collect::<Result<_, AnyError>>()?;
        return Ok(Set { vocabulary: SMOLLM2, k: LONGEST.to_string(), batches });
    }
    let teacher = Transformer::load(&folder.join("teacher"), Device::Cpu)?;
    let sequences = match &store {
        Some(url) => rollouts(url, &Tokenizer::load(&folder.join("teacher"))?)?,
        None => sampled(&folder, &teacher)?,
    };
    let batches: Vec<TopColumn> =
        sequences.chunks(ROWS).map(|rows| scores(&teacher, rows)).collect::<Result<_, _>>()?;
    if store.is_none() {
        fs::create_dir_all(&cache)?;
        for (batch, path) in batches.iter().zip(&paths) {
            fs::write(path, encode_top(batch, Level::Lossless, SMOLLM2)?)?;
        }
    }
    Ok(Set { vocabulary: SMOLLM2, k: LONGEST.to_string(), batches })
}

type Sequence = (Vec<i32>, Vec<i32>);

/// Prompts and responses of a store's newest batches, whose ids have to be the teacher's.
#[tokio::main]
async fn rollouts(url: &str, tokenizer: &Tokenizer) -> Result<Vec<Sequence>, AnyError> {
    // Cargo runs a bench where the package lies, as `make` does.
    let fault = |error: StoreError| format!("STORE `{url}`: {error}");
    let store = Store::open(url, StoreOptions::default()).await.map_err(fault)?;
    let has = store.follow().await.map_err(fault)?.snapshot().run.tokenizer.to_string();
    let wants = format!("sha256:{}", tokenizer.map_digest());
    if has != wants {
        return Err(format!(
            "STORE `{url}`: its tokenizer is {has}, expected {wants}: give it a run of `make demo-smollm2`"
        )
        .into());
    }
    let mut sequences = Vec::new();
    for commit in store.history(None).await?.iter().rev() {
        if let Event::Rollouts(commit) = &commit.event {
            let batch = store.get_rollouts(&commit.object).await?;
            sequences.extend(batch.rows().map(|row| (row.prompt_ids.to_vec(), row.response_ids.to_vec())));
        }
        if sequences.len() >= ROWS * BATCHES {
            break;
        }
    }
    println!("rollouts of {url}, the newest {}", sequences.len());
    Ok(sequences)
}

/// What the teacher answers to problems of its pipeline.
fn sampled(folder: &Path, teacher: &Transformer) -> Result<Vec<Sequence>, AnyError> {
    println!("sampling {} rows; a few minutes, once", ROWS * BATCHES);
    let tokenizer = Tokenizer::load(&folder.join("teacher"))?;
    let chat = ChatTemplate::load(&folder.join("student"))?.ok_or("the student has no chat template")?;
    let text = fs::read_to_string(folder.join("prompts/train.jsonl"))?;
    let prompts = text.lines().take(ROWS * BATCHES).enumerate().map(|(row, line)| {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let messages = serde_json::json!([{ "role": "user", "content": line["prompt"] }]);
        let asked = chat.render(&messages, &serde_json::json!({}), true)?;
        Ok(Prompt { ids: tokenizer.encode(&asked)?, seed: chance::row_seed(1, 0, row as u64, 0) })
    });
    let prompts = prompts.collect::<Result<Vec<_>, AnyError>>()?;
    let params = SamplingParams {
        temperature: 1.0,
        top_p: 1.0,
        max_new_tokens: 64,
        eos: tokenizer.eos_ids().to_vec(),
        draws: 0,
        draws_kept: Default::default(),
        top_k: None,
    };
    let mut sequences = Vec::new();
    for prompts in prompts.chunks(ROWS) {
        let samples = model::sample(teacher, prompts, &params)?;
        sequences.extend(prompts.iter().zip(samples).map(|(prompt, sample)| (prompt.ids.clone(), sample.response_ids)));
    }
    Ok(sequences)
}

fn scores(teacher: &Transformer, rows: &[Sequence]) -> Result<TopColumn, AnyError> {
    let none = Ragged::new();
    let rows: Vec<ScoreRow<'_>> = rows
        .iter()
        .map(|(prompt_ids, response_ids)| ScoreRow {
            prompt_ids,
            response_ids,
            draw_ids: &none,
            sampler_top_ids: &none,
            seed: 0,
        })
        .collect();
    let params = ScoringParams {
        temperature: 1.0,
        top_k: Some(TopK { mass: 1.0, max: LONGEST, floor: 0.0 }),
        draws: 0,
        max_tokens_per_batch: 2048,
    };
    let mut column = TopColumn::default();
    for score in model::score(teacher, &rows, &params)? {
        for list in score.teacher_top_ids.iter() {
            column.layout.push_list(list.len());
        }
        column.layout.end_row();
        column.ids.extend(score.teacher_top_ids.values());
        column.logprobs.extend(score.teacher_top_logprobs.values());
        column.tails.extend(score.teacher_tail_logprobs);
    }
    Ok(column)
}
