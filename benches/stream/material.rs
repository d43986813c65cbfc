//! The rows: of a recipe, or the first of a run. The recipe: 2,048 rows of 64 to 192 response tokens, at each the teacher's top-k of
//! 64 entries with distinct ids of 49,152 and log-probabilities that fall by up to 0.25 nat a rank, one draw, no sampler's top-k.

use crate::AnyError;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use record::*;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use store::{Follower, Store, StoreOptions};

pub const SET: &str = "main";
const ROWS: u32 = 64;
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
        commit(&mut plain, unit, &batch, Codec::Plain).await?;
        commit(&mut packed, unit, &batch, Codec::Fast).await
    };
    match run {
        None => {
            let mut chance = Chance(1);
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

fn work() -> Work {
    let (worker, incarnation) = ("bench".into(), "a".into());
    Work { worker, incarnation, job: Job::Rollout, started: 0, busy_s: 0.0, waited_s: 0.0, tokens: 0 }
}

/// A run with nothing in it.
async fn start(folder: &Path, codec: &str) -> Result<Follower, AnyError> {
    let store = Store::open(&folder.display().to_string(), StoreOptions::default()).await?;
    let file = store.put_file("config.json", "{}").await?;
    let weights = store.put_policy(PolicyVersion(0), "weights").await?;
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
    let run = Run {
        run_id: store::unique_id(),
        pipeline: "bench".into(),
        seed: 0,
        tokenizer: file.digest,
        teachers: BTreeMap::from([("teacher".to_string(), file.digest)]),
        prompts: PromptSet { digest: file.digest, count: 1024 },
        units: Units { prompts: ROWS, samples: 1 },
        score_sets: BTreeMap::from([(SET.to_string(), set)]),
        student_config: file.clone(),
        student_tokenizer: file,
        student_files: BTreeMap::new(),
        policy: Policy { version: PolicyVersion(0), weights },
        parent: None,
    };
    Ok(store.create(run, work()).await?)
}

/// Claims, samples and scores a unit.
async fn commit(follower: &mut Follower, unit: u64, scored: &ScoredBatch, codec: Codec) -> Result<(), AnyError> {
    let store = follower.store().clone();
    let rows = scored.len() as u32;
    let (batch, of) = (format!("u{unit:08}"), UnitRows { unit, rows: RowSet::first(rows) });
    let claim = Event::Claim(Claims { units: vec![of.clone()], batches: vec![] });
    follower.append(work(), |_| Some(claim.clone())).await?;
    let object = store.put_rollouts(&batch, scored.rollouts()).await?;
    let (scores, packing) = match codec {
        Codec::Plain => (store.put_scores(SET, &batch, scored).await?, None),
        codec => {
            let (object, packing) = store.put_packed_scores(SET, &batch, scored, codec, VOCAB as u32).await?;
            (object, Some(packing))
        }
    };
    let sampled = Event::Rollouts(RolloutCommit {
        codec: None,
        batch: batch.clone(),
        of,
        policy_version: PolicyVersion(0),
        teacher_id: scored.rollouts().teacher_id().into(),
        object,
        tokens: scored.rollouts().tokens() as u64,
        claims: Claims::default(),
    });
    follower.append(work(), |_| Some(sampled.clone())).await?;
    let claims = Claims::default();
    let scored =
        Event::Scores(ScoreCommit { batch, score_set: SET.into(), object: scores, packing, parent: None, claims });
    follower.append(work(), |_| Some(scored.clone())).await?;
    Ok(())
}

/// splitmix64: the same rows in every run of the bench.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
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
    let info = RolloutBatchInfo {
        batch: format!("u{unit:08}"),
        policy_version: PolicyVersion(0),
        teacher_id: "teacher".into(),
        temperature: 1.0,
        top_p: 1.0,
        started_at: 0,
        finished_at: 0,
    };
    Ok(ScoredBatch::encode(RolloutBatch::encode(&info, &rows)?, &scores)?)
}
