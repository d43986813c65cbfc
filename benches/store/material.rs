//! Rows shaped like those of the arith pipeline (means of a run of it in brackets): 28 prompt tokens, 21.5 response tokens; at
//! each, 2.6 distinct of 16 draws, a sampler's top-k of 4.5 and a teacher's of 16.5 entries. The numbers are random, so Parquet
//! and zstd find less to save than in real ones.

use crate::{
    AnyError,
    reading::Line,
    run::{self, ROWS},
};
use arrow::{
    array::RecordBatch,
    datatypes::{FieldRef, Schema},
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use record::{DrawsKept, Finish, Lists, NewRollout, Ragged, Sample, Score, ScoreSet, ScoredBatch, ScoredRollout};
use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};
use store::{Follower, Store, StoreOptions};

pub const BATCHES: u64 = 64;
const VOCAB: u64 = 2048;
/// What a learner reads: rollouts, then scores.
pub const COLUMNS: [&str; 15] = [
    "prompt_ids",
    "response_ids",
    "loss_mask",
    "sampler_logprobs",
    "draw_ids",
    "draw_counts",
    "draw_logprobs",
    "sampler_top_ids",
    "sampler_top_logprobs",
    "teacher_logprobs",
    "teacher_top_ids",
    "teacher_top_logprobs",
    "teacher_tail_logprobs",
    "draw_teacher_logprobs",
    "sampler_top_teacher_logprobs",
];

/// The same rows, three times.
pub struct Written {
    pub store: Store,
    /// Bytes of the store's batches of rollouts and scores, all their columns.
    pub store_bytes: u64,
    pub parquet: PathBuf,
    pub json: PathBuf,
    /// Response tokens.
    pub tokens: u64,
}

impl Written {
    /// Writes them. Parquet holds [`COLUMNS`] only, and so does JSON; the store holds all its columns.
    pub async fn new(folder: &Path) -> Result<Self, AnyError> {
        let url = folder.join("run").display().to_string();
        let store = Store::open(&url, StoreOptions::default()).await?;
        let mut follower = start(&store).await?;
        let (parquet, json) = (folder.join("rows.parquet"), folder.join("rows.jsonl"));
        let mut lines = BufWriter::new(File::create(&json)?);
        let mut columns: Option<ArrowWriter<File>> = None;
        let (mut chance, mut tokens, mut store_bytes) = (Chance::new(1), 0, 0);
        for unit in 0..BATCHES {
            let batch = batch(unit, &mut chance)?;
            for row in batch.rows() {
                tokens += row.rollout.response_ids.len() as u64;
                serde_json::to_writer(&mut lines, &line(&row))?;
                lines.write_all(b"\n")?;
            }
            let joined = joined(&batch)?;
            let writer = match &mut columns {
                Some(writer) => writer,
                none => {
                    let zstd = Compression::ZSTD(ZstdLevel::default());
                    let properties = WriterProperties::builder().set_compression(zstd).build();
                    none.insert(ArrowWriter::try_new(File::create(&parquet)?, joined.schema(), Some(properties))?)
                }
            };
            writer.write(&joined)?;
            store_bytes += run::commit(&mut follower, unit, &batch, None).await?;
        }
        lines.flush()?;
        if let Some(writer) = columns {
            writer.close()?;
        }
        Ok(Self { store, store_bytes, parquet, json, tokens })
    }
}

/// A run with nothing in it.
pub async fn start(store: &Store) -> Result<Follower, AnyError> {
    let set = ScoreSet {
        top_k_mass: 0.9999,
        top_k_max: 64,
        top_k_floor: 0.0,
        draws: 16,
        draws_kept: DrawsKept::All,
        sampler_top_k: None,
        teacher_draws: 0,
        codec: "plain".into(),
    };
    run::start(store, set).await
}

/// Chance, and what is made of it.
pub struct Chance(run::Chance);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(run::Chance(seed))
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0.below(n)
    }

    /// From `first` to `last`, both included.
    fn between(&mut self, first: u64, last: u64) -> usize {
        (first + self.below(last - first + 1)) as usize
    }

    fn id(&mut self) -> i32 {
        self.below(VOCAB) as i32
    }

    fn logprob(&mut self) -> f32 {
        -(self.below(1 << 24) as f32) / (1 << 21) as f32
    }

    fn ids(&mut self, n: usize) -> Vec<i32> {
        (0..n).map(|_| self.id()).collect()
    }

    fn logprobs(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.logprob()).collect()
    }

    /// A list of logprobs for each length.
    fn like(&mut self, lengths: &[usize]) -> Ragged<f32> {
        lengths.iter().map(|n| self.logprobs(*n)).collect()
    }

    fn ids_like(&mut self, lengths: &[usize]) -> Ragged<i32> {
        lengths.iter().map(|n| self.ids(*n)).collect()
    }

    fn lengths(&mut self, positions: usize, first: u64, last: u64) -> Vec<usize> {
        (0..positions).map(|_| self.between(first, last)).collect()
    }
}

