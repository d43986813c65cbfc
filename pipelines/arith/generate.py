#!/usr/bin/env python3
"""Write the problems of the `arith` pipeline: prompts for rollouts and evaluation, and worked solutions for `opd sft`.

    python3 generate.py                        prompts/train.jsonl and prompts/heldout.jsonl (what the repository holds)
    python3 generate.py --sft 60000 sft.jsonl  rows of prompt and completion for a cold start
    python3 generate.py --check [sft.jsonl]    prove from the files that held-out problems are disjoint

A problem is one text of templates.toml with names, things and places of words.json and numbers filled in. Held-out
problems are those whose normalised form has a certain hash (see `is_held_out`), so they are disjoint by construction.
Standard library only; the same seed writes the same bytes.
"""

import argparse
import hashlib
import json
import random
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORDS: dict[str, list[str]] = json.loads((HERE / "words.json").read_text())
PLACEHOLDERS = {word.lower() for words in WORDS.values() for word in words}

MAX_PROMPT_PIECES = 44  # words, digits and marks: one token each but for rare words (measured in README.md)
MAX_RESPONSE_TOKENS = 31  # the end-of-sequence token included
MAX_RESULT = 150
MOST = (9, 15, 30)  # a number is drawn up to one of these: small ones are commoner, as in school books
MAX_TRIES = 20_000  # draws of numbers for a template before another is taken
MAX_FACTOR = 12  # of a product, so also of a quotient: the multiplication table of school

# How a solution is worded. Earlier entries are likelier (weight 1 / rank), so a teacher has a head and a tail to teach.
OPENERS = ["", "First", "So", "Clearly", "Start", "Now", "Compute", "Begin", "Here", "Count", "Note", "Well", "Work",
           "Find", "Again", "Solve", "Take", "Calculate", "Initially", "Look", "See", "Write", "Think",
           "Check"]  # fmt: skip
LINKS = [".", " then", ",", " so", ";", " and", " next", " now", " thus", " hence", " therefore", " after", " again",
         " also", " further", " later", " finally", " giving", " meaning", " afterwards"]  # fmt: skip
