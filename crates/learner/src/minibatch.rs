//! One minibatch, one optimizer step, one policy version.

use crate::{
    AdamW, EstimatorConfig, LearnError, OptimizerConfig, Result, StepReport,
    estimator::{CrossEntropy, Estimator, Support},
    exact_head::{TeacherStates, exact_head},
    head::chunked_head,
    pack,
    report::Reporter,
    row::TrainRow,
};
use model::Transformer;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How a minibatch is cut to fit the memory; changes nothing beyond rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LearnerSettings {
    /// Most tokens of a forward-backward pass, padding included; a longer row goes alone.
    pub microbatch_tokens: usize,
    /// Positions whose logits are held at once: twice this times the vocabulary, in float32.
    pub head_chunk: usize,
}

impl Default for LearnerSettings {
    fn default() -> Self {
        Self { microbatch_tokens: 4096, head_chunk: 128 }
    }
}

impl LearnerSettings {
    /// Refuses settings without a meaning.
    ///
    /// # Errors
    /// [`LearnError::Setting`] with the key.
    pub fn validate(&self) -> Result<()> {
        for (key, number) in [("microbatch_tokens", self.microbatch_tokens), ("head_chunk", self.head_chunk)] {
            if number == 0 {
                return Err(LearnError::Setting { key, expected: "1 or more".into(), found: "0".into() });
            }
        }
        Ok(())
    }
}

/// A student on its way to the next policy version.
///
/// Invariant: a call of [`Learner::step`] either moves all weights and moments by one update, or (an error, no trained position,
/// a gradient that is not finite) none of them.
pub struct Learner {
    student: Transformer,
    optimizer: AdamW,
    settings: LearnerSettings,
    teacher: Option<Transformer>,
}

impl Learner {
    /// A learner with zero moments; load others into [`Learner::optimizer_mut`] to go on from a policy version.
    ///
    /// # Errors
    /// A setting without a meaning.
    pub fn new(student: Transformer, optimizer: OptimizerConfig, settings: LearnerSettings) -> Result<Self> {
        settings.validate()?;
        let optimizer = AdamW::new(optimizer, &student.parameters())?;
        Ok(Self { student, optimizer, settings, teacher: None })
    }

    /// The student.
    pub fn student(&self) -> &Transformer {
        &self.student
    }

    /// The student, to set its weights to another policy version's.
    pub fn student_mut(&mut self) -> &mut Transformer {
        &mut self.student
    }

    /// The student alone; the moments are given up.
    pub fn into_student(self) -> Transformer {
        self.student
    }

    /// Puts the teacher of the rows beside the student, on the student's device, for an estimator over the whole vocabulary.
    ///
    /// # Errors
    /// A teacher of another vocabulary.
    pub fn set_teacher(&mut self, teacher: Option<Transformer>) -> Result<()> {
        let (expected, found) = (self.student.real_vocab(), teacher.as_ref().map(Transformer::real_vocab));
        if let Some(found) = found.filter(|found| *found != expected) {
            let expected = format!("one with the student's vocabulary of {expected} ids");
            return Err(LearnError::Setting { key: "teacher.model", expected, found: format!("one with {found}") });
        }
        self.teacher = teacher;
        Ok(())
    }

    /// Whether a teacher is beside the student.
    pub fn has_teacher(&self) -> bool {
        self.teacher.is_some()
    }

