//! `opd eval`: asks published versions held-out problems and checks the answers.

use crate::{
    answers::is_correct,
    context::Context,
    error::{CommandError, Result, off_thread},
    failpoint::Point,
    plan::{self, Next},
    policy::{PolicyLoader, Student},
    prompts::Prompts,
};
use model::{SamplingParams, Tokenizer, Transformer, chance};
use record::{EvalCommit, Event, Finish, Ratio};
use std::{collections::BTreeMap, sync::Arc};

/// The sample number of evaluations, so that no rollout shares their chance.
const EVAL_SAMPLE: u64 = u64::MAX;

/// Evaluates until the run is finished and its last version evaluated, or the job is stopped.
///
/// # Errors
/// Anything that keeps it from going on; what is committed stays.
pub async fn run(mut job: Context) -> Result<()> {
    let Some(eval) = job.pipeline.eval.clone() else {
        let what = format!("pipeline `{}` has no [eval]", job.pipeline.name);
        return Err(CommandError::new(what).hint("add eval.sets = { heldout = \"heldout.jsonl\" }"));
    };
    let mut sets = BTreeMap::new();
    for (name, path) in &eval.sets {
        sets.insert(name.clone(), Arc::new(Prompts::read_with_answers(path)?));
    }
    let names: Vec<String> = sets.keys().cloned().collect();
    let policy = PolicyLoader::open(&job.store, job.now(), &eval.device).await?;
    let mut student: Option<Student> = None;
    while !job.stop.is_asked() {
        job.follower.refresh().await?;
        match plan::eval(job.now(), &names, eval.every, job.pipeline.learn.steps) {
            Next::Done => return Ok(()),
            Next::Wait => job.wait().await?,
            Next::Do((version, set)) => {
                job.begin();
                let old = student.take();
                let loaded = match old {
                    Some(student) if student.version == version => Some(student),
                    old => policy.load(&job.store, job.now(), version, old).await?,
                };
                let Some(Student { network, .. }) = loaded else {
                    job.wait().await?;
                    continue;
                };
                let rollout = &job.pipeline.rollout;
                let params = SamplingParams {
                    temperature: rollout.temperature,
                    top_p: 1.0,
                    max_new_tokens: rollout.max_new_tokens,
                    eos: policy.eos_ids().to_vec(),
                    draws: 0,
                    top_k: None,
                };
                let (problems, tokenizer) = (sets[&set].clone(), policy.tokenizer().clone());
                let (seed, rows) = (job.pipeline.seed, eval.batch_rows);
                let (outcome, network) = off_thread(move || {
                    let greedy = SamplingParams { temperature: 0.0, ..params.clone() };
                    let greedy = ask(&network, &tokenizer, &problems, &greedy, seed, rows)?;
                    let sampled = ask(&network, &tokenizer, &problems, &params, seed, rows)?;
                    Ok(((greedy, sampled), network))
                })
                .await?;
                student = Some(Student { version, network });
                let (greedy, sampled) = outcome;
                job.pass(Point::BeforePut);
                job.pass(Point::AfterPut);
                job.append(greedy.tokens + sampled.tokens, |now| {
                    // Of a version that was retired meanwhile, it is not known any more whether another was first.
                    let kept = now.policies.contains_key(&version);
                    let done = now.evaluated.get(&set).is_some_and(|done| done.contains(&version));
                    (kept && !done).then(|| {
                        Event::Eval(EvalCommit {
                            eval_set: set.clone(),
                            policy_version: version,
                            accuracy: greedy.accuracy(),
                            sampled_accuracy: sampled.accuracy(),
                            metrics: BTreeMap::from([
                                ("completions/mean_length".into(), (greedy.tokens as f64, greedy.problems as f64)),
                                ("completions/clipped_ratio".into(), (greedy.clipped as f64, greedy.problems as f64)),
                            ]),
                        })
                    })
                })
                .await?;
            }
        }
    }
    Ok(())
}

/// How a student did on some problems.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Problems asked.
    pub problems: u64,
    /// Answers that were right.
    pub correct: u64,
    /// Responses that reached the longest length.
    pub clipped: u64,
    /// Response tokens.
    pub tokens: u64,
}

impl Outcome {
    /// Problems solved, of all.
    pub fn accuracy(&self) -> Ratio {
        (self.correct as f64, self.problems as f64)
    }
}

/// Asks every problem once.
///
/// # Errors
/// If a prompt cannot be sampled from.
pub fn ask(
    student: &Transformer,
    tokenizer: &Tokenizer,
    problems: &Prompts,
    params: &SamplingParams,
    seed: u64,
    rows: usize,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut asked = Vec::with_capacity(problems.prompts.len());
    for (i, problem) in problems.prompts.iter().enumerate() {
        let seed = chance::row_seed(seed, i as u64, EVAL_SAMPLE, 0);
        asked.push(model::Prompt { ids: tokenizer.encode(&problem.prompt)?, seed });
    }
    for (asked, problems) in asked.chunks(rows).zip(problems.prompts.chunks(rows)) {
        for (sample, problem) in model::sample(student, asked, params)?.iter().zip(problems) {
            let response = tokenizer.decode(&sample.response_ids)?;
            let answer = problem.answer.as_deref().unwrap_or_default();
            outcome.problems += 1;
            outcome.correct += u64::from(is_correct(&response, answer));
            outcome.clipped += u64::from(sample.finish == Some(Finish::Length));
            outcome.tokens += sample.response_ids.len() as u64;
        }
    }
    Ok(outcome)
}
