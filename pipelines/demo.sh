#!/usr/bin/env bash
# Runs the arith pipeline asynchronously into a store and asks it two questions: demo.sh OPD STORE
set -euo pipefail
opd=$1 store=$2
root=$(dirname "$0")

"$opd" run "$root/arith.toml" --set "store.url=$store"

ask() {
    printf '\n%s\n  opd sql %s "%s"\n' "$1" "$store" "$2"
    "$opd" sql "$store" "$2"
}
ask "How did the student get on, and how old was what it learned from?" \
    "select upto as to_step, round(avg(reverse_kl), 3) as reverse_kl, round(avg(staleness_mean), 2) as staleness, max(accuracy) as accuracy from (select cast(ceil(step / 40.0) * 40 as bigint) as upto, reverse_kl, staleness_mean from steps) join evals on policy_version = upto group by upto order by upto"
ask "How many entries hold 99.99 % of the teacher's mass, on what the last policies sampled?" \
    "select case when entries = 1 then '1' when entries <= 4 then '2 to 4' when entries <= 16 then '5 to 16' else '17 to 64' end as entries, round(100.0 * count(*) / sum(count(*)) over (), 1) as percent_of_positions, round(avg(first), 3) as most_likely from (select cardinality(top) as entries, exp(top[1]) as first from (select unnest(teacher_top_logprobs) as top from scored where policy_version >= 260)) group by 1 order by min(entries)"
