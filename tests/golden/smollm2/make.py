#!/usr/bin/env python3
"""What `transformers` makes of SmolLM2: rendered chats, their ids, and logits in float32.

    make.py            # after `make smollm2`; transformers 5.19.0, torch 2.11.0

Writes golden.json and golden.safetensors beside itself; tests/smollm2.rs compares.
"""

import json
import pathlib

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
PIPELINE = HERE.parents[2] / "pipelines" / "smollm2"
TEXTS = ["Ünïcödé — 12345,  two  spaces\n\n\tand a tab; 日本語 🙂", "def f(x):\n    return x**2 + 1970\n"]
CONTINUED = 24


def main():
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(PIPELINE / "teacher")
    lines = [json.loads(line) for line in (PIPELINE / "prompts" / "gsm8k.jsonl").read_text().splitlines()[:2]]
    chats = [[{"role": "user", "content": line["prompt"]}] for line in lines]
    chats.append([{"role": "system", "content": "Be brief."}, *chats[0], {"role": "assistant", "content": "18"},
                  {"role": "user", "content": "Why?"}])
    rendered = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    texts = [{"text": text, "ids": tokenizer(text, add_special_tokens=False).input_ids} for text in TEXTS + rendered]
    tensors = {}
    for name in ["teacher", "student"]:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            PIPELINE / name, dtype=torch.float32, attn_implementation="eager").eval()
        for i, text in enumerate(rendered[:2]):
            ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids])
            with torch.no_grad():
                row = model.generate(ids, max_new_tokens=CONTINUED, do_sample=False)[0]
                logits = model(row[None]).logits[0]
            top = logits.topk(8)
            tensors |= {
                f"{name}.{i}.ids": row,
                f"{name}.{i}.top_ids": top.indices,
                f"{name}.{i}.top_logits": top.values,
                f"{name}.{i}.log_sum_exp": logits.logsumexp(-1),
                f"{name}.{i}.last": logits[-1].clone(),
            }
    chats = [{"messages": chat, "text": text} for chat, text in zip(chats, rendered)]
    golden = {"transformers": transformers.__version__, "torch": torch.__version__, "chats": chats, "texts": texts}
    (HERE / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
    save_file(tensors, HERE / "golden.safetensors")


if __name__ == "__main__":
    main()