    /// Takes the teacher away again.
    pub fn take_teacher(&mut self) -> Option<Transformer> {
        self.teacher.take()
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The optimizer, to load the moments of another policy version.
    pub fn optimizer_mut(&mut self) -> &mut AdamW {
        &mut self.optimizer
    }

    /// Trains on one minibatch of scored rollouts: one update.
    ///
    /// # Errors
    /// A row that does not carry what the estimator needs, or probabilities it has no finite value for, by row and position.
    pub fn step(&mut self, estimator: &EstimatorConfig, rows: &[TrainRow]) -> Result<StepReport> {
        estimator.validate()?;
        self.minibatch(estimator.estimator(), rows)
    }

    /// Trains on prompts with given completions by cross-entropy: one update.
    ///
    /// # Errors
    /// A row without tokens, with an id the student does not have, or longer than the context.
    pub fn sft_step(&mut self, rows: &[(&[i32], &[i32])]) -> Result<StepReport> {
        let rows: Vec<TrainRow> = rows.iter().map(|(prompt, text)| TrainRow::completion(prompt, text)).collect();
        self.minibatch(&CrossEntropy, &rows)
    }

    fn minibatch(&mut self, estimator: &dyn Estimator, rows: &[TrainRow]) -> Result<StepReport> {
        for (i, row) in rows.iter().enumerate() {
            row.check(i, estimator.support(), self.student.real_vocab())?;
            let context = self.student.config().max_position_embeddings;
            if row.input_len() > context {
                let expected = format!("a row of at most {} tokens, the student's context and one more", context + 1);
                let found = (row.input_len() + 1).to_string();
                return Err(LearnError::Row { row: i, column: "response_ids", expected, found });
            }
        }
        let (report, gradients) = self.gradients(estimator, rows)?;
        let update = match gradients {
            Some(mut gradients) => Some(self.optimizer.update(&self.student.parameters(), &mut gradients)?),
            None => None,
        };
        Ok(report.finish(update))
    }

    /// The loss's gradient in every parameter; `None` if no position is trained. The loss is the sum over the trained positions
    /// of all rows by their number, however the rows are cut.
    pub(crate) fn gradients(
        &self,
        estimator: &dyn Estimator,
        rows: &[TrainRow],
    ) -> Result<(Reporter, Option<Vec<Tensor>>)> {
        let teacher = match (estimator.support(), &self.teacher) {
            (Support::Vocabulary, None) => {
                let expected = "one whose scores are stored: no teacher is beside this learner".into();
                return Err(LearnError::Setting { key: "estimator", expected, found: estimator.name().into() });
            }
            (Support::Vocabulary, teacher) => teacher.as_ref(),
            _ => None,
        };
        let mut report = Reporter::new(rows, teacher.is_some());
        let trained: usize =
            rows.iter().map(|row| (0..row.response_ids.len()).filter(|t| row.is_trained(*t)).count()).sum();
        if trained == 0 {
            return Ok((report, None));
        }
        let (names, parameters): (Vec<String>, Vec<Tensor>) = self.student.parameters().into_iter().unzip();
        let mut gradients = parameters.iter().map(zeros).collect::<Result<Vec<_>>>()?;
        // The head is one of the parameters: `head_name` is among the names.
        let head_index = names.iter().position(|name| name == self.student.head_name()).unwrap_or_default();
        let real_vocab = self.student.real_vocab() as i64;
        let weight = self.student.head().f_detach()?.f_narrow(0, 0, real_vocab)?;

        let lengths: Vec<usize> = rows.iter().map(TrainRow::input_len).collect();
        for batch in pack::microbatches(&lengths, self.settings.microbatch_tokens) {
            let width = lengths[batch[0]];
            let places = pack::places(rows, &batch, width);
            if places.is_empty() {
                continue;
            }
            let inputs: Vec<Vec<i32>> = batch
                .iter()
                .map(|row| {
                    let row = &rows[*row];
                    [row.prompt_ids, &row.response_ids[..row.response_ids.len() - 1]].concat()
                })
                .collect();
            let inputs = self.student.right_padded(&inputs)?;
            let hidden = self.student.hidden(&inputs)?;
            let at: Vec<i64> = places.iter().map(|place| place.hidden).collect();
            let at = Tensor::f_from_slice(&at)?.f_to_device(self.student.device())?;
            let hidden = hidden.f_flatten(0, 1)?.f_index_select(0, &at)?;
            let positions = pack::positions(rows, &places, estimator.support(), self.student.device())?;
            let mut d_weight = gradients[head_index].f_narrow(0, 0, real_vocab)?;
            let scale = 1.0 / trained as f64;
            let chunk = self.settings.head_chunk;
            let states = hidden.f_detach()?;
            let output = match teacher {
                Some(teacher) => {
                    let teacher = teacher_states(teacher, &inputs, &at, real_vocab)?;
                    exact_head(&states, &weight, &teacher, &positions, estimator, scale, chunk, &mut d_weight)?
                }
                None => chunked_head(&states, &weight, &positions, estimator, scale, chunk, &mut d_weight)?,
            };
            if let Some((i, fault)) = output.fault {
                let (row, position) = (places[i].row, places[i].t);
                return Err(LearnError::Fault { row, position, estimator: estimator.name(), fault });
            }
            // d (h . d_hidden) / d h = d_hidden: backward from here on is the network's own.
            let surrogate = hidden.f_mul(&output.d_hidden)?.f_sum(Kind::Float)?;
            let parts = Tensor::f_run_backward(&[surrogate], &parameters, false, false)?;
            let _guard = tch::no_grad_guard();
            for (gradient, part) in gradients.iter_mut().zip(&parts) {
                // A head that is not tied takes no part in `hidden`.
                if part.defined() {
                    let _ = gradient.f_add_(part)?;
                }
            }
            report.add(rows, &places, &output)?;
        }
        Ok((report, Some(gradients)))
    }
}

/// What the teacher computes of `inputs` `[B, T]` at the places `at` among `[B * T]`.
fn teacher_states(teacher: &Transformer, inputs: &Tensor, at: &Tensor, real_vocab: i64) -> Result<TeacherStates> {
    let _guard = tch::no_grad_guard();
    let hidden = teacher.hidden(inputs)?.f_flatten(0, 1)?.f_index_select(0, at)?;
    Ok(TeacherStates { hidden, weight: teacher.head().f_narrow(0, 0, real_vocab)? })
}

fn zeros(parameter: &Tensor) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    Ok(parameter.f_zeros_like()?)
}

#[cfg(test)]
#[path = "minibatch_tests.rs"]
mod tests;
