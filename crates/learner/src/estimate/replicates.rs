//! Estimators that are not linear in their draws: sampled from b, by a seed, and the noise of that taken off the bias.

use super::{
    distributions::{Distributions, Exact, over_vocabulary},
    figures::Moments,
    support::Ranked,
};
use crate::estimator::{Candidates, Estimator};
use tch::{Kind, Tensor};

/// Independent estimates at each position. The bias they leave behind, tr Cov / R, is known and taken off.
pub(super) const REPLICATES: i64 = 16;

/// Numbers in a table of pairs of draws that are held at once.
const PAIRS: i64 = 1 << 22;

/// Ids drawn from b, `[N, REPLICATES * m]`: for a uniform u `[N, REPLICATES * m]` the first id whose cumulative mass exceeds u.
pub(super) fn draw(of: &Distributions, uniforms: &Tensor) -> Tensor {
    let (_, vocabulary) = of.size();
    let cumulative = of.b.cumsum(1, Kind::Double);
    let target = uniforms * cumulative.narrow(1, vocabulary - 1, 1);
    target.searchsorted(&cumulative, false, true, "right", None::<&Tensor>).clamp_max(vocabulary - 1)
}

/// Appends the moments at `m` draws; the spread is times m, so that it is read as that of one draw. With a head, `(ranked, k)`, draws
/// inside it count but are no candidates.
pub(super) fn add(
    moments: &mut Moments,
    estimator: &dyn Estimator,
    m: i64,
    of: &Distributions,
    exact: &Exact,
    ids: &Tensor,
    head: Option<(&Ranked, i64)>,
) {
    let (n, _) = of.size();
    let rows = n * REPLICATES;
    let drawn = ids.narrow(1, 0, REPLICATES * m);
    // [N, V] at ids [N, R m], as [N R, m].
    let at = |of: &Tensor| of.gather(1, &drawn, false).reshape([rows, m]);
    let listed = head.map(|(ranked, k)| ranked.head(k, REPLICATES));
    let drawn_outside = match &listed {
        Some(head) => at(&of.p.zeros_like().scatter_add(1, &head.ids, &head.inside)).eq(0.0),
        None => at(&of.p).ones_like().to_kind(Kind::Bool),
    };
    let log = |of: &Tensor, head: Option<&Tensor>| match head {
        Some(head) => Tensor::cat(&[head.shallow_clone(), at(of)], 1),
        None => at(of),
    };
    let none = Tensor::full([rows], f64::NAN, (Kind::Double, drawn.device()));
    let with = |of: fn(&Candidates) -> &Tensor| listed.as_ref().map(|head| of(&head.candidates));
    let in_head = with(|head| &head.mask);
    let outside = drawn_outside.zeros_like();
    let join = |head: Option<&Tensor>, draws: &Tensor| match head {
        Some(head) => Tensor::cat(&[head.shallow_clone(), draws.shallow_clone()], 1),
        None => draws.shallow_clone(),
    };
    let candidates = Candidates {
        mask: join(in_head, &drawn_outside),
        in_head: join(in_head, &outside),
        counts: join(with(|head| &head.counts), &drawn_outside.ones_like().to_kind(Kind::Double)),
        draws: none.full_like(m as f64),
        learner_logprobs: log(&of.log_p, with(|head| &head.learner_logprobs)),
        proximal_logprobs: log(&of.log_p, with(|head| &head.learner_logprobs)),
        teacher_logprobs: log(&of.log_q, with(|head| &head.teacher_logprobs)),
        sampler_logprobs: log(&of.log_b, with(|head| &head.sampler_logprobs)),
        learner_tail: with(|head| &head.learner_tail).unwrap_or(&none).shallow_clone(),
        teacher_tail: with(|head| &head.teacher_tail).unwrap_or(&none).shallow_clone(),
    };
    let c = estimator.rule(&candidates).coefficients;
    let width = c.size()[1];
    let total = over_vocabulary(&c);
    let along_p = over_vocabulary(&(&c * candidates.learner_logprobs.exp()));
    // A draw that stands twice adds up: |sum_j c_j e_j|^2 is a sum over the pairs of equal ids. None of them is in the head.
    let of_head = c.narrow(1, 0, width - m);
    let of_draws = c.narrow(1, width - m, m);
    let pairs = equal_pairs(&drawn.reshape([rows, m]), &of_draws) + over_vocabulary(&of_head.square());
    let p_square = of.p_square.expand([n, REPLICATES], false).reshape([-1]);
    let squares = pairs - &total * along_p * 2.0 + &total * &total * p_square;
    let second = squares.view([n, REPLICATES]).mean_dim([1i64].as_slice(), false, Kind::Double);

    let replicates = REPLICATES as f64;
    let mut coefficients = of.p.zeros_like().scatter_add(1, &drawn, &(of_draws.reshape([n, -1]) / replicates));
    if let Some(head) = &listed {
        let of_head = of_head.reshape([n, REPLICATES, -1]).mean_dim([1i64].as_slice(), false, Kind::Double);
        coefficients = coefficients.scatter_add(1, &head.ids, &of_head);
    }
    let mean = of.gradient(&coefficients);
    let square = over_vocabulary(&(&mean * &mean));
    let spread = (second - &square) * (replicates / (replicates - 1.0));
    let noise = &spread / replicates;
    let along = over_vocabulary(&(&mean * &exact.gradient));
    let error = over_vocabulary(&(mean - &exact.gradient).square()) - &noise;
    moments.extend(&of.inverse_square, &error, &(square - noise), &along, &(spread * m as f64));
}

/// `sum_ij c_i c_j [id_i = id_j]` of each row of `[R, m]`.
fn equal_pairs(ids: &Tensor, c: &Tensor) -> Tensor {
    let (rows, m) = (ids.size()[0], ids.size()[1]);
    let most = (PAIRS / (m * m)).max(1);
    let parts: Vec<Tensor> = (0..rows)
        .step_by(most as usize)
        .map(|start| {
            let length = most.min(rows - start);
            let (ids, c) = (ids.narrow(0, start, length), c.narrow(0, start, length));
            let equal = ids.unsqueeze(2).eq_tensor(&ids.unsqueeze(1)).to_kind(Kind::Double);
            over_vocabulary(&(equal.bmm(&c.unsqueeze(2)).squeeze_dim(2) * c))
        })
        .collect();
    Tensor::cat(&parts, 0)
}
