//! A small run: its identity, batches, and the commits its jobs would make.

use record::*;
use std::collections::BTreeMap;
use store::{Follower, Store};

/// Rows of a unit.
pub const ROWS: u32 = 4;
/// The run's score set.
pub const SET: &str = "main";

pub async fn run(store: &Store) -> Run {
    let digest = Digest::of(b"x");
    let weights = store.put_policy(PolicyVersion(0), "weights 0").await.unwrap();
    Run {
        run_id: store::unique_id(),
        pipeline: "arith".into(),
        seed: 7,
        tokenizer: digest,
        teachers: BTreeMap::from([("teacher".to_string(), digest)]),
        prompts: PromptSet { digest, count: 100 },
        units: Units { prompts: 2, samples: 2 },
        score_sets: BTreeMap::from([(
            SET.to_string(),
            ScoreSet {
                top_k_mass: 0.99,
                top_k_max: 8,
                top_k_floor: 0.0,
                draws: 1,
                draws_kept: record::DrawsKept::All,
                sampler_top_k: None,
                teacher_draws: 0,
                codec: "plain".into(),
            },
        )]),
        student_config: store.put_file("config.json", "{}").await.unwrap(),
        student_tokenizer: store.put_file("tokenizer.json", "{\"a\": 1}").await.unwrap(),
        student_files: BTreeMap::from([(
            "chat_template.jinja".to_string(),
            store.put_file("chat_template.jinja", "{{ messages }}").await.unwrap(),
        )]),
        policy: Policy { version: PolicyVersion(0), weights },
        parent: None,
    }
}

pub fn work(worker: &str) -> Work {
    Work {
        worker: worker.into(),
        incarnation: "a".into(),
        job: Job::Rollout,
        started: 0,
        busy_s: 0.5,
        waited_s: 0.25,
        tokens: 3,
    }
}

pub async fn start(store: &Store) -> Follower {
    store.create(run(store).await, work("run")).await.unwrap()
}

/// An event that any state takes, and that can be told from others.
pub fn note(text: String) -> Event {
    Event::Config { settings: serde_json::json!({ "note": text }) }
}

pub fn note_of(commit: &Commit) -> Option<&str> {
    match &commit.event {
        Event::Config { settings } => settings["note"].as_str(),
        _ => None,
    }
}

/// A batch of `ROWS` rollouts of unit `unit`; row `r` answers prompt `unit * 2 + r / 2`.
pub fn rollouts(batch: &str, unit: u64, version: u64) -> RolloutBatch {
    let rows: Vec<NewRollout> = (0..ROWS)
        .map(|row| {
            let n = 3 + row as usize;
            let sample = Sample {
                response_ids: vec![5; n],
                sampler_logprobs: vec![-0.5; n],
                draw_ids: (0..n).map(|_| [5]).collect(),
                draws_taken: None,
                draw_counts: (0..n).map(|_| [1]).collect(),
                draw_logprobs: (0..n).map(|_| [-0.5]).collect(),
                sampler_top_ids: (0..n).map(|_| [5, 6]).collect(),
                sampler_top_logprobs: (0..n).map(|_| [-0.5, -1.5]).collect(),
                sampler_tail_logprobs: vec![-1.6; n],
                finish: Some(Finish::Stop),
            };
            NewRollout {
                unit,
                prompt_id: unit * 2 + u64::from(row / 2),
                sample_index: row % 2,
                source: "arith".into(),
                prompt_ids: vec![1, 2],
                seed: 11,
                sample,
            }
        })
        .collect();
    let info = RolloutBatchInfo {
        batch: batch.into(),
        policy_version: PolicyVersion(version),
        teacher_id: "teacher".into(),
        temperature: 1.0,
        top_p: 1.0,
        started_at: 1,
        finished_at: 2,
    };
    RolloutBatch::encode(&info, &rows).unwrap()
}

