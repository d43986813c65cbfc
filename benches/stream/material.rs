//! The rows: of a recipe, or the first of a run. The recipe: 2,048 rows of 64 to 192 response tokens, at each the teacher's top-k of
//! 64 entries with distinct ids of 49,152 and log-probabilities that fall by up to 0.25 nat a rank, one draw, no sampler's top-k.

use crate::{
    AnyError,
    run::{self, ROWS},
};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use record::{
    Codec, DrawsKept, Event, Finish, NewRollout, ObjectRef, Ragged, RolloutBatch, Sample, Score, ScoreSet, ScoredBatch,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use store::{Follower, Store, StoreOptions};

const BATCHES: u64 = 32;
const OF_A_RUN: u64 = 64;
const K: usize = 64;
const VOCAB: u64 = 49_152;
/// Mass outside the top-k.
const TAIL: f32 = 0.02;

/// The same rows, twice; and where the peers' files go.
pub struct Written {
    pub plain: PathBuf,
    pub packed: PathBuf,
    pub peers: PathBuf,
    /// What they are.
    pub says: String,
}

pub async fn write(folder: &Path, run: Option<&str>) -> Result<Written, AnyError> {
    let written = Written {
        plain: folder.join("plain"),
        packed: folder.join("packed"),
        peers: folder.join("peers"),
        says: String::new(),
    };
    let (mut plain, mut packed) = (start(&written.plain, "plain").await?, start(&written.packed, "fast").await?);
    let (mut positions, mut entries, mut rows) = (0, 0, 0);
    let mut add = async |unit: u64, batch: ScoredBatch| -> Result<(), AnyError> {
        for row in batch.rows() {
            positions += row.rollout.response_ids.len();
            entries += row.teacher_top_ids.values().len();
            rows += 1;
        }
        run::commit(&mut plain, unit, &batch, None).await?;
        run::commit(&mut packed, unit, &batch, Some((Codec::Fast, VOCAB as u32))).await?;
        Ok(())
    };
    match run {
        None => {
            let mut chance = Chance(run::Chance(1));
            for unit in 0..BATCHES {
                add(unit, batch(unit, &mut chance)?).await?;
            }
        }
        Some(url) => {
            let store = Store::open(url, StoreOptions::default()).await?;
            let commits = store.history(None).await?;
            let rollouts: BTreeMap<&str, &ObjectRef> = commits
                .iter()
                .filter_map(|commit| match &commit.event {
                    Event::Rollouts(rollouts) => Some((rollouts.batch.as_str(), &rollouts.object)),
                    _ => None,
                })
                .collect();
            let scores = commits.iter().filter_map(|commit| match &commit.event {
                Event::Scores(scores) => Some((&scores.object, *rollouts.get(scores.batch.as_str())?)),
                _ => None,
            });
            for (unit, (scores, rollouts)) in (0..OF_A_RUN).zip(scores) {
                let rollouts = store.get_rollouts(rollouts).await?.as_record_batch().clone();
                // All of version 0: there is no learner here.
                let versions: ArrayRef = Arc::new(Int64Array::from_value(0, rollouts.num_rows()));
                let rollouts = RolloutBatch::try_new(with_column(&rollouts, "policy_version", versions)?)?;
                add(unit, ScoredBatch::zip(rollouts, store.get_scores(scores).await?)?).await?;
            }
        }
    }
    let (length, k) = (positions as f64 / f64::from(rows), entries as f64 / positions as f64);
    Ok(Written { says: format!("{rows} rows of {length:.1} response tokens and {k:.1} entries each"), ..written })
}

fn with_column(batch: &RecordBatch, name: &str, column: ArrayRef) -> Result<RecordBatch, AnyError> {
    let mut columns = batch.columns().to_vec();
    columns[batch.schema().index_of(name)?] = column;
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// A run with nothing in it.
async fn start(folder: &Path, codec: &str) -> Result<Follower, AnyError> {
    let store = Store::open(&folder.display().to_string(), StoreOptions::default()).await?;
    let set = ScoreSet {
        top_k_mass: 1.0,
        top_k_max: K as u32,
        top_k_floor: 0.0,
        draws: 1,
        draws_kept: DrawsKept::All,
        sampler_top_k: None,
        teacher_draws: 0,
        codec: codec.into(),
    };
    run::start(&store, set).await
}

/// Chance, and what is made of it.
struct Chance(run::Chance);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0.below(n)
    }

    fn logprob(&mut self) -> f32 {
        -(self.below(1 << 20) as f32) / (1 << 18) as f32
    }

    fn logprobs(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.logprob()).collect()
    }

    /// A top-k at each of `n` positions: ids a random stride apart, so distinct.
    fn top(&mut self, n: usize) -> (Ragged<i32>, Ragged<f32>) {
        let (mut ids, mut logprobs) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let (first, stride) = (self.below(VOCAB), 1 + 2 * self.below(300));
            ids.push((0..K as u64).map(|i| ((first + i * stride) % VOCAB) as i32).collect::<Vec<_>>());
            let mut logprob = 0.0;
            let falling = |_| {
                logprob -= self.below(1 << 16) as f32 / (1 << 18) as f32;
                logprob
            };
            let falling: Vec<f32> = (0..K).map(falling).collect();
            let mass = falling.iter().map(|logprob| logprob.exp()).sum::<f32>() / (1.0 - TAIL);
            logprobs.push(falling.iter().map(|logprob| logprob - mass.ln()).collect::<Vec<_>>());
        }
        (ids.into_iter().collect(), logprobs.into_iter().collect())
    }
}

fn batch(unit: u64, chance: &mut Chance) -> Result<ScoredBatch, AnyError> {
    let (mut rows, mut scores) = (Vec::new(), Vec::new());
    let none = |n: usize| -> Ragged<f32> { vec![Vec::new(); n].into_iter().collect() };
    for row in 0..ROWS {
        let n = 64 + chance.below(129) as usize;
        let response_ids: Vec<i32> = (0..n).map(|_| chance.below(VOCAB) as i32).collect();
        let logprobs = chance.logprobs(n);
        let (teacher_top_ids, teacher_top_logprobs) = chance.top(n);
        let sample = Sample {
            draw_ids: response_ids.iter().map(|id| vec![*id]).collect(),
            draw_counts: vec![vec![1]; n].into_iter().collect(),
            draw_logprobs: logprobs.iter().map(|logprob| vec![*logprob]).collect(),
            draws_taken: None,
            response_ids,
            sampler_logprobs: logprobs,
            sampler_top_ids: vec![Vec::new(); n].into_iter().collect(),
            sampler_top_logprobs: none(n),
            sampler_tail_logprobs: vec![0.0; n],
            finish: Some(Finish::Stop),
        };
        let teacher_logprobs = chance.logprobs(n);
        scores.push(Score {
            draw_teacher_logprobs: teacher_logprobs.iter().map(|logprob| vec![*logprob]).collect(),
            teacher_logprobs,
            teacher_top_ids,
            teacher_top_logprobs,
            teacher_tail_logprobs: vec![TAIL.ln(); n],
            sampler_top_teacher_logprobs: none(n),
            sampler_top_teacher_tail_logprobs: vec![0.0; n],
            teacher_draws: None,
            teacher_entropy: None,
        });
        rows.push(NewRollout {
            unit,
            prompt_id: unit * u64::from(ROWS) + u64::from(row),
            sample_index: 0,
            source: "bench".into(),
            prompt_ids: vec![1; 64],
            seed: chance.below(u64::MAX),
            sample,
        });
    }
    run::encode(unit, &rows, &scores)
}
