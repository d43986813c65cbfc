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
ask "What did staleness cost? Reverse KL of what was trained on, by how old it was:" \
    "select c.staleness, count(distinct c.rollout_id) as rollouts, round(avg(k.kl), 4) as reverse_kl from consumed c join (select rollout_id, unnest(reverse_kl) as kl from step_records) k on c.rollout_id = k.rollout_id group by c.staleness order by c.staleness"
ask "Which prompts did the student find hardest, judged by its teacher, and how did it get on with them?" \
    "select s.prompt_id, s.policy_version, s.finish, round(r.kl, 3) as mean_reverse_kl from scored s join (select rollout_id, avg(k) as kl from (select rollout_id, unnest(reverse_kl) as k from step_records) u group by rollout_id) r on s.rollout_id = r.rollout_id order by r.kl desc limit 5"
