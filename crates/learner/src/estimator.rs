//! One interface for all estimators: each is a pure rule over a few candidate tokens a position.
//!
//! Every estimator's gradient is a weighted sum of score functions, `grad L_t = sum_j c_j grad log p(a_j)`, so a rule maps
//! log-probabilities at the candidates to coefficients `c` `[N, J]` and a value `[N]`. It touches neither the vocabulary, nor
//! the network, nor autograd; the chunked head does what is the same for all. To add one: a file here with its struct (which
//! is its configuration too), its rule and its proof, and a variant of [`EstimatorConfig`].

mod correction;
mod cross_entropy;
mod decoupled_ppo;
mod exact;
mod forward_kl;
mod forward_kl_mc;
mod jsd;
mod m2po;
#[cfg(test)]
pub(crate) mod oracle;
mod over_support;
mod ppo;
mod reverse_kl_hybrid;
mod reverse_kl_mc;
mod reverse_kl_top_k;
mod skewed_kl;
#[cfg(test)]
mod thinned_tests;
mod top_k_ppo;

pub use correction::Correction;
pub use cross_entropy::CrossEntropy;
pub use decoupled_ppo::DecoupledPpo;
pub use exact::{Exact, ExactDivergence};
pub use forward_kl::ForwardKl;
pub use forward_kl_mc::{DrawnFrom, ForwardKlMc};
pub use jsd::Jsd;
pub use m2po::M2po;
pub use over_support::{Tail, TopKOf};
pub use ppo::Clip;
pub use reverse_kl_hybrid::{Baseline, Head, ReverseKlHybrid};
pub(crate) use reverse_kl_mc::LOG_RHO_LIMIT;
pub use reverse_kl_mc::{Advantage, ReverseKlMc};
pub use reverse_kl_top_k::{ReverseKlStudentTopK, ReverseKlTeacherTopK};
pub use skewed_kl::SkewedKl;
pub use top_k_ppo::TopKPpo;

use crate::{LearnError, Result};
use record::Budget;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Which tokens of a position an estimator looks at; the cached columns of that support come with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// The teacher's most likely ids, at most `k` of those stored; what is left out goes to the teacher's tail.
    TeacherTopK {
        /// Most ids read.
        k: usize,
    },
    /// The sampler's most likely ids, at most `k` of those stored, with the teacher's logprobs there.
    SamplerTopK {
        /// Most ids read.
        k: usize,
    },
    /// Monte-Carlo draws from the sampler, ids with counts.
    Draws,
    /// Monte-Carlo draws from the teacher, ids with counts.
    TeacherDraws,
    /// A head over which the sum is exact, at most `k` ids of each top-k in it, and Monte-Carlo draws from the sampler for what is
    /// outside. The tails are those of the head; a draw inside it is none of the candidates of its own, but is counted.
    HeadAndDraws {
        /// What the head is.
        head: Head,
        /// Most ids read of a top-k.
        k: usize,
    },
    /// All ids: the teacher itself is at hand.
    Vocabulary,
    /// The response token itself, from whoever wrote it.
    Token,
}

/// What an estimator reads at N positions with at most J candidates each. All logs are natural, at the rollout's temperature,
/// normalised over the full vocabulary. Entries outside `mask` may hold anything, NaN included: a rule selects them out.
/// Columns that the support does not carry are NaN (`counts`: 1), so that reading what was not declared is found out.
#[derive(Debug)]
pub struct Candidates {
    /// Which entries are candidates, `[N, J]`, bool.
    pub mask: Tensor,
    /// Which of them are of an exact part: all of a top-k, none of draws, `[N, J]`, bool.
    pub in_head: Tensor,
    /// How often each was drawn, `[N, J]`.
    pub counts: Tensor,
    /// How many draws the position has, m, those that are no candidates included, `[N]`.
    pub draws: Tensor,
    /// log p of the learner's current student, `[N, J]`.
    pub learner_logprobs: Tensor,
    /// log p of the proximal weights, `[N, J]`; NaN without [`Pass::Proximal`].
    pub proximal_logprobs: Tensor,
    /// log q of the teacher, `[N, J]`.
    pub teacher_logprobs: Tensor,
    /// log b of the student that sampled, `[N, J]`.
    pub sampler_logprobs: Tensor,
    /// log of the learner's mass outside the candidates (outside those `in_head`), summed over that complement, `[N]`.
    pub learner_tail: Tensor,
    /// log of the teacher's mass outside the same, `[N]`.
    pub teacher_tail: Tensor,
}

