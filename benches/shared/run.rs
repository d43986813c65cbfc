//! A run with nothing in it, the commits that a batch takes, and chance that gives the same in every run of a bench.

use record::{
    Claims, Codec, Event, Job, NewRollout, Policy, PolicyVersion, PromptSet, RolloutBatch, RolloutBatchInfo,
    RolloutCommit, RowSet, Run, Score, ScoreCommit, ScoreSet, ScoredBatch, UnitRows, Units, Work,
};
use std::{collections::BTreeMap, error::Error};
use store::{Follower, Store};

type AnyError = Box<dyn Error>;

/// The run's score set.
pub const SET: &str = "main";
/// Rows of a unit, and so of a batch.
pub const ROWS: u32 = 64;

/// A run whose scores are as `set` says.
pub async fn start(store: &Store, set: ScoreSet) -> Result<Follower, AnyError> {
    let file = store.put_file("config.json", "{}").await?;
    let weights = store.put_policy(PolicyVersion(0), "weights").await?;
    let digest = file.digest;
    let run = Run {
        run_id: store::unique_id(),
        pipeline: "bench".into(),
        seed: 0,
        tokenizer: digest,
        teachers: BTreeMap::from([("teacher".to_string(), digest)]),
        prompts: PromptSet { digest, count: 1024 },
        units: Units { prompts: ROWS, samples: 1 },
        score_sets: BTreeMap::from([(SET.to_string(), set)]),
        student_config: file.clone(),
        student_tokenizer: file,
        student_files: BTreeMap::new(),
        policy: Policy { version: PolicyVersion(0), weights },
        parent: None,
    };
    Ok(store.create(run, work("run")).await?)
}

pub fn work(worker: &str) -> Work {
    let (worker, incarnation) = (worker.into(), "a".into());
    Work { worker, incarnation, job: Job::Rollout, started: 0, busy_s: 0.0, waited_s: 0.0, tokens: 0 }
}

/// What the batch of a unit is called: names sort as units do.
pub fn batch_name(unit: u64) -> String {
    format!("u{unit:08}")
}

/// The scored rollouts of a unit.
pub fn encode(unit: u64, rows: &[NewRollout], scores: &[Score]) -> Result<ScoredBatch, AnyError> {
    let info = RolloutBatchInfo {
        batch: batch_name(unit),
        policy_version: PolicyVersion(0),
        teacher_id: "teacher".into(),
        temperature: 1.0,
        top_p: 1.0,
        started_at: 0,
        finished_at: 0,
    };
    Ok(ScoredBatch::encode(RolloutBatch::encode(&info, rows)?, scores)?)
}

/// Claims, samples and scores a unit; the bytes that took. Scores are packed by a codec, their ids being below a vocabulary, or plain.
pub async fn commit(
    follower: &mut Follower,
    unit: u64,
    scored: &ScoredBatch,
    packed: Option<(Codec, u32)>,
) -> Result<u64, AnyError> {
    let store = follower.store().clone();
    let (batch, of) = (batch_name(unit), UnitRows { unit, rows: RowSet::first(scored.len() as u32) });
    let claim = Event::Claim(Claims { units: vec![of.clone()], batches: vec![] });
    follower.append(work("rollout"), |_| Some(claim.clone())).await?;
    let rollouts = store.put_rollouts(&batch, scored.rollouts()).await?;
    let (scores, packing) = match packed {
        None => (store.put_scores(SET, &batch, scored).await?, None),
        Some((codec, vocabulary)) => {
            let (object, packing) = store.put_packed_scores(SET, &batch, scored, codec, vocabulary).await?;
            (object, Some(packing))
        }
    };
    let bytes = rollouts.bytes + scores.bytes;
    let sampled = Event::Rollouts(RolloutCommit {
        batch: batch.clone(),
        of,
        policy_version: PolicyVersion(0),
        teacher_id: scored.rollouts().teacher_id().into(),
        codec: None,
        object: rollouts,
        tokens: scored.rollouts().tokens() as u64,
        claims: Claims::default(),
    });
    follower.append(work("rollout"), |_| Some(sampled.clone())).await?;
    let (score_set, claims) = (SET.into(), Claims::default());
    let scored = Event::Scores(ScoreCommit { batch, score_set, object: scores, packing, parent: None, claims });
    follower.append(work("score"), |_| Some(scored.clone())).await?;
    Ok(bytes)
}

/// splitmix64.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}
