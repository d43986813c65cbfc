//! What peers get wrong, each under its name, for every estimator of the menu, through network and head.
//!
//! The public implementation of arXiv 2606.24143 reads the distribution next to the right one where the support is the student's
//! top-k (`aligned_at_p_q_b`), never trains EOS where the one draw is the sampled token (`the_last_token_and_eos_are_trained`)
//! and never trains the first response token over the teacher's top-k (`the_first_response_token_is_trained`). Others average
//! the means of microbatches, let padding in, or compare a student at one temperature with a teacher at another. The public
//! M2PO clips within its budget: see estimator/m2po_tests.rs. Top-k KL used as a reward, and a clamp that hides a negative
//! truncated KL: see estimator/over_support_tests.rs.

use super::{
    menu::{menu, norm, scored},
    *,
};
use crate::{
    CandidateLists,
    estimator::{Candidates, Head, Pass, Support},
};

/// The same loss without packing, chunks or a head of its own: one row at a time with full logits, the rule on each position, and
/// autograd through the whole network of `sum_j c_j log p(a_j)`.
fn by_rule(student: &Transformer, rows: &[TrainRow], rule: &dyn Estimator) -> (f64, Vec<Tensor>) {
    let parameters: Vec<Tensor> = student.parameters().into_iter().map(|(_, parameter)| parameter).collect();
    let mut positions = Vec::new();
    for row in rows {
        let ids: Vec<i64> = [row.prompt_ids, row.response_ids].concat().into_iter().map(i64::from).collect();
        let hidden = student.hidden(&Tensor::from_slice(&ids).unsqueeze(0)).unwrap().squeeze_dim(0);
        let logits = hidden.matmul(&student.head().narrow(0, 0, 28).tr()) / f64::from(row.temperature);
        let log_p = logits.to_kind(Kind::Double).log_softmax(1, None);
        for t in (0..row.response_ids.len()).filter(|t| row.is_trained(*t)) {
            positions.push(position(row, t, rule.support(), &log_p.get((row.prompt_ids.len() + t) as i64 - 1)));
        }
    }
    let (candidates, log_p): (Vec<Candidates>, Vec<Tensor>) = positions.into_iter().unzip();
    let settled = rule.settle(&candidates);
    let rule = settled.as_deref().unwrap_or(rule);
    let (mut loss, mut value) = (Tensor::from(0.0), 0.0);
    for (candidates, log_p) in candidates.iter().zip(&log_p) {
        let ruling = rule.rule(candidates);
        value += ruling.value.double_value(&[0]);
        loss += (ruling.coefficients.squeeze_dim(0) * log_p).sum(None);
    }
    let trained = candidates.len() as f64;
    (value / trained, Tensor::run_backward(&[loss / trained], &parameters, false, false))
}

