//! `opd rollout`: samples units with the newest policy, or one that lags behind it.

use crate::{
    context::Context,
    error::{CommandError, Result, not_stored, off_thread},
    events,
    failpoint::Point,
    identity,
    plan::{self, Next},
    policy::{PolicyLoader, Student},
    prompts::{Prompts, UnitRow, unit_rows},
    teachers::teacher_of,
};
use model::{SamplingParams, TopK, Transformer, chance};
use record::{Claims, NewRollout, PolicyVersion, RolloutBatch, RolloutBatchInfo, RolloutCommit, RowSet, UnitRows};
use std::sync::Arc;

/// Samples until the run is finished or the job is stopped.
///
/// # Errors
/// Anything that keeps it from going on; what is committed stays.
pub async fn run(mut job: Context) -> Result<()> {
    let policy = PolicyLoader::open(&job.store, job.now(), &job.pipeline.rollout.device).await?;
    let prompts = Arc::new(Prompts::read("prompts", &job.pipeline.prompts, policy.chat())?);
    identity::check_prompts(&job.now().run, &job.pipeline, &prompts.set)?;
    let params = Arc::new(sampling_params(&job, policy.eos_ids()));
    let mut student: Option<Student> = None;
    while !job.stop.is_asked() {
        let lapsed = job.look().await?;
        let is_lapsed = |worker: &str| lapsed.contains(worker);
        let (worker, pace) = (job.worker().to_string(), job.pace());
        match plan::rollout(job.now(), &worker, pace, &is_lapsed) {
            Next::Done => return Ok(()),
            Next::Wait => job.wait().await?,
            Next::Do(plan::Rollout::Claim(_)) => {
                job.append(0, |now| events::claim_rows(now, &worker, pace, &is_lapsed)).await?;
            }
            Next::Do(plan::Rollout::Sample(of)) => {
                job.begin();
                let started_at = store::now_ms();
                let version = pace.sampling_version(job.now());
                // Retired in the meantime: look again.
                let Some(sampler) = policy.load(&job.store, job.now(), version, student.take()).await? else {
                    continue;
                };
                // Always the whole unit, whatever part of it is wanted: rounding depends on what is computed together,
                // and so the same rows come out of it however often it is sampled.
                let units = job.pipeline.units();
                let whole = UnitRows { unit: of.unit, rows: RowSet::first(units.rows()) };
                let rows = unit_rows(job.pipeline.seed, prompts.prompts.len() as u64, units, &whole);
                let teachers: Vec<String> =
                    rows.iter().map(|row| teacher_of(&prompts.prompts[row.prompt_id as usize]).to_string()).collect();
                let parts = plan::parts(&of, |row| &teachers[row as usize]);
                let seed = job.pipeline.seed;
                let (prompts, params, tokenizer) = (prompts.clone(), params.clone(), policy.tokenizer().clone());
                let (rollouts, network) = off_thread(move || {
                    let encode = |row: &UnitRow| prompts.prompts[row.prompt_id as usize].ids(&tokenizer);
                    let prompt_ids = rows.iter().map(encode).collect::<Result<Vec<_>>>()?;
                    let rollouts =
                        sample(&sampler.network, version, seed, whole.unit, &rows, prompt_ids, &prompts, &params)?;
                    Ok((rollouts, sampler.network))
                })
                .await?;
                let vocabulary = network.real_vocab() as u32;
                student = Some(Student { version, network });
                deliver(&mut job, parts, version, vocabulary, started_at, rollouts).await?;
            }
        }
    }
    Ok(())
}

fn sampling_params(job: &Context, eos: &[i32]) -> SamplingParams {
    let rollout = &job.pipeline.rollout;
    SamplingParams {
        temperature: rollout.temperature,
        top_p: rollout.top_p,
        max_new_tokens: rollout.max_new_tokens,
        eos: eos.to_vec(),
        draws: rollout.draws as usize,
        draws_kept: rollout.draws_kept,
        top_k: (rollout.top_k_max > 0).then_some(TopK {
            mass: rollout.top_k_mass,
            max: rollout.top_k_max as usize,
            floor: rollout.top_k_floor,
        }),
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, each argument another thing")]
fn sample(
    student: &Transformer,
    version: PolicyVersion,
    seed: u64,
    unit: u64,
    rows: &[UnitRow],
    prompt_ids: Vec<Vec<i32>>,
    prompts: &Prompts,
    params: &SamplingParams,
) -> Result<Vec<NewRollout>> {
    let seeds = rows.iter().map(|row| chance::row_seed(seed, row.prompt_id, u64::from(row.sample), version.0));
    let asked: Vec<model::Prompt> =
        prompt_ids.into_iter().zip(seeds).map(|(ids, seed)| model::Prompt { ids, seed }).collect();
    let samples = model::sample(student, &asked, params)?;
    let rollouts = rows.iter().zip(asked).zip(samples).map(|((row, prompt), sample)| NewRollout {
        unit,
        prompt_id: row.prompt_id,
        sample_index: row.sample,
        source: prompts.prompts[row.prompt_id as usize].data_source.clone(),
        prompt_ids: prompt.ids,
        seed: prompt.seed,
        sample,
    });
    Ok(rollouts.collect())
}

/// Stores what was sampled of a unit, a batch for each teacher, and commits each, the last together with a claim of the next
/// unit. What somebody delivered first is passed over.
async fn deliver(
    job: &mut Context,
    parts: Vec<(String, UnitRows)>,
    policy_version: PolicyVersion,
    vocabulary: u32,
    started_at: i64,
    rollouts: Vec<NewRollout>,
) -> Result<()> {
    let mut rollouts: Vec<Option<NewRollout>> = rollouts.into_iter().map(Some).collect();
    let last = parts.len().saturating_sub(1);
    for (i, (teacher_id, of)) in parts.into_iter().enumerate() {
        let rows: Vec<NewRollout> = of.rows.iter().filter_map(|row| rollouts[row as usize].take()).collect();
        let info = RolloutBatchInfo {
            batch: format!("u{:08}-{}", of.unit, store::unique_id()),
            policy_version,
            teacher_id,
            temperature: job.pipeline.rollout.temperature as f32,
            top_p: job.pipeline.rollout.top_p as f32,
            started_at,
            finished_at: store::now_ms(),
        };
        let batch = RolloutBatch::encode(&info, &rows)
            .map_err(|error| CommandError::new(format!("what was sampled for unit {}: {error}", of.unit)))?;
        let tokens = batch.tokens() as u64;
        job.pass(Point::BeforePut);
        let codec = job.pipeline.rollout.codec;
        let put = job.store.put_packed_rollouts(&info.batch, &batch, codec, vocabulary).await;
        let (object, _) = put.map_err(|error| not_stored(error, "rollout.codec", codec))?;
        job.pass(Point::AfterPut);
        let (lapsed, pace, goes_on) = (job.look().await?, job.pace(), i == last && !job.stop.is_asked());
        let RolloutBatchInfo { batch, teacher_id, .. } = info;
        let batch = RolloutCommit {
            batch,
            of,
            policy_version,
            teacher_id,
            object,
            codec: Some(codec),
            tokens,
            claims: Claims::default(),
        };
        job.append(tokens, |now| events::rollouts(now, &batch, pace, &|worker| lapsed.contains(worker), goes_on))
            .await?;
    }
    Ok(())
}
