//! Estimators over a top-k: the rule is asked once, nothing is left to chance.

use super::{
    distributions::{Distributions, Exact, over_vocabulary},
    draws,
    figures::Moments,
};
use crate::estimator::{Candidates, Estimator};
use tch::{Kind, Tensor};

/// A top-k as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Lists {
    /// Most ids, ascending: what is asked about.
    pub sizes: Vec<usize>,
    /// A list is cut at this mass; 1 does not cut.
    pub mass: f64,
    /// It has no id less likely than this, but for the first.
    pub floor: f64,
}

/// A head for replicates.
pub(super) struct Listed {
    /// `[N, J]`.
    pub ids: Tensor,
    /// 1 where an id is in it, 0 where not, `[N, J]`.
    pub inside: Tensor,
    /// Each row of the head several times.
    pub candidates: Candidates,
}

/// The most likely ids at N positions, J of them at most, most likely first, and what each policy says of them.
pub(super) struct Ranked {
    /// `[N, J]`.
    pub ids: Tensor,
    log_p: Tensor,
    log_q: Tensor,
    log_b: Tensor,
    p: Tensor,
    /// Learner's and teacher's mass outside all J, `[N]`, summed over that complement.
    rest: [Tensor; 2],
    /// How many a cut by mass keeps, `[N, 1]`.
    kept: Tensor,
    /// 0, 1, ... J - 1, `[1, J]`.
    place: Tensor,
}

impl Ranked {
    /// Ranks by `log` `[N, V]`, cut as `lists` are.
    pub fn by(log: &Tensor, of: &Distributions, lists: &Lists) -> Self {
        let most = lists.sizes.last().map_or(0, |most| *most as i64);
        let (_, vocabulary) = of.size();
        let (own, ids) = log.topk(most.min(vocabulary), 1, true, true);
        let at = |log: &Tensor| log.gather(1, &ids, false);
        let outside = |mass: Tensor| over_vocabulary(&mass.scatter_value(1, &ids, 0.0));
        let place = Tensor::arange(ids.size()[1], (Kind::Int64, ids.device())).unsqueeze(0);
        let all = place.size()[1];
        let own = own.exp();
        // The fewest ids that reach the mass, without those below the floor, but the first in any case.
        let before = own.cumsum(1, Kind::Double) - &own;
        let fits =
            before.lt(lists.mass).logical_or(&before.full_like(lists.mass).ge(1.0)).logical_and(&own.ge(lists.floor));
        let kept = over_vocabulary(&fits.to_kind(Kind::Int64)).unsqueeze(1).clamp_min(1).clamp_max(all);
        Self {
            log_p: at(&of.log_p),
            log_q: at(&of.log_q),
            log_b: at(&of.log_b),
            p: at(&of.p),
            rest: [outside(of.p.copy()), outside(of.q.copy())],
            ids,
            kept,
            place,
        }
    }

    /// Which entries a top-k of at most `k` holds, `[N, J]`.
    fn mask(&self, k: i64) -> Tensor {
        self.place.lt(k).logical_and(&self.place.lt_tensor(&self.kept))
    }

    /// How many entries it holds, `[N]`.
    pub fn entries(&self, k: i64) -> Tensor {
        over_vocabulary(&self.mask(k).to_kind(Kind::Double))
    }

    fn candidates(&self, k: i64) -> Candidates {
        let mask = self.mask(k);
        let tail = |log: &Tensor, rest: &Tensor| {
            let dropped = log.exp().where_self(&mask.logical_not(), &log.zeros_like());
            (over_vocabulary(&dropped) + rest).log()
        };
        let [p_rest, q_rest] = &self.rest;
        Candidates {
            in_head: mask.shallow_clone(),
            counts: self.log_p.ones_like(),
            // No draw lies outside, but there was one.
            draws: self.rest[0].ones_like(),
            learner_tail: tail(&self.log_p, p_rest),
            teacher_tail: tail(&self.log_q, q_rest),
            learner_logprobs: self.log_p.shallow_clone(),
            proximal_logprobs: self.log_p.shallow_clone(),
            teacher_logprobs: self.log_q.shallow_clone(),
            sampler_logprobs: self.log_b.shallow_clone(),
            mask,
        }
    }

    /// What a hybrid says with a head of at most `k` ids: the coefficients of the head, `[N, V]`, and those of each id outside it
    /// as the only draw, 0 inside.
    pub fn head_and_draws(&self, estimator: &dyn Estimator, k: i64, of: &Distributions) -> [Tensor; 2] {
        let candidates = self.candidates(k);
        let head = estimator.rule(&candidates).coefficients;
        let head = of.p.zeros_like().scatter_add(1, &self.ids, &head);
        let inside = candidates.mask.to_kind(Kind::Double);
        let inside = of.p.zeros_like().scatter_add(1, &self.ids, &inside);
        let tails = [&candidates.learner_tail, &candidates.teacher_tail];
        let draws = draws::coefficients(estimator, of, &of.log_q, Some(tails));
        [head, draws.masked_fill(&inside.gt(0.0), 0.0)]
    }

    /// The head of at most `k` ids, its candidates `times` over: a row for each replicate of each position.
    pub fn head(&self, k: i64, times: i64) -> Listed {
        let candidates = self.candidates(k);
        let again = |of: &Tensor| of.repeat_interleave_self_int(times, 0, None);
        Listed {
            ids: self.ids.shallow_clone(),
            inside: candidates.mask.to_kind(Kind::Double),
            candidates: Candidates {
                mask: again(&candidates.mask),
                in_head: again(&candidates.in_head),
                counts: again(&candidates.counts),
                draws: again(&candidates.draws),
                learner_logprobs: again(&candidates.learner_logprobs),
                proximal_logprobs: again(&candidates.proximal_logprobs),
                teacher_logprobs: again(&candidates.teacher_logprobs),
                sampler_logprobs: again(&candidates.sampler_logprobs),
                learner_tail: again(&candidates.learner_tail),
                teacher_tail: again(&candidates.teacher_tail),
            },
        }
    }

    /// Appends the moments of `estimator` over the top-k of at most `k`.
    pub fn add(&self, moments: &mut Moments, estimator: &dyn Estimator, k: i64, of: &Distributions, exact: &Exact) {
        // g = scatter(c) - p sum c, so every product with it is a sum over the entries.
        let c = estimator.rule(&self.candidates(k)).coefficients;
        let total = over_vocabulary(&c);
        let square = over_vocabulary(&(&c * &c)) - &total * over_vocabulary(&(&c * &self.p)) * 2.0
            + &total * &total * of.p_square.squeeze_dim(1);
        let along = over_vocabulary(&(&c * exact.gradient.gather(1, &self.ids, false))) - total * &exact.along_p;
        let error = &square - &along * 2.0 + &exact.square;
        moments.extend(&of.inverse_square, &error.clamp_min(0.0), &square, &along, &error.zeros_like());
    }
}
