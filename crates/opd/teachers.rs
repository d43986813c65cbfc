//! `[teacher]` and `[teachers]`: who scores which prompt.

use crate::{
    config::Pipeline,
    error::{CommandError, Result},
    prompts::Prompt,
};
use model::{Device, Transformer};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// The id of `[teacher]`, who scores the prompts that name no teacher.
pub const TEACHER: &str = "teacher";

/// `[teacher]`, and each of `[teachers]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherSection {
    /// A Hugging Face directory, relative to the pipeline file.
    pub model: PathBuf,
    /// `cpu`, `cuda` or `cuda:N`; where it is missing, `score.device`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl Pipeline {
    /// Every teacher by id.
    pub fn all_teachers(&self) -> BTreeMap<&str, &TeacherSection> {
        let named = self.teachers.iter().map(|(id, teacher)| (id.as_str(), teacher));
        named.chain(self.teacher.iter().map(|teacher| (TEACHER, teacher))).collect()
    }

    /// The section of a teacher, as people write it.
    pub fn teacher_key(&self, id: &str) -> String {
        if id == TEACHER && self.teacher.is_some() { TEACHER.into() } else { format!("teachers.{id}") }
    }

    /// Where a teacher computes.
    pub fn teacher_device(&self, id: &str) -> &str {
        let own = self.all_teachers().get(id).and_then(|teacher| teacher.device.as_deref());
        own.unwrap_or(&self.score.device)
    }

    /// The network of a teacher, one that the pipeline has.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load_teacher(&self, id: &str, device: Device) -> Result<Transformer> {
        let teachers = self.all_teachers();
        // Prompts of other teachers pass neither preflight nor the comparison with the run's.
        let teacher =
            teachers.get(id).ok_or_else(|| CommandError::new(format!("the pipeline has no teacher `{id}`")))?;
        Ok(Transformer::load(&teacher.model, device)?)
    }
}

/// The id of the teacher that is to score what is said to `prompt`.
pub fn teacher_of(prompt: &Prompt) -> &str {
    prompt.teacher_id.as_deref().unwrap_or(TEACHER)
}

/// That there is a teacher, and that ids are words that fit a key of the store and a command line.
///
/// # Errors
/// The first id that does not.
pub fn check_ids(pipeline: &Pipeline) -> Result<()> {
    if pipeline.all_teachers().is_empty() {
        return Err(CommandError::new("there is no teacher").hint("add [teacher] with model = \"DIR\""));
    }
    if pipeline.teacher.is_some() && pipeline.teachers.contains_key(TEACHER) {
        let what = "both [teacher] and teachers.teacher are given, and both have the id `teacher`";
        return Err(CommandError::new(what).hint("keep one, or give the second another id"));
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    match pipeline.teachers.keys().find(|id| id.is_empty() || !id.chars().all(fits)) {
        Some(id) => Err(CommandError::new(format!("teachers.`{id}` is no id for a teacher"))
            .hint("an id is made of a-z, 0-9, `-` and `_`")),
        None => Ok(()),
    }
}

/// Ids for people: `` `code`, `math` ``.
pub fn listed<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    ids.map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ")
}
