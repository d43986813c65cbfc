//! Full-vocabulary distributions in float64, which the estimators' proofs compare with.

use super::{Candidates, Estimator, Fault, Ruling};
use tch::{Device, Kind, Tensor};

/// Logits of learner, teacher and sampler at one position; the distributions are at `temperature`.
pub(crate) struct Position {
    pub learner_logits: Tensor,
    pub teacher_logits: Tensor,
    pub sampler_logits: Tensor,
    pub temperature: f64,
}

/// Numbers in [-2, 2) from a seed: the tests' own chance, so that a failure can be run again.
pub(crate) fn numbers(seed: u64, count: i64) -> Vec<f64> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            // splitmix64
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = state;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64 * 4.0 - 2.0
        })
        .collect()
}

fn top(probabilities: &Tensor, k: i64) -> Vec<i64> {
    let (_, ids) = probabilities.topk(k, 0, true, true);
    Vec::try_from(ids).unwrap()
}

impl Position {
    pub fn random(seed: u64, vocab: i64, temperature: f64) -> Self {
        let logits = |which: u64| Tensor::from_slice(&numbers(seed.wrapping_mul(3).wrapping_add(which) << 8, vocab));
        Self { learner_logits: logits(0), teacher_logits: logits(1), sampler_logits: logits(2), temperature }
    }

    pub fn p(&self) -> Tensor {
        (&self.learner_logits / self.temperature).softmax(0, Kind::Double)
    }

    pub fn q(&self) -> Tensor {
        (&self.teacher_logits / self.temperature).softmax(0, Kind::Double)
    }

    pub fn b(&self) -> Tensor {
        (&self.sampler_logits / self.temperature).softmax(0, Kind::Double)
    }

    /// The student's distribution half way from b to p: what it is after some of the steps that lie between the two.
    pub fn proximal(&self) -> Tensor {
        ((&self.learner_logits + &self.sampler_logits) / (2.0 * self.temperature)).softmax(0, Kind::Double)
    }

    pub fn forward_kl(&self) -> f64 {
        (self.q() * (self.q().log() - self.p().log())).sum(None).double_value(&[])
    }

    pub fn reverse_kl(&self) -> f64 {
        (self.p() * (self.p().log() - self.q().log())).sum(None).double_value(&[])
    }

    /// d KL(p || q) / d logits in closed form: p (log p - log q - KL) / T.
    pub fn d_reverse_kl(&self) -> Tensor {
        let p = self.p();
        let log_ratio = p.log() - self.q().log();
        p * (log_ratio - self.reverse_kl()) / self.temperature
    }

    /// The teacher's `k` most likely ids.
    pub fn teacher_top(&self, k: i64) -> Vec<i64> {
        top(&self.q(), k)
    }

    /// The sampler's `k` most likely ids.
    pub fn sampler_top(&self, k: i64) -> Vec<i64> {
        top(&self.b(), k)
    }

    /// The position with these candidates, N = 1.
    pub fn candidates(&self, ids: &[i64], counts: &[i64]) -> Candidates {
        self.with_head(ids, &[], ids, counts)
    }

    /// The same, with tails outside `without`, and those in `head` in the head; each draw of `counts` is a candidate.
    fn with_head(&self, without: &[i64], head: &[i64], ids: &[i64], counts: &[i64]) -> Candidates {
        let index = Tensor::from_slice(ids);
        let at = |probabilities: Tensor| probabilities.log().index_select(0, &index).unsqueeze(0);
        let tail = |probabilities: Tensor| {
            let outside = probabilities.ones_like().index_fill(0, &Tensor::from_slice(without), 0.0);
            (probabilities * outside).sum(None).log().unsqueeze(0)
        };
        Candidates {
            mask: Tensor::ones([1, ids.len() as i64], (Kind::Bool, Device::Cpu)),
            in_head: Tensor::from_slice(&ids.iter().map(|id| head.contains(id)).collect::<Vec<_>>()).unsqueeze(0),
            counts: Tensor::from_slice(counts).to_kind(Kind::Double).unsqueeze(0),
            draws: Tensor::from_slice(&[counts.iter().sum::<i64>() as f64]),
            learner_logprobs: at(self.p()),
            proximal_logprobs: at(self.proximal()),
            teacher_logprobs: at(self.q()),
            sampler_logprobs: at(self.b()),
            learner_tail: tail(self.p()),
            teacher_tail: tail(self.q()),
        }
    }
}