/// The scored rollouts of a unit.
pub fn batch(unit: u64, chance: &mut Chance) -> Result<ScoredBatch, AnyError> {
    let (mut rows, mut scores) = (Vec::new(), Vec::new());
    for row in 0..ROWS {
        let n = chance.between(8, 35);
        let (draws, sampler, teacher) = (chance.lengths(n, 1, 4), chance.lengths(n, 1, 8), chance.lengths(n, 1, 32));
        let draw_ids = chance.ids_like(&draws);
        let sample = Sample {
            response_ids: draw_ids.iter().map(|ids| ids[0]).collect(),
            sampler_logprobs: chance.logprobs(n),
            draws_taken: None,
            draw_counts: draws
                .iter()
                .map(|n| (0..*n).map(|_| chance.between(1, 8) as i32).collect::<Vec<_>>())
                .collect(),
            draw_logprobs: chance.like(&draws),
            draw_ids,
            sampler_top_ids: chance.ids_like(&sampler),
            sampler_top_logprobs: chance.like(&sampler),
            sampler_tail_logprobs: chance.logprobs(n),
            finish: Some(Finish::Stop),
        };
        rows.push(NewRollout {
            unit,
            prompt_id: unit * u64::from(ROWS) + u64::from(row),
            sample_index: 0,
            source: "bench".into(),
            prompt_ids: {
                let n = chance.between(20, 36);
                chance.ids(n)
            },
            seed: chance.below(u64::MAX),
            sample,
        });
        scores.push(Score {
            teacher_logprobs: chance.logprobs(n),
            teacher_top_ids: chance.ids_like(&teacher),
            teacher_top_logprobs: chance.like(&teacher),
            teacher_tail_logprobs: chance.logprobs(n),
            draw_teacher_logprobs: chance.like(&draws),
            sampler_top_teacher_logprobs: chance.like(&sampler),
            sampler_top_teacher_tail_logprobs: chance.logprobs(n),
            teacher_draws: None,
            teacher_entropy: Some(chance.logprobs(n)),
        });
    }
    run::encode(unit, &rows, &scores)
}

/// The learner's columns of both tables side by side.
fn joined(batch: &ScoredBatch) -> Result<RecordBatch, AnyError> {
    let tables = [batch.rollouts().as_record_batch(), batch.scores()];
    let (mut fields, mut columns) = (Vec::<FieldRef>::new(), Vec::new());
    for name in COLUMNS {
        let table = tables.iter().find(|table| table.column_by_name(name).is_some()).ok_or("no such column")?;
        let index = table.schema().index_of(name)?;
        fields.push(table.schema().fields()[index].clone());
        columns.push(table.column(index).clone());
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn line(row: &ScoredRollout) -> Line {
    let ints = |lists: Lists<i32>| lists.iter().map(<[i32]>::to_vec).collect();
    let floats = |lists: Lists<f32>| lists.iter().map(<[f32]>::to_vec).collect();
    let rollout = row.rollout;
    Line {
        prompt_ids: rollout.prompt_ids.to_vec(),
        response_ids: rollout.response_ids.to_vec(),
        loss_mask: rollout.loss_mask.to_vec(),
        sampler_logprobs: rollout.sampler_logprobs.to_vec(),
        draw_ids: ints(rollout.draw_ids),
        draw_counts: ints(rollout.draw_counts),
        draw_logprobs: floats(rollout.draw_logprobs),
        sampler_top_ids: ints(rollout.sampler_top_ids),
        sampler_top_logprobs: floats(rollout.sampler_top_logprobs),
        teacher_logprobs: row.teacher_logprobs.to_vec(),
        teacher_top_ids: ints(row.teacher_top_ids),
        teacher_top_logprobs: floats(row.teacher_top_logprobs),
        teacher_tail_logprobs: row.teacher_tail_logprobs.to_vec(),
        draw_teacher_logprobs: floats(row.draw_teacher_logprobs),
        sampler_top_teacher_logprobs: floats(row.sampler_top_teacher_logprobs),
    }
}
