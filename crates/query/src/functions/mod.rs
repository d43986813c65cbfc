//! The store's own functions: arithmetic over what a position holds. Each works on the lists of the table `tokens`.

mod ess;
mod lists;
mod scalar;

use crate::{log::Log, tokenizer::RunTokenizer};
use arrow::datatypes::DataType;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use record::DrawsKept;
use scalar::{Function, Kind};
use std::sync::Arc;

/// How each function is called, and what it gives.
pub(crate) const FUNCTIONS: [(&str, &str); 9] = [
    (
        "reverse_kl(draw_counts, draw_logprobs, draw_teacher_logprobs)",
        "Unbiased estimate of KL(sampler || teacher) at a position, from all of its draws; nats. Null without draws.",
    ),
    ("teacher_mass(teacher_top_logprobs, k)", "The mass of the teacher's first k entries at a position."),
    (
        "entropy(top_logprobs, tail_logprob)",
        "Entropy of a top-k and one bucket for the tail; nats. At most the whole distribution's. Null without a top-k.",
    ),
    ("overlap_ratio(ids_a, ids_b)", "The fraction of ids_a that are among ids_b; null where ids_a is empty."),
    (
        "cache_bytes(k, m)",
        "Bytes of a position as plain columns with k teacher entries and m distinct draws, both logprobs of them.",
    ),
    (
        "ess(weights)",
        "Effective sample size of weights, (sum w)^2 / sum w^2: over count(*) it is a fraction. An aggregate.",
    ),
    ("detokenize(ids)", "The text of token ids by the run's tokenizer, special tokens included."),
    (
        "scored_in('SET')",
        "The table `scored` with the scores of another score set than the run's default; see `score_sets`.",
    ),
    (
        "tokens_in('SET')",
        "The table `tokens` with the scores of another score set than the run's default; see `score_sets`.",
    ),
];

/// The functions of one row, for the run of `log`.
pub(crate) fn scalar_functions(log: &Log, tokenizer: Arc<RunTokenizer>) -> Vec<ScalarUDF> {
    use DataType::{Float64, Int64, Utf8};
    use Kind::{Count, Floats, Ints, Real};
    let draws = [Ints, Floats, Floats];
    let text = move |args: &_| lists::detokenize(args, &tokenizer);
    let functions = [
        Function::new("reverse_kl", &draws, Float64, Box::new(lists::reverse_kl)).lacking(lacks_draws(log)),
        Function::new("teacher_mass", &[Floats, Count], Float64, Box::new(lists::teacher_mass)).lacking(lacks_top(log)),
        Function::new("entropy", &[Floats, Real], Float64, Box::new(lists::entropy)),
        Function::new("overlap_ratio", &[Ints, Ints], Float64, Box::new(lists::overlap_ratio)),
        Function::new("cache_bytes", &[Count, Count], Int64, Box::new(lists::cache_bytes)),
        Function::new("detokenize", &[Ints], Utf8, Box::new(text)),
    ];
    functions.into_iter().map(ScalarUDF::from).collect()
}

/// The functions of many rows.
pub(crate) fn aggregates() -> Vec<AggregateUDF> {
    vec![ess::ess()]
}

/// Why the run's default score set has no whole sample of draws, if it has none.
fn lacks_draws(log: &Log) -> Option<String> {
    let name = log.score_set()?;
    let set = log.holds(name)?;
    match (set.draws, set.draws_kept) {
        (0, _) => Some(format!("all draws of the sampler, and score set `{name}` has none (draws = 0)")),
        (_, DrawsKept::Tail) => Some(format!(
            "all draws of the sampler, and score set `{name}` keeps those outside the sampler's top-k alone \
             (draws_kept = \"tail\"); the column reverse_kl of `tokens` has what the learner made of both"
        )),
        _ => None,
    }
}

/// Why the run's default score set has no top-k, if it has none.
fn lacks_top(log: &Log) -> Option<String> {
    let name = log.score_set()?;
    let none = log.holds(name)?.top_k_max == 0;
    none.then(|| format!("the teacher's top-k, and score set `{name}` keeps none (top_k_max = 0)"))
}
