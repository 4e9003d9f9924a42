"""What shared prefixes save in scoring by likelihood: five-shot MMLU-like prompts, and ARC-Easy's answers.

    SBORA_DATA_ROOT=... python benchmarks/scoring.py --model resources/models/smollm2-135m \\
        --output results/benchmarks/scoring.json [--minutes 3.5] [--threads 2] [--item-by-item 8]

Each task is scored as `evaluate` would: item by item, and with what prompts share read once; the two take turns, part
by part: a part is a subject, or 16 questions of ARC-Easy, and the first way is drawn. Of a part's questions some alone,
drawn, may be read item by item, where a question costs the same whatever stands beside it, and their time counts for
all: so SmolLM2 reads 57 subjects in minutes, not an hour (`--minutes 20 --item-by-item 8`). The answers chosen must be
the same and in float32 each log-likelihood within 1e-4 of its size, or the benchmark ends with status 1. MMLU's prompts
are not at hand: five ARC-Easy questions with answers stand before each question of one of 57 subjects, whose 36
questions are fewer than MMLU's 246, so the saving is less than there. They are read by a LLaMA of random weights and
Ladder S's size with the tokenizer of `--model`, and, as ARC-Easy, by `--model` itself. Intervals (95 %, four parts on):
parts drawn again. Beside the output stands its table, as Markdown.
"""

import argparse
import contextlib
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerBase

from sbora_bench import provenance
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json, write_text
from sbora_bench.inputs.models.load import model_positions
from sbora_bench.report.render import PrintedTable, Text, markdown
from sbora_bench.score.lm_eval_model import Scorer

WAYS = {"item by item": False, "shared prefixes": True}
CLOSE = 1e-4  # of a log-likelihood's size, or of 1
TINY = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 4}


def questions() -> list[dict]:
    root = os.environ.get("SBORA_DATA_ROOT")
    if not root:
        raise UserError("SBORA_DATA_ROOT: not set; name a folder with dataset/ARC-Easy/test.json")
    return read_json(Path(root) / "dataset" / "ARC-Easy" / "test.json")


def mmlu_like(rows: list[dict], subjects: int, questions: int) -> list[list[tuple[str, str]]]:
    """Of each subject (prompt, letter): five answered questions of its own, then another."""
    parts = []
    for subject in range(subjects):
        own = [rows[(subject * (5 + questions) + place) % len(rows)] for place in range(5 + questions)]
        shots = "\n\n".join(f"{row['instruction']}\nAnswer: {'ABCD'[number % 4]}" for number, row in enumerate(own[:5]))
        prompts = [f"{shots}\n\n{row['instruction']}\nAnswer:" for row in own[5:]]
        parts.append([(prompt, f" {letter}") for prompt in prompts for letter in "ABCD"])
    return parts


def answers(rows: list[dict], questions: int) -> list[list[tuple[str, str]]]:
    """Of each part of so many questions (question, answer): the texts after `Answer1:` and the like."""
    parts = []
    for start in range(0, len(rows) - questions + 1, questions):
        parts.append([])
        for row in rows[start : start + questions]:
            question, _, listed = row["instruction"].partition("Answer1:")
            texts = [part.split("Answer format")[0].strip() for part in _split(listed)]
            parts[-1] += [(question.strip(), f" {text}") for text in texts if text]
    return parts


def _split(listed: str) -> list[str]:
    for number in range(2, 6):
        listed = listed.replace(f"Answer{number}:", "\0")
    return listed.split("\0")


def compared(
    scorers: dict[str, Scorer],
    parts: list[list[tuple[str, str]]],
    until: float,
    draw: random.Random,
    item_by_item: int | None = None,
) -> dict:
    """Both ways through the parts in turn, as long as the next would end before `time.perf_counter()` is `until`.

    `item_by_item`: so many questions of a part are read so, or all; seconds and tokens are given for all of them.
    """
    for scorer in scorers.values():  # buffers and kernels are made at the first call
        scorer.loglikelihood([SimpleNamespace(args=pair) for pair in parts[-1][:8]], disable_tqdm=True)
    tokens, compared_requests = dict.fromkeys(WAYS, 0.0), 0
    rounds, differences, shares, same, longest = [], [], [], True, 0.0
    for part in parts:
        began = time.perf_counter()
        if rounds and began + longest > until:
            break
        some = drawn(part, item_by_item, draw)
        asked, seconds, values = {way: part if shared else some for way, shared in WAYS.items()}, {}, {}
        for way in draw.sample(list(WAYS), len(WAYS)):
            requests, times = [SimpleNamespace(args=pair) for pair in asked[way]], len(part) / len(asked[way])
            with counted(scorers[way].model) as widths:
                way_began = time.perf_counter()
                likelihoods = scorers[way].loglikelihood(requests, disable_tqdm=True)
                seconds[way] = (time.perf_counter() - way_began) * times
            values[way] = {pair: value for pair, (value, _) in zip(asked[way], likelihoods, strict=True)}
            tokens[way] += sum(widths) * times
        one, other = ([values[way][pair] for pair in some] for way in WAYS)
        compared_requests += len(some)
        differences += [abs(a - b) for a, b in zip(one, other, strict=True)]
        shares += [abs(a - b) / max(1.0, abs(a)) for a, b in zip(one, other, strict=True)]
        same = same and choices(some, one) == choices(some, other)
        rounds.append([seconds[way] for way in WAYS])
        longest = max(longest, time.perf_counter() - began)
    again = sorted(ratio(draw.choices(rounds, k=len(rounds))) for _ in range(2000))
    return {
        "parts": len(rounds),
        "requests": sum(map(len, parts[: len(rounds)])),
        "item_by_item": compared_requests,
        "seconds": dict(zip(WAYS, map(sum, zip(*rounds, strict=True)), strict=True)),
        "times_as_fast": ratio(rounds),
        "interval": [again[50], again[-51]] if len(rounds) >= 4 else None,
        "tokens": {way: round(count) for way, count in tokens.items()},
        "largest_difference": max(differences),
        "largest_share": max(shares),
        "same_choices": same,
    }


