"""Reads a store's batches, its archives and its export with programs that know nothing of opd. tests/readers.rs calls it.

    outside_readers.py OPD STORE EXPORT SEQ

EXPORT is an export of STORE as it was after commit SEQ, to which a second one has added the rest. What is read is compared with what
`OPD sql` says. STORE's scores are packed, its rollouts are not.
"""

import csv
import io
import json
import math
import subprocess
import sys

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

program, store, export, seq = sys.argv[1:]
# Tables whose rows never change, and those that are replaced.
TABLES = ["rollouts", "scores", "step_records", "steps", "metrics", "consumed", "dropped", "evals", "work", "commits"]
REPLACED = ["policies", "eval_metrics", "objects"]


def ask(query, at=None):
    """The answer of `opd sql` as rows of text."""
    command = [program, "sql", store, query, "--format", "csv"] + (["--at", at] if at else [])
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(csv.reader(io.StringIO(text)))[1:]


def same(what, expected, found):
    """Fails unless both rows are the same, floats to rounding."""
    assert len(expected) == len(found), f"{what}: opd says {expected}, found {found}"
    for theirs, ours in zip(found, expected, strict=True):
        close = isinstance(theirs, float) and math.isclose(float(ours), theirs, rel_tol=1e-5, abs_tol=1e-6)
        assert close or str(theirs) == ours, f"{what}: opd says {expected}, found {found}"


def count_query(tables):
    return " union all ".join(f"select '{name}' as name, count(*) as rows from {name}" for name in tables)


def batches():
    """Arrow files as they lie in the store, by pyarrow and by Polars."""
    [tokens] = ask("select count(*), sum(cardinality(response_ids)), sum(prompt_id) from rollouts")
    files = [f"{store}/{key}" for [key] in ask("select key from objects where kind = 'rollouts'")]
    tables = [pa.ipc.open_file(pa.memory_map(file)).read_all() for file in files]
    table = pa.concat_tables(tables)
    lengths = pc.sum(pc.list_value_length(table["response_ids"])).as_py()
    same("pyarrow", tokens, [table.num_rows, lengths, pc.sum(table["prompt_id"]).as_py()])
    lists = pa.list_(pa.field("item", pa.int32(), nullable=False))
    assert table.schema.field("draw_ids").type == pa.list_(pa.field("item", lists, nullable=False))
    frame = pl.concat([pl.read_ipc(file) for file in files])
    lengths = int(frame["response_ids"].list.len().sum())
    same("Polars", tokens, [frame.height, lengths, int(frame["prompt_id"].sum())])

    [sums] = ask("select count(*), sum(k) from (select unnest(teacher_logprobs) as k from scores)")
    files = [f"{store}/{key}" for [key] in ask("select key from objects where kind = 'scores'")]
    table = pa.concat_tables([pa.ipc.open_file(pa.memory_map(file)).read_all() for file in files])
    values = pc.list_flatten(table["teacher_logprobs"])
    same("pyarrow, plain columns", sums, [len(values), pc.sum(values.cast(pa.float64())).as_py()])
    assert table.schema.field("packed_teacher_top").type == pa.binary()
    frame = pl.concat([pl.read_ipc(file) for file in files])
    values = frame["teacher_logprobs"].explode().cast(pl.Float64)
    same("Polars, plain columns", sums, [len(values), float(values.sum())])
    assert frame.schema["packed_teacher_top"] == pl.Binary


def parquet():
    """The exported files as they are, by DuckDB: partitions from the folders' names, packed columns as lists."""
    con = duckdb.connect()
    rows = f"read_parquet('{export}/rollouts/**/*.parquet', hive_partitioning = true)"
    query = "select policy_version, count(*), sum({}(response_ids)), min(rollout_id) from {} group by 1 order by 1"
    expected = ask(query.format("cardinality", "rollouts"))
    found = con.sql(query.format("len", rows)).fetchall()
    assert len(expected) >= 2
    for one, other in zip(expected, found, strict=True):
        same("DuckDB, by partition", one, other)
    scores = f"read_parquet('{export}/scores/**/*.parquet', hive_partitioning = true)"
    # Two lists deep: entries of the teacher's top-k, packed in the store.
    expected = ask(
        "select sum(id), sum(p) from (select unnest(ids) as id, unnest(ps) as p from "
        "(select unnest(teacher_top_ids) as ids, unnest(teacher_top_logprobs) as ps from scores))"
    )
    found = con.sql(
        f"select sum(id), sum(p::double) from (select unnest(flatten(teacher_top_ids)) as id,"
        f" unnest(flatten(teacher_top_logprobs)) as p from {scores})"
    ).fetchall()
    same("DuckDB, packed columns", expected[0], [int(found[0][0]), found[0][1]])
    # Replaced tables are left out: their folders hold the files of both versions.
    for name, count in ask(count_query(TABLES)):
        found = con.sql(f"select count(*) from read_parquet('{export}/{name}/**/*.parquet')").fetchall()
        same(f"DuckDB, {name}", [count], found[0])


