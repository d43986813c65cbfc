//! `opd score`: says what the teacher thinks of each rollout.

use crate::{
    config::Pipeline,
    context::Context,
    error::{CommandError, Result, not_stored, off_thread},
    events,
    failpoint::Point,
    identity,
    output::say,
    plan::{self, Next, Serves},
    teachers::listed,
};
use model::{ScoreRow, ScoringParams, TopK, Transformer};
use record::{BatchId, Claims, Codec, Ragged, RolloutBatch, ScoreCommit, ScoredBatch};
use std::collections::{BTreeMap, BTreeSet};

/// Scores until the run is finished or the job is stopped, what is for `teachers`.
///
/// # Errors
/// Anything that keeps it from going on; what is committed stays.
pub async fn run(mut job: Context, teachers: BTreeSet<String>) -> Result<()> {
    let serves = Serves { score_set: job.pipeline.score.set.clone(), teachers };
    say(&format!("scores for {}", listed(serves.teachers.iter().map(String::as_str))));
    let (run, checked, teachers) = (job.now().run.clone(), job.pipeline.clone(), serves.teachers.clone());
    off_thread(move || identity::check_teachers(&run, &checked, &teachers)).await?;
    let mut networks: BTreeMap<String, Transformer> = BTreeMap::new();
    while !job.stop.is_asked() {
        let lapsed = job.look().await?;
        let is_lapsed = |worker: &str| lapsed.contains(worker);
        let worker = job.worker().to_string();
        match plan::score(job.now(), &worker, &serves, &is_lapsed) {
            Next::Done => return Ok(()),
            Next::Wait => job.wait().await?,
            Next::Do(plan::Score::Claim(_)) => {
                job.append(0, |now| events::claim_batch(now, &worker, &serves, &is_lapsed)).await?;
            }
            Next::Do(plan::Score::Score(id)) => {
                job.begin();
                let batch = job.now().batches[&id].clone();
                let rollouts = match job.store.get_rollouts(&batch.object).await {
                    Ok(rollouts) => rollouts,
                    Err(error) if error.is_of_one_object() => {
                        say(&format!("batch `{id}` is dropped and will be sampled again: {error}"));
                        drop_damaged(&mut job, &id).await?;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let params = scoring_params(&job.pipeline, &rollouts);
                // A teacher travels to the working thread and back: a network belongs to one thread at a time.
                let loaded = networks.remove(&batch.teacher_id);
                let (checked, teacher) = (job.pipeline.clone(), batch.teacher_id.clone());
                let (scored, network) = off_thread(move || {
                    let load = || checked.load_teacher(&teacher, model::device(checked.teacher_device(&teacher))?);
                    let network = loaded.map_or_else(load, Ok)?;
                    Ok((score(&network, rollouts, &params)?, network))
                })
                .await?;
                let vocabulary = network.real_vocab() as u32;
                networks.insert(batch.teacher_id, network);
                deliver(&mut job, id, &serves, &scored, vocabulary).await?;
            }
        }
    }
    Ok(())
}

/// The teachers that a worker has: those in `only`, or, without any, all.
///
/// # Errors
/// If the pipeline has no such teacher.
pub fn served(pipeline: &Pipeline, only: &[String]) -> Result<BTreeSet<String>> {
    let all = pipeline.all_teachers();
    if let Some(unknown) = only.iter().find(|id| !all.contains_key(id.as_str())) {
        let known = listed(all.keys().copied());
        let what = format!("--teacher `{unknown}`: the pipeline has {known}");
        return Err(CommandError::new(what).hint("leave --teacher away to score for all of them"));
    }
    let all = || all.keys().map(|id| id.to_string()).collect();
    Ok(if only.is_empty() { all() } else { only.iter().cloned().collect() })
}

/// How a batch is scored: at the temperature that it was sampled at.
pub fn scoring_params(pipeline: &Pipeline, rollouts: &RolloutBatch) -> ScoringParams {
    let score = &pipeline.score;
    ScoringParams {
        temperature: f64::from(rollouts.row(0).temperature),
        top_k: (score.top_k_max > 0).then_some(TopK {
            mass: score.top_k_mass,
            max: score.top_k_max as usize,
            floor: score.top_k_floor,
        }),
        draws: score.draws as usize,
        max_tokens_per_batch: score.batch_tokens,
    }
}

/// Scores every row of a batch.
///
/// # Errors
/// If a row does not fit the teacher.
pub fn score(teacher: &Transformer, rollouts: RolloutBatch, params: &ScoringParams) -> Result<ScoredBatch> {
    let supports: Vec<(Ragged<i32>, Ragged<i32>)> =
        rollouts.rows().map(|row| (row.draw_ids.to_ragged(), row.sampler_top_ids.to_ragged())).collect();
    let rows: Vec<ScoreRow<'_>> = rollouts
        .rows()
        .zip(&supports)
        .map(|(row, (draw_ids, sampler_top_ids))| ScoreRow {
            prompt_ids: row.prompt_ids,
            response_ids: row.response_ids,
            draw_ids,
            sampler_top_ids,
            seed: row.seed,
        })
        .collect();
    let scores = model::score(teacher, &rows, params)?;
    drop(rows);
    Ok(ScoredBatch::encode(rollouts, &scores)?)
}

/// Stores the scores of a batch and commits them together with a claim of the next, unless somebody did first.
async fn deliver(job: &mut Context, id: BatchId, serves: &Serves, scored: &ScoredBatch, vocabulary: u32) -> Result<()> {
    let score_set = &serves.score_set;
    let tokens = scored.rollouts().tokens() as u64;
    job.pass(Point::BeforePut);
    let codec = job.pipeline.score.codec;
    let put = job.store.put_packed_scores(score_set, &id, scored, codec, vocabulary).await;
    let (object, packing) = put.map_err(|error| not_stored(error, "score.codec", codec))?;
    job.pass(Point::AfterPut);
    let (lapsed, goes_on) = (job.look().await?, !job.stop.is_asked());
    let packing = (codec != Codec::Plain).then_some(packing);
    let scores = ScoreCommit {
        batch: id,
        score_set: score_set.clone(),
        parent: None,
        object,
        packing,
        claims: Claims::default(),
    };
    job.append(tokens, |now| events::scores(now, &scores, serves, &|worker| lapsed.contains(worker), goes_on)).await?;
    Ok(())
}

/// Ends what is left of a batch whose object is damaged; its rows are sampled again.
///
/// # Errors
/// As writing the log.
pub async fn drop_damaged(job: &mut Context, id: &str) -> Result<()> {
    job.append(0, |now| events::damaged(now, id)).await?;
    Ok(())
}