/// The candidates of response position `t` as the row has them, and log p at them for autograd, from log p `[V]`.
fn position(row: &TrainRow, t: usize, support: Support, log_p: &Tensor) -> (Candidates, Tensor) {
    let entries = |lists: &CandidateLists, k: usize, in_head: bool| -> Vec<Entry> {
        let value = |column: &[&[f32]], j: usize| column.get(t).map_or(f64::NAN, |list| f64::from(list[j]));
        let count = |j: usize| lists.counts.get(t).map_or(0, |counts| counts[j]);
        let entry = |(j, id): (usize, &i32)| Entry {
            id: *id,
            in_head,
            count: count(j),
            q: value(&lists.teacher_logprobs, j),
            b: value(&lists.sampler_logprobs, j),
        };
        lists.ids[t].iter().take(k).enumerate().map(entry).collect()
    };
    let (student, teacher) = (|k| entries(&row.sampler_top_k, k, true), |k| entries(&row.teacher_top_k, k, true));
    let all = match support {
        Support::Draws => entries(&row.draws, usize::MAX, false),
        Support::TeacherDraws => entries(&row.teacher_draws, usize::MAX, false),
        Support::TeacherTopK { k } => teacher(k),
        Support::SamplerTopK { k } => student(k),
        Support::HeadAndDraws { head, k } => {
            let heads = match head {
                Head::StudentTopK => student(k),
                Head::TeacherTopK => teacher(k),
                Head::Union => [student(k), teacher(k)].concat(),
            };
            let mut all: Vec<Entry> = Vec::new();
            for entry in [heads, entries(&row.draws, usize::MAX, false)].concat() {
                match all.iter_mut().find(|other| other.id == entry.id) {
                    Some(other) => other.count += entry.count,
                    None => all.push(entry),
                }
            }
            all
        }
        Support::Vocabulary | Support::Token => panic!("no scores are stored for it"),
    };
    let ids: Vec<i64> = all.iter().map(|entry| i64::from(entry.id)).collect();
    let column = |of: &dyn Fn(&Entry) -> f64| Tensor::from_slice(&all.iter().map(of).collect::<Vec<_>>()).unsqueeze(0);
    let in_head = Tensor::from_slice(&all.iter().map(|entry| entry.in_head).collect::<Vec<_>>()).unsqueeze(0);
    let at = log_p.index_select(0, &Tensor::from_slice(&ids));
    let (learner_logprobs, teacher_logprobs) = (at.detach().unsqueeze(0), column(&|entry| entry.q));
    // Of 28 ids, 1 - sum is good enough.
    let outside =
        |log: &Tensor| (1.0f64 - log.exp().where_self(&in_head, &log.zeros_like()).sum(None)).log().unsqueeze(0);
    let candidates = Candidates {
        mask: in_head.ones_like(),
        draws: Tensor::from_slice(&[all.iter().map(|entry| f64::from(entry.count)).sum::<f64>()]),
        counts: column(&|entry| f64::from(entry.count)),
        proximal_logprobs: learner_logprobs.copy(),
        sampler_logprobs: column(&|entry| entry.b),
        learner_tail: outside(&learner_logprobs),
        teacher_tail: outside(&teacher_logprobs),
        in_head,
        learner_logprobs,
        teacher_logprobs,
    };
    (candidates, at)
}

/// A candidate as a row has it.
#[derive(Clone, Copy)]
struct Entry {
    id: i32,
    in_head: bool,
    count: i32,
    q: f64,
    b: f64,
}

/// That loss and gradients of all parameters are those of [`by_rule`]; the gradients' norm.
fn assert_as_by_rule(learner: &Learner, rows: &[TrainRow], estimator: &EstimatorConfig) -> f64 {
    let (report, gradients) = learner.gradients(estimator.estimator(), rows).unwrap();
    let (value, expected) = by_rule(learner.student(), rows, estimator.estimator());
    let gradients = gradients.unwrap_or_else(|| panic!("{estimator:?}: nothing is trained"));
    let loss = rate(&report.finish(None), "loss");
    assert!((loss - value).abs() < 1e-3 * (1.0 + value.abs()), "{estimator:?}: {loss} {value}");
    let (found, scale) = (norm(&gradients), norm(&expected));
    let differences: Vec<Tensor> = gradients.iter().zip(&expected).map(|(a, b)| a - b).collect();
    assert!(norm(&differences) <= 1e-3 * scale, "{estimator:?}: {found} {scale}, apart by {}", norm(&differences));
    found
}

/// Where student, sampler and teacher are one there is nothing to learn, but for what the menu says.
#[test]
fn aligned_at_p_q_b() {
    for temperature in [0.8, 1.3] {
        let student = network(7, false);
        let data = data(&student, &network(7, false), temperature);
        let mut learner = learner(student, LearnerSettings::default());
        learner.set_teacher(Some(network(7, false))).unwrap();
        for (estimator, vanishes) in menu() {
            let (report, gradients) = learner.gradients(estimator.estimator(), &data.rows(0)).unwrap();
            let (report, norm) = (report.finish(None), norm(&gradients.unwrap()));
            for name in ["loss", "reverse_kl", "forward_kl"] {
                assert!(rate(&report, name).abs() < 1e-5, "{estimator:?} {name}: {:?}", report.metrics);
            }
            assert_eq!(norm < 1e-4, vanishes, "{estimator:?}: {norm}");
            for (seen, sample) in report.rows.iter().zip(&data.samples) {
                let gaps = seen.learner_logprobs.iter().zip(&sample.sampler_logprobs).map(|(p, b)| (p - b).abs());
                assert!(gaps.fold(0.0, f32::max) < 1e-5, "the learner's p is the sampler's b at each position");
            }
        }
    }
}

