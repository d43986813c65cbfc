//! `opd eval`: asks published versions held-out problems, checks the answers and compares them with the teacher.

mod ask;
mod tally;

use crate::{
    config::EvalSection,
    context::Context,
    error::{CommandError, Result, off_thread},
    failpoint::Point,
    identity,
    plan::{self, Next},
    policy::{PolicyLoader, Student},
    prompts::Prompts,
    teachers::teacher_of,
};
use model::{SamplingParams, Transformer};
use record::{EvalCommit, Event};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use ask::{Asking, ask};
pub use tally::{Seen, accuracies, metrics};

/// A held-out prompt set, and how it is asked.
struct Problems {
    prompts: Prompts,
    asking: Asking,
}

/// Evaluates until the run is finished and its last version evaluated, or the job is stopped.
///
/// # Errors
/// Anything that keeps it from going on; what is committed stays.
pub async fn run(mut job: Context) -> Result<()> {
    let Some(eval) = job.pipeline.eval.clone() else {
        let what = format!("pipeline `{}` has no [eval]", job.pipeline.name);
        return Err(CommandError::new(what).hint("add eval.sets = { heldout = \"heldout.jsonl\" }"));
    };
    let policy = PolicyLoader::open(&job.store, job.now(), &eval.device).await?;
    let sets = read_sets(&job, &eval, &policy)?;
    let names: Vec<String> = sets.keys().cloned().collect();
    let mut student: Option<Student> = None;
    let mut teachers = Teachers::new();
    while !job.stop.is_asked() {
        job.refresh().await?;
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
                let (problems, tokenizer) = (sets[&set].clone(), policy.tokenizer().clone());
                if eval.reverse_kl {
                    teachers = load_teachers(&job, &eval, teachers, &problems.prompts).await?;
                }
                let (seen, network, kept) = off_thread(move || {
                    let Problems { prompts, asking } = &*problems;
                    let seen = ask(&network, &teachers, &tokenizer, prompts, asking)?;
                    Ok((seen, network, teachers))
                })
                .await?;
                (student, teachers) = (Some(Student { version, network }), kept);
                let sources: Vec<&str> =
                    sets[&set].prompts.prompts.iter().map(|problem| problem.data_source.as_str()).collect();
                let (accuracy, sampled_accuracy) = accuracies(&seen);
                let metrics = metrics(&seen, &sources);
                job.pass(Point::BeforePut);
                job.pass(Point::AfterPut);
                job.append(seen.iter().map(|seen| seen.greedy_tokens + seen.tokens).sum(), |now| {
                    // Of a version that was retired meanwhile, it is not known any more whether another was first.
                    let kept = now.policies.contains_key(&version);
                    let done = now.evaluated.get(&set).is_some_and(|done| done.contains(&version));
                    (kept && !done).then(|| {
                        Event::Eval(EvalCommit {
                            eval_set: set.clone(),
                            policy_version: version,
                            accuracy,
                            sampled_accuracy,
                            metrics: metrics.clone(),
                        })
                    })
                })
                .await?;
            }
        }
    }
    Ok(())
}

fn read_sets(job: &Context, eval: &EvalSection, policy: &PolicyLoader) -> Result<BTreeMap<String, Arc<Problems>>> {
    let pipeline = &job.pipeline;
    let mut sets = BTreeMap::new();
    for (name, set) in &eval.sets {
        let prompts = Prompts::read(&format!("eval.sets.{name}"), &set.prompts(&pipeline.prompts), policy.chat())?;
        let asking = Asking {
            params: SamplingParams {
                temperature: pipeline.rollout.temperature,
                top_p: 1.0,
                max_new_tokens: pipeline.rollout.max_new_tokens,
                eos: policy.eos_ids().to_vec(),
                draws: 0,
                draws_kept: record::DrawsKept::All,
                top_k: None,
            },
            samples: set.samples,
            answers: set.answers,
            seed: pipeline.seed,
            rows: eval.batch_rows,
            score_tokens: pipeline.score.batch_tokens,
        };
        let prompts = if set.answers { prompts.with_answers()? } else { prompts };
        sets.insert(name.clone(), Arc::new(Problems { prompts, asking }));
    }
    Ok(sets)
}

/// The teachers at hand, by id.
type Teachers = BTreeMap<String, Transformer>;

/// Adds those that the problems name and that are not there yet: each is loaded once, when it is first needed.
async fn load_teachers(
    job: &Context,
    eval: &EvalSection,
    mut teachers: Teachers,
    problems: &Prompts,
) -> Result<Teachers> {
    for problem in &problems.prompts {
        let id = teacher_of(problem);
        if !teachers.contains_key(id) {
            let (run, pipeline, device) = (job.now().run.clone(), job.pipeline.clone(), model::device(&eval.device)?);
            let wanted = id.to_string();
            let teacher = off_thread(move || {
                identity::check_teachers(&run, &pipeline, &BTreeSet::from([wanted.clone()]))?;
                pipeline.load_teacher(&wanted, device)
            });
            teachers.insert(id.to_string(), teacher.await?);
        }
    }
    Ok(teachers)
}
