#!/usr/bin/env python3
"""Train the tokenizer of the `arith` pipeline and put a copy beside each model.

    python3 generate.py --sft 60000 sft.jsonl
    python3 train_tokenizer.py sft.jsonl          (needs: pip install tokenizers==0.23.3)

A byte-level BPE of exactly 2,048 tokens. Text is first cut into words, single digits and runs of marks, each with the
space before it, and merges never cross a cut: so every digit is a token of its own, and a prompt and its completion
tokenise the same apart as joined. The same rows give the same bytes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
VOCABULARY = 2048
PAD, EOS = "<|pad|>", "<|eos|>"  # ids 0 and 1
CUTS = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+\n*|\s"


def texts(path: Path) -> Iterator[str]:
    with path.open() as lines:
        for line in lines:
            row = json.loads(line)
            yield row["prompt"] + row["completion"]


def train(path: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUTS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(path), trainer)
    return tokenizer


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sft", type=Path, help="rows of generate.py --sft")
    tokenizer = train(parser.parse_args().sft)
    found = tokenizer.get_vocab_size()
    if found != VOCABULARY:
        hint = "hint: give more rows (generate.py --sft 60000)"
        print(f"error: {found} tokens, wanted {VOCABULARY}\n{hint}", file=sys.stderr)
        return 2
    pad, eos = tokenizer.token_to_id(PAD), tokenizer.token_to_id(EOS)
    for folder in (HERE, HERE / "teacher", HERE / "student"):
        folder.mkdir(exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    for folder in (HERE / "teacher", HERE / "student"):
        write(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": 128,
                "pad_token": PAD,
                "eos_token": EOS,
                "clean_up_tokenization_spaces": False,
            },
        )
        write(
            folder / "generation_config.json",
            {"do_sample": True, "temperature": 1.0, "eos_token_id": eos, "pad_token_id": pad},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
