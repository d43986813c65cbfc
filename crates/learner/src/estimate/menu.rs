//! The estimators that a study looks at, each with what it is compared with.

use super::distributions::Target;
use crate::estimator::{
    Advantage, Baseline, Clip, Correction, DecoupledPpo, DrawnFrom, Estimator, ForwardKl, ForwardKlMc, Head, Jsd, M2po,
    ReverseKlHybrid, ReverseKlMc, ReverseKlStudentTopK, ReverseKlTeacherTopK, SkewedKl, Support, Tail, TopKOf, TopKPpo,
};

/// One line of the menu.
pub(super) struct Subject {
    /// The estimator's name, then what is not its default: `reverse_kl_mc/truncated`.
    pub name: &'static str,
    pub rule: Box<dyn Estimator>,
    pub target: Target,
    pub way: Way,
}

/// How its moments are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Linear in draws from b.
    Draws,
    /// The same; and once more with the mean advantage of the group as a constant baseline, under this name.
    DrawsAndBaseline(&'static str),
    /// Linear in draws from b once the margins are known that all positions of the group give.
    Margins,
    /// Draws that it is not linear in.
    Replicates,
    /// Linear in draws from q.
    TeacherDraws,
    /// Exact over a head, linear in the draws from b outside it. With the sampler's top-k as the head, only those are stored.
    Hybrid { teacher_head: bool },
    /// The same with the sampler's top-k as the head, and not linear in the draws.
    HybridReplicates,
    /// The teacher's top-k.
    TeacherTopK,
    /// The sampler's top-k; with its logprobs there, or without.
    SamplerTopK { sampler_logprobs: bool },
}

/// Numbers that a rule itself does not read: the candidates decide.
pub(super) const ANY: usize = usize::MAX;

/// The one of the menu.
pub(super) const M2PO: M2po = M2po { budget: 0.04 };

pub(super) fn menu() -> Vec<Subject> {
    use Target::{ForwardKl as Forward, Jsd as JsdTarget, ReverseKl as Reverse, SkewedKl as Skewed};
    let mut menu = Vec::new();
    let mut add = |name, rule: Box<dyn Estimator>, target| {
        let way = match rule.support() {
            Support::TeacherTopK { .. } => Way::TeacherTopK,
            Support::SamplerTopK { .. } => Way::SamplerTopK { sampler_logprobs: rule.name() == "top_k_ppo" },
            Support::TeacherDraws => Way::TeacherDraws,
            Support::HeadAndDraws { .. } if name == "reverse_kl_hybrid/leave_one_out" => Way::HybridReplicates,
            Support::HeadAndDraws { head, .. } => Way::Hybrid { teacher_head: head == Head::TeacherTopK },
            _ if name == "reverse_kl_mc" => Way::DrawsAndBaseline("reverse_kl_mc/constant_baseline"),
            _ if name == "reverse_kl_mc/self_normalised" => Way::Replicates,
            _ if name == "reverse_kl_mc/m2po" => Way::Margins,
            _ => Way::Draws,
        };
        menu.push(Subject { name, rule, target, way });
    };
    let mc = |advantage, correction| Box::new(ReverseKlMc { draws: ANY, advantage, correction });
    let clip = Clip { eps_low: 0.2, eps_high: 0.2, dual_clip: None };
    let (current, importance) = (Advantage::Current, Correction::Importance {});
    add("reverse_kl_mc", mc(current, importance), Reverse);
    add("reverse_kl_mc/none", mc(current, Correction::None {}), Reverse);
    add("reverse_kl_mc/truncated", mc(current, Correction::Truncated { c: 2.0 }), Reverse);
    add("reverse_kl_mc/self_normalised", mc(current, Correction::SelfNormalised {}), Reverse);
    add("reverse_kl_mc/ppo", mc(current, Correction::Ppo(clip)), Reverse);
    let decoupled = DecoupledPpo { minibatches: 1, cap: 5.0, eps_low: 0.2, eps_high: 0.2, dual_clip: None };
    add("reverse_kl_mc/decoupled_ppo", mc(current, Correction::DecoupledPpo(decoupled)), Reverse);
    add("reverse_kl_mc/m2po", mc(current, Correction::M2po(M2PO)), Reverse);
    add("reverse_kl_mc/rollout", mc(Advantage::Rollout, importance), Reverse);
    add("reverse_kl_mc/rollout/none", mc(Advantage::Rollout, Correction::None {}), Reverse);
    add("reverse_kl_mc/rollout/ppo", mc(Advantage::Rollout, Correction::Ppo(clip)), Reverse);
    let of = |from| Box::new(ForwardKlMc { draws: ANY, from });
    add("forward_kl_mc", of(DrawnFrom::Student), Forward);
    add("forward_kl_mc/teacher", of(DrawnFrom::Teacher), Forward);
    let hybrid = |head, baseline| Box::new(ReverseKlHybrid { top_k: ANY, draws: ANY, head, baseline });
    add("reverse_kl_hybrid", hybrid(Head::StudentTopK, Baseline::Tail), Reverse);
    add("reverse_kl_hybrid/leave_one_out", hybrid(Head::StudentTopK, Baseline::LeaveOneOut), Reverse);
    add("reverse_kl_hybrid/teacher_top_k", hybrid(Head::TeacherTopK, Baseline::Tail), Reverse);

    let (bucket, drop) = (Tail::Bucket, Tail::Drop);
    add("forward_kl", Box::new(ForwardKl { top_k: ANY, tail: bucket }), Forward);
    add("forward_kl/drop", Box::new(ForwardKl { top_k: ANY, tail: drop }), Forward);
    add("reverse_kl_teacher_top_k", Box::new(ReverseKlTeacherTopK { top_k: ANY, tail: bucket }), Reverse);
    add("reverse_kl_teacher_top_k/drop", Box::new(ReverseKlTeacherTopK { top_k: ANY, tail: drop }), Reverse);
    add("reverse_kl_student_top_k", Box::new(ReverseKlStudentTopK { top_k: ANY, tail: bucket }), Reverse);
    add("reverse_kl_student_top_k/drop", Box::new(ReverseKlStudentTopK { top_k: ANY, tail: drop }), Reverse);
    let skewed = |support| Box::new(SkewedKl { top_k: ANY, support, alpha: 0.5, tail: bucket });
    let jsd = |support| Box::new(Jsd { top_k: ANY, support, beta: 0.5, tail: bucket });
    add("skewed_kl", skewed(TopKOf::TeacherTopK), Skewed);
    add("skewed_kl/student_top_k", skewed(TopKOf::StudentTopK), Skewed);
    add("jsd", jsd(TopKOf::TeacherTopK), JsdTarget);
    add("jsd/student_top_k", jsd(TopKOf::StudentTopK), JsdTarget);
    let ppo = |advantage| Box::new(TopKPpo { top_k: ANY, advantage, eps_low: 0.2, eps_high: 0.2, dual_clip: 3.0 });
    add("top_k_ppo", ppo(current), Reverse);
    add("top_k_ppo/rollout", ppo(Advantage::Rollout), Reverse);
    menu
}