/// Two rows that train nothing but one position each, chosen by `at`.
fn only(data: &Data, at: impl Fn(&Sample) -> Option<usize>) {
    let learner = learner(network(9, true), LearnerSettings { microbatch_tokens: 40, head_chunk: 3 });
    let masks: Vec<(usize, Vec<i32>)> = data
        .samples
        .iter()
        .enumerate()
        .filter_map(|(row, sample)| Some((row, at(sample)?, sample.response_ids.len())))
        .take(2)
        .map(|(row, t, length)| (row, (0..length).map(|i| i32::from(i == t)).collect()))
        .collect();
    assert!(masks.len() > 1, "the test has none to train");
    for estimator in scored() {
        for (row, mask) in &masks {
            let row = TrainRow { loss_mask: Some(mask), ..data.rows(1)[*row].clone() };
            // A PPO rule may clip all that one position has.
            let norm = assert_as_by_rule(&learner, std::slice::from_ref(&row), &estimator);
            assert!(norm > 1e-6 || format!("{estimator:?}").contains("eps_low"), "{estimator:?}: {norm}");
        }
    }
}

#[test]
fn the_first_response_token_is_trained() {
    only(&data(&network(7, true), &network(8, true), 1.0), |_| Some(0));
}

#[test]
fn the_last_token_and_eos_are_trained() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let last = |sample: &Sample| sample.response_ids.len() - 1;
    let ends = |sample: &Sample| sample.response_ids.last() == Some(&EOS);
    only(&data, |sample| ends(sample).then(|| last(sample)));
    only(&data, |sample| (!ends(sample)).then(|| last(sample)));
}

/// Rows of two temperatures in one minibatch, and in one microbatch.
#[test]
fn temperature_other_than_one() {
    let (sampler, teacher) = (network(7, true), network(8, true));
    let (cold, hot) = (data(&sampler, &teacher, 0.7), data(&sampler, &teacher, 1.4));
    let rows = [cold.rows(2), hot.rows(1)].concat();
    let learner = learner(network(9, true), LearnerSettings { microbatch_tokens: 80, head_chunk: 5 });
    for estimator in scored() {
        assert!(assert_as_by_rule(&learner, &rows, &estimator) > 1e-3, "{estimator:?}");
    }
    // At another temperature than that of b and q it is another gradient.
    let wrong: Vec<TrainRow> = rows.iter().map(|row| TrainRow { temperature: 1.0, ..row.clone() }).collect();
    for estimator in scored() {
        let gradients = |rows: &[TrainRow]| learner.gradients(estimator.estimator(), rows).unwrap().1.unwrap();
        let (right, wrong) = (gradients(&rows), gradients(&wrong));
        let apart: Vec<Tensor> = right.iter().zip(&wrong).map(|(a, b)| a - b).collect();
        assert!(norm(&apart) > 0.05 * norm(&right), "{estimator:?}");
    }
}

