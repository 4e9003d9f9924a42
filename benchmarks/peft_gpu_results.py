"""Parameters, bytes and memory that we estimate, against PEFT's own results of its methods on a GPU.

    python benchmarks/peft_gpu_results.py --facts FILE --output results/published/peft-gpu.json [--only REGEX] [--count]
        [--figure docs/peft-gpu.svg]

`--facts`: PEFT's results (huggingface/peft, method_comparison/MetaMathQA) as one JSON list. Theirs: Llama-3.2-3B in
bfloat16, adapters in float32, micro-batches of 4 of up to 768 tokens, on an NVIDIA L40S; memory is the most that was
reserved, generation included, less what was reserved at the start. Ours: the same config on the model's twin without
weights, a training step of 4 x 768 tokens, by the kernels of a GPU; no GPU is needed. Of what is traced the seconds of
5,000 updates are estimated too, as `plan --cost` does, of 4 x 210 tokens, their runs' mean. What is in the output
already is kept, so a run that was stopped goes on; theirs is read anew; tables and figure are drawn from the output.
"""

import argparse
import inspect
import json
import re
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

from sbora_bench.cost import counting, footprint
from sbora_bench.cost.roofline import EFFICIENCY, work_of
from sbora_bench.errors import in_a_line
from sbora_bench.files import read_json, whole_file, write_json, write_text
from sbora_bench.inputs import meta_twin
from sbora_bench.inputs.adapters import peft_types
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.experiment import Cell
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.report.render import PrintedTable, Text, markdown

MODEL, GIB = "llama-3.2-3b", 2**30
UPDATES, MEAN_TOKENS = 5000, 210  # of their runs; tokens of a row
# in a result's config: filled in by PEFT from the model or by training, not settings
MADE = {"peft_type", "task_type", "rank_pattern", "token_dim", "num_transformer_submodules", "num_attention_heads"}
MADE |= {"num_layers", "base_model_name_or_path", "megatron_core"}
OVERRIDES = {"weights_dtype": "bfloat16", "max_length": 768, "micro_batch": 4, "batch_size": 4, "dropout": 0.0}
OVERRIDES |= {"gradient_checkpointing": False, "optimizer": "adamw_torch", "autocast": None, "logits": "all"}


def method_of(result: dict[str, Any]) -> MethodEntry:
    """The method of one of PEFT's results, as an entry of a catalog."""
    config = result["peft_config"]
    if config is None:
        return MethodEntry(title=result["experiment"], peft_type="FULL", arguments={})
    known = inspect.signature(peft_types()[config["peft_type"]]).parameters
    made = MADE - {"rank_pattern"} if config["peft_type"] == "OSF" else MADE  # a setting of OSF's, AdaLoRA's result
    arguments = {key: value for key, value in config.items() if key in known and key not in made}
    if config["peft_type"] == "OFT":  # a result leaves defaults out, and of the two sizes one must be 0
        arguments = {"oft_block_size": 0} | arguments
    if config["peft_type"] == "FROD":
        arguments["progressbar"] = False
    kind = result["changed_from_default"].get("optimizer_type", "")
    hooks = {"optimizer": "lora-fa"} if kind == "lora-fa" else None
    return MethodEntry(
        title=result["experiment"], peft_type=config["peft_type"], arguments=arguments, hooks=hooks, source=kind
    )


def compared(result: dict[str, Any], count: bool) -> dict[str, Any]:
    """Ours beside theirs; `count`: without a trace of a step."""
    catalog = load_catalog()
    protocol = catalog.protocol("smollm2", "arithmetic", OVERRIDES, "benchmark")
    method, cell = method_of(result), Cell("peft", MODEL, result["experiment"], 1)
    row: dict[str, Any] = {"experiment": result["experiment"], "gpu": result["gpu"]}
    try:
        if count:
            ours = counting.counts_of_cell(catalog, MODEL, method, 1, protocol)
        else:
            record, _, _ = footprint.counted_and_traced(catalog, cell, method, protocol, "cuda")
            ours = record.model_dump(mode="json")
        row["ours"] = {key: ours[key] for key in ("trainable_parameters", "adapter_bytes")}
        row["ours"]["peak"] = ours["memory"].get("peak")
        row["reason"] = ours.get("reason", "")
    except Exception as error:
        row |= {"ours": {}, "reason": in_a_line(error)}
    return row


