//! Forward KL over the teacher's top-k K_q and a tail bucket:
//! `sum_j q_j log(q_j / p_j) + q_T log(q_T / p_T)`. Needs no draws, so staleness does not touch it.

use super::{Candidates, Divergence, Estimator, Fault, Ruling, Support};
use serde::{Deserialize, Serialize};

/// `forward_kl`, and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardKl {
    /// Most ids of the teacher's top-k to read.
    pub top_k: usize,
    /// What becomes of the mass outside.
    #[serde(default)]
    pub tail: Tail,
}

/// What becomes of the mass outside a support.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tail {
    /// It is one more outcome: the value is a divergence, at most the true one.
    #[default]
    Bucket,
}

impl Estimator for ForwardKl {
    fn name(&self) -> &'static str {
        "forward_kl"
    }

    fn support(&self) -> Support {
        Support::TeacherTopK { k: self.top_k }
    }

    fn divergence(&self) -> Option<Divergence> {
        Some(Divergence::ForwardKl)
    }

    /// phi = q log(q / p), so p phi' = -q and `c_j = p_j q_T / p_T - q_j`. Where q_T = 0 there is no tail term.
    fn rule(&self, candidates: &Candidates) -> Ruling {
        let Candidates { mask, learner_logprobs: log_p, teacher_logprobs: log_q, .. } = candidates;
        let zero = log_p.zeros_like();
        let q = log_q.exp().where_self(mask, &zero);
        let p = log_p.exp().where_self(mask, &zero);
        // q = 0 makes its term 0; log q = -inf must not meet it. A NaN is not 0, and so is found out.
        let terms = (&q * (log_q - log_p)).where_self(&q.ne(0.0), &zero);

        let (log_p_tail, log_q_tail) = (&candidates.learner_tail, &candidates.teacher_tail);
        let q_tail = log_q_tail.exp();
        let has_tail = q_tail.ne(0.0);
        let no_tail = q_tail.zeros_like();
        let tail_term = (&q_tail * (log_q_tail - log_p_tail)).where_self(&has_tail, &no_tail);
        let ratio = (log_q_tail - log_p_tail).exp().where_self(&has_tail, &no_tail);

        let impossible = mask.logical_and(&log_p.eq(f64::NEG_INFINITY)).any_dim(1, false);
        let no_learner_tail = has_tail.logical_and(&log_p_tail.eq(f64::NEG_INFINITY));
        Ruling {
            value: terms.sum_dim_intlist([1i64].as_slice(), false, None) + tail_term,
            coefficients: p * ratio.unsqueeze(1) - q,
            tallies: Vec::new(),
            faults: vec![(Fault::ImpossibleToLearner, impossible), (Fault::NoLearnerTail, no_learner_tail)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimator::oracle::{Position, assert_close, d_logits};
    use proptest::prelude::*;
    use tch::{Kind, Tensor};

    const RULE: ForwardKl = ForwardKl { top_k: 64, tail: Tail::Bucket };

    /// The bucketed divergence as a function of logits, left to autograd.
    fn by_autograd(position: &Position, ids: &[i64]) -> (Tensor, Tensor) {
        let logits = position.learner_logits.copy().set_requires_grad(true);
        let p = (&logits / position.temperature).softmax(0, Kind::Double);
        let (q, ids) = (position.q(), Tensor::from_slice(ids));
        let outside = p.ones_like().index_fill(0, &ids, 0.0);
        let (p_in, q_in) = (p.index_select(0, &ids), q.index_select(0, &ids));
        let (p_tail, q_tail) = ((&p * &outside).sum(None), (&q * &outside).sum(None));
        let mut value = (&q_in * (q_in.log() - p_in.log())).sum(None);
        if ids.size()[0] < q.size()[0] {
            value += &q_tail * (q_tail.log() - p_tail.log());
        }
        let gradient = Tensor::run_backward(&[&value], &[&logits], false, false).remove(0);
        (value.detach().unsqueeze(0), gradient)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn value_and_gradient_are_those_of_the_bucketed_divergence(
            seed in 0u64..1 << 40, vocab in 3i64..40, k in 1i64..40, temperature in prop_oneof![Just(1.0), 0.5f64..2.0],
        ) {
            tch::set_num_threads(1);
            let position = Position::random(seed, vocab, temperature);
            let ids = position.teacher_top(k.min(vocab));
            let ruling = RULE.rule(&position.candidates(&ids, &vec![1; ids.len()]));
            let (value, gradient) = by_autograd(&position, &ids);
            assert_close(&ruling.value, &value, 1e-9);
            assert_close(&d_logits(&position, &ruling, &ids), &gradient, 1e-9);
            prop_assert!(value.double_value(&[0]) >= -1e-12);
            prop_assert!(value.double_value(&[0]) <= position.forward_kl() + 1e-12);
        }

        #[test]
        fn with_the_whole_vocabulary_it_is_exact(seed in 0u64..1 << 40, vocab in 2i64..20) {
            tch::set_num_threads(1);
            let position = Position::random(seed, vocab, 1.3);
            let ids: Vec<i64> = (0..vocab).collect();
            let ruling = RULE.rule(&position.candidates(&ids, &vec![1; ids.len()]));
            prop_assert!((ruling.value.double_value(&[0]) - position.forward_kl()).abs() < 1e-9);
            // grad of KL(q || p) in the logits is (p - q) / T.
            let closed = (position.p() - position.q()) / position.temperature;
            assert_close(&d_logits(&position, &ruling, &ids), &closed, 1e-9);
        }

        #[test]
        fn a_student_that_is_the_teacher_has_nothing_to_learn(seed in 0u64..1 << 40, k in 1i64..12) {
            tch::set_num_threads(1);
            let mut position = Position::random(seed, 12, 0.8);
            position.teacher_logits = position.learner_logits.copy();
            let ids = position.teacher_top(k);
            let ruling = RULE.rule(&position.candidates(&ids, &vec![1; ids.len()]));
            prop_assert!(ruling.value.double_value(&[0]).abs() < 1e-12);
            assert_close(&d_logits(&position, &ruling, &ids), &Tensor::zeros([12], (Kind::Double, tch::Device::Cpu)), 1e-12);
        }
    }

    #[test]
    fn the_value_grows_with_k() {
        tch::set_num_threads(1);
        let position = Position::random(3, 30, 1.0);
        let values: Vec<f64> = (1..=30)
            .map(|k| {
                let ids = position.teacher_top(k);
                RULE.rule(&position.candidates(&ids, &vec![1; ids.len()])).value.double_value(&[0])
            })
            .collect();
        assert!(values.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12), "{values:?}");
    }

    #[test]
    fn zeros() {
        tch::set_num_threads(1);
        let inf = f64::INFINITY;
        let position = Position::random(4, 6, 1.0);
        let ids = position.teacher_top(3);
        let at = || position.candidates(&ids, &[1, 1, 1]);
        let any = |ruling: &Ruling, fault| {
            let (_, at) = ruling.faults.iter().find(|(named, _)| *named == fault).unwrap();
            at.int64_value(&[0]) != 0
        };
        // log q = -inf: its term is 0 and it pushes nothing by itself.
        let mut c = at();
        c.teacher_logprobs = Tensor::from_slice(&[-0.5, -inf, -2.0]).unsqueeze(0);
        let ruling = RULE.rule(&c);
        assert!(ruling.value.double_value(&[0]).is_finite() && !any(&ruling, Fault::ImpossibleToLearner));
        // log p = -inf: an error with a name.
        let mut c = at();
        c.learner_logprobs = Tensor::from_slice(&[-0.5, -inf, -2.0]).unsqueeze(0);
        assert!(any(&RULE.rule(&c), Fault::ImpossibleToLearner));
        // q_T = 0 < p_T: no tail term; the coefficients are -q.
        let mut c = at();
        c.teacher_tail = Tensor::from_slice(&[-inf]);
        let ruling = RULE.rule(&c);
        assert_close(&ruling.coefficients, &-c.teacher_logprobs.exp(), 1e-15);
        // q_T = p_T = 0: no tail.
        c.learner_tail = Tensor::from_slice(&[-inf]);
        let ruling = RULE.rule(&c);
        assert!(ruling.value.double_value(&[0]).is_finite() && !any(&ruling, Fault::NoLearnerTail));
        // p_T = 0 < q_T: an error with a name.
        c.teacher_tail = Tensor::from_slice(&[-3.0]);
        assert!(any(&RULE.rule(&c), Fault::NoLearnerTail));
    }

    #[test]
    fn padding_is_selected_out_and_an_empty_support_is_zero() {
        tch::set_num_threads(1);
        let position = Position::random(6, 9, 1.0);
        let ids = position.teacher_top(4);
        let plain = RULE.rule(&position.candidates(&ids, &[1; 4]));
        let padded = RULE.rule(&position.candidates(&ids, &[1; 4]).padded(3));
        assert_close(&padded.value, &plain.value, 0.0);
        assert_close(&padded.coefficients.narrow(1, 0, 4), &plain.coefficients, 0.0);
        assert_close(
            &padded.coefficients.narrow(1, 4, 3),
            &Tensor::zeros([1, 3], (Kind::Double, tch::Device::Cpu)),
            0.0,
        );
        let empty = RULE.rule(&position.candidates(&[], &[]).padded(2));
        assert!(empty.value.double_value(&[0]).abs() < 1e-15);
        assert_eq!(empty.coefficients.abs().sum(None).double_value(&[]), 0.0);
    }
}