ENDINGS = [".", "", " answer", ";", " so", " total", " result", " thus", ",", " hence", " done", " finally",
           " therefore"]  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A problem as the files hold it: the prompt ends where the completion, which starts with a space, goes on."""

    prompt: str
    completion: str
    answer: str


@dataclass(frozen=True)
class Template:
    """One way to ask (`text`) for one chain of equations (`steps`, see the head of templates.toml)."""

    text: str
    steps: tuple[str, ...]

    def numbers(self) -> list[str]:
        return sorted(set(re.findall(r"\{([a-dp-s])\}", self.text)))

    def slots(self) -> list[str]:
        return list(dict.fromkeys(re.findall(r"\{([nmk]|[a-z]{2,}2?)\}", self.text)))


def load_templates() -> list[Template]:
    problems = tomllib.loads((HERE / "templates.toml").read_text())["problem"]
    return [Template(text, tuple(problem["steps"])) for problem in problems for text in problem["texts"]]


def normalise(text: str) -> str:
    """The form in which two problems count as the same: equal but for names, things, places, case and punctuation.

    Lower-case; take the maximal runs of ASCII letters and digits; replace each that is a word of words.json (any list,
    lower-cased) by `_`; join with single spaces. Numbers and all other words are kept.
    """
    words = re.findall(r"[a-z0-9]+", text.lower())
    return " ".join("_" if word in PLACEHOLDERS else word for word in words)


def is_held_out(prompt: str) -> bool:
    """One normalised form in 64 is for evaluation only: those whose SHA-256 starts with a byte divisible by 64."""
    return hashlib.sha256(normalise(prompt).encode()).digest()[0] % 64 == 0


def calculate(left: int, sign: str, right: int) -> int | None:
    """The result of one equation, or None where it is not an exact small positive number."""
    match sign:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case "*":
            result = left * right if max(left, right) <= MAX_FACTOR else 0
        case "/":
            result = left // right if left % right == 0 and left // right <= MAX_FACTOR else 0
        case _:
            raise ValueError(f"unknown sign {sign!r} in a step: use + - * /")
    return result if 1 <= result <= MAX_RESULT else None


def solve(steps: tuple[str, ...], values: dict[str, int]) -> tuple[list[str], int] | None:
    """The equations of a solution and its answer, or None where a result is out of range."""
    known, equations, answer = dict(values), [], 0
    for name, step in zip("xyz", steps):
        left, sign, right = step.split()
        result = calculate(known[left], sign, known[right])
        if result is None:
            return None
        known[name] = answer = result
        equations.append(f"{known[left]} {sign} {known[right]} = {result}")
    return equations, answer


def pieces(text: str) -> int:
    """How many words, single digits and runs of marks a text has: the fewest tokens it can take."""
    return len(re.findall(r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+\n*", text))


def ranked(rng: random.Random, options: list[str]) -> str:
    return rng.choices(options, [1 / rank for rank in range(1, len(options) + 1)])[0]


def word_solution(rng: random.Random, equations: list[str], answer: int) -> str | None:
    """A completion in randomly chosen words that keeps within the limit, or None where not even the tersest does."""
    room = MAX_RESPONSE_TOKENS - 1 - pieces("".join(" " + equation for equation in equations) + f" #### {answer}")
    room -= len(equations) - 1  # a link between each two equations
    if room < 0:
        return None
    opener = ranked(rng, OPENERS) if room else ""
    ending = ranked(rng, ENDINGS) if room > bool(opener) else ""
    text = f" {opener}" if opener else ""
    for index, equation in enumerate(equations):
        text += (ranked(rng, LINKS) if index else "") + " " + equation
    return f"{text}{ending} #### {answer}"


def fill(rng: random.Random, template: Template) -> Problem | None:
    """One problem of a template, or None where the numbers drawn do not work out or the text is too long."""
    values = {name: rng.randint(2, rng.choice(MOST) if name in "abcd" else 9) for name in template.numbers()}
    solved = solve(template.steps, values)
    if solved is None:
        return None
    people = dict(zip("nmk", rng.sample(WORDS["names"], 3)))
    words: dict[str, str] = {}
    for slot in template.slots():
        options = [word for word in WORDS.get(slot.rstrip("2"), []) if word not in words.values()]
        words[slot] = people[slot] if slot in people else rng.choice(options)
    text = template.text.format(**values, **words)
    prompt = f"Q: {text[0].upper()}{text[1:]}\nA:"
    completion = word_solution(rng, *solved)
    if completion is None or pieces(prompt) > MAX_PROMPT_PIECES:
        return None
    return Problem(prompt, completion, str(solved[1]))


def problems(seed: str, wanted: Callable[[str], bool], templates: list[Template]) -> Iterator[Problem]:
    """An endless stream of the problems whose prompt is wanted, every template as likely as any other.

    A template with so few forms that none is wanted is given up for the next one.
    """
    rng = random.Random(seed)
    while True:
        template = rng.choice(templates)
        for _ in range(MAX_TRIES):
            problem = fill(rng, template)
            if problem is not None and wanted(problem.prompt):
                yield problem
                break


def distinct(stream: Iterator[Problem], count: int) -> list[Problem]:
    """The first problems of a stream that differ in normalised form."""
    found: dict[str, Problem] = {}
    while len(found) < count:
        problem = next(stream)
        found.setdefault(normalise(problem.prompt), problem)
    return list(found.values())


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{path}: {len(rows)} rows, {path.stat().st_size} bytes", file=sys.stderr)


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wrong_claim(completion: str) -> str | None:
    """The first claim of a worked solution that is not true, if any."""
    result = None
    for left, sign, right, result in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", completion):
        if calculate(int(left), sign, int(right)) != int(result):
            return f"{left} {sign} {right} = {result}"
    answer = completion.rpartition(" #### ")[2]
    return None if answer == result else f"#### {answer}"


def check(sft: Path | None) -> list[str]:
    """What is wrong with the files: nothing, if all is as promised."""
    findings = []
    for template in load_templates():
        bare = re.sub(r"\{\w+\}", " ", template.text)
        if "_" in normalise(bare):
            findings.append(f"a word of words.json in a template: `{template.text}`")
    prompts = [row["prompt"] for row in read(HERE / "prompts/heldout.jsonl")]
    heldout = {normalise(prompt) for prompt in prompts}
    findings += [f"hash says training: `{normalise(prompt)}`" for prompt in prompts if not is_held_out(prompt)]
    for path in [HERE / "prompts/train.jsonl"] + ([sft] if sft else []):
        rows = read(path)
        shared = heldout & {normalise(row["prompt"]) for row in rows}
        findings += [f"{path}: held-out problem in training: `{form}`" for form in sorted(shared)]
        findings += [
            f"{path}: hash says held-out: `{normalise(row['prompt'])}`" for row in rows if is_held_out(row["prompt"])
        ]
        claims = [wrong_claim(row["completion"]) for row in rows if "completion" in row]
        findings += [f"{path}: not true: `{claim}`" for claim in claims if claim]
        print(f"{path}: {len(rows)} rows against {len(heldout)} held-out forms", file=sys.stderr)
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=8192, metavar="N", help="problems in prompts/train.jsonl")
    parser.add_argument("--heldout", type=int, default=256, metavar="N", help="problems in prompts/heldout.jsonl")
    parser.add_argument("--sft", nargs=2, metavar=("N", "PATH"), help="write N rows of prompt and completion instead")
    parser.add_argument("--check", nargs="?", const="", metavar="SFT", help="check the files instead")
    args = parser.parse_args()
    if args.check is not None:
        findings = check(Path(args.check) if args.check else None)
        print("\n".join(findings) or "held-out problems are disjoint from training")
        return 1 if findings else 0

    def stream(role: str, wanted: Callable[[str], bool]) -> Iterator[Problem]:
        return problems(f"arith/{args.seed}/{role}", wanted, load_templates())

    def for_training(prompt: str) -> bool:
        return not is_held_out(prompt)

    if args.sft:
        count, path = int(args.sft[0]), Path(args.sft[1])
        source = stream("sft", for_training)
        drawn = [next(source) for _ in range(count)]
        write(path, [{"prompt": row.prompt, "completion": row.completion} for row in drawn])
        return 0
    for role, count, wanted in [("train", args.train, for_training), ("heldout", args.heldout, is_held_out)]:
        found = distinct(stream(role, wanted), count)
        rows = [{"prompt": row.prompt, "answer": row.answer, "data_source": "arith"} for row in found]
        write(HERE / "prompts" / f"{role}.jsonl", rows)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        print(f"error: {error}\nhint: `generate.py` writes prompts/, `--sft N PATH` the rows", file=sys.stderr)
        sys.exit(2)
