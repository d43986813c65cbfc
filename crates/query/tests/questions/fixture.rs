//! A run of three units of four rows and two steps:
//! unit 0 (version 0) is consumed by step 1; of unit 1 (version 0) step 2 consumes rows 0 and 1, row 2 is dropped as stale
//! and row 3 as corrupt; of unit 2 (version 1) step 2 consumes rows 0 and 1, and the end of the run drops the rest.

use query::{Format, QueryError, Session};
use record::{
    BatchRows, Claims, ConsumedRollout, Digest, DropReason, Dropped, EvalCommit, Event, Finish, Job, NewRollout,
    ObjectRef, Policy, PolicyVersion, PromptSet, Ragged, Retirement, RolloutBatch, RolloutBatchInfo, RolloutCommit,
    RowSet, Run, Sample, Score, ScoreCommit, ScoreSet, ScoredBatch, StepCommit, UnitRows, Units, Work, encode_step,
};
use std::collections::BTreeMap;
use store::{Follower, Store};

/// Responses are of the tokens 10 to 13.
const TOKENIZER: &str = r#"{"decoder": {"type": "ByteLevel"}, "added_tokens": [{"id": 13, "content": "<eos>"}],
    "model": {"vocab": {"Ġone": 10, "two": 11, "Ċ": 12}}}"#;

/// The answer as CSV.
pub async fn ask(session: &Session, sql: &str) -> Result<String, QueryError> {
    query::render(session.run(sql).await?, Format::Csv).await
}

/// The answer to a question that has one, as CSV.
pub async fn answer(store: &Store, sql: &str) -> String {
    ask(&query::open(store, None).await.unwrap(), sql).await.unwrap()
}

fn object(key: &str) -> ObjectRef {
    ObjectRef { key: key.into(), bytes: 3, digest: Digest::of(b"abc") }
}

fn work(worker: &str, job: Job, tokens: u64) -> Work {
    Work {
        worker: worker.into(),
        incarnation: "first".into(),
        job,
        started: 1_000,
        busy_s: 0.5,
        waited_s: 0.25,
        tokens,
    }
}

async fn append(follower: &mut Follower, worker: &str, job: Job, tokens: u64, event: Event) {
    let done = follower.append(work(worker, job, tokens), |_| Some(event.clone())).await.unwrap();
    assert!(done.is_some());
}

fn rollouts_of(unit: u64, version: u64, rows: u32) -> RolloutBatch {
    let info = RolloutBatchInfo {
        batch: format!("u{unit}-x"),
        policy_version: PolicyVersion(version),
        teacher_id: "large".into(),
        temperature: 1.0,
        top_p: 1.0,
        started_at: 1,
        finished_at: 2,
    };
    let one = |x: i32| -> Ragged<i32> { [[x], [x]].into_iter().collect() };
    let row = |row: u32| NewRollout {
        unit,
        prompt_id: unit * 2 + u64::from(row / 2),
        sample_index: row % 2,
        source: "arith".into(),
        prompt_ids: vec![1, 2, 3],
        seed: 9,
        sample: Sample {
            response_ids: vec![10 + row as i32; 2],
            sampler_logprobs: vec![-0.5, -0.25],
            draw_ids: one(10 + row as i32),
            draws_taken: None,
            draw_counts: one(1),
            draw_logprobs: [[-0.5f32], [-0.25]].into_iter().collect(),
            sampler_top_ids: [[0; 0]; 2].into_iter().collect(),
            sampler_top_logprobs: [[0.0; 0]; 2].into_iter().collect(),
            sampler_tail_logprobs: vec![0.0; 2],
            finish: Some(Finish::Stop),
        },
    };
    RolloutBatch::encode(&info, &(0..rows).map(row).collect::<Vec<_>>()).unwrap()
}

fn scores_of(rollouts: RolloutBatch, logprob: f32) -> ScoredBatch {
    let score = Score {
        teacher_logprobs: vec![logprob; 2],
        teacher_top_ids: [[7, 8], [7, 8]].into_iter().collect(),
        teacher_top_logprobs: [[-1.0f32, -2.0]; 2].into_iter().collect(),
        teacher_tail_logprobs: vec![-0.7, f32::NEG_INFINITY],
        draw_teacher_logprobs: [[logprob]; 2].into_iter().collect(),
        sampler_top_teacher_logprobs: [[0.0f32; 0]; 2].into_iter().collect(),
        sampler_top_teacher_tail_logprobs: vec![0.0; 2],
        teacher_draws: None,
        teacher_entropy: None,
    };
    ScoredBatch::encode(rollouts, &vec![score; 4]).unwrap()
}