def theirs(result: dict[str, Any]) -> dict[str, Any]:
    """Figures of one of PEFT's results. Their tokens a second are of updates alone."""
    keys = "trainable_parameters", "adapter_file_bytes", "memory_max_bytes", "train_seconds", "total_seconds"
    seconds = result["train_total_tokens"] / result["tokens_per_second"]
    return {key: result[key] for key in keys} | {"update_seconds": round(seconds, 1)}


def update_seconds(result: dict[str, Any]) -> float:
    """Seconds of their updates on their card, estimated as `plan --cost` estimates."""
    catalog = load_catalog()
    overrides = OVERRIDES | {"max_length": MEAN_TOKENS}
    protocol = catalog.protocol("smollm2", "arithmetic", overrides, "benchmark")
    twin = meta_twin.build(catalog, MODEL, method_of(result), 1, protocol)
    least = work_of(footprint.trace(twin, protocol, "cuda")).seconds(catalog.devices["l40s"])
    return round(UPDATES * least / EFFICIENCY, 1)


def table(rows: list[dict[str, Any]]) -> PrintedTable:
    """A row an experiment, and how many agree."""
    lines, errors, exact, sizes = [], {}, 0, 0
    for row in sorted(rows, key=lambda row: row["experiment"]):
        ours, theirs = row["ours"], row["theirs"]
        same = ours.get("trainable_parameters") == theirs["trainable_parameters"]
        file = ours.get("adapter_bytes")
        near = file is not None and abs(file / theirs["adapter_file_bytes"] - 1) < 1e-3
        exact, sizes = exact + same, sizes + near
        peak, error = ours.get("peak"), "–"
        if peak:
            errors[row["experiment"]] = 100 * (peak / theirs["memory_max_bytes"] - 1)
            error = f"{errors[row['experiment']]:+.1f}"
        cells = [
            row["experiment"].replace("/llama-3.2-3B", ""),
            f"{theirs['trainable_parameters']:,}",
            "the same" if same else f"{ours.get('trainable_parameters') or 0:,}" if ours else "–",
            f"{theirs['adapter_file_bytes']:,}",
            f"{file - theirs['adapter_file_bytes']:+,}" if file is not None else "–",
            f"{theirs['memory_max_bytes'] / GIB:.2f}",
            f"{peak / GIB:.2f}" if peak else "–",
            error,
        ]
        lines.append([Text(cell) for cell in cells])
    notes = [f"{len(rows)} experiments: parameters the same in {exact}, bytes of the file within 0.1 % in {sizes}."]
    if errors:
        worst = max(errors, key=lambda name: abs(errors[name]))
        median = statistics.median(abs(value) for value in errors.values())
        notes.append(
            f"Memory of {len(errors)}: median error {median:.1f} %; the worst is {worst}, {errors[worst]:+.1f} %."
        )
    reasons = {row["reason"]: row["experiment"] for row in rows if row["reason"]}
    notes += [f"Not traced: {name} ({reason})." for reason, name in reasons.items()]
    header = ["Experiment", "Parameters, theirs", "Ours", "File, bytes, theirs", "Ours, difference"]
    header += ["Memory, GiB, theirs", "Estimated", "Error, %"]
    return PrintedTable("peft-gpu", "PEFT's results on a GPU, and what is estimated here", header, [lines], notes)