impl Position {
    /// A head, exact, and draws with counts, which may lie in the head too: the candidates, and their ids.
    pub fn head_and_draws(&self, head: &[i64], draws: &[i64], counts: &[i64]) -> (Candidates, Vec<i64>) {
        let (mut ids, mut all) = (head.to_vec(), vec![0; head.len()]);
        for (id, count) in draws.iter().zip(counts) {
            match ids.iter().position(|other| other == id) {
                Some(j) => all[j] += count,
                None => {
                    ids.push(*id);
                    all.push(*count);
                }
            }
        }
        (self.with_head(head, head, &ids, &all), ids)
    }
}

impl Candidates {
    /// The same with `extra` columns of padding that hold NaN.
    pub fn padded(self, extra: i64) -> Self {
        let pad = |t: Tensor| {
            t.constant_pad_nd([0, extra].as_slice()).where_self(
                &t.ones_like().to_kind(Kind::Bool).constant_pad_nd([0, extra].as_slice()),
                &Tensor::from(f64::NAN),
            )
        };
        Self {
            mask: self.mask.constant_pad_nd([0, extra].as_slice()),
            in_head: self.in_head.constant_pad_nd([0, extra].as_slice()),
            counts: pad(self.counts),
            learner_logprobs: pad(self.learner_logprobs),
            proximal_logprobs: pad(self.proximal_logprobs),
            teacher_logprobs: pad(self.teacher_logprobs),
            sampler_logprobs: pad(self.sampler_logprobs),
            ..self
        }
    }
}

/// d L / d logits over the whole vocabulary from a ruling's coefficients at `ids`:
/// `(scatter_add(c) - p sum_j c_j) / T`.
pub(crate) fn d_logits(position: &Position, ruling: &Ruling, ids: &[i64]) -> Tensor {
    let p = position.p();
    let c = ruling.coefficients.squeeze_dim(0).narrow(0, 0, ids.len() as i64);
    (p.zeros_like().index_add(0, &Tensor::from_slice(ids), &c) - p * c.sum(None)) / position.temperature
}

pub(crate) fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size());
    let difference = (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max().double_value(&[]);
    assert!(difference <= tolerance, "differ by {difference}\nfound    {found:?} {found}\nexpected {expected}");
}

/// A function of the full-vocabulary p, and its gradient in the learner's logits, by autograd. `f` sees `[V]` and gives one
/// number.
pub(crate) fn by_autograd(position: &Position, f: impl Fn(&Tensor) -> Tensor) -> (f64, Tensor) {
    let logits = position.learner_logits.copy().set_requires_grad(true);
    let value = f(&(&logits / position.temperature).softmax(0, Kind::Double));
    let gradient = Tensor::run_backward(&[&value], &[&logits], false, false).remove(0);
    (value.double_value(&[]), gradient)
}

/// The faults of the first position.
pub(crate) fn faults(ruling: &Ruling) -> Vec<Fault> {
    ruling.faults.iter().filter(|(_, at)| at.int64_value(&[0]) != 0).map(|(fault, _)| *fault).collect()
}

/// Expectation over *all* outcomes of m draws from b of value and d logits.
pub(crate) fn expectation(rule: &dyn Estimator, position: &Position, m: u32) -> (f64, Tensor) {
    over_all_draws(position, &position.b(), m, |ids, counts| {
        let ruling = rule.rule(&position.candidates(ids, counts));
        (ruling.value.double_value(&[0]), d_logits(position, &ruling, ids))
    })
}

/// Expectation over *all* outcomes of m draws from `distribution` of what is made of their ids and counts.
pub(crate) fn over_all_draws(
    position: &Position,
    distribution: &Tensor,
    m: u32,
    of: impl Fn(&[i64], &[i64]) -> (f64, Tensor),
) -> (f64, Tensor) {
    let vocab = position.learner_logits.size()[0];
    let chances = Vec::<f64>::try_from(distribution).unwrap();
    let (mut value, mut gradient) = (0.0, Tensor::zeros([vocab], (Kind::Double, Device::Cpu)));
    for outcome in 0..vocab.pow(m) {
        let draws: Vec<i64> = (0..m).map(|i| outcome / vocab.pow(i) % vocab).collect();
        let chance: f64 = draws.iter().map(|a| chances[*a as usize]).product();
        let (mut ids, mut counts) = (Vec::new(), Vec::<i64>::new());
        for a in draws {
            match ids.iter().position(|id| *id == a) {
                Some(j) => counts[j] += 1,
                None => {
                    ids.push(a);
                    counts.push(1);
                }
            }
        }
        let (of_value, of_gradient) = of(&ids, &counts);
        value += chance * of_value;
        gradient += of_gradient * chance;
    }
    (value, gradient)
}
