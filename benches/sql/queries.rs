//! What is asked. `peers.py` asks the same under the same names, of the exported tables.

use crate::AnyError;
use arrow::{
    array::{AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type},
};

/// Name, SQL, and which of `objects` are opened; none where the log answers.
pub const QUERIES: [(&str, &str, &str); 8] = [
    (
        "staleness KL and accuracy by 40 steps",
        "select upto, avg(staleness_mean) as staleness, max(staleness_max) as greatest, avg(steps.reverse_kl) as kl, \
         avg(is_ess) as ess, max(evals.reverse_kl) as held_out, max(accuracy) as accuracy \
         from (select cast(ceil(step / 40.0) * 40 as bigint) as upto, * from steps) steps \
         left join evals on evals.policy_version = upto group by upto order by upto",
        "",
    ),
    (
        "teacher mass and ESS by 280 steps",
        "select step / 280 as part, avg(teacher_mass) as mass, avg(is_ess) as ess, sum(trained_tokens) as tokens \
         from steps group by 1 order by 1",
        "",
    ),
    (
        "rows by staleness",
        "select staleness, count(*) as rows, count(distinct step) as steps from consumed group by 1 order by 1",
        "",
    ),
    (
        "tokens a second by worker",
        "select job, worker, sum(tokens) as tokens, sum(busy_s) as busy_s from work where tokens > 0 \
         group by job, worker order by job, worker",
        "",
    ),
    (
        "KL of tokens by staleness",
        "select staleness, count(kl) as positions, avg(kl) as kl from \
         (select staleness, unnest(reverse_kl) as kl from step_records) group by staleness order by staleness",
        "kind = 'step_record'",
    ),
    (
        "KL of tokens by policy version",
        "select step - 1 - staleness as version, count(kl) as positions, avg(kl) as kl from \
         (select step, staleness, unnest(reverse_kl) as kl from step_records) group by 1 order by 1",
        "kind = 'step_record'",
    ),
    (
        "KL of tokens of one policy version",
        "select count(kl) as positions, avg(kl) as kl from \
         (select unnest(reverse_kl) as kl from step_records where step between 1400 and 1410)",
        "kind = 'step_record' and policy_version between 1400 and 1410",
    ),
    (
        "drop rate by 280 policy versions",
        "select part, sum(dropped) as dropped, count(*) as rows from (select policy_version / 280 as part, 0 as dropped \
         from consumed union all select policy_version / 280 as part, 1 as dropped from dropped) group by part order by part",
        "",
    ),
];

/// The sum of each column that is a number, by which answers are compared.
pub fn sums(answer: &[RecordBatch]) -> Result<String, AnyError> {
    let mut sums: Vec<f64> = Vec::new();
    for batch in answer {
        let numbers = batch.columns().iter().filter(|column| column.data_type().is_numeric());
        for (i, column) in numbers.enumerate() {
            let column = cast(column, &DataType::Float64)?;
            let sum: f64 = column.as_primitive::<Float64Type>().iter().flatten().sum();
            if sums.len() <= i { sums.push(sum) } else { sums[i] += sum }
        }
    }
    Ok(sums.iter().map(f64::to_string).collect::<Vec<_>>().join(" "))
}