/// What stands outside the mask is selected out, not multiplied by 0: whatever it is, the bits are the same.
#[test]
fn padding_of_minus_infinity_reaches_nothing() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let (student, mut rows) = (network(9, true), data.rows(1));
    // Of every other position's top-k two ids are left.
    for lists in rows.iter_mut().flat_map(|row| [&mut row.teacher_top_k, &mut row.sampler_top_k]) {
        for t in (0..lists.ids.len()).step_by(2) {
            lists.ids[t] = &lists.ids[t][..2];
            lists.teacher_logprobs[t] = &lists.teacher_logprobs[t][..2];
            if let Some(logprobs) = lists.sampler_logprobs.get_mut(t) {
                *logprobs = &logprobs[..2];
            }
        }
    }
    let weight = student.head().detach().narrow(0, 0, 28);
    let minibatch = Microbatch::cut(&rows, 4096);
    let [batch] = &minibatch[..] else { panic!("one microbatch") };
    let hidden = batch.hidden(&student, &rows).unwrap().detach();
    for estimator in scored() {
        let rule = estimator.estimator();
        let run = |padding: Option<f64>| {
            let mut positions = pack::positions(&rows, &batch.places, rule.support(), Device::Cpu).unwrap();
            positions.proximal = crate::Proximal::Learner;
            let columns = &mut positions.support;
            assert_eq!(columns.mask.all().int64_value(&[]), 0, "{estimator:?}: there is padding");
            if let Some(padding) = padding {
                for column in [&mut columns.counts, &mut columns.teacher_logprobs, &mut columns.sampler_logprobs] {
                    *column = column.where_scalarother(&columns.mask, padding);
                }
            }
            let settled = rule.settle(&crate::head::gather(&hidden, &weight, &positions, 5).unwrap());
            let rule = settled.as_deref().unwrap_or(rule);
            let mut d_weight = weight.zeros_like();
            let output = chunked_head(&hidden, &weight, &positions, rule, 1.0, 5, &mut d_weight).unwrap();
            assert!(output.fault.is_none(), "{estimator:?} {padding:?}: {:?}", output.fault);
            (output.value, output.d_hidden, d_weight, output.tallies)
        };
        let expected = run(None);
        for padding in [f64::NEG_INFINITY, f64::NAN, f64::INFINITY, 0.0, 1e30] {
            let found = run(Some(padding));
            assert!(found.0.equal(&expected.0) && found.1.equal(&expected.1), "{estimator:?} {padding}");
            assert!(found.2.equal(&expected.2) && found.3 == expected.3, "{estimator:?} {padding}");
        }
    }
}

/// Rows of unequal lengths: each position counts alike, and not each microbatch.
#[test]
fn a_loss_is_no_mean_of_microbatch_means() {
    let data = data(&network(7, true), &network(8, true), 1.0);
    let learner = learner(network(9, true), LearnerSettings { microbatch_tokens: 1, head_chunk: 128 });
    let mut rows = data.rows(1);
    // Every other row trains its first token only.
    let first = [[1].as_slice(), &[0; 31]].concat();
    rows.iter_mut().step_by(2).for_each(|row| row.loss_mask = Some(&first[..row.response_ids.len()]));
    let trained = |row: &TrainRow| (0..row.response_ids.len()).filter(|t| row.is_trained(*t)).count() as f64;
    let tokens: Vec<f64> = rows.iter().map(trained).collect();
    let (all, batches) = (tokens.iter().sum::<f64>(), rows.len() as f64);
    for estimator in scored() {
        assert_as_by_rule(&learner, &rows, &estimator);
        if estimator.estimator().pass() == Pass::Statistics {
            // A row alone has margins of its own.
            continue;
        }
        let gradients = |rows: &[TrainRow]| learner.gradients(estimator.estimator(), rows).unwrap().1.unwrap();
        let whole = gradients(&rows);
        let (mut by_tokens, mut by_rows): (Vec<Tensor>, Vec<Tensor>) =
            whole.iter().map(|g| (g.zeros_like(), g.zeros_like())).unzip();
        for (row, n) in rows.iter().zip(&tokens) {
            for (i, part) in gradients(std::slice::from_ref(row)).iter().enumerate() {
                by_tokens[i] += part * (n / all);
                by_rows[i] += part / batches;
            }
        }
        assert_same_gradients(&by_tokens, &whole, 1e-4);
        let apart: Vec<Tensor> = by_rows.iter().zip(&whole).map(|(a, b)| a - b).collect();
        assert!(norm(&apart) > 0.02 * norm(&whole), "{estimator:?}: the test could not tell the two apart");
    }
}
