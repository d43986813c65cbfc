//! What rounding cost.

use crate::TopColumn;

/// KL(`stored` || `decoded`) in nats at each position, over the entries of its list and one bucket for all that is outside. It is the
/// divergence over the whole vocabulary if inside that bucket the decoded distribution is taken to be spread as the stored one is.
///
/// Both sides are normalised in float64 first: float32 rounding, about 1e-7, is no error of a codec. Empty lists have none.
///
/// # Panics
/// If the two have different layouts.
pub fn divergence(stored: &TopColumn, decoded: &TopColumn) -> Vec<f64> {
    assert_eq!(stored.layout, decoded.layout, "a column and what it decodes to have one layout");
    let logs = |column: &TopColumn, t: usize| -> Vec<f64> {
        let list = &column.logprobs[column.layout.list(t)];
        let logs: Vec<f64> = list.iter().chain([&column.tails[t]]).map(|x| f64::from(*x)).collect();
        let sum = logs.iter().map(|x| x.exp()).sum::<f64>().ln();
        logs.into_iter().map(|x| x - sum).collect()
    };
    let at = |t| {
        let pairs = logs(stored, t).into_iter().zip(logs(decoded, t));
        pairs.filter(|(p, _)| p.is_finite()).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    (0..stored.layout.positions()).map(|t| if stored.layout.list(t).is_empty() { 0.0 } else { at(t) }).collect()
}
