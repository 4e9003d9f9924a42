"""What shared prefixes save in scoring by likelihood: five-shot MMLU-like prompts, and ARC-Easy's answers.

    SBORA_DATA_ROOT=... python benchmarks/scoring.py --model resources/models/smollm2-135m \\
        --output results/benchmarks/scoring.json [--subjects 6] [--questions 8] [--items 24] [--threads 2]

Each task is scored as `evaluate` would: item by item, and with what prompts share read once; the two take turns. The
letters chosen must be the same and in float32 each log-likelihood within 1e-4, or the benchmark ends with status 1.
MMLU's real prompts are not at hand: five ARC-Easy questions with answers stand before each question of a subject, whose
number of questions is a small part of MMLU's 246 a subject, so the saving is less than on the real 57 subjects.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sbora_bench import provenance
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json
from sbora_bench.score.lm_eval_model import Scorer

WAYS = {"item by item": False, "shared prefixes": True}
CLOSE = 1e-4


def questions() -> list[dict]:
    root = os.environ.get("SBORA_DATA_ROOT")
    if not root:
        raise UserError("SBORA_DATA_ROOT: not set; name a folder with dataset/ARC-Easy/test.json")
    return read_json(Path(root) / "dataset" / "ARC-Easy" / "test.json")


def mmlu_like(rows: list[dict], subjects: int, each: int) -> list[tuple[str, str]]:
    """(prompt, letter): five answered questions of a subject, then one of its own."""
    pairs = []
    for subject in range(subjects):
        own = rows[subject * (5 + each) : (subject + 1) * (5 + each)]
        shots = "\n\n".join(f"{row['instruction']}\nAnswer: {'ABCD'[number % 4]}" for number, row in enumerate(own[:5]))
        for row in own[5:]:
            pairs += [(f"{shots}\n\n{row['instruction']}\nAnswer:", f" {letter}") for letter in "ABCD"]
    return pairs


def answers(rows: list[dict], count: int) -> list[tuple[str, str]]:
    """(question, answer) of each answer of some questions: the text after `Answer1:` and the like."""
    pairs = []
    for row in rows[:count]:
        question, _, listed = row["instruction"].partition("Answer1:")
        texts = [part.split("Answer format")[0].strip() for part in _split(listed)]
        pairs += [(question.strip(), f" {text}") for text in texts if text]
    return pairs


def _split(listed: str) -> list[str]:
    for number in range(2, 6):
        listed = listed.replace(f"Answer{number}:", "\0")
    return listed.split("\0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--output", required=True)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--questions", type=int, default=16, help="of a subject")
    parser.add_argument("--items", type=int, default=48, help="questions of ARC-Easy")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype))
    rows = questions()
    tasks = {
        "MMLU-like, five shots": mmlu_like(rows, arguments.subjects, arguments.questions),
        "ARC-Easy by likelihood": answers(rows, arguments.items),
    }
    record = {"settings": {key: str(value) for key, value in vars(arguments).items()}, "tasks": {}}
    for task, pairs in tasks.items():
        requests = [SimpleNamespace(args=pair) for pair in pairs]
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        likelihoods, read = {}, 0
        for _ in range(arguments.rounds):
            for way, shared in WAYS.items():
                scorer = Scorer(model.eval(), tokenizer, arguments.batch, 2048, shared)
                began = time.perf_counter()
                found = scorer.loglikelihood(requests, disable_tqdm=True)
                seconds[way].append(time.perf_counter() - began)
                likelihoods[way] = torch.tensor([value for value, _ in found])
                read = scorer.read
        one, other = likelihoods.values()
        best = [values.view(-1, 4).argmax(-1) for values in (one, other)] if len(one) % 4 == 0 else [one, one]
        record["tasks"][task] = {
            "requests": len(pairs),
            "seconds": {way: statistics.median(of) for way, of in seconds.items()},
            "times_as_fast": statistics.median(a / b for a, b in zip(*seconds.values(), strict=True)),
            "tokens_read": read,
            "tokens_item_by_item": sum(len(ids) for ids in {tuple(tokenizer(p).input_ids) for p, _ in pairs})
            if task.startswith("MMLU")
            else sum(len(tokenizer(prompt + answer).input_ids) for prompt, answer in pairs),
            "largest_difference": float((one - other).abs().max()),
            "same_choices": bool((best[0] == best[1]).all()),
        }
        print(task, record["tasks"][task], file=sys.stderr, flush=True)
    write_json(arguments.output, record | {"versions": provenance.versions(), "hardware": provenance.hardware()})
    wrong = [t for t, of in record["tasks"].items() if not of["same_choices"] or of["largest_difference"] > CLOSE]
    if wrong and arguments.dtype == "float32":
        sys.exit(f"the two ways differ: {', '.join(wrong)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
