"""Asks DuckDB or Polars what benches/sql/queries.rs asks, of an export's Parquet files.

    peers.py duckdb|polars EXPORT

Prints `query|engine|first s|warm s|warm CPU s|bytes read|sums of the answer's columns` for each query, and a note.
"""

import os
import re
import statistics
import sys
import time
from pathlib import Path

os.environ["POLARS_MAX_THREADS"] = "2"
engine, export = sys.argv[1:]
REPETITIONS = 5


def read_bytes():
    """What this process has asked the kernel to read; mapped files are not in it."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


def queries():
    """Names and SQL as the Rust side has them."""
    text = Path(__file__).with_name("queries.rs").read_text().split("QUERIES: [")[1].split("\n];")[0]
    for block in re.findall(r"\(\n(.*?)\n    \)", text, flags=re.DOTALL):
        name, sql, _ = re.findall(r'"((?:[^"\\]|\\.)*)"', re.sub(r"\\\n\s*", "", block), flags=re.DOTALL)
        yield name, sql


def duckdb_engine():
    import duckdb

    con = duckdb.connect(config={"threads": 2})
    for table in sorted(os.listdir(export)):
        if os.path.isdir(f"{export}/{table}"):
            con.execute(f"create view {table} as select * from read_parquet('{export}/{table}/**/*.parquet')")

    def ask(sql):
        # An integer divided by one is an integer in the store's SQL.
        return con.sql(sql.replace("cardinality(", "len(").replace("/ 280", "// 280")).fetchall()

    return {name: (lambda sql=sql: ask(sql)) for name, sql in queries()}


def polars_engine():
    import polars as pl

    scan = lambda table: pl.scan_parquet(f"{export}/{table}/**/*.parquet", hive_partitioning=False)
    steps, evals, kl = scan("steps"), scan("evals"), pl.col("reverse_kl")
    upto = ((pl.col("step") / 40).ceil() * 40).cast(pl.Int64).alias("upto")
    records = scan("step_records")
    part = (pl.col("policy_version") // 280).alias("part")
    ended = [scan("consumed").select(part, dropped=pl.lit(0)), scan("dropped").select(part, dropped=pl.lit(1))]

    def of_tokens(by):
        return by.group_by("by").agg(kl.count().alias("n"), kl.mean().alias("mean")).sort("by")

    plans = [
        steps.with_columns(upto)
        .join(evals, left_on="upto", right_on="policy_version", how="left")
        .group_by("upto")
        .agg(
            pl.col("staleness_mean").mean(),
            pl.col("staleness_max").max(),
            kl.mean(),
            pl.col("is_ess").mean(),
            pl.col("reverse_kl_right").max(),
            pl.col("accuracy").max(),
        )
        .sort("upto"),
        steps.group_by((pl.col("step") // 280).alias("part"))
        .agg(pl.col("teacher_mass").mean(), pl.col("is_ess").mean(), pl.col("trained_tokens").sum())
        .sort("part"),
        scan("consumed").group_by("staleness").agg(pl.len(), pl.col("step").n_unique()).sort("staleness"),
        scan("work")
        .filter(pl.col("tokens") > 0)
        .group_by("job", "worker")
        .agg(pl.col("tokens").sum(), pl.col("busy_s").sum())
        .sort("job", "worker"),
        of_tokens(records.select(pl.col("staleness").alias("by"), kl).explode("reverse_kl")),
        of_tokens(records.select((pl.col("step") - 1 - pl.col("staleness")).alias("by"), kl).explode("reverse_kl")),
        records.filter(pl.col("step").is_between(1400, 1410))
        .select(kl.explode())
        .select(kl.count().alias("n"), kl.mean().alias("mean")),
        pl.concat(ended).group_by("part").agg(pl.col("dropped").sum(), pl.len()).sort("part"),
    ]
    names = [name for name, _ in queries()]
    return {name: (lambda plan=plan: plan.collect().rows()) for name, plan in zip(names, plans, strict=True)}


for name, ask in {"duckdb": duckdb_engine, "polars": polars_engine}[engine]().items():
    times, before = [], read_bytes()
    for repetition in range(REPETITIONS + 1):
        if repetition == 1:
            cpu = time.process_time()
        start = time.perf_counter()
        rows = ask()
        times.append(time.perf_counter() - start)
        if repetition == 0:
            read = read_bytes() - before
    cpu = (time.process_time() - cpu) / REPETITIONS
    columns = [column for column in zip(*rows) if any(isinstance(value, (int, float)) for value in column)]
    sums = " ".join(repr(float(sum(float(value) for value in column if value is not None))) for column in columns)
    print(f"{name}|{engine}|{times[0]:.3f}|{statistics.median(times[1:]):.3f}|{cpu:.3f}|{read}|{sums}", flush=True)
peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
print(f"note|{engine}: peak memory {int(peak) / 1024:.0f} MiB; bytes are those of read calls in the first time")