pub fn scored(rollouts: RolloutBatch) -> ScoredBatch {
    let scores: Vec<Score> = rollouts
        .rows()
        .map(|row| {
            let n = row.response_ids.len();
            Score {
                teacher_logprobs: vec![-0.25; n],
                teacher_top_ids: (0..n).map(|_| [5]).collect(),
                teacher_top_logprobs: (0..n).map(|_| [-0.25]).collect(),
                teacher_tail_logprobs: vec![-1.5; n],
                draw_teacher_logprobs: (0..n).map(|_| [-0.25]).collect(),
                sampler_top_teacher_logprobs: (0..n).map(|_| [-0.25, -2.0]).collect(),
                sampler_top_teacher_tail_logprobs: vec![-3.0; n],
                teacher_draws: None,
                teacher_entropy: Some(vec![0.7; n]),
            }
        })
        .collect();
    ScoredBatch::encode(rollouts, &scores).unwrap()
}

/// Claims the next `units` units.
pub async fn claim(follower: &mut Follower, units: u64) {
    let claims = |now: &store::Snapshot| {
        let unit = |unit| UnitRows { unit, rows: RowSet::first(ROWS) };
        let units = (now.next_unit..now.next_unit + units).map(unit).collect();
        Some(Event::Claim(Claims { units, batches: vec![] }))
    };
    follower.append(work("rollout-0"), claims).await.unwrap().unwrap();
}

/// Delivers a claimed unit, sampled by `version`; its batch is `u<unit>`.
pub async fn deliver(follower: &mut Follower, unit: u64, version: u64) -> ObjectRef {
    deliver_as(follower, &rollouts(&format!("u{unit}"), unit, version)).await
}

/// Delivers a claimed unit as `rollouts`.
pub async fn deliver_as(follower: &mut Follower, rollouts: &RolloutBatch) -> ObjectRef {
    let unit = rollouts.row(0).unit;
    let batch = format!("u{unit}");
    let object = follower.store().put_rollouts(&batch, rollouts).await.unwrap();
    let event = Event::Rollouts(RolloutCommit {
        batch,
        of: UnitRows { unit, rows: RowSet::first(ROWS) },
        policy_version: rollouts.policy_version(),
        teacher_id: "teacher".into(),
        object: object.clone(),
        codec: None,
        tokens: 18,
        claims: Claims::default(),
    });
    follower.append(work("rollout-0"), |_| Some(event.clone())).await.unwrap().unwrap();
    object
}

/// Scores a delivered unit.
pub async fn score(follower: &mut Follower, unit: u64) -> ObjectRef {
    let batch = format!("u{unit}");
    let rollouts = follower.snapshot().batches[&batch].object.clone();
    let store = follower.store().clone();
    let scored = scored(store.get_rollouts(&rollouts).await.unwrap());
    let object = store.put_scores(SET, &batch, &scored).await.unwrap();
    let claims = Claims::default();
    let event = Event::Scores(ScoreCommit {
        batch,
        score_set: SET.into(),
        parent: None,
        object: object.clone(),
        packing: None,
        claims,
    });
    follower.append(work("score-0"), |_| Some(event.clone())).await.unwrap().unwrap();
    object
}

/// A step that trains on `consumed`, publishes weights and keeps moments.
pub async fn step(follower: &mut Follower, consumed: Vec<BatchRows>) {
    let step = follower.snapshot().version.0 + 1;
    let store = follower.store().clone();
    let record = store.put_step_record(step, encode_step(step, &[]).unwrap()).await.unwrap();
    let weights = store.put_policy(PolicyVersion(step), format!("weights {step}")).await.unwrap();
    let moments = store.put_moments(PolicyVersion(step), format!("moments {step}")).await.unwrap();
    let event = Event::Step(Box::new(StepCommit {
        step,
        consumed,
        replayed: Vec::new(),
        dropped: vec![],
        score_set: SET.into(),
        record,
        weights_digest: weights.digest,
        policy: Some(Policy { version: PolicyVersion(step), weights }),
        moments: Some(moments),
        settings: serde_json::json!({ "lr": 0.001 }),
        metrics: BTreeMap::from([("loss".to_string(), (1.5, 2.0))]),
    }));
    follower.append(work("learn"), |_| Some(event.clone())).await.unwrap().unwrap();
}
