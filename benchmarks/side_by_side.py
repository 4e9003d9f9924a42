"""What stepping several seeds of a cell side by side over one frozen base could save at most: nothing, or little.

    python benchmarks/side_by_side.py --model FOLDER [--model ...] --output results/benchmarks/side_by_side.json

Seeds side by side put the rows of so many micro-batches through one product with the base, where a seed alone puts one
micro-batch through. What that saves is at most what a micro-batch of so many times the rows saves a row, with one
adapter for all: measured here, forward and backward, with LoRA (rank 32, loss on all tokens of supervised positions),
the sizes in an order drawn anew each round; seconds a row, medians. On a card: by the roofline, of the traced update.
Beside the output stands its table, as Markdown.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from sbora_bench import provenance
from sbora_bench.cost.cell_work import update_work
from sbora_bench.cost.kept_traces import CACHE
from sbora_bench.files import write_json, write_text
from sbora_bench.inputs.adapters import adapter_config, as_trained
from sbora_bench.inputs.supervised_loss import SupervisedLoss
from sbora_bench.plan.catalog import Catalog, load_catalog
from sbora_bench.report.render import PrintedTable, Text, markdown

RANK, METHOD = 32, "lora"
SEEDS = (1, 2, 4)  # that step side by side
CARD, CARD_MODEL = "a100-80gb", "llama-7b"
CARD_LENGTHS = {2: 256, 4: 256}  # micro-batches of the paper's protocol, commonsense and arithmetic


def measured(folder: Path, catalog: Catalog, rows: list[int], length: int, rounds: int) -> list[dict]:
    """Times as fast a row with the rows of 2 and 4 micro-batches at a time, for micro-batches of each size."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    protocol = catalog.protocol("smollm2", "arithmetic", {}, "benchmark")
    model = as_trained(
        base, catalog.methods[METHOD], adapter_config(catalog.methods[METHOD], RANK, 0, protocol), protocol
    )
    model.train().config.use_cache = False
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (max(rows) * SEEDS[-1], length), generator=drawn)
    loss = SupervisedLoss(model, ids[0].tolist())
    seconds: dict[int, list[float]] = {size * seeds: [] for size in rows for seeds in SEEDS}
    order = random.Random(0)
    for _ in range(rounds + 1):
        for size in order.sample(sorted(seconds), len(seconds)):
            model.zero_grad()
            began = time.perf_counter()
            value, _ = loss(model, {"input_ids": ids[:size], "labels": ids[:size]})
            value.backward()
            seconds[size].append((time.perf_counter() - began) / size)
    medians = {size: statistics.median(times[1:]) for size, times in seconds.items()}  # the first round warms up
    return [gains(folder.name, size, length, lambda many, one=size: medians[one * many]) for size in rows]


def on_card(catalog: Catalog) -> list[dict]:
    """The same of the paper's micro-batches on a card, by the roofline."""

    def seconds_a_row(micro_batch: int, length: int) -> float:
        changes = {"batch_size": 4 * micro_batch, "micro_batch": micro_batch, "max_length": length}
        protocol = catalog.protocol("official", "commonsense", changes, "benchmark")
        work = update_work(catalog, CARD_MODEL, METHOD, RANK, protocol, CACHE, "cuda")
        return work.seconds(catalog.devices[CARD], protocol.tf32) / protocol.batch_size

    title = f"{catalog.models[CARD_MODEL].title}, {catalog.devices[CARD].title}, by the roofline"
    return [
        gains(title, size, length, lambda many, one=size, long=length: seconds_a_row(one * many, long))
        for size, length in CARD_LENGTHS.items()
    ]


def gains(model: str, rows: int, length: int, seconds: Callable[[int], float]) -> dict:
    """`seconds(n)`: of a row where `n` micro-batches go through together."""
    alone = seconds(1)
    return {"model": model, "rows": rows, "length": length, "seconds_a_row": alone} | {
        f"times_as_fast_{seeds}": alone / seconds(seeds) for seeds in SEEDS[1:]
    }


def table(results: list[dict]) -> str:
    columns = ["Model", "Rows", "Tokens a row", "Seconds a row", *(f"{seeds} side by side" for seeds in SEEDS[1:])]
    rows = [
        [
            Text(row["model"]),
            Text(str(row["rows"])),
            Text(str(row["length"])),
            Text(f"{row['seconds_a_row']:.3g}"),
            *(Text(f"{row[f'times_as_fast_{seeds}']:.2f}") for seeds in SEEDS[1:]),
        ]
        for row in results
    ]
    title = "What seeds side by side could save at most"
    note = "Times as fast a row, at most: the rows of so many micro-batches at once through one LoRA r = 32."
    return markdown(PrintedTable("side_by_side", title, columns, [rows], [note], text_columns=3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", required=True, help="folders of base models")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8], help="of a micro-batch")
    parser.add_argument("--length", type=int, default=160, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    catalog = load_catalog()
    results = [row for folder in args.model for row in measured(folder, catalog, args.rows, args.length, args.rounds)]
    results += on_card(catalog)
    hardware = provenance.hardware()
    write_json(args.output, {"hardware": hardware, "threads": args.threads, "rounds": args.rounds, "results": results})
    text = table(results)
    write_text(args.output.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