fn rows_of(unit: u64, rows: std::ops::Range<u32>) -> BatchRows {
    BatchRows { batch: format!("u{unit}-x"), rows: rows.collect() }
}

fn drop_of(unit: u64, rows: std::ops::Range<u32>, reason: DropReason, reissue: bool) -> Dropped {
    Dropped { of: rows_of(unit, rows), reason, reissue }
}

async fn identity(store: &Store, top_k_max: u32, draws: u32) -> Run {
    let set = ScoreSet {
        top_k_mass: 0.99,
        top_k_max,
        top_k_floor: 0.0,
        draws,
        draws_kept: record::DrawsKept::All,
        sampler_top_k: None,
        teacher_draws: 0,
        codec: "plain".into(),
    };
    Run {
        run_id: "run".into(),
        pipeline: "arith".into(),
        seed: 1,
        tokenizer: Digest::of(b"tokens"),
        teachers: BTreeMap::from([("large".to_string(), Digest::of(b"large"))]),
        prompts: PromptSet { digest: Digest::of(b"prompts"), count: 6 },
        units: Units { prompts: 2, samples: 2 },
        score_sets: BTreeMap::from([("a".to_string(), set.clone()), ("b".to_string(), set)]),
        student_config: store.put_file("config.json", "{}").await.unwrap(),
        student_tokenizer: store.put_file("tokenizer.json", TOKENIZER).await.unwrap(),
        student_files: BTreeMap::new(),
        policy: Policy { version: PolicyVersion(0), weights: store.put_policy(PolicyVersion(0), "w0").await.unwrap() },
        parent: None,
    }
}

async fn step(store: &Store, number: u64, consumed: Vec<BatchRows>, versions: &[u64]) -> StepCommit {
    let ids = consumed.iter().flat_map(|of| of.rows.iter().map(|row| record::rollout_id(&of.batch, row as usize)));
    let seen: Vec<ConsumedRollout> = ids
        .zip(versions)
        .map(|(rollout_id, version)| ConsumedRollout {
            rollout_id,
            staleness: Some((number - 1 - version) as u32),
            learner_logprobs: vec![-0.5, -0.25],
            entropy: vec![0.5, 0.5],
            ..ConsumedRollout::default()
        })
        .collect();
    let record = encode_step(number, &seen).unwrap();
    StepCommit {
        step: number,
        consumed,
        replayed: Vec::new(),
        dropped: vec![],
        score_set: "b".into(),
        record: store.put_step_record(number, record).await.unwrap(),
        weights_digest: Digest::of(format!("w{number}").as_bytes()),
        policy: None,
        moments: None,
        settings: serde_json::json!({"lr": 0.001}),
        metrics: BTreeMap::from([
            ("loss".to_string(), (3.0, 4.0)),
            ("is/ess".to_string(), (0.0, 0.0)),
            ("sample/staleness_mean".to_string(), (versions.len() as f64, 4.0)),
            ("odd".to_string(), (1.0, 3.0)),
        ]),
    }
}

fn eval(version: u64, solved: f64) -> Event {
    Event::Eval(EvalCommit {
        eval_set: "held-out".into(),
        policy_version: PolicyVersion(version),
        accuracy: (solved, 8.0),
        sampled_accuracy: (0.0, 0.0),
        metrics: BTreeMap::from([
            ("completions/mean_length".to_string(), (30.0, 8.0)),
            ("reverse_kl".to_string(), (15.0, 30.0)),
        ]),
    })
}

/// The run. Commit 0 is its identity, 1 the claim of all units; the comments number the others.
pub async fn run(store: &Store) {
    let log = start(store).await;
    go_on(store, log).await;
}