/// What a rule says of the N positions. A position without candidates has value 0 and coefficients 0.
#[derive(Debug)]
pub struct Ruling {
    /// The estimate of the divergence, nats, `[N]`.
    pub value: Tensor,
    /// `c_j`, `[N, J]`, 0 outside the mask; constants, nothing flows back through them.
    pub coefficients: Tensor,
    /// Sums over the N positions that become metrics.
    pub tallies: Vec<Tally>,
    /// What must not be, and at which positions (`[N]`, bool) it is.
    pub faults: Vec<(Fault, Tensor)>,
}

/// A rate kept as numerator and denominator, each a tensor of one number.
#[derive(Debug)]
pub struct Tally {
    /// The metric's name.
    pub name: &'static str,
    /// Numerator.
    pub numerator: Tensor,
    /// Denominator.
    pub denominator: Tensor,
}

/// Inputs for which an estimator has no finite value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A trained position of a Monte-Carlo estimator has nothing to average.
    #[error("no draw at this position; expected the sampled token at least; sample with `draws` of 1 or more")]
    NoDraw,
    /// A draw that somebody holds impossible.
    #[error(
        "a draw has log-probability -inf under learner, teacher or sampler; expected a finite one; do the models share a vocabulary?"
    )]
    ImpossibleDraw,
    /// log p = -inf in a support.
    #[error(
        "the learner gives a token of the support log-probability -inf; expected a finite one; lower the learning rate"
    )]
    ImpossibleToLearner,
    /// log q = -inf in a support.
    #[error(
        "the teacher gives a token of the support log-probability -inf; expected a finite one; take `forward_kl` or `jsd`, which bear it"
    )]
    ImpossibleToTeacher,
    /// log b = -inf in a support.
    #[error(
        "the sampler gives a token of its own top-k log-probability -inf; expected a finite one; do the rows hold what was sampled?"
    )]
    ImpossibleToSampler,
    /// The learner's tail vanished in float32 while the teacher has mass there.
    #[error(
        "the learner's mass outside the support is 0, the teacher's is not; expected both or neither; lower the learning rate"
    )]
    NoLearnerTail,
    /// The scores hold no tail, or one that vanished, where the learner has mass.
    #[error(
        "the teacher's mass outside the support is 0, the learner's is not; expected both or neither; score with a tail, or take `tail = \"drop\"`"
    )]
    NoTeacherTail,
    /// NaN or infinity without a better name.
    #[error("value or coefficient is not finite; expected finite log-probabilities from learner, teacher and sampler")]
    NotFinite,
}

/// The divergence that a rule's value estimates, where it is one of those reported at each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// KL(p || q), Monte-Carlo over draws.
    ReverseKl,
    /// KL(q || p), over the teacher's top-k and a tail bucket.
    ForwardKl,
}

/// What must be known of the whole minibatch before its positions can be ruled on: a pass over all of its microbatches without
/// gradients, which keeps log-probabilities at the candidates only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Nothing: positions are ruled on one by one.
    None,
    /// All candidates under the current student; [`Estimator::settle`] makes the rule of this minibatch from them.
    Statistics,
    /// [`Candidates::proximal_logprobs`]: the candidates under the weights from before the first of these many minibatches in a
    /// row. The first of them needs no pass: there the proximal weights are the current ones.
    Proximal {
        /// Optimizer steps that have the proximal weights in common, 1 or more.
        minibatches: u64,
    },
}

/// A rule from log-probabilities to coefficients.
pub trait Estimator: Send + Sync + std::fmt::Debug {
    /// Its name in pipelines and messages.
    fn name(&self) -> &'static str;

    /// The tokens it looks at.
    fn support(&self) -> Support;

    /// The divergence that its value is reported as; by default none, and what is reported is computed beside it.
    fn divergence(&self) -> Option<Divergence> {
        None
    }

    /// What must be cached for it; by default the top-k that it looks at.
    fn needs(&self) -> Needs {
        match self.support() {
            Support::TeacherTopK { k } => Needs { teacher_top_k: k, ..Needs::default() },
            Support::SamplerTopK { k } => Needs { sampler_top_k: k, ..Needs::default() },
            Support::Draws
            | Support::TeacherDraws
            | Support::HeadAndDraws { .. }
            | Support::Vocabulary
            | Support::Token => Needs::default(),
        }
    }

    /// Refuses settings without a meaning.
    ///
    /// # Errors
    /// [`LearnError::Setting`] with the key.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// What it needs to know of the whole minibatch first; by default nothing.
    fn pass(&self) -> Pass {
        Pass::None
    }

