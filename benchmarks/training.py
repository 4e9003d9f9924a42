"""What the shortcuts of training save: SmolLM2-135M on math_data.json, loss on the answer, micro-batches of 8.

    SBORA_DATA_ROOT=... python benchmarks/training.py --model resources/models/smollm2-135m \\
        --output results/benchmarks/training.json [--update 32] [--minutes 5.5] [--threads 2]

The ways: padded rows with logits of all positions, logits of supervised positions alone, with these the update's
micro-batches by length, and those without padding, of 16-bit weights with products in float32 too; the last two whole,
and in parts of so many tokens. Each with PEFT's LoRA (rank 32, dropout) and with SBoRA-FA. They take turns: a round
draws an update, and each way, in an order drawn anew, goes forward and backward through one of its micro-batches, so
that other work on the machine bears on all. A way's seconds an example are its seconds a token that it computes, over
all rounds, times the tokens that it computes for an example, padding among them, over all rows: few rounds are enough,
and time is taken to grow as tokens do. With one thread they are the processor's, which other work on the machine hardly
changes. Intervals (95 %, four rounds on): rounds drawn again.
Beside the output stands its table, as Markdown.
Memory: the traced peak of a step over weights and adapter, of an update's largest micro-batch; `--peaks` says it and
times nothing.
"""

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

from sbora_bench import provenance
from sbora_bench.cost import footprint
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json, write_text
from sbora_bench.inputs import meta_twin
from sbora_bench.inputs.adapters import adapter_config, as_trained
from sbora_bench.inputs.data.prompts import render
from sbora_bench.inputs.padding_free import NAME, packed
from sbora_bench.inputs.parts import parts_of
from sbora_bench.inputs.products import products
from sbora_bench.inputs.supervised_loss import SupervisedLoss
from sbora_bench.plan.catalog import Catalog, load_catalog
from sbora_bench.plan.protocol import Protocol
from sbora_bench.report.render import PrintedTable, Text, markdown
from sbora_bench.train.encoding import IGNORED, encode

METHODS = {"LoRA": "lora", "SBoRA-FA": "sbora-fa"}
RANK, MICRO = 32, 8
PACKED, WIDE, PARTED = {"padding_free": True}, {"products": "float32"}, {"tokens_at_once": 1024}
WAYS = {
    "plain": {"logits": "all", "sort_by_length": False},
    "logits": {"sort_by_length": False},
    "logits, sorted": {},
    "logits, sorted, padding-free": PACKED,
    "logits, sorted, padding-free, in parts of 1,024": PACKED | PARTED,
    "logits, sorted, padding-free, products in float32": PACKED | WIDE,
    "logits, sorted, padding-free, products in float32, in parts of 1,024": PACKED | WIDE | PARTED,
}
BASELINE = "LoRA, plain"


def examples(tokenizer, protocol: Protocol, most: int) -> list[dict]:
    """Training rows as a run has them, in an order drawn with seed 0; `most` of them."""
    root = os.environ.get("SBORA_DATA_ROOT")
    if not root:
        raise UserError("SBORA_DATA_ROOT: not set; name a folder with ft-training_set/math_data.json")
    rows = read_json(Path(root) / "ft-training_set" / "math_data.json")
    random.Random(0).shuffle(rows)
    texts = [(render(protocol.train_prompt, row["instruction"]), row["output"]) for row in rows[:most]]
    return [encode(tokenizer, prompt, response, protocol) for prompt, response in texts]


