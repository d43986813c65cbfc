//! One minibatch, one optimizer step, one policy version.

use crate::{
    AdamW, EstimatorConfig, LearnError, OptimizerConfig, Result, StepReport,
    adamw::global_norm,
    estimator::{CrossEntropy, Estimator, Pass, Support},
    exact_head::{TeacherStates, exact_head},
    head::chunked_head,
    logprobs, pack,
    pass::{self, Before, Microbatch},
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
    /// The weights from before a batch of minibatches, and how many steps had made them; for [`Pass::Proximal`] only.
    proximal: Option<(u64, Transformer)>,
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
        Ok(Self { student, optimizer, settings, proximal: None, teacher: None })
    }

    /// The student.
    pub fn student(&self) -> &Transformer {
        &self.student
    }

    /// The student, to set its weights to another policy version's. Proximal weights are given up.
    pub fn student_mut(&mut self) -> &mut Transformer {
        self.proximal = None;
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

    /// The optimizer, to load the moments of another policy version. Proximal weights are given up.
    pub fn optimizer_mut(&mut self) -> &mut AdamW {
        self.proximal = None;
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

    /// What [`Learner::step`] would report of these rows: losses, metrics and the gradient's norm. Nothing moves; without proximal
    /// weights of its own it takes the present ones for them, as the first minibatch of a batch does.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn evaluate(&self, estimator: &EstimatorConfig, rows: &[TrainRow]) -> Result<StepReport> {
        estimator.validate()?;
        let (report, gradients) = self.checked_gradients(estimator.estimator(), rows)?;
        let mut report = report.finish(None);
        // No step was skipped: none was asked for.
        report.metrics.remove("skipped_steps");
        if let Some(gradients) = gradients {
            report.metrics.insert("grad_norm".into(), (global_norm(&gradients)?, 1.0));
        }
        Ok(report)
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
        self.check(estimator, rows)?;
        self.take_up(estimator.pass())?;
        let (report, gradients) = self.gradients(estimator, rows)?;
        let update = match gradients {
            Some(mut gradients) => Some(self.optimizer.update(&self.student.parameters(), &mut gradients)?),
            None => None,
        };
        Ok(report.finish(update))
    }

    /// That each row is whole and carries what `estimator` reads.
    fn check(&self, estimator: &dyn Estimator, rows: &[TrainRow]) -> Result<()> {
        for (i, row) in rows.iter().enumerate() {
            row.check(i, estimator.support(), self.student.real_vocab())?;
            logprobs::check(row, i)?;
            let context = self.student.config().max_position_embeddings;
            if row.input_len() > context {
                let expected = format!("a row of at most {} tokens, the student's context and one more", context + 1);
                let found = (row.input_len() + 1).to_string();
                return Err(LearnError::Row { row: i, column: "response_ids", expected, found });
            }
        }
        Ok(())
    }

    /// As [`Learner::gradients`], of rows that nobody has looked at yet.
    pub(crate) fn checked_gradients(
        &self,
        estimator: &dyn Estimator,
        rows: &[TrainRow],
    ) -> Result<(Reporter, Option<Vec<Tensor>>)> {
        self.check(estimator, rows)?;
        self.gradients(estimator, rows)
    }

    /// Keeps a copy of the weights where a batch of minibatches begins: at each multiple of their number, and where a learner
    /// without a copy begins amid a batch.
    fn take_up(&mut self, pass: Pass) -> Result<()> {
        let Pass::Proximal { minibatches } = pass else {
            self.proximal = None;
            return Ok(());
        };
        let step = self.optimizer.step();
        if step.is_multiple_of(minibatches) {
            // The old copy goes first: there is never more than one.
            self.proximal = None;
        }
        if minibatches > 1 && self.proximal.is_none() {
            self.proximal = Some((step, self.student.copy()?));
        }
        Ok(())
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
        let LearnerSettings { microbatch_tokens, head_chunk } = self.settings;
        let minibatch = Microbatch::cut(rows, microbatch_tokens);
        let trained: usize = minibatch.iter().map(|batch| batch.places.len()).sum();
        if trained == 0 {
            return Ok((report, None));
        }
        let (names, parameters): (Vec<String>, Vec<Tensor>) = self.student.parameters().into_iter().unzip();
        let mut gradients = parameters.iter().map(zeros).collect::<Result<Vec<_>>>()?;
        // The head is one of the parameters: `head_name` is among the names.
        let head_index = names.iter().position(|name| name == self.student.head_name()).unwrap_or_default();
        let weight = pass::head(&self.student)?;
        let scale = 1.0 / trained as f64;

        let proximal = self.proximal.as_ref().filter(|(step, _)| *step != self.optimizer.step());
        let proximal = proximal.map(|(_, network)| network);
        let before = Before::of(estimator, &self.student, proximal, rows, &minibatch, head_chunk)?;
        let estimator = before.settled.as_deref().unwrap_or(estimator);
        for (batch, proximal) in minibatch.iter().zip(before.proximal) {
            let places = &batch.places;
            let hidden = batch.hidden(&self.student, rows)?;
            let mut positions = pack::positions(rows, places, estimator.support(), self.student.device())?;
            positions.proximal = proximal;
            let mut d_weight = gradients[head_index].f_narrow(0, 0, self.student.real_vocab() as i64)?;
            let states = hidden.f_detach()?;
            let output = match teacher {
                Some(teacher) => {
                    let teacher = teacher_states(teacher, batch, rows)?;
                    exact_head(&states, &weight, &teacher, &positions, estimator, scale, head_chunk, &mut d_weight)?
                }
                None => chunked_head(&states, &weight, &positions, estimator, scale, head_chunk, &mut d_weight)?,
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
            report.add(rows, places, &output)?;
        }
        Ok((report, Some(gradients)))
    }
}

/// What the teacher computes at the trained positions of a microbatch.
fn teacher_states(teacher: &Transformer, batch: &Microbatch, rows: &[TrainRow]) -> Result<TeacherStates> {
    let _guard = tch::no_grad_guard();
    Ok(TeacherStates { hidden: batch.hidden(teacher, rows)?, weight: pass::head(teacher)? })
}

fn zeros(parameter: &Tensor) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    Ok(parameter.f_zeros_like()?)
}

#[cfg(test)]
#[path = "minibatch_tests.rs"]
mod tests;
