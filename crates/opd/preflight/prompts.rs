//! That prompts and eval sets are there, fit the networks and can be routed.

use super::Checked;
use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    output::say,
    prompts::Prompts,
    rollout::TEACHER,
};
use model::ChatTemplate;
use record::PromptSet;
use std::path::Path;

/// Reads every prompt set as its job will. Returns the training prompts' identity.
///
/// # Errors
/// The first prompt that cannot be asked, with file and line.
pub(super) fn check_prompts(pipeline: &Pipeline, student: &Checked, teacher: &Checked) -> Result<PromptSet> {
    let chat = load_chat("student.model", &pipeline.student.model)?;
    let context = student.config.max_position_embeddings.min(teacher.config.max_position_embeddings);
    let mut uses_chat = false;
    let mut check = |prompts: &Prompts| {
        uses_chat |= prompts.prompts.iter().any(|prompt| prompt.chat);
        prompts.check_teachers(&[TEACHER])?;
        check_lengths(prompts, student, context, pipeline.rollout.max_new_tokens)
    };
    let prompts = Prompts::read("prompts", &pipeline.prompts, chat.as_ref())?;
    check(&prompts)?;
    for (name, set) in pipeline.eval.iter().flat_map(|eval| &eval.sets) {
        let key = format!("eval.sets.{name}");
        if set.samples == 0 {
            return Err(CommandError::new(format!("{key}.samples is 0")).hint("it must be 1 or more"));
        }
        let problems = Prompts::read(&key, &set.prompts(&pipeline.prompts), chat.as_ref())?;
        check(&if set.answers { problems.with_answers()? } else { problems })?;
    }
    if uses_chat {
        warn_of_other_template(chat.as_ref(), &pipeline.teacher.model)?;
    }
    Ok(prompts.set)
}

fn load_chat(key: &str, dir: &Path) -> Result<Option<ChatTemplate>> {
    ChatTemplate::load(dir).map_err(|error| CommandError::new(format!("{key}: {error}")))
}

fn check_lengths(prompts: &Prompts, student: &Checked, context: usize, new: usize) -> Result<()> {
    for (i, prompt) in prompts.prompts.iter().enumerate() {
        let length = prompt.ids(&student.tokenizer)?.len();
        if length == 0 || length + new > context {
            let what = format!(
                "{}: the prompt has {length} tokens; with rollout.max_new_tokens = {new} the context of {context} is exceeded",
                prompts.place(i)
            );
            return Err(CommandError::new(what).hint("shorten the prompt or rollout.max_new_tokens"));
        }
    }
    Ok(())
}

/// The teacher is given the student's rendering, token by token; it knows it only if its own template writes the same.
fn warn_of_other_template(student: Option<&ChatTemplate>, teacher: &Path) -> Result<()> {
    let template = load_chat("teacher.model", teacher)?;
    if template.as_ref().map(ChatTemplate::digest) != student.map(ChatTemplate::digest) {
        let how = if template.is_some() { "another chat template than the student" } else { "no chat template" };
        say(&format!(
            "warning: teacher `{}` has {how}; it scores prompts as the student's template writes them",
            teacher.display()
        ));
    }
    Ok(())
}
