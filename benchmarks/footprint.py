"""Memory estimated by `sbora_bench.cost.traced_step` against the CPU's allocator in two real steps of the Trainer.

    python benchmarks/footprint.py --output results/published/footprint-cpu.json [--only REGEX] [--quick]

Measured: allocations and releases that `torch.profiler` saw, summed, at their highest; and, without the profiler, the
growth of the process's resident memory at its highest. Random weights: memory doesn't depend on values. One row of the
micro-batch is of full length and the others shorter, so there is padding, as in a real one. Logits are made of every
token, as a trace takes all for supervised. Some micro-batches go through the model in two parts.
"""

import argparse
import ctypes
import gc
import itertools
import json
import multiprocessing
import re
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from sbora_bench.cost import counting, real_step, traced_step
from sbora_bench.cost.storages import storage_bytes, weight_tensors
from sbora_bench.files import read_json, write_json, write_text
from sbora_bench.inputs import meta_twin
from sbora_bench.inputs.models.config import read_config
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.report import render
from sbora_bench.report.render import PrintedTable, markdown
from sbora_bench.train import finetune

SMALL = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 3}
SMALL |= {"num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False}
METHODS = ["lora", "dora", "sbora-fa", "sbora-fb"]
PRECISIONS = ["float32", "bfloat16", "nf4"]
WORDS = {"float32": "fp32", "bfloat16": "bf16", "nf4": "NF4", "autocast": "bf16, autocast"}
PLAIN, DROPOUT, AGAIN = (0.0, False), (0.05, False), (0.05, True)  # dropout, checkpointing
ROWS, RANK = 4, 8
MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD


def catalog():
    """The repository's catalog and a small model of this benchmark's own."""
    known = load_catalog()
    entry = ModelEntry(title="small", source={"kind": "folder", "path": "."}, architecture=SMALL)
    return known.model_copy(update={"models": known.models | {"small": entry}})


def cases(quick: bool) -> list[dict]:
    """Every combination that is measured, named; the middle length first, the larger model's between."""
    lengths = [96] if quick else [96, 48, 192]
    small = [
        [("small", *cell, length) for cell in itertools.product(METHODS, PRECISIONS, [PLAIN, DROPOUT, AGAIN])]
        for length in lengths
    ]
    autocast = [("small", method, "autocast", way, 96) for method in METHODS for way in (DROPOUT, AGAIN)]
    parted = [("small", *cell, DROPOUT, 96, 192) for cell in itertools.product(METHODS, PRECISIONS)]
    parted += [] if quick else [("smollm2-135m", method, "bfloat16", DROPOUT, 192, 384) for method in METHODS]
    ways = [] if quick else [(DROPOUT, 192), (AGAIN, 96), (DROPOUT, 48)]
    large = [("smollm2-135m", *cell, *way) for way in ways for cell in itertools.product(METHODS, PRECISIONS)]
    return [case(*cell) for cell in [*small[0], *large, *autocast, *itertools.chain(*small[1:]), *parted]]


def case(model: str, method: str, precision: str, way: tuple[float, bool], length: int, at_once: int = 0) -> dict:
    dropout, checkpointing = way
    overrides = {
        "dropout": dropout,
        "gradient_checkpointing": checkpointing,
        "batch_size": ROWS,
        "micro_batch": ROWS,
        "steps": 2,
        "optimizer": "adamw_torch",
        "warmup_steps": 0,
        "weights_dtype": "float32" if precision == "float32" else "bfloat16",
        "autocast": "bfloat16" if precision == "autocast" else None,
        "compute_dtype": "bfloat16",
        "logits": "all",
        "tokens_at_once": at_once,
    }
    method = f"q{method}" if precision == "nf4" else method
    name = f"{model} {method} {precision} dropout={dropout} checkpointing={checkpointing} length={length}"
    name += f" at_once={at_once}" if at_once else ""
    about = {"name": name, "model": model, "method": method, "precision": precision, "length": length}
    return about | {"overrides": overrides}


def protocol_of(known, case: dict):
    return known.protocol("smollm2", "arithmetic", case["overrides"], case["name"])


def predict(known, case: dict) -> dict[str, int]:
    """Bytes by kind at the peak of a traced step on `meta`."""
    protocol = protocol_of(known, case)
    model = meta_twin.build(known, case["model"], known.methods[case["method"]], RANK, protocol)
    adapter = counting.adapter_tensors(model)
    return traced_step.trace_training(model, adapter, protocol, ROWS, case["length"], "cpu").peak()


def measured(known, case: dict, profiled: bool) -> dict[str, int]:
    """Train two steps; bytes: the model's storages, and the highest growth over them."""
    from datasets import Dataset

    torch.set_num_threads(1)
    protocol = protocol_of(known, case)
    model = real_step.random_model(read_config(known, case["model"]), known.methods[case["method"]], RANK, protocol)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(WordLevel({"a": 1, "[PAD]": 0}, unk_token="a")), pad_token="[PAD]"
        )
        shorter = 1 if protocol.tokens_at_once else 8  # by one token, so that parts are equally wide
        lengths = [case["length"]] + [case["length"] - shorter] * (ROWS - 1)  # one micro-batch, padded as a real one is
        rows = Dataset.from_list([{"input_ids": [1] * n, "labels": [1] * n} for n in lengths])
        run = Run(Cell("bench", case["model"], case["method"], RANK), 0)
        with mock.patch("transformers.training_args.is_torch_bf16_gpu_available", return_value=True):
            trainer = finetune.build_trainer(model, tokenizer, rows, None, protocol, run, Path(folder) / "out")
        gc.collect()
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, 2**16)  # freed tensors go back to the system at once, or they would stay resident
        libc.malloc_trim(0)
        held = storage_bytes(weight_tensors(model))
        if not profiled:
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            trainer.train()
            return {"held": held, "resident": resident("VmHWM") - before}
        return {"held": held, "allocated": real_step.highest(trainer.train)}


