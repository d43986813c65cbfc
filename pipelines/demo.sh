#!/usr/bin/env bash
# Runs a pipeline into a store and asks it the questions in NAME/questions.sql: demo.sh OPD NAME STORE
set -euo pipefail
opd=$1 name=$2 store=$3
root=$(dirname "$0")

"$opd" run "$root/$name.toml" --set "store.url=$store"

# A question is a line of words and a line of SQL.
while read -r _ words && read -r query; do
    printf '\n%s\n  opd sql %s "%s"\n' "$words" "$store" "$query"
    "$opd" sql "$store" "$query" </dev/null
done <"$root/$name/questions.sql"
