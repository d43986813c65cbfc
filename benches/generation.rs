//! Tokens a second of sampling and of scoring, with the models of the arith pipeline on its held-out prompts, on one thread.
//!
//!     cargo bench --profile dev --bench generation

use model::{
    Device, Prompt, SamplingParams, ScoreRow, ScoringParams, Tokenizer, TopK, Transformer, chance, sample, score,
};
use record::Sample;
use std::{error::Error, fs, path::Path, time::Instant};

type AnyError = Box<dyn Error>;

/// Rows of a batch, as in a unit of the pipeline, and how often each measurement is taken.
const ROWS: usize = 64;
const REPETITIONS: usize = 9;
/// What the pipeline keeps of the sampler and of the teacher.
const SAMPLER_TOP: TopK = TopK { mass: 0.99, max: 16 };
const TEACHER_TOP: TopK = TopK { mass: 0.9999, max: 64 };

fn main() -> Result<(), AnyError> {
    tch::set_num_threads(1);
    let arith = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/arith");
    let tokenizer = Tokenizer::load(&arith.join("student"))?;
    let student = Transformer::load(&arith.join("student"), Device::Cpu)?;
    let teacher = Transformer::load(&arith.join("teacher"), Device::Cpu)?;
    let prompts = prompts(&arith.join("prompts/heldout.jsonl"), &tokenizer)?;
    let prompt_tokens: usize = prompts.iter().map(|prompt| prompt.ids.len()).sum();

    let params = |draws, top_k| SamplingParams {
        temperature: 1.0,
        top_p: 1.0,
        max_new_tokens: 32,
        eos: tokenizer.eos_ids().to_vec(),
        draws,
        top_k,
    };
    println!(
        "{ROWS} rows of {:.1} prompt tokens, 1 thread, median of {REPETITIONS}\n",
        prompt_tokens as f64 / ROWS as f64
    );
    println!(" what                              response tokens     ms      tokens/s     cost to the first");
    let mut table = Table::default();
    let mut samples = Vec::new();
    for (name, draws, top_k) in [
        ("sample", 0, None),
        ("sample, 16 draws", 16, None),
        ("sample, top-k", 0, Some(SAMPLER_TOP)),
        ("sample, 16 draws, top-k", 16, Some(SAMPLER_TOP)),
    ] {
        let params = params(draws, top_k);
        let seconds = median(|| {
            samples = sample(&student, &prompts, &params)?;
            Ok(())
        })?;
        table.print(name, tokens(&samples), seconds);
    }
    // The last samples hold draws and a top-k; the rows without them are scored for their tokens alone.
    let bare: Vec<Sample> = samples
        .iter()
        .map(|sample| Sample { response_ids: sample.response_ids.clone(), ..Sample::default() })
        .collect();
    let params = ScoringParams { temperature: 1.0, top_k: TEACHER_TOP, max_tokens_per_batch: 8192 };
    table.first = None;
    for (name, samples) in [("score, teacher's top-k", &bare), ("score, and draws, sampler's top-k", &samples)] {
        let rows: Vec<ScoreRow> = prompts.iter().zip(samples).map(|(p, s)| ScoreRow::new(&p.ids, s)).collect();
        let seconds = median(|| score(&teacher, &rows, &params).map(drop))?;
        table.print(name, tokens(samples), seconds);
    }
    println!("\nwhat,response_tokens,ms,tokens_per_s");
    table.csv.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn prompts(file: &Path, tokenizer: &Tokenizer) -> Result<Vec<Prompt>, AnyError> {
    let text = fs::read_to_string(file)?;
    let prompt = |(row, line): (usize, &str)| {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let ids = tokenizer.encode(line["prompt"].as_str().ok_or("a line without `prompt`")?)?;
        Ok(Prompt { ids, seed: chance::row_seed(1, 0, row as u64, 0) })
    };
    text.lines().take(ROWS).enumerate().map(prompt).collect()
}

fn tokens(samples: &[Sample]) -> usize {
    samples.iter().map(|sample| sample.response_ids.len()).sum()
}

fn median(mut work: impl FnMut() -> model::Result<()>) -> model::Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[REPETITIONS / 2])
}

#[derive(Default)]
struct Table {
    first: Option<f64>,
    csv: Vec<String>,
}

impl Table {
    fn print(&mut self, what: &str, tokens: usize, seconds: f64) {
        let (ms, speed) = (seconds * 1e3, tokens as f64 / seconds);
        let ratio = seconds / *self.first.get_or_insert(seconds);
        println!(" {what:<35} {tokens:>13}  {ms:>7.1}    {speed:>9.0}     {ratio:>13.2} x");
        self.csv.push(format!("{},{tokens},{ms:.2},{speed:.0}", what.replace(", ", " ")));
    }
}
