//! That prompts and eval sets are there, fit the networks and can be routed.

use super::Checked;
use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    output::say,
    prompts::Prompts,
    teachers::teacher_of,
};
use model::ChatTemplate;
use record::PromptSet;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Reads every prompt set as its job will. Returns the training prompts' identity.
///
/// # Errors
/// The first prompt that cannot be asked, with file and line.
pub(super) fn check_prompts(
    pipeline: &Pipeline,
    student: &Checked,
    teachers: &BTreeMap<&str, Checked>,
) -> Result<PromptSet> {
    let chat = load_chat("student.model", &pipeline.student.model)?;
    let ids: Vec<&str> = teachers.keys().copied().collect();
    let mut asked_in_chats = BTreeSet::new();
    let mut check = |prompts: &Prompts, needs_teacher: bool| {
        if needs_teacher {
            prompts.check_teachers(&ids)?;
            let chats = prompts.prompts.iter().filter(|prompt| prompt.chat);
            asked_in_chats.extend(chats.map(|prompt| teacher_of(prompt).to_string()));
        }
        let new = ("rollout.max_new_tokens", pipeline.rollout.max_new_tokens);
        prompts.check_lengths(&student.tokenizer, new, |prompt| {
            let own = student.config.max_position_embeddings;
            let teacher = teachers.get(teacher_of(prompt)).filter(|_| needs_teacher);
            teacher.map_or(own, |teacher| own.min(teacher.config.max_position_embeddings))
        })
    };
    let prompts = Prompts::read("prompts", &pipeline.prompts, chat.as_ref())?;
    check(&prompts, true)?;
    for (name, set) in pipeline.eval.iter().flat_map(|eval| &eval.sets) {
        let key = format!("eval.sets.{name}");
        if set.samples == 0 {
            return Err(CommandError::new(format!("{key}.samples is 0")).hint("it must be 1 or more"));
        }
        let problems = Prompts::read(&key, &set.prompts(&pipeline.prompts), chat.as_ref())?;
        let needs_teacher = pipeline.eval.as_ref().is_some_and(|eval| eval.reverse_kl);
        check(&if set.answers { problems.with_answers()? } else { problems }, needs_teacher)?;
    }
    for (id, teacher) in pipeline.all_teachers().into_iter().filter(|(id, _)| asked_in_chats.contains(*id)) {
        warn_of_other_template(chat.as_ref(), &format!("{}.model", pipeline.teacher_key(id)), &teacher.model)?;
    }
    Ok(prompts.set)
}

fn load_chat(key: &str, dir: &Path) -> Result<Option<ChatTemplate>> {
    ChatTemplate::load(dir).map_err(|error| CommandError::new(format!("{key}: {error}")))
}

/// The teacher is given the student's rendering, token by token; it knows it only if its own template writes the same.
fn warn_of_other_template(student: Option<&ChatTemplate>, key: &str, teacher: &Path) -> Result<()> {
    let template = load_chat(key, teacher)?;
    if template.as_ref().map(ChatTemplate::digest) != student.map(ChatTemplate::digest) {
        let how = if template.is_some() { "another chat template than the student" } else { "no chat template" };
        say(&format!(
            "warning: teacher `{}` has {how}; it scores prompts as the student's template writes them",
            teacher.display()
        ));
    }
    Ok(())
}
