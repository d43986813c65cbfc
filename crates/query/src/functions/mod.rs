//! The store's own functions: arithmetic over what a position holds. Each works on the lists of the table `tokens`.

mod budgets;
mod ess;
mod lists;
mod scalar;

use crate::{log::Log, tokenizer::RunTokenizer};
use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use record::DrawsKept;
use scalar::{Function, Kind};
use std::sync::Arc;

/// How each function is called, and what it gives.
pub(crate) const FUNCTIONS: [(&str, &str); 10] = [
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
    (
        "top_k_budgets(teacher_top_logprobs)",
        "What the teacher's first 1, 2, 4 ... 64 entries cost and keep over many positions: a list of k, positions, entries, \
         bytes, teacher_mass. An aggregate; the view `budgets` has it by policy version.",
    ),
    ("detokenize(ids)", "The text of token ids by the run's tokenizer, special tokens included."),
    (
        "scored_in('SET')",
        "The table `scored` with the scores of another score set than the run's default; see `score_sets`. Of several stores: \
         scored_in('STORE', 'SET').",
    ),
    (
        "tokens_in('SET')",
        "The table `tokens` with the scores of another score set than the run's default; see `score_sets`. Of several stores: \
         tokens_in('STORE', 'SET').",
    ),
];

/// The functions of one row, for the runs of `logs`; `tokenizer` is theirs, or why they have none in common.
pub(crate) fn scalar_functions(logs: &[&Log], tokenizer: Result<Arc<RunTokenizer>, String>) -> Vec<ScalarUDF> {
    use DataType::{Float64, Int64, Utf8};
    use Kind::{Count, Floats, Ints, Real};
    let draws = [Ints, Floats, Floats];
    let (tokenizer, lacks_tokenizer) = match tokenizer {
        Ok(tokenizer) => (Some(tokenizer), None),
        Err(why) => (None, Some(why)),
    };
    let text = move |args: &[ArrayRef]| lists::detokenize(args, tokenizer.as_ref().and_then(|of| of.loaded()));
    let functions = [
        Function::new("reverse_kl", &draws, Float64, Box::new(lists::reverse_kl)).lacking(all_lack(logs, lacks_draws)),
        Function::new("teacher_mass", &[Floats, Count], Float64, Box::new(lists::teacher_mass))
            .lacking(all_lack(logs, lacks_top)),
        Function::new("entropy", &[Floats, Real], Float64, Box::new(lists::entropy)),
        Function::new("overlap_ratio", &[Ints, Ints], Float64, Box::new(lists::overlap_ratio)),
        Function::new("cache_bytes", &[Count, Count], Int64, Box::new(lists::cache_bytes)),
        Function::new("detokenize", &[Ints], Utf8, Box::new(text)).lacking(lacks_tokenizer),
    ];
    functions.into_iter().map(ScalarUDF::from).collect()
}

/// What the first run lacks, if all lack it: a function does not see which of them a list comes from.
fn all_lack(logs: &[&Log], lacks: fn(&Log) -> Option<String>) -> Option<String> {
    let lacks = logs.iter().map(|log| lacks(log)).collect::<Option<Vec<_>>>()?;
    lacks.into_iter().next()
}

/// The functions of many rows, for the runs of `logs`.
pub(crate) fn aggregates(logs: &[&Log]) -> Vec<AggregateUDF> {
    vec![ess::ess(), budgets::top_k_budgets(all_lack(logs, lacks_top))]
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