def resident(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def compare(case: dict) -> dict:
    """One row of the table; runs in a process of its own."""
    warnings.simplefilter("ignore")
    known = catalog()
    estimated = predict(known, case)
    resident_growth = None
    if case["model"] != "small" and case["length"] == 192 and not case["overrides"]["tokens_at_once"]:
        resident_growth = measured(known, case, profiled=False)["resident"]
    real = measured(known, case, profiled=True)
    over = estimated["peak"] - estimated["weights"] - estimated["adapter"]
    return {
        "name": case["name"],
        "held_predicted": estimated["weights"] + estimated["adapter"],
        "held_measured": real["held"],
        "over_predicted": over,
        "over_measured": real["allocated"],
        "resident_growth": resident_growth,
        "peak_error": estimated["peak"] / (real["held"] + real["allocated"]) - 1,
        "over_error": over / real["allocated"] - 1,
    }


def views(rows: list[dict]) -> list[PrintedTable]:
    """The case of the largest error of each method and precision, and every case."""
    known, titles = {case["name"]: case for case in cases(quick=False)}, catalog().methods
    groups: dict[tuple[str, str], list[dict]] = {}
    every = []
    for row in rows:
        case = known[row["name"]]
        about = (titles[case["method"]].title, WORDS[case["precision"]])
        groups.setdefault(about, []).append(row)
        resident = mib(row["held_measured"] + row["resident_growth"]) if row["resident_growth"] else "–"
        every.append([*about, *words_of(case), *peaks(row), f"{row['over_error']:+.2%}", resident])
    worst = []
    for about, alike in groups.items():
        row = max(alike, key=lambda row: abs(row["peak_error"]))
        over = max((row["over_error"] for row in alike), key=abs)
        worst.append([*about, ", ".join(words_of(known[row["name"]])), *peaks(row), f"{over:+.2%}"])
    most: dict[str, float] = {}
    for row in rows:
        model = known[row["name"]]["model"]
        most[model] = max(most.get(model, 0.0), abs(row["peak_error"]))
    largest = ", ".join(f"{error:.3%} with model {model}" for model, error in most.items())
    figures = ["Estimated, MiB", "Measured, MiB", "Error", "Over the weights"]
    header = ["Method", "Precision", "Case of the largest error", *figures]
    small = f"{SMALL['num_hidden_layers']} layers of {SMALL['hidden_size']}"
    notes = [
        f"{len(rows)} cases, micro-batch {ROWS}, rank {RANK}; model small: {small}.",
        f"Largest error: {largest}.",
        "Measured: what the CPU's allocator gave in two real steps of the Trainer, random weights. Over the weights:"
        " the largest error of what comes on top of the model.",
    ]
    resident = "Resident: the model and the process's growth at its highest, without the profiler; not in every case."
    header_of_all = ["Method", "Precision", "Model", "Length", "Dropout, checkpointing", *figures, "Resident, MiB"]
    return [
        PrintedTable(
            "worst", "Estimated and measured memory of a training step", header, [texts(worst)], notes, text_columns=3
        ),
        PrintedTable("every", "Every case", header_of_all, [texts(every)], [resident], text_columns=5),
    ]


def words_of(case: dict) -> list[str]:
    """A case's model, length and what is on."""
    dropout, again = (case["overrides"][key] for key in ("dropout", "gradient_checkpointing"))
    ways = [f"dropout {dropout}"] * bool(dropout) + ["checkpointing"] * again
    parted = f", {at_once} at once" if (at_once := case["overrides"]["tokens_at_once"]) else ""
    return [case["model"], f"{case['length']} tokens{parted}", " and ".join(ways) or "neither"]


def peaks(row: dict) -> list[str]:
    """Estimated and measured peak, the model's own bytes among them, and the error."""
    estimated, measured = (row[f"held_{way}"] + row[f"over_{way}"] for way in ("predicted", "measured"))
    return [mib(estimated), mib(measured), f"{row['peak_error']:+.2%}"]


def mib(size: int) -> str:
    return f"{size / 2**20:,.1f}"


def texts(rows: list[list[str]]) -> list[list[render.Text]]:
    return [[render.Text(text) for text in row] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    chosen = [case for case in cases(options.quick) if re.search(options.only, case["name"])]
    rows = read_json(options.output) if options.output.exists() else []  # go on where an earlier call stopped
    done = {row["name"] for row in rows}
    chosen = [case for case in chosen if case["name"] not in done]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for row in pool.imap(compare, chosen):
            rows.append(row)
            write_json(options.output, rows)
            print(
                f"{row['name']:75} {row['over_predicted']:>12,} {row['over_measured']:>12,}"
                f" {row['over_error']:+.2%} peak {row['peak_error']:+.2%}",
                flush=True,
            )
    write_text(options.output.with_suffix(".md"), "\n".join(map(markdown, views(rows))))
    print(
        f"largest error: peak {max(abs(r['peak_error']) for r in rows):.2%},"
        f" over the weights {max(abs(r['over_error']) for r in rows):.2%}; {json.dumps(len(rows))} cases"
    )


if __name__ == "__main__":
    sys.exit(main())