@dataclass
class Way:
    """A method's model, shared with its other ways, and how a protocol has its micro-batches computed."""

    method: str
    model: torch.nn.Module
    supervised: SupervisedLoss
    protocol: Protocol
    collate: DataCollatorForSeq2Seq

    def dealt(self, update: list[dict]) -> Iterator[list[dict]]:
        """The micro-batches of an update."""
        rows = sorted(update, key=lambda row: -len(row["input_ids"])) if self.protocol.sort_by_length else update
        return (rows[start : start + MICRO] for start in range(0, len(rows), MICRO))

    def computed(self, rows: list[dict]) -> int:
        """Tokens that go through the model for a micro-batch."""
        return sum(
            int(part["attention_mask"].sum()) if self.protocol.padding_free else part["input_ids"].numel()
            for part in self.parts(rows)
        )

    def width(self, rows: list[dict]) -> float:
        """Tokens of an example of a micro-batch, padding among them where there is any, before it is parted."""
        lengths, multiple = [len(row["input_ids"]) for row in rows], self.protocol.pad_to_multiple_of
        return statistics.mean(lengths) if self.protocol.padding_free else -(-max(lengths) // multiple) * multiple

    def parts(self, rows: list[dict]) -> list[dict[str, torch.Tensor]]:
        """What goes through the model at a time, of a micro-batch."""
        return parts_of(self.protocol, len(rows)).of(self.collate(rows))

    def seconds(self, rows: list[dict]) -> float:
        """Of forward and backward through a micro-batch, the adapter's gradients made anew."""
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        self.model.zero_grad()
        self.model.get_base_model().set_attn_implementation(NAME if self.protocol.padding_free else "sdpa")
        with products(self.model, self.protocol.products):
            began = clock()
            for part in self.parts(rows):
                inputs = packed(part) if self.protocol.padding_free else part
                if self.protocol.logits == "all":
                    loss = self.model(**inputs).loss
                else:
                    loss, _ = self.supervised(self.model, inputs)
                loss.backward()
            return clock() - began


def ways(folder: Path, catalog: Catalog, tokenizer, row: list[int], shared: dict) -> dict[str, Way]:
    """All ways by name; `shared`: what their protocols have in common."""
    made = {}
    for title, method in METHODS.items():
        plain = protocol_of(catalog, WAYS["plain"], shared)
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, plain.weights_dtype))
        config = adapter_config(catalog.methods[method], RANK, 0, plain)
        model = as_trained(base, catalog.methods[method], config, plain).train()
        model.config.use_cache = False
        supervised = SupervisedLoss(model, row)
        for way, fields in WAYS.items():
            if "products" in fields and plain.weights_dtype == "float32":
                continue
            protocol = protocol_of(catalog, fields, shared)
            multiple = protocol.pad_to_multiple_of
            collate = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=multiple, label_pad_token_id=IGNORED)
            made[f"{title}, {way}"] = Way(method, model, supervised, protocol, collate)
    return made


def protocol_of(catalog: Catalog, fields: dict, shared: dict) -> Protocol:
    return catalog.protocol("smollm2", "arithmetic", shared | fields, "benchmark")


def traced_peak(way: Way, catalog: Catalog, folder: Path, length: int) -> int:
    """Bytes over weights and adapter at the peak of a traced step of MICRO examples of `length` tokens."""
    method = catalog.methods[way.method]
    base = meta_twin.build_base(AutoConfig.from_pretrained(folder), way.protocol, method)
    twin = meta_twin.attach(base, method, RANK, way.protocol)
    peak = footprint.trace(twin, way.protocol, "cpu", MICRO, length).peak()
    return peak["peak"] - peak["weights"] - peak["adapter"]


def largest_width(way: Way, updates: list[list[dict]]) -> int:
    """Tokens of an example of an update's widest micro-batch, in the mean over updates."""
    return round(statistics.mean(max(map(way.width, way.dealt(update))) for update in updates))


def seconds_an_example(rounds: list[dict[str, tuple[float, int]]], way: str, tokens: float) -> float:
    return tokens * sum(r[way][0] for r in rounds) / sum(r[way][1] for r in rounds)


def summed_up(rounds: list[dict[str, tuple[float, int]]], tokens: dict[str, float]) -> dict[str, dict]:
    """Of each way: examples a second, and how many times as fast as the baseline."""

    def ratio(drawn: list[dict], way: str) -> float:
        base, own = (seconds_an_example(drawn, name, tokens[name]) for name in (BASELINE, way))
        return base / own

    draw, figures = random.Random(0), {}
    for way in tokens:
        figures[way] = {
            "examples_per_second": 1 / seconds_an_example(rounds, way, tokens[way]),
            "times_as_fast": ratio(rounds, way),
            "tokens_an_example": tokens[way],
            "seconds_and_tokens": [r[way] for r in rounds],
        }
        if len(rounds) >= 4:
            again = sorted(ratio(draw.choices(rounds, k=len(rounds)), way) for _ in range(2000))
            figures[way]["interval"] = [again[50], again[-51]]
    return figures