def drawn(part: list[tuple[str, str]], questions: int | None, draw: random.Random) -> list[tuple[str, str]]:
    """The requests of so many questions of a part, in its order; all without a number."""
    prompts = list(dict.fromkeys(prompt for prompt, _ in part))
    if questions is None or questions >= len(prompts):
        return part
    chosen = set(draw.sample(prompts, questions))
    return [pair for pair in part if pair[0] in chosen]


@contextlib.contextmanager
def counted(model: torch.nn.Module) -> Iterator[list[int]]:
    """In this block the list gets the tokens of each batch that goes through the model, padding among them."""
    widths: list[int] = []

    def count(module: torch.nn.Module, args: tuple, named: dict) -> None:
        widths.append((args[0] if args else named["input_ids"]).numel())

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield widths
    finally:
        handle.remove()


def ratio(rounds: list[list[float]]) -> float:
    plain, shared = map(sum, zip(*rounds, strict=True))
    return plain / shared


def choices(part: list[tuple[str, str]], values: list[float]) -> dict[str, str]:
    """Question -> its likeliest answer."""
    best: dict[str, tuple[float, str]] = {}
    for (prompt, answer), value in zip(part, values, strict=True):
        best[prompt] = max(best.get(prompt, (value, answer)), (value, answer))
    return {prompt: answer for prompt, (_, answer) in best.items()}


def scorers_of(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, batch: int) -> dict[str, Scorer]:
    length = model_positions(model) or 2048
    return {way: Scorer(model.eval(), tokenizer, batch, length, shared) for way, shared in WAYS.items()}


def table(record: dict) -> PrintedTable:
    """A line a task."""
    lines = []
    for task, of in sorted(record["tasks"].items()):
        interval = "[{:.2f}, {:.2f}]".format(*of["interval"]) if of["interval"] else "–"
        known = of.get("tokens", {"shared prefixes": of.get("tokens_read")})  # earlier records count one way
        tokens = [f"{known[way]:,}" if known.get(way) else "–" for way in WAYS]
        seconds = [f"{of['seconds'][way]:.1f}" for way in WAYS]
        some = of.get("item_by_item", of["requests"])
        likelihoods = f"{of['requests']:,}" + (f"; {some:,} item by item" if some < of["requests"] else "")
        cells = task, likelihoods, *tokens, *seconds, f"{of['times_as_fast']:.2f}", interval
        lines.append([Text(cell) for cell in (*cells, f"{of['largest_difference']:.1e}")])
    header = ["Task", "Likelihoods", *(f"{what}, {way}" for what in ("Tokens", "Seconds") for way in WAYS)]
    header += ["Times as fast", "Interval"]
    settings = record["settings"]
    notes = [
        f"{settings['dtype']}, {settings['threads']} threads, batches of {settings['batch']}; the answers chosen are"
        f" the same. Tokens: all that went through the model, padding too. {record['hardware']['cpu']}.",
    ]
    if any(of.get("item_by_item", of["requests"]) < of["requests"] for of in record["tasks"].values()):
        notes.append(
            "Item by item some questions of a subject were read, drawn; tokens and seconds are given for all of them."
        )
    header += ["Largest difference of a log-likelihood"]
    return PrintedTable("scoring", "What shared prefixes save in scoring", header, [lines], notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="SmolLM2's folder")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--subjects", type=int, default=57)
    parser.add_argument("--questions", type=int, default=36, help="of a subject")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--minutes", type=float, default=3.5, help="of what is left, each task's share; no part ends later"
    )
    parser.add_argument("--item-by-item", type=int, help="so many questions of a part are read so  [default: all]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    draw, rows = random.Random(0), questions()
    draw.shuffle(rows)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    dtype = getattr(torch, arguments.dtype)
    tiny = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **TINY), dtype=dtype)
    whole = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype)
    like_mmlu = mmlu_like(rows, arguments.subjects, arguments.questions)
    tasks = {
        "MMLU-like, five shots, Ladder S's size": (tiny, like_mmlu),
        "MMLU-like, five shots, SmolLM2": (whole, like_mmlu),
        "ARC-Easy by likelihood, SmolLM2": (whole, answers(rows, 16)),
    }
    record = {"settings": {key: str(value) for key, value in vars(arguments).items()}, "tasks": {}}
    end = time.perf_counter() + 60 * arguments.minutes
    for place, (task, (model, parts)) in enumerate(tasks.items()):
        scorers = scorers_of(model, tokenizer, arguments.batch)
        now = time.perf_counter()
        until = now + (end - now) / (len(tasks) - place)
        record["tasks"][task] = compared(scorers, parts, until, draw, arguments.item_by_item)
        print(task, record["tasks"][task], file=sys.stderr, flush=True)
    record |= {"versions": provenance.versions(), "hardware": provenance.hardware()}
    write_json(arguments.output, record)
    write_text(arguments.output.with_suffix(".md"), markdown(table(record)))
    wrong = [t for t, of in record["tasks"].items() if not of["same_choices"] or of["largest_share"] > CLOSE]
    if wrong and arguments.dtype == "float32":
        sys.exit(f"the two ways differ: {', '.join(wrong)}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
