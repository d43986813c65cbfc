"""What asynchrony gains: whole runs of a pipeline in turns and overlapped, the same steps each, and what `opd plan` foretold.

    python3 benches/asynchrony.py OPD OUT [PIPELINE:STEPS ...]

Three runs of each pipeline, without evaluations, on whatever cores there are:

    turns-all   max_staleness = 0, each job with all cores: what a synchronous trainer does
    turns-own   max_staleness = 0, each job with one core, as it has in the third
    async       the pipeline's own max_staleness, each job with one core

and, for a quarter of the steps, two runs in turns at once, each job with one core: what both get done, to what one alone does, is
how many cores the machine's cores amount to when they are busy (two that share an arithmetic unit amount to less than two). This
and the stages' times in turns are what `opd plan` is given; it never sees an asynchronous run.

Throughput is of the steps behind the first tenth. Stores, traces (`opd trace`) and the table are kept in OUT; a run that is
there already is not made again. Then the last version of each run is evaluated where the pipeline has answers to compare with.
"""

import csv
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULT = ["arith:280", "smollm2:12"]
COLUMNS = (
    "pipeline,mode,threads,max_staleness,steps,seconds,steps_per_s,tokens_per_s,ratio_to_turns_all,ratio_to_turns_own,"
    "cores,planned_ratio,stages_busy,planned_stages_busy,accuracy,reverse_kl"
).split(",")


def without_eval(name, folder):
    """The pipeline without its evaluations, which would share the cores with what is measured; its paths made absolute."""
    text = (ROOT / "pipelines" / f"{name}.toml").read_text()
    text = re.sub(r"(?ms)^\[eval.*", "", text)
    text = re.sub(rf'"{name}/', f'"{ROOT}/pipelines/{name}/', text)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def ask(opd, store, sql):
    found = subprocess.run([opd, "sql", store, sql, "--format", "csv"], check=True, stdout=subprocess.PIPE, text=True)
    return list(csv.DictReader(found.stdout.splitlines()))


def run(opd, pipeline, settings_of):
    """Runs a pipeline into each store of `settings_of`, all at once."""
    running = []
    for store, settings in settings_of.items():
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        print(f"{store.name}: opd run {pipeline.name} {' '.join(sets)}", file=sys.stderr, flush=True)
        running.append(subprocess.Popen([opd, "run", pipeline, "--set", f"store.url={store}", *sets]))
    if any([process.wait() for process in running]):
        sys.exit(f"{pipeline.name}: a run failed; what it said is above")


def measure(opd, store, steps):
    """Seconds, steps a second and tokens a second from the end of the first tenth on, and what the run shows of itself."""
    first = max(1, steps // 10)
    rows = ask(opd, store, f"select w.ended, s.trained_tokens as tokens, s.reverse_kl from steps s "
                           f"join work w on w.seq = s.seq where s.step >= {first} order by s.step")
    moment = [datetime.datetime.fromisoformat(row["ended"].replace("Z", "+00:00")).timestamp() for row in rows]
    seconds = moment[-1] - moment[0]
    last = rows[-max(1, steps // 10):]
    status = subprocess.run([opd, "status", store], check=True, capture_output=True, text=True).stdout
    busy = re.search(r"overlap\s+([0-9.]+)", status)
    return {
        "seconds": seconds,
        "steps_per_s": (len(rows) - 1) / seconds,
        "tokens_per_s": sum(int(row["tokens"]) for row in rows[1:]) / seconds,
        "stages_busy": float(busy.group(1)) if busy else None,
        "reverse_kl": sum(float(row["reverse_kl"]) for row in last) / len(last),
    }


def planned(opd, store, staleness, cores):
    """What `opd plan` says from the times that the stages took in turns: (ratio to turns, stages busy)."""
    found = subprocess.run(
        [opd, "plan", store, "--csv", "--cores", str(cores), "--max-staleness", str(staleness)],
        check=True, capture_output=True, text=True)
    lines = list(csv.DictReader(found.stdout.splitlines()))
    return float(lines[1]["ratio"]), float(lines[1]["stages_busy"])


def accuracy(opd, name, store, settings):
    """Evaluates the last version; None for a pipeline without answers."""
    if name != "arith":
        return None
    pipeline = ROOT / "pipelines" / f"{name}.toml"
    run(opd, pipeline, {store: settings})
    return float(ask(opd, store, "select accuracy from evals order by policy_version desc limit 1")[0]["accuracy"])


def cores_at_work(opd, pipeline, steps, settings_of, alone, out):
    """How much two runs in turns get done at once, to what one does alone."""
    steps = max(3, steps // 4)
    stores = {out / f"{pipeline.stem}-pair-{i}": settings_of(steps, 1, 0) for i in range(2)}
    if not all((store / "log").exists() for store in stores):
        run(opd, pipeline, stores)
    return sum(measure(opd, store, steps)["steps_per_s"] for store in stores) / alone


def bench(opd, name, steps, out, cores):
    pipeline = without_eval(name, out)
    asynchronous = int(re.search(r"(?m)^max_staleness = (\d+)", pipeline.read_text()).group(1))
    modes = [("turns-all", cores, 0), ("turns-own", 1, 0), ("async", 1, asynchronous)]

    def settings_of(first_steps, threads, staleness):
        jobs = {f"{job}.threads": threads for job in ("rollout", "score", "learn")}
        schedule = {"learn.steps": first_steps, "learn.optimizer.schedule.total_steps": steps}
        return schedule | {"learn.max_staleness": staleness} | jobs

    found = []
    for mode, threads, staleness in modes:
        store, settings = out / f"{name}-{mode}", settings_of(steps, threads, staleness)
        if not (store / "log").exists():
            run(opd, pipeline, {store: settings})
        line = {"pipeline": name, "mode": mode, "threads": threads, "max_staleness": staleness, "steps": steps}
        found.append(line | measure(opd, store, steps) | {"accuracy": accuracy(opd, name, store, settings)})
        with open(out / f"{name}-{mode}-trace.json", "w") as trace:
            subprocess.run([opd, "trace", store], check=True, stdout=trace)
    for line in found:
        line["ratio_to_turns_all"] = line["steps_per_s"] / found[0]["steps_per_s"]
        line["ratio_to_turns_own"] = line["steps_per_s"] / found[1]["steps_per_s"]
    at_work = cores_at_work(opd, pipeline, steps, settings_of, found[1]["steps_per_s"], out)
    if cores != 2:
        # Measured with two at work; more are taken to bear each other as two do.
        at_work *= cores / 2
    plan = planned(opd, out / f"{name}-turns-own", asynchronous, at_work)
    found[2] |= {"cores": at_work, "planned_ratio": plan[0], "planned_stages_busy": plan[1]}
    return found


def main():
    opd, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    lines = []
    for asked in sys.argv[3:] or DEFAULT:
        name, steps = asked.split(":")
        lines += bench(opd, name, int(steps), out, cores)
    (out / "asynchrony.json").write_text(json.dumps(lines, indent=1))
    print(",".join(COLUMNS))
    for line in lines:
        cells = [line.get(column) for column in COLUMNS]
        print(",".join("" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))


main()
