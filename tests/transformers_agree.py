#!/usr/bin/env python3
"""Shows that `transformers` loads an exported policy and agrees with what the sampler recorded.

    transformers_agree.py OPD STORE VERSION DIR

exports VERSION of STORE's policies to DIR, loads it there in float32, and compares the log-probability of each response
token of (at most 32 of) the rollouts that this version sampled with the one in the store. Exit status 1 where they are
more than 1e-3 nats apart. Needs transformers (5.19.0 was tried) and torch; not part of `make test`.
"""

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BOUND = 1e-3


def main(opd, store, version, folder):
    query = (
        "select rollout_id, prompt_ids, response_ids, sampler_logprobs, temperature from rollouts "
        f"where policy_version = {version} order by rollout_id limit 32"
    )
    answer = subprocess.run([opd, "sql", store, query, "--format", "json"], check=True, capture_output=True, text=True)
    rows = json.loads(answer.stdout)
    if not rows:
        hint = "`select distinct policy_version from rollouts` shows which sampled some"
        sys.exit(f"no rollout of version {version} in {store}: {hint}")
    subprocess.run([opd, "export-policy", store, version, folder], check=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    worst = tokens = 0
    for row in rows:
        prompt, response = row["prompt_ids"], row["response_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1, : len(tokenizer)]
        found = (logits / row["temperature"]).log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
        worst = max(worst, (found - torch.tensor(row["sampler_logprobs"])).abs().max().item())
        tokens += len(response)
    print(f"{folder}: {len(rows)} rollouts, {tokens} tokens, logprobs at most {worst:.1e} nats apart")
    print("the first of them ends:", repr(tokenizer.decode(rows[0]["response_ids"])[-80:]))
    sys.exit(0 if worst <= BOUND else 1)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