def delta():
    """Every table as a Delta table, both versions of it, by delta-rs and by Polars."""
    tables = TABLES + REPLACED
    run_id = json.loads(ask("select json from commits where seq = 0")[0][0])["run_id"]
    last = int(ask("select max(seq) from commits")[0][0])
    for version, at, upto in [(0, seq, int(seq)), (1, None, last)]:
        for name, count in ask(count_query(tables), at):
            table = deltalake.DeltaTable(f"{export}/{name}", version=version)
            assert table.transaction_version(run_id) == upto, (name, version, table.transaction_version(run_id))
            found = table.to_pyarrow_table().num_rows
            stated = sum(pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist())
            frame = pl.scan_delta(f"{export}/{name}", version=version).select(pl.len()).collect().item()
            same(f"{name} at version {version}", [count] * 3, [found, stated, frame])

    table = deltalake.DeltaTable(f"{export}/rollouts")
    assert table.metadata().partition_columns == ["policy_version"]
    [field] = [field for field in table.schema().fields if field.name == "sampler_logprobs"]
    assert "log-probability" in field.metadata["comment"]
    least = pa.table(table.get_add_actions(flatten=True))["min.prompt_id"].to_pylist()
    same("least prompt", ask("select min(prompt_id) from rollouts")[0], [min(least)])

    # A few rows whole, from two tables.
    expected = ask(
        "select rollout_id, s.policy_version, response_ids, teacher_logprobs, teacher_top_ids from scored s"
        " order by rollout_id limit 3"
    )
    rollouts = pl.scan_delta(f"{export}/rollouts").select("rollout_id", "policy_version", "response_ids")
    scores = pl.scan_delta(f"{export}/scores").select("rollout_id", "teacher_logprobs", "teacher_top_ids")
    found = rollouts.join(scores, on="rollout_id").sort("rollout_id").head(3).collect()
    for one, row in zip(expected, found.iter_rows(), strict=True):
        same("rollout", one[:2], row[:2])
        assert json.loads(one[2]) == row[2] and json.loads(one[4]) == row[4], (one, row)
        assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(json.loads(one[3]), row[3], strict=True))
    # A filter on the partition and one on a time.
    [count] = ask("select count(*) from rollouts where policy_version = 1")[0]
    same("one partition", [count], [rollouts.filter(pl.col("policy_version") == 1).collect().height])
    [at] = ask("select max(cast(at as bigint)) from commits")[0]
    latest = pl.scan_delta(f"{export}/commits").select(pl.col("at").max().dt.epoch("ms")).collect().item()
    same("last commit's time", [at], [latest])
    for frame, null in [("step_records", "reverse_kl"), ("evals", "accuracy")]:
        [count] = ask(f"select count(*) from {frame} where {null} is null")[0]
        found = pl.scan_delta(f"{export}/{frame}").select(pl.col(null).is_null().sum()).collect().item()
        same(f"nulls of {frame}", [count], [found])


def archives():
    """The store's archives, by pyarrow, Polars and DuckDB. Packed columns are binary there as in the batches they came from."""
    [tokens] = ask("select count(*), sum(cardinality(response_ids)), sum(prompt_id) from rollouts")
    [sums] = ask("select count(*), sum(k) from (select unnest(teacher_logprobs) as k from scores)")
    [steps] = ask("select count(*), sum(step) from step_records")
    subprocess.run([program, "archive", store], check=True, capture_output=True)
    files = {kind: [] for kind in ["rollouts", "scores", "steps"]}
    for [key] in ask("select key from objects where kind = 'archive'"):
        files[key.split("/")[1]].append(f"{store}/{key}")

    table = pa.concat_tables([pq.read_table(file) for file in files["rollouts"]])
    lengths = pc.sum(pc.list_value_length(table["response_ids"])).as_py()
    same("pyarrow", tokens, [table.num_rows, lengths, pc.sum(table["prompt_id"]).as_py()])
    lists = pa.list_(pa.field("item", pa.int32(), nullable=False))
    assert table.schema.field("draw_ids").type == pa.list_(pa.field("item", lists, nullable=False))
    scores = pa.concat_tables([pq.read_table(file) for file in files["scores"]])
    values = pc.list_flatten(scores["teacher_logprobs"])
    same("pyarrow, scores", sums, [len(values), pc.sum(values.cast(pa.float64())).as_py()])
    assert scores.schema.field("packed_teacher_top").type == pa.binary()
    # A row group is a batch, and says which policy version it is of.
    file = pq.ParquetFile(files["rollouts"][0])
    column = file.schema_arrow.get_field_index("policy_version")
    bounds = [file.metadata.row_group(i).column(column).statistics for i in range(file.num_row_groups)]
    assert all(bound.min == bound.max for bound in bounds) and len({bound.min for bound in bounds}) > 1

    frame = pl.concat([pl.read_parquet(file) for file in files["rollouts"]])
    lengths = int(frame["response_ids"].list.len().sum())
    same("Polars", tokens, [frame.height, lengths, int(frame["prompt_id"].sum())])
    frame = pl.concat([pl.read_parquet(file) for file in files["scores"]])
    values = frame["teacher_logprobs"].explode().cast(pl.Float64)
    same("Polars, scores", sums, [len(values), float(values.sum())])

    con = duckdb.connect()
    rows = f"read_parquet({files['rollouts']})"
    found = con.sql(f"select count(*), sum(len(response_ids)), sum(prompt_id) from {rows}").fetchall()
    same("DuckDB", tokens, [int(value) for value in found[0]])
    rows = f"read_parquet({files['scores']})"
    found = con.sql(f"select count(*), sum(k::double) from (select unnest(teacher_logprobs) as k from {rows})")
    same("DuckDB, scores", sums, found.fetchall()[0])
    found = con.sql(f"select count(*), sum(step) from read_parquet({files['steps']})").fetchall()
    same("DuckDB, step records", steps, [int(value) for value in found[0]])


for part in [batches, parquet, delta, archives]:
    part()
    print(f"{part.__name__}: agree")