    /// The rule of one minibatch, from all its candidates in any cut; `None`: it is this one. Asked for after
    /// [`Pass::Statistics`] only. Candidates that are not finite are passed over: they are refused when they are ruled on.
    fn settle(&self, _minibatch: &[Candidates]) -> Option<Box<dyn Estimator>> {
        None
    }

    /// The rule. Tensors may be of any kind of float; what comes back has the same.
    fn rule(&self, candidates: &Candidates) -> Ruling;
}

/// An estimator as a pipeline names it: `{ name = "reverse_kl_mc", draws = 16 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum EstimatorConfig {
    /// KL(teacher || student) over the teacher's top-k and a tail bucket.
    ForwardKl(ForwardKl),
    /// KL(student || teacher) over the teacher's top-k and a tail bucket.
    ReverseKlTeacherTopK(ReverseKlTeacherTopK),
    /// KL(student || teacher) over the sampling student's top-k and a tail bucket.
    ReverseKlStudentTopK(ReverseKlStudentTopK),
    /// A mix of forward and reverse KL over a top-k and a tail bucket.
    SkewedKl(SkewedKl),
    /// Generalised Jensen-Shannon divergence over a top-k and a tail bucket.
    Jsd(Jsd),
    /// KL(student || teacher) over Monte-Carlo draws of the sampler.
    ReverseKlMc(ReverseKlMc),
    /// KL(student || teacher), exact over a top-k and over Monte-Carlo draws of the sampler outside it.
    ReverseKlHybrid(ReverseKlHybrid),
    /// KL(teacher || student) over Monte-Carlo draws of the sampler or of the teacher.
    ForwardKlMc(ForwardKlMc),
    /// The PPO rule over the sampling student's top-k.
    TopKPpo(TopKPpo),
    /// A divergence over the whole vocabulary, the teacher beside the learner.
    Exact(Exact),
}

/// What rollout and score jobs must cache for an estimator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Draws of the sampler a position.
    pub draws: usize,
    /// Draws of the teacher a position.
    pub teacher_draws: usize,
    /// Ids of the teacher's top-k.
    pub teacher_top_k: usize,
    /// Ids of the sampler's top-k.
    pub sampler_top_k: usize,
    /// Whether the sampler must sample from its whole distribution (top_p = 1).
    pub whole_distribution: bool,
    /// Whether it must have all of the draws, and not only those outside the sampler's top-k.
    pub all_draws: bool,
    /// Whether the teacher itself must be beside the learner.
    pub teacher: bool,
    /// Whether it reads the sampler's log-probabilities over its top-k as they were, not rounded.
    pub exact_sampler_top_k: bool,
}

impl Needs {
    /// How much of each position is read for an estimator with these needs. With `reports`, what it does without is read whole where
    /// reverse and forward KL can be reported from it: the sampler's draws and the teacher's top-k.
    pub fn budget(&self, reports: bool) -> Budget {
        let of = |entries: usize| Some(u32::try_from(entries).unwrap_or(u32::MAX));
        let or_report = |entries: usize, reports: bool| of(entries).filter(|_| entries > 0 || !reports);
        Budget {
            // With the teacher beside the learner, reverse KL is reported without draws.
            draws: or_report(self.draws, reports && !self.teacher),
            teacher_draws: of(self.teacher_draws),
            teacher_top_k: or_report(self.teacher_top_k, reports),
            sampler_top_k: of(self.sampler_top_k),
        }
    }
}

impl EstimatorConfig {
    /// The rule.
    pub fn estimator(&self) -> &dyn Estimator {
        match self {
            Self::ForwardKl(rule) => rule,
            Self::ReverseKlTeacherTopK(rule) => rule,
            Self::ReverseKlStudentTopK(rule) => rule,
            Self::SkewedKl(rule) => rule,
            Self::Jsd(rule) => rule,
            Self::ReverseKlMc(rule) => rule,
            Self::ReverseKlHybrid(rule) => rule,
            Self::ForwardKlMc(rule) => rule,
            Self::TopKPpo(rule) => rule,
            Self::Exact(rule) => rule,
        }
    }

    /// What must be cached for it.
    pub fn needs(&self) -> Needs {
        self.estimator().needs()
    }

    /// Refuses settings without a meaning.
    ///
    /// # Errors
    /// [`LearnError::Setting`] with the key.
    pub fn validate(&self) -> Result<()> {
        self.estimator().validate()
    }
}

