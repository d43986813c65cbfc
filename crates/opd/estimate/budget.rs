//! `--budget`: the cache of least variance for `reverse_kl_hybrid`, and what others do with as many bytes.

use super::{Seen, table::short};
use crate::error::{CommandError, Result};
use learner::estimate::{Allocation, Found, Study};

/// The largest head that is looked at.
pub(super) const MOST_HEAD: usize = 512;

/// What was found, as lines for a pipeline, and what is to be expected of it.
///
/// # Errors
/// If the budget does not hold a single draw.
pub(super) fn report(study: &Study, seen: &Seen<'_>, budget: f64) -> Result<String> {
    let cost = seen.args.cost();
    let all: Vec<usize> = (0..study.len()).collect();
    let (prefixes, exact) = (study.prefixes(), study.exact());
    let Some(found) = Allocation::least_variance(prefixes, exact, &all, &cost, budget, MOST_HEAD) else {
        let least = Allocation { floor: 1.0, most: MOST_HEAD, draws: 1 }.over(prefixes, exact, &all, &cost);
        let what = format!("--budget {budget}: a single draw needs {:.1} bytes a token", least.bytes_per_token);
        return Err(CommandError::new(what).hint("give it more"));
    };
    let mut text = format!("{}\n\n", seen.title());
    text += &pipeline_lines(&found);
    let _ = budget;
    Ok(text)
}

fn pipeline_lines(found: &Found) -> String {
    let Allocation { floor, most, draws } = found.allocation;
    format!(
        "rollout.top_k_floor = {floor}\nrollout.top_k_max = {most}\nrollout.draws = {draws}\nrollout.draws_kept = \"tail\"\n\
         learn.estimator = {{ name = \"reverse_kl_hybrid\", top_k = {most}, draws = {draws} }}\n\n\
         to be expected: {:.1} bytes a token ({:.1} ids in the head), bias 0, variance {}\n",
        found.bytes_per_token,
        found.head,
        short(found.variance)
    )
}