def table(record: dict) -> PrintedTable:
    """A line a way."""
    lines = []
    for name, of in record["ways"].items():
        interval = "[{:.2f}, {:.2f}]".format(*of["interval"]) if "interval" in of else "–"
        shown = f"{of['examples_per_second']:.2f}", f"{of['times_as_fast']:.2f}", interval
        cells = (*name.split(", ", 1), *shown, f"{record['peak_part'][name]:.2f}")
        lines.append([Text(cell) for cell in cells])
    header = ["Method", "Way", "Examples a second", "Times as fast", "Interval", "Peak memory over the weights"]
    settings = record["settings"]
    threads = "one thread, by the processor's time" if settings["threads"] == 1 else f"{settings['threads']} threads"
    notes = [
        f"SmolLM2-135M in {settings['dtype']} on {threads}, rank {settings['rank']}, micro-batches"
        f" of {MICRO} of math_data.json ({record['mean_length']:.0f} tokens a row); as fast and memory: against"
        f" {BASELINE}.",
        f"{record['hardware']['cpu']}; {len(record['ways'][BASELINE]['seconds_and_tokens'])} rounds.",
    ]
    return PrintedTable("training", "What the shortcuts of training save", header, [lines], notes, text_columns=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--output", type=Path)
    asked.add_argument("--peaks", action="store_true", help="print the traced peaks alone")
    parser.add_argument("--update", type=int, default=32, help="examples of an update, in micro-batches of 8")
    parser.add_argument("--rows", type=int, default=4096, help="of the data, drawn at random")
    parser.add_argument("--minutes", type=float, default=5.5, help="no round begins that would end later")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of the base's weights")
    arguments = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    catalog = load_catalog()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    shared = {"batch_size": arguments.update, "micro_batch": MICRO, "weights_dtype": arguments.dtype}
    rows = examples(tokenizer, protocol_of(catalog, {}, shared), arguments.rows)
    starts = range(0, len(rows) - arguments.update + 1, arguments.update)
    updates = [rows[start : start + arguments.update] for start in starts]
    made = ways(arguments.model, catalog, tokenizer, rows[0]["input_ids"], shared)
    sizes = {
        name: [[way.computed(part) for part in way.dealt(update)] for update in updates] for name, way in made.items()
    }
    tokens = {name: sum(map(sum, of)) / (len(updates) * arguments.update) for name, of in sizes.items()}
    memory = {
        name: traced_peak(way, catalog, arguments.model, largest_width(way, updates)) for name, way in made.items()
    }
    if arguments.peaks:
        for name, size in memory.items():
            print(f"{name:60} {size / 2**20:7,.0f} MiB over the weights, {size / memory[BASELINE]:.2f}")
        return
    for way in made.values():  # buffers and kernels are made at the first call
        way.seconds([{key: values[:16] + values[-16:] for key, values in row.items()} for row in rows[:MICRO]])
    made[BASELINE].seconds(updates[0][:MICRO])  # it takes the most memory, which the system must give once
    draw, rounds, longest = random.Random(0), [], 0.0
    for update in updates:
        if rounds and time.perf_counter() - began + longest > 60 * arguments.minutes:
            break
        round_began = time.perf_counter()
        place = draw.randrange(arguments.update // MICRO)
        taken = {}
        for name in draw.sample(list(made), len(made)):
            part = list(made[name].dealt(update))[place]
            taken[name] = (made[name].seconds(part), made[name].computed(part))
        rounds.append(taken)
        longest = max(longest, time.perf_counter() - round_began)
        print(f"round {len(rounds)}: {longest:.0f} s", file=sys.stderr, flush=True)
    settings = {key: getattr(arguments, key) for key in ("update", "threads", "dtype")} | {"micro_batch": MICRO}
    record = {
        "settings": settings | {"rank": RANK, "rows": len(rows)},
        "mean_length": statistics.mean(len(row["input_ids"]) for row in rows),
        "ways": summed_up(rounds, tokens),
        "traced_peak_bytes_over_weights": memory,
        "peak_part": {name: size / memory[BASELINE] for name, size in memory.items()},
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
    }
    write_json(arguments.output, record)
    write_text(arguments.output.with_suffix(".md"), markdown(table(record)))
    for name, of in record["ways"].items():
        interval = "[{:.2f}, {:.2f}]".format(*of["interval"]) if "interval" in of else ""
        print(f"{name:60} {of['times_as_fast']:5.2f} x {interval:14} peak {record['peak_part'][name]:.2f}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
