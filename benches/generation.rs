//! Tokens a second of sampling and of scoring, with the models of a pipeline on its held-out prompts, on one thread.
//!
//!     cargo bench --profile dev --bench generation                                  # arith
//!     OPD_BENCH_PIPELINE=smollm2 cargo bench --profile dev --bench generation       # after `make smollm2`
//!
//! `generation_transformers.py` beside it does the same with `transformers`.

use model::{
    ChatTemplate, Device, Prompt, SamplingParams, ScoreRow, ScoringParams, Tokenizer, TopK, Transformer, chance,
    sample, score,
};
use record::Sample;
use std::{env, error::Error, fs, path::Path, time::Instant};

type AnyError = Box<dyn Error>;

/// What is measured.
struct Setup {
    pipeline: &'static str,
    /// Rows of a batch, as in a unit of the pipeline.
    rows: usize,
    /// Longest response.
    max_new_tokens: usize,
    /// Whether prompts go through the chat template.
    chat: bool,
    /// How often each measurement is taken.
    repetitions: usize,
}

const SETUPS: [Setup; 2] = [
    Setup { pipeline: "arith", rows: 64, max_new_tokens: 32, chat: false, repetitions: 9 },
    Setup { pipeline: "smollm2", rows: 32, max_new_tokens: 64, chat: true, repetitions: 3 },
];
/// What the pipeline keeps of the sampler and of the teacher.
const SAMPLER_TOP: TopK = TopK { mass: 0.99, max: 16, floor: 0.0 };
const TEACHER_TOP: TopK = TopK { mass: 0.9999, max: 64, floor: 0.0 };

fn main() -> Result<(), AnyError> {
    tch::set_num_threads(1);
    let wanted = env::var("OPD_BENCH_PIPELINE").unwrap_or("arith".into());
    let setup = SETUPS.iter().find(|setup| setup.pipeline == wanted).ok_or("OPD_BENCH_PIPELINE: arith or smollm2")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines").join(setup.pipeline);
    let tokenizer = Tokenizer::load(&folder.join("student"))?;
    let student = Transformer::load(&folder.join("student"), Device::Cpu)?;
    let teacher = Transformer::load(&folder.join("teacher"), Device::Cpu)?;
    let prompts = prompts(&folder, setup, &tokenizer)?;
    let prompt_tokens: usize = prompts.iter().map(|prompt| prompt.ids.len()).sum();

    let params = |draws, top_k| SamplingParams {
        temperature: 1.0,
        top_p: 1.0,
        max_new_tokens: setup.max_new_tokens,
        eos: tokenizer.eos_ids().to_vec(),
        draws,
        draws_kept: record::DrawsKept::All,
        top_k,
    };
    println!(
        "{}: {} rows of {:.1} prompt tokens, 1 thread, median of {}\n",
        setup.pipeline,
        setup.rows,
        prompt_tokens as f64 / setup.rows as f64,
        setup.repetitions
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
        let seconds = median(setup.repetitions, || {
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
    let params = ScoringParams { temperature: 1.0, top_k: Some(TEACHER_TOP), draws: 0, max_tokens_per_batch: 8192 };
    table.first = None;
    for (name, samples) in [("score, teacher's top-k", &bare), ("score, and draws, sampler's top-k", &samples)] {
        let rows: Vec<ScoreRow> = prompts.iter().zip(samples).map(|(p, s)| ScoreRow::new(&p.ids, s, p.seed)).collect();
        let seconds = median(setup.repetitions, || score(&teacher, &rows, &params).map(drop))?;
        table.print(name, tokens(samples), seconds);
    }
    println!("\nwhat,response_tokens,ms,tokens_per_s");
    table.csv.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn prompts(folder: &Path, setup: &Setup, tokenizer: &Tokenizer) -> Result<Vec<Prompt>, AnyError> {
    let text = fs::read_to_string(folder.join("prompts/heldout.jsonl"))?;
    let chat = ChatTemplate::load(&folder.join("student"))?.filter(|_| setup.chat);
    let prompt = |(row, line): (usize, &str)| {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let question = line["prompt"].as_str().ok_or("a line without `prompt`")?;
        let asked = match &chat {
            Some(chat) => {
                let messages = serde_json::json!([{ "role": "user", "content": question }]);
                chat.render(&messages, &serde_json::json!({}), true)?
            }
            None => question.to_owned(),
        };
        Ok(Prompt { ids: tokenizer.encode(&asked)?, seed: chance::row_seed(1, 0, row as u64, 0) })
    };
    text.lines().take(setup.rows).enumerate().map(prompt).collect()
}

fn tokens(samples: &[Sample]) -> usize {
    samples.iter().map(|sample| sample.response_ids.len()).sum()
}

fn median(repetitions: usize, mut work: impl FnMut() -> model::Result<()>) -> model::Result<f64> {
    let mut seconds = Vec::new();
    for _ in 0..repetitions {
        let start = Instant::now();
        work()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[repetitions / 2])
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