fn at_least_one(key: &'static str, number: usize) -> Result<()> {
    if number == 0 {
        return Err(LearnError::Setting { key, expected: "1 or more".into(), found: "0".into() });
    }
    Ok(())
}

/// The share of each side in a mix that nobody set.
fn half() -> f64 {
    0.5
}

/// `why`: what the ends would mean.
fn share(key: &'static str, number: f64, why: &str) -> Result<()> {
    if number > 0.0 && number < 1.0 {
        return Ok(());
    }
    Err(LearnError::Setting { key, expected: format!("above 0 and below 1: {why}"), found: number.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> std::result::Result<EstimatorConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_pipeline_names_an_estimator() {
        let mc = read(r#"{"name": "reverse_kl_mc", "draws": 16, "advantage": "current", "correction": "importance"}"#)
            .unwrap();
        assert_eq!(mc, read(r#"{"name": "reverse_kl_mc", "draws": 16}"#).unwrap());
        assert_eq!(mc.needs(), Needs { draws: 16, whole_distribution: true, all_draws: true, ..Needs::default() });
        assert_eq!(mc.estimator().support(), Support::Draws);
        let of_teacher = read(r#"{"name": "forward_kl_mc", "draws": 16, "from": "teacher"}"#).unwrap();
        assert_eq!(of_teacher.needs(), Needs { teacher_draws: 16, ..Needs::default() });
        assert_eq!(of_teacher.estimator().support(), Support::TeacherDraws);
        let forward = read(r#"{"name": "forward_kl", "top_k": 64, "tail": "bucket"}"#).unwrap();
        assert_eq!(forward.needs(), Needs { teacher_top_k: 64, ..Needs::default() });
        assert_eq!(forward.estimator().support(), Support::TeacherTopK { k: 64 });
        let back = serde_json::to_string(&forward).unwrap();
        assert_eq!(read(&back).unwrap(), forward);
    }

    #[test]
    fn no_more_is_read_than_an_estimator_needs_and_what_reports_are_made_of() {
        let forward = read(r#"{"name": "forward_kl", "top_k": 16}"#).unwrap().needs();
        let only = Budget { draws: Some(0), teacher_draws: Some(0), teacher_top_k: Some(16), sampler_top_k: Some(0) };
        assert_eq!(forward.budget(false), only);
        assert_eq!(forward.budget(true), Budget { draws: None, ..only });
        let hybrid = read(r#"{"name": "reverse_kl_hybrid", "top_k": 8, "draws": 4}"#).unwrap().needs();
        let all = Budget { draws: Some(4), teacher_draws: Some(0), teacher_top_k: None, sampler_top_k: Some(8) };
        assert_eq!(hybrid.budget(true), all);
        assert_eq!(hybrid.budget(false), Budget { teacher_top_k: Some(0), ..all });
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        assert!(read(r#"{"name": "reverse_kl_mc", "draw": 16}"#).unwrap_err().contains("draw"));
        assert!(read(r#"{"name": "forward_kl", "top_k": 4, "draws": 1}"#).unwrap_err().contains("draws"));
        assert!(read(r#"{"name": "reverse_kl"}"#).unwrap_err().contains("reverse_kl_mc"));
        let truncated = r#"{"name": "reverse_kl_mc", "draws": 4, "correction": {"name": "truncated", "cc": 2}}"#;
        assert!(read(truncated).unwrap_err().contains("unknown field `cc`"));
        assert!(read(r#"{"name": "jsd", "top_k": 4, "alpha": 0.5}"#).unwrap_err().contains("alpha"));
        assert!(read(r#"{"name": "jsd", "top_k": 4, "support": "draws"}"#).unwrap_err().contains("student_top_k"));
        for (json, says) in [
            (r#"{"name": "forward_kl", "top_k": 0}"#, ["estimator.top_k", "is 0"]),
            (r#"{"name": "reverse_kl_teacher_top_k", "top_k": 0}"#, ["estimator.top_k", "is 0"]),
            (r#"{"name": "reverse_kl_student_top_k", "top_k": 0}"#, ["estimator.top_k", "is 0"]),
            (r#"{"name": "skewed_kl", "top_k": 0}"#, ["estimator.top_k", "is 0"]),
            (r#"{"name": "skewed_kl", "top_k": 4, "alpha": 1}"#, ["estimator.alpha", "1 is `forward_kl`"]),
            (r#"{"name": "jsd", "top_k": 0}"#, ["estimator.top_k", "is 0"]),
            (r#"{"name": "jsd", "top_k": 4, "beta": 0}"#, ["estimator.beta", "above 0 and below 1"]),
            (r#"{"name": "reverse_kl_mc", "draws": 0}"#, ["estimator.draws", "is 0"]),
            (r#"{"name": "reverse_kl_hybrid", "top_k": 0, "draws": 1}"#, ["estimator.top_k", "is 0"]),
            (r#"{"name": "reverse_kl_hybrid", "top_k": 4, "draws": 0}"#, ["estimator.draws", "is 0"]),
            (r#"{"name": "forward_kl_mc", "draws": 0}"#, ["estimator.draws", "is 0"]),
            (r#"{"name": "top_k_ppo", "top_k": 0}"#, ["estimator.top_k", "is 0"]),
            (r#"{"name": "top_k_ppo", "top_k": 3, "eps_low": -1}"#, ["estimator.eps_low", "is -1"]),
            (r#"{"name": "top_k_ppo", "top_k": 3, "dual_clip": 0.5}"#, ["estimator.dual_clip", "is 0.5"]),
            (
                r#"{"name": "reverse_kl_mc", "draws": 1, "correction": "self_normalised"}"#,
                ["estimator.correction", "`none`: use that"],
            ),
        ] {
            let said = read(json).unwrap().validate().unwrap_err().to_string();
            assert!(says.iter().all(|words| said.contains(words)), "{json}: {said}");
        }
    }

    #[test]
    fn every_estimator_goes_by_its_name_and_comes_back_as_it_went() {
        for (json, needs) in [
            (r#"{"name": "forward_kl", "top_k": 3, "tail": "drop"}"#, [0, 3, 0]),
            (r#"{"name": "reverse_kl_teacher_top_k", "top_k": 3}"#, [0, 3, 0]),
            (r#"{"name": "reverse_kl_student_top_k", "top_k": 3, "tail": "drop"}"#, [0, 0, 3]),
            (r#"{"name": "skewed_kl", "top_k": 3}"#, [0, 3, 0]),
            (r#"{"name": "skewed_kl", "top_k": 3, "alpha": 0.9, "support": "student_top_k"}"#, [0, 0, 3]),
            (r#"{"name": "jsd", "top_k": 3}"#, [0, 3, 0]),
            (r#"{"name": "jsd", "top_k": 3, "beta": 0.9, "support": "student_top_k", "tail": "drop"}"#, [0, 0, 3]),
            (r#"{"name": "reverse_kl_mc", "draws": 3}"#, [3, 0, 0]),
            (r#"{"name": "reverse_kl_hybrid", "top_k": 5, "draws": 3}"#, [3, 0, 5]),
            (r#"{"name": "reverse_kl_hybrid", "top_k": 5, "draws": 3, "head": "teacher_top_k"}"#, [3, 5, 0]),
            (r#"{"name": "reverse_kl_hybrid", "top_k": 5, "draws": 3, "head": "union"}"#, [3, 5, 5]),
            (r#"{"name": "reverse_kl_hybrid", "top_k": 5, "draws": 3, "baseline": "leave_one_out"}"#, [3, 0, 5]),
            (r#"{"name": "forward_kl_mc", "draws": 3}"#, [3, 0, 0]),
            (r#"{"name": "forward_kl_mc", "draws": 3, "from": "teacher"}"#, [0, 0, 0]),
            (r#"{"name": "top_k_ppo", "top_k": 3, "advantage": "rollout", "dual_clip": 2}"#, [0, 0, 3]),
            (r#"{"name": "exact", "divergence": "jsd", "beta": 0.25}"#, [0, 0, 0]),
            (r#"{"name": "exact", "divergence": "reverse_kl"}"#, [0, 0, 0]),
            (r#"{"name": "reverse_kl_mc", "draws": 3, "advantage": "rollout", "correction": "none"}"#, [3, 0, 0]),
            (r#"{"name": "reverse_kl_mc", "draws": 3, "correction": {"name": "truncated", "c": 4}}"#, [3, 0, 0]),
            (r#"{"name": "reverse_kl_mc", "draws": 3, "correction": {"name": "ppo", "dual_clip": 3}}"#, [3, 0, 0]),
        ] {
            let config = read(json).unwrap_or_else(|error| panic!("{json}: {error}"));
            config.validate().unwrap();
            let found = config.needs();
            assert_eq!([found.draws, found.teacher_top_k, found.sampler_top_k], needs, "{json}");
            assert!(json.contains(&format!("\"{}\"", config.estimator().name())), "{json}");
            assert_eq!(read(&serde_json::to_string(&config).unwrap()).unwrap(), config);
        }
    }
}
