//! The gradient in every parameter: an estimator's, from what is stored of some rows, beside the exact one.
//!
//! One realisation of the draws, not an expectation: what a step on these rows would follow. With g an estimator's gradient and
//! g* that of its divergence over the full vocabulary, both means over the same trained positions,
//!
//! ```text
//! relative error  |g - g*| / |g*|        cosine  <g, g*> / (|g| |g*|)
//! ```

use super::{distributions::Target, menu::menu};
use crate::{
    LearnError, Learner, Result,
    estimator::{Estimator, Exact, ExactDivergence, Head, Support},
    row::{CandidateLists, TrainRow},
};
use tch::{Kind, Tensor};

/// An estimator's gradient in the parameters against the exact one.
#[derive(Clone, Debug, PartialEq)]
pub struct InParameters {
    /// Its name in pipelines, then what is not its default.
    pub estimator: &'static str,
    /// Most ids that the rows have of its top-k; 0 where it has none.
    pub k: usize,
    /// Most draws that a position of the rows has; 0 where it reads none.
    pub m: usize,
    /// |g - g*| / |g*|.
    pub relative_error: f64,
    /// <g, g*> / (|g| |g*|).
    pub cosine: f64,
}

/// What was found out, and of whom nothing could be.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order of the menu, by divergence.
    pub lines: Vec<InParameters>,
    /// Estimators that read what the rows do not have, or have no finite value on them.
    pub left_out: Vec<(&'static str, LearnError)>,
}

/// Every estimator of the menu on `rows`, under `learner`'s student, with the rows' teacher beside it. `before` is told of each
/// gradient before it is taken: how many were, how many will have been at most.
///
/// # Errors
/// A row that is not whole, no trained position, no teacher.
pub fn in_parameters(learner: &Learner, rows: &[TrainRow], mut before: impl FnMut(usize, usize)) -> Result<Found> {
    let (mut found, subjects) = (Found::default(), menu());
    let (total, mut taken) = (subjects.len() + Target::ALL.len(), 0);
    let mut gradient = |estimator: &dyn Estimator| {
        before(taken, total);
        taken += 1;
        learner.checked_gradients(estimator, rows)?.1.ok_or_else(|| LearnError::Row {
            row: 0,
            column: "loss_mask",
            expected: "a trained position in one of the rows".into(),
            found: "none".into(),
        })
    };
    for target in Target::ALL {
        let exact = gradient(&whole(target))?;
        for subject in subjects.iter().filter(|subject| subject.target == target) {
            let support = subject.rule.support();
            let lacking = rows.iter().enumerate().find_map(|(i, row)| row.check_support(i, support).err());
            let taken = match lacking {
                Some(lacking) => Err(lacking),
                None => gradient(subject.rule.as_ref()),
            };
            match taken {
                Ok(gradient) => {
                    let (relative_error, cosine) = against(&gradient, &exact);
                    let (k, m) = stored(support, rows);
                    found.lines.push(InParameters { estimator: subject.name, k, m, relative_error, cosine });
                }
                Err(why @ LearnError::Fault { .. }) => found.left_out.push((subject.name, why)),
                Err(why @ LearnError::Row { .. }) => found.left_out.push((subject.name, why)),
                Err(why) => return Err(why),
            }
        }
    }
    Ok(found)
}

/// The estimator that is exact for `target`.
fn whole(target: Target) -> Exact {
    let divergence = match target {
        Target::ReverseKl => ExactDivergence::ReverseKl,
        Target::ForwardKl => ExactDivergence::ForwardKl,
        Target::SkewedKl => ExactDivergence::SkewedKl,
        Target::Jsd => ExactDivergence::Jsd,
    };
    Exact { divergence, alpha: None, beta: None }
}

/// Relative error and cosine of `g`, added up in float64.
fn against(g: &[Tensor], exact: &[Tensor]) -> (f64, f64) {
    let _guard = tch::no_grad_guard();
    let dot = |a: &Tensor, b: &Tensor| (a * b).sum(Kind::Double).double_value(&[]);
    let (mut error, mut square, mut along, mut whole) = (0.0, 0.0, 0.0, 0.0);
    for (g, exact) in g.iter().zip(exact) {
        let (g, exact) = (g.to_kind(Kind::Double), exact.to_kind(Kind::Double));
        let gap = &g - &exact;
        error += dot(&gap, &gap);
        square += dot(&g, &g);
        along += dot(&g, &exact);
        whole += dot(&exact, &exact);
    }
    ((error / whole).sqrt(), along / (square * whole).sqrt())
}

/// Most ids of its top-k, and most draws, that the rows have for `support`.
fn stored(support: Support, rows: &[TrainRow]) -> (usize, usize) {
    let over = |of: &dyn Fn(&TrainRow) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let longest = |lists: &CandidateLists| lists.ids.iter().map(|ids| ids.len()).max().unwrap_or(0);
    let of_teacher = || over(&|row| longest(&row.teacher_top_k));
    let of_sampler = || over(&|row| longest(&row.sampler_top_k));
    let draws = || over(&|row| (0..row.response_ids.len()).map(|t| row.draws_at(t) as usize).max().unwrap_or(0));
    let of_teachers =
        || over(&|row| (0..row.response_ids.len()).map(|t| row.teacher_draws.total(t) as usize).max().unwrap_or(0));
    match support {
        Support::TeacherTopK { .. } => (of_teacher(), 0),
        Support::SamplerTopK { .. } => (of_sampler(), 0),
        Support::Draws => (0, draws()),
        Support::TeacherDraws => (0, of_teachers()),
        Support::HeadAndDraws { head: Head::TeacherTopK, .. } => (of_teacher(), draws()),
        Support::HeadAndDraws { head: Head::StudentTopK, .. } => (of_sampler(), draws()),
        Support::HeadAndDraws { head: Head::Union, .. } => (of_teacher().max(of_sampler()), draws()),
        Support::Vocabulary | Support::Token => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_and_cosine_of_a_gradient_with_itself_and_its_multiples() {
        let exact = [Tensor::from_slice(&[1.0f32, -2.0]), Tensor::from_slice(&[[3.0f32, 0.0], [0.5, 4.0]].concat())];
        for (factor, error, cosine) in [(1.0, 0.0, 1.0), (2.0, 1.0, 1.0), (-1.0, 2.0, -1.0)] {
            let found = against(&exact.each_ref().map(|g| g * factor), &exact);
            assert!((found.0 - error).abs() < 1e-12 && (found.1 - cosine).abs() < 1e-12, "{factor}: {found:?}");
        }
        let across = [Tensor::from_slice(&[2.0f32, 1.0]), Tensor::from_slice(&[0.0f32; 4])];
        assert_eq!(against(&across, &exact).1, 0.0, "at right angles");
    }
}
