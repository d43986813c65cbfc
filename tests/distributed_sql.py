"""Asks Sail, with a driver and two workers that talk over 127.0.0.1, about an export in a bucket. tests/readers.rs calls it.

    distributed_sql.py OPD STORE EXPORT
"""

import csv
import io
import os
import subprocess
import sys

program, store, export = sys.argv[1:]
os.environ |= {
    "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT"],
    "RUST_LOG": "error",
    "SAIL_MODE": "local-cluster",
    "SAIL_CLUSTER__WORKER_INITIAL_COUNT": "2",
    "SAIL_CLUSTER__WORKER_MAX_COUNT": "2",
    "SAIL_CLUSTER__WORKER_TASK_SLOTS": "1",
    "SAIL_CLUSTER__DRIVER_LISTEN_HOST": "127.0.0.1",
    "SAIL_CLUSTER__DRIVER_EXTERNAL_HOST": "127.0.0.1",
    "SAIL_EXECUTION__DEFAULT_PARALLELISM": "2",
}

from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession

# Tables from objects and from the log; partitions; a join; lists.
QUERIES = [
    (
        "select policy_version, count(*), sum(cardinality(response_ids)) from rollouts group by 1 order by 1",
        "select policy_version, count(*), sum(size(response_ids)) from rollouts group by 1 order by 1",
    ),
    (
        "select c.step, count(*), sum(r.prompt_id) from consumed c join rollouts r on r.rollout_id = c.rollout_id"
        " group by 1 order by 1",
        None,
    ),
    (
        "select step, count(*), round(sum(cast(p as double)), 3) from"
        " (select step, unnest(learner_logprobs) as p from step_records) group by 1 order by 1",
        "select step, count(*), round(sum(cast(p as double)), 3) from"
        " (select step, explode(learner_logprobs) as p from step_records) group by 1 order by 1",
    ),
]


def ask(query):
    """The answer of `opd sql` as rows of text."""
    command = [program, "sql", store, query, "--format", "csv"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(csv.reader(io.StringIO(text)))[1:]


server = SparkConnectServer("127.0.0.1", 0)
server.start()
host, port = server.listening_address
assert host == "127.0.0.1", host
spark = SparkSession.builder.remote(f"sc://{host}:{port}").getOrCreate()
try:
    for name in ["rollouts", "consumed", "step_records"]:
        spark.read.format("delta").load(f"{export}/{name}").createOrReplaceTempView(name)
    for query, theirs in QUERIES:
        expected = ask(query)
        found = [[str(value) for value in row] for row in spark.sql(theirs or query).collect()]
        assert len(expected) > 1 and expected == found, f"{query}: opd says {expected}, Sail {found}"
    workers = spark.sql("select cast(worker_id as string) as id, host from system.cluster.workers where status = 'RUNNING'").collect()
    hosts = {row.host for row in workers}
    assert len(workers) >= 2 and hosts == {"127.0.0.1"}, workers
    print(f"agree on {len(QUERIES)} queries with at least two workers")
finally:
    spark.stop()
    server.stop()
