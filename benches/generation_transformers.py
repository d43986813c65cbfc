#!/usr/bin/env python3
"""What `generation.rs` measures, done with `transformers`: sampling with a cache, and a forward pass with a top-k.

    python3 benches/generation_transformers.py [arith | smollm2]        # transformers 5.19.0, torch 2.11.0

One thread, float32, the same models, prompts and lengths; rows are padded on the left for sampling, on the right for scoring.
"""

import json
import pathlib
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# Rows, longest response, whether prompts go through the chat template, repetitions; as in generation.rs.
SETUPS = {"arith": (64, 32, False, 9), "smollm2": (32, 64, True, 3)}
TOP_K = 64


def main(pipeline):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, new, chat, repetitions = SETUPS[pipeline]
    folder = pathlib.Path(__file__).parents[1] / "pipelines" / pipeline
    tokenizer = AutoTokenizer.from_pretrained(folder / "student", padding_side="left")
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32).eval() for name in ["student", "teacher"]
    )
    lines = (folder / "prompts" / "heldout.jsonl").read_text().splitlines()[:rows]
    texts = [json.loads(line)["prompt"] for line in lines]
    if chat:
        messages = [[{"role": "user", "content": text}] for text in texts]
        texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in messages]
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    asked = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    width = asked.input_ids.shape[1]
    pad = tokenizer.pad_token_id
    eos = student.generation_config.eos_token_id
    ends = torch.tensor(eos if isinstance(eos, list) else [eos])

    def sample():
        with torch.no_grad():
            return student.generate(**asked, max_new_tokens=new, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                                    pad_token_id=pad)

    def lengths(output):
        response = output[:, width:]
        ended = torch.isin(response, ends).int().cumsum(1)
        return ((ended == 0).sum(1) + (ended.max(1).values > 0).int()).tolist()

    seconds, output = median(sample, repetitions)
    found = lengths(output)
    print_row("sample", sum(found), seconds)

    sequences = [row[width - sum(mask):width + n] for row, mask, n in zip(output, asked.attention_mask.tolist(), found)]
    padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad)

    def score():
        with torch.no_grad():
            hidden = teacher.model(padded).last_hidden_state
            kept = [hidden[i, len(s) - n - 1:len(s) - 1] for i, (s, n) in enumerate(zip(sequences, found))]
            logprobs = teacher.lm_head(torch.cat(kept)).log_softmax(-1)
            tokens = torch.cat([s[len(s) - n:] for s, n in zip(sequences, found)])
            return logprobs.gather(1, tokens[:, None]), logprobs.topk(TOP_K)

    seconds, _ = median(score, repetitions)
    print_row("score teacher's top-k", sum(found), seconds)


def median(work, repetitions):
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), result


def print_row(what, tokens, seconds):
    print(f"{what},{tokens},{seconds * 1e3:.2f},{tokens / seconds:.0f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "arith")