/// What follows the start of the run.
pub async fn go_on(store: &Store, mut log: Follower) {
    sample(store, &mut log, 0, 0, 4).await; // 2
    sample(store, &mut log, 1, 0, 4).await; // 3
    score(store, &mut log, 0, 0, "b").await; // 4
    score(store, &mut log, 1, 0, "b").await; // 5
    score(store, &mut log, 1, 0, "a").await; // 6

    let mut first = step(store, 1, vec![rows_of(0, 0..4)], &[0; 4]).await;
    let weights = store.put_policy(PolicyVersion(1), "w1").await.unwrap();
    first.policy = Some(Policy { version: PolicyVersion(1), weights });
    first.moments = Some(object("moments"));
    append(&mut log, "learn", Job::Learn, 8, Event::Step(Box::new(first))).await; // 7
    append(&mut log, "eval", Job::Eval, 24, eval(0, 2.0)).await; // 8
    append(&mut log, "eval", Job::Eval, 24, eval(0, 5.0)).await; // 9, too late to count
    sample(store, &mut log, 2, 1, 4).await; // 10
    score(store, &mut log, 2, 1, "b").await; // 11

    let consumed = vec![rows_of(1, 0..2), rows_of(2, 0..2)];
    let mut second = step(store, 2, consumed, &[0, 0, 1, 1]).await;
    second.dropped = vec![drop_of(1, 2..3, DropReason::Stale, true)];
    append(&mut log, "learn", Job::Learn, 8, Event::Step(Box::new(second))).await; // 12
    let dropped = vec![drop_of(1, 3..4, DropReason::Corrupt, false)];
    append(&mut log, "learn", Job::Learn, 0, Event::Drop { dropped }).await; // 13
    append(&mut log, "eval", Job::Eval, 24, eval(1, 6.0)).await; // 14
    let retire = Event::Retire(Retirement { policies: vec![PolicyVersion(0)], ..Retirement::default() });
    append(&mut log, "run", Job::Run, 0, retire).await; // 15
    let dropped = vec![drop_of(2, 2..4, DropReason::Finished, false)];
    append(&mut log, "learn", Job::Learn, 0, Event::Finish { dropped }).await; // 16
}

/// A run with one scored batch whose score sets keep neither top-k nor draws.
pub async fn without_top_k_and_draws(store: &Store) {
    let mut log = claimed(store, identity(store, 0, 0).await).await;
    sample(store, &mut log, 0, 0, 4).await;
    score(store, &mut log, 0, 0, "a").await;
    score(store, &mut log, 0, 0, "b").await;
    let first = step(store, 1, vec![rows_of(0, 0..4)], &[0; 4]).await;
    append(&mut log, "learn", Job::Learn, 8, Event::Step(Box::new(first))).await;
}

/// A run whose units are claimed.
pub async fn start(store: &Store) -> Follower {
    let run = identity(store, 2, 1).await;
    claimed(store, run).await
}

async fn claimed(store: &Store, run: Run) -> Follower {
    let mut log = store.create(run, work("run", Job::Run, 0)).await.unwrap();
    let whole = |unit| UnitRows { unit, rows: RowSet::first(4) };
    let claims = Claims { units: (0..3).map(whole).collect(), batches: vec![] };
    append(&mut log, "rollout-0", Job::Rollout, 0, Event::Claim(claims)).await;
    log
}

/// Delivers a unit of four rows, of which `stored` are in the object.
pub async fn sample(store: &Store, log: &mut Follower, unit: u64, version: u64, stored: u32) {
    let batch = format!("u{unit}-x");
    let object = store.put_rollouts(&batch, &rollouts_of(unit, version, stored)).await.unwrap();
    let delivered = RolloutCommit {
        batch,
        of: UnitRows { unit, rows: RowSet::first(4) },
        policy_version: PolicyVersion(version),
        teacher_id: "large".into(),
        object,
        codec: None,
        tokens: 8,
        claims: Claims::default(),
    };
    append(log, "rollout-0", Job::Rollout, 8, Event::Rollouts(delivered)).await;
}

async fn score(store: &Store, log: &mut Follower, unit: u64, version: u64, score_set: &str) {
    let batch = format!("u{unit}-x");
    let logprob = if score_set == "a" { -9.0 } else { -1.5 };
    let scored = scores_of(rollouts_of(unit, version, 4), logprob);
    let object = store.put_scores(score_set, &batch, &scored).await.unwrap();
    let scores = ScoreCommit {
        batch,
        score_set: score_set.into(),
        parent: None,
        object,
        packing: None,
        claims: Claims::default(),
    };
    append(log, "score-0", Job::Score, 8, Event::Scores(scores)).await;
}