def seconds_table(rows: list[dict[str, Any]]) -> PrintedTable:
    """A row an experiment whose seconds are estimated."""
    lines, errors = [], []
    for row in sorted(estimated(rows, "update_seconds"), key=lambda row: row["experiment"]):
        ours, their = row["ours"]["update_seconds"], row["theirs"]
        errors.append(100 * (ours / their["update_seconds"] - 1))
        seconds = (their["update_seconds"], their["train_seconds"], their["total_seconds"], ours)
        cells = [row["experiment"].replace("/llama-3.2-3B", ""), *(f"{value:,.0f}" for value in seconds)]
        lines.append([Text(cell) for cell in (*cells, f"{errors[-1]:+.1f}", f"{ours / their['train_seconds']:.2f}")])
    beyond = [row["theirs"]["train_seconds"] - row["theirs"]["update_seconds"] for row in rows]
    notes = [
        f"Updates: their tokens by their tokens a second. Training has {min(beyond):,.0f} s more at least in their"
        f" {len(rows)} results, {statistics.median(beyond):,.0f} s in the median.",
        f"Estimated: {UPDATES:,} updates of 4 x {MEAN_TOKENS} tokens at {EFFICIENCY:.0%} of the roofline.",
    ]
    if errors:
        notes.append(f"Error of updates: at most {max(map(abs, errors)):.0f} %.")
    header = ["Experiment", "Updates, s, theirs", "Training", "Whole run", "Updates, estimated", "Error, %"]
    header += ["Estimated, of their training"]
    return PrintedTable("peft-gpu-seconds", "Seconds of PEFT's runs, and those estimated", header, [lines], notes)


def estimated(rows: list[dict[str, Any]], figure: str) -> list[dict[str, Any]]:
    """The rows that have such a figure of ours."""
    return [row for row in rows if row["ours"].get(figure)]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Peak memory, theirs and ours, a line an experiment that was traced."""
    import matplotlib.style
    from matplotlib.figure import Figure

    from sbora_bench.report.plotting import STYLE

    traced = sorted(estimated(rows, "peak"), key=lambda row: row["theirs"]["memory_max_bytes"])
    names = [row["experiment"].replace("/llama-3.2-3B", "").replace("-default", "") for row in traced]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(5.2, 2.2))
        axis = figure.subplots()
        axis.plot([row["theirs"]["memory_max_bytes"] / GIB for row in traced], names, "o", label="PEFT, measured")
        axis.plot([row["ours"]["peak"] / GIB for row in traced], names, "x", label="estimated here")
        axis.set_xlabel("Peak memory, GiB")
        axis.margins(y=0.1)
        axis.set_xlim(0, 25)
        figure.legend(loc="outside right center")
        with whole_file(path) as beside:
            figure.savefig(beside, format="svg", metadata={"Date": None, "Creator": None})


def page(rows: list[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    return f"{markdown(table(rows))}\n{markdown(seconds_table(rows))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="", help="experiments whose name matches")
    parser.add_argument("--count", action="store_true", help="parameters and bytes alone")
    parser.add_argument("--figure", type=Path, help="SVG file of the memory of those that are traced")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    known = {row["experiment"]: row for row in (read_json(arguments.output) if arguments.output.is_file() else [])}
    for result in json.loads(arguments.facts.read_text(encoding="utf-8")):
        name = result["experiment"]
        done = name in known and (arguments.count or known[name]["ours"].get("peak") or known[name].get("traced"))
        if re.search(arguments.only, name) and not done:
            known[name] = compared(result, arguments.count) | {"traced": not arguments.count}
            print(name, known[name]["ours"], known[name]["reason"], file=sys.stderr, flush=True)
        if name not in known:
            continue
        row = known[name] = known[name] | {"theirs": theirs(result)}
        if row["ours"].get("peak") and "update_seconds" not in row["ours"]:
            row["ours"]["update_seconds"] = update_seconds(result)
            print(name, row["ours"], file=sys.stderr, flush=True)
        write_json(arguments.output, list(known.values()))
    rows = list(known.values())
    write_text(arguments.output.with_suffix(".md"), page(rows))
    if arguments.figure:
        draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
