"""What the shortcuts of training save: SmolLM2-135M on math_data.json, loss on the answer, an update at a time.

    SBORA_DATA_ROOT=... python benchmarks/training.py --model resources/models/smollm2-135m \\
        --output results/benchmarks/training.json [--rows 32] [--minutes 5] [--threads 2]

The ways take turns on the same update, in an order drawn anew each round: logits of all positions, logits of supervised
positions alone, and these with micro-batches sorted by length, each with PEFT's LoRA and with SBoRA-FA. A round is an
update of `--rows` examples in micro-batches of 8, forward and backward; a ratio is of one round's two times, so that
other work on the machine bears on both. Peak memory over the weights is the CPU allocator's in one micro-batch.
Medians, and from four rounds on a bootstrap interval over rounds.
"""

import argparse
import os
import random
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

from sbora_bench import provenance
from sbora_bench.cost.real_step import highest
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json
from sbora_bench.inputs.adapters import adapter_config, as_trained
from sbora_bench.inputs.data.prompts import render
from sbora_bench.inputs.supervised_loss import SupervisedLoss
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.train.encoding import IGNORED, encode
from sbora_bench.train.shortcuts import by_length

METHODS = {"LoRA": "lora", "SBoRA-FA": "sbora-fa"}
WAYS = {"all logits": (False, False), "supervised logits": (True, False), "supervised, sorted": (True, True)}
MICRO = 8
BASELINE = "LoRA, all logits"


def examples(tokenizer, protocol) -> list[dict]:
    """The training rows as a run has them, those that fit."""
    root = os.environ.get("SBORA_DATA_ROOT")
    if not root:
        raise UserError("SBORA_DATA_ROOT: not set; name a folder with ft-training_set/math_data.json")
    rows = read_json(Path(root) / "ft-training_set" / "math_data.json")
    texts = [(render(protocol.train_prompt, row["instruction"]), row["output"]) for row in rows]
    return [encode(tokenizer, prompt, response, protocol) for prompt, response in texts]


class Way:
    """A method, and how its updates are computed."""

    def __init__(self, model, collate, supervised: SupervisedLoss | None, ordered: bool) -> None:
        self.model, self.collate, self.supervised, self.ordered = model, collate, supervised, ordered

    def micro_batches(self, rows: list[dict]) -> list[dict]:
        batches = [self.collate(rows[start : start + MICRO]) for start in range(0, len(rows), MICRO)]
        return by_length(batches, self.collate) if self.ordered else batches

    def backward(self, batch: dict, items: int) -> float:
        if self.supervised is None:
            loss = self.model(**batch, num_items_in_batch=items).loss
        else:
            loss, _ = self.supervised(self.model, batch, items)
        loss.backward()
        return float(loss.detach())

    def update(self, rows: list[dict]) -> tuple[float, float]:
        """(loss, seconds)."""
        items = sum(label >= 0 for row in rows for label in row["labels"][1:])
        began = time.perf_counter()
        loss = sum(self.backward(batch, items) for batch in self.micro_batches(rows))
        seconds = time.perf_counter() - began
        self.model.zero_grad()
        return loss, seconds


def ways(folder: Path, protocol, tokenizer, row: list[int]) -> dict[str, Way]:
    """All ways by name; the ways of a method share its model."""
    catalog, made = load_catalog(), {}
    collate = DataCollatorForSeq2Seq(tokenizer, padding=True, pad_to_multiple_of=8, label_pad_token_id=IGNORED)
    for title, method in METHODS.items():
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        config = adapter_config(catalog.methods[method], 32, 0, protocol)
        model = as_trained(base, catalog.methods[method], config, protocol).train()
        model.config.use_cache = False
        for way, (supervised, ordered) in WAYS.items():
            loss = SupervisedLoss(model, row) if supervised else None
            made[f"{title}, {way}"] = Way(model, collate, loss, ordered)
    return made


def summed_up(seconds: dict[str, list[float]], rows: int) -> dict[str, dict]:
    """Of each way: examples a second, and how many times as fast as the baseline."""
    draw, found = random.Random(0), {}
    for name, own in seconds.items():
        ratios = [base / mine for base, mine in zip(seconds[BASELINE], own, strict=True)]
        found[name] = {
            "examples_per_second": rows / statistics.median(own),
            "times_as_fast": statistics.median(ratios),
            "seconds": own,
        }
        if len(ratios) >= 4:
            medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
            found[name]["interval"] = [medians[50], medians[-51]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--output", required=True)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=4.5, help="no round begins that would end later")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    protocol = load_catalog().protocol("smollm2", "arithmetic", {}, "benchmark")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side=protocol.padding_side)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rows = examples(tokenizer, protocol)
    draw = random.Random(0)
    draw.shuffle(rows)
    made = ways(arguments.model, protocol, tokenizer, rows[0]["input_ids"])
    memory = {}
    for name, way in made.items():
        batch = way.micro_batches(rows[: arguments.rows])[0]
        memory[name] = highest(lambda way=way, batch=batch: way.backward(batch, 1))
        way.model.zero_grad()
    seconds: dict[str, list[float]] = {name: [] for name in made}
    losses: dict[str, list[float]] = {name: [] for name in made}
    widths: dict[str, list[int]] = {}
    longest = 0.0
    for start in range(0, len(rows) - arguments.rows + 1, arguments.rows):
        if seconds[BASELINE] and time.perf_counter() - began + longest > 60 * arguments.minutes:
            break
        round_began = time.perf_counter()
        for name in draw.sample(list(made), len(made)):
            part = rows[start : start + arguments.rows]
            loss, taken = made[name].update(part)
            seconds[name].append(taken)
            losses[name].append(loss)
            if name.startswith("LoRA"):
                widths.setdefault(name, []).extend(
                    batch["input_ids"].shape[1] for batch in made[name].micro_batches(part)
                )
        longest = max(longest, time.perf_counter() - round_began)
        print(f"round {len(seconds[BASELINE])}: {longest:.0f} s", file=sys.stderr, flush=True)
    record = {
        "settings": {"rows": arguments.rows, "micro_batch": MICRO, "threads": arguments.threads, "dtype": "bfloat16"},
        "mean_length": statistics.mean(len(row["input_ids"]) for row in rows),
        "mean_width": {name: statistics.mean(of) for name, of in widths.items()},
        "ways": summed_up(seconds, arguments.rows),
        "loss": {name: statistics.mean(of) for name, of in losses.items()},
        "peak_bytes_over_weights": memory,
        "peak_part": {name: size / memory[BASELINE] for name, size in memory.items()},
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }
    write_json(arguments.output, record)
    for name, of in record["ways"].items():
        print(f"{name:28} {of['times_as_fast']:5.2f} x   peak {record['peak_part'][name]:.2f}   {of.get('interval')}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
