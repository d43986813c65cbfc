//! Estimators that are not linear in their draws: sampled from b, by a seed, and the noise of that taken off the bias.

use super::{
    distributions::{Distributions, Exact, over_vocabulary},
    figures::Moments,
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

/// Appends the moments at `m` draws; the spread is times m, so that it is read as that of one draw.
pub(super) fn add(
    moments: &mut Moments,
    estimator: &dyn Estimator,
    m: i64,
    of: &Distributions,
    exact: &Exact,
    ids: &Tensor,
) {
    let (n, _) = of.size();
    let ids = ids.narrow(1, 0, REPLICATES * m);
    let at = |log: &Tensor| log.gather(1, &ids, false).view([-1, m]);
    let p = at(&of.p);
    let none = Tensor::full([n * REPLICATES], f64::NAN, (Kind::Double, p.device()));
    let ruling = estimator.rule(&Candidates {
        mask: p.ones_like().to_kind(Kind::Bool),
        in_head: p.zeros_like().to_kind(Kind::Bool),
        counts: p.ones_like(),
        draws: none.full_like(m as f64),
        learner_logprobs: at(&of.log_p),
        proximal_logprobs: at(&of.log_p),
        teacher_logprobs: at(&of.log_q),
        sampler_logprobs: at(&of.log_b),
        learner_tail: none.shallow_clone(),
        teacher_tail: none,
    });
    let c = ruling.coefficients;
    let total = over_vocabulary(&c);
    let one = over_vocabulary(&(&c * &p));
    // A draw that stands twice adds up: |sum_j c_j e_j|^2 is a sum over the pairs of equal ids.
    let pairs = equal_pairs(&ids.contiguous().view([-1, m]), &c);
    let p_square = of.p_square.expand([n, REPLICATES], false).reshape([-1]);
    let squares = pairs - &total * one * 2.0 + &total * &total * p_square;
    let second = squares.view([n, REPLICATES]).mean_dim([1i64].as_slice(), false, Kind::Double);

    let replicates = REPLICATES as f64;
    let mean = of.gradient(&of.p.zeros_like().scatter_add(1, &ids, &(c.view([n, -1]) / replicates)));
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
