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

import torch

from sbora_bench.cost import counting, footprint
from sbora_bench.cost.roofline import EFFICIENCY, work_of
from sbora_bench.cost.storages import storage_bytes, weight_tensors
from sbora_bench.errors import in_a_line
from sbora_bench.files import read_json, whole_file, write_json, write_text
from sbora_bench.inputs import meta_twin
from sbora_bench.inputs.adapters import peft_types
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.report.render import PrintedTable, Text, markdown

MODEL, GIB = "llama-3.2-3b", 2**30
MAX_TOKENS = 768  # of a row, where they cut it
UPDATES, MEAN_TOKENS = 5000, 210  # of their runs; tokens of a row
PEAK_WITHIN, SECONDS_WITHIN, NEAR_MIB = 3, 20, 3  # per cent, per cent, MiB that the notes count
CHOSEN_ON = ("lora/llama-3.2-3B-rank32", "lora/llama-3.2-3B-rank32-dora")  # EFFICIENCY of cost/roofline.py
WHY = {  # of errors of the peak beyond PEAK_WITHIN, by a part of the experiment's name
    "osf": "their PEFT (0.19.2.dev0) kept both high-rank factors of every layer, as what stands between updates says;"
    " ours (0.21.2) keeps one where the other can't give it",
    "lorafa": "21 MiB more stand between their updates, which is A's gradient: A was not frozen in their run, and A's"
    " inputs, 2.0 GiB, were kept for it",
    "boft": "2,016 MiB less stand between their updates, which are its permutations: they stayed on the CPU and were"
    " copied at every pass; our training moves them to the card",
    "prompt_tuning": "in part, logits, keys and values of 4 x 200 virtual tokens more, 281 MiB, that they hold",
}
# in a result's config: filled in by PEFT from the model or by training, not settings
MADE = {"peft_type", "task_type", "rank_pattern", "token_dim", "num_transformer_submodules", "num_attention_heads"}
MADE |= {"num_layers", "base_model_name_or_path", "megatron_core"}
OVERRIDES = {"weights_dtype": "bfloat16", "micro_batch": 4, "batch_size": 4, "dropout": 0.0}
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


def twin(result: dict[str, Any], protocol: Protocol) -> torch.nn.Module:
    """The model of a result on `meta`, its adapter in float32, or as the base is where the result says so."""
    model = meta_twin.build(load_catalog(), MODEL, method_of(result), 1, protocol)
    if not result["changed_from_default"].get("autocast_adapter_dtype", True):
        model.to(torch.bfloat16)
    return model


def compared(result: dict[str, Any], count: bool) -> dict[str, Any]:
    """Ours: parameters, bytes of the file, of what stands between updates and at the peak, seconds of updates.

    `count`: parameters and bytes of the file alone, and so for a config that can't be traced, with the reason.
    """
    protocol = protocol_of(MAX_TOKENS)
    row: dict[str, Any] = {"experiment": result["experiment"], "gpu": result["gpu"], "reason": "", "traced": not count}
    try:
        model = twin(result, protocol)
        counts = counting.counts(model)
        standing = {"standing": standing_bytes(model)}
        traced = {} if count else standing | {"peak": footprint.trace(model, protocol, "cuda").peak()["peak"]}
        if not count:
            traced["update_seconds"] = update_seconds(result)
    except Exception as error:
        row["reason"], traced = in_a_line(error), {}
        counts, _ = counting.counts_and_twin(load_catalog(), MODEL, method_of(result), 1, protocol)
    return row | {"ours": {key: counts[key] for key in ("trainable_parameters", "adapter_bytes")} | traced}


def protocol_of(tokens: int) -> Protocol:
    """PEFT's way of training, rows of so many tokens."""
    return load_catalog().protocol("smollm2", "arithmetic", OVERRIDES | {"max_length": tokens}, "benchmark")


def standing_bytes(model: torch.nn.Module) -> int:
    """Bytes of weights and adapter, and of the gradients and both moments of what is trained."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return storage_bytes(weight_tensors(model)) + 3 * trained


def theirs(result: dict[str, Any]) -> dict[str, Any]:
    """Figures of one of PEFT's results. Their tokens a second are of updates alone."""
    keys = "trainable_parameters", "adapter_file_bytes", "memory_max_bytes", "memory_allocated_avg_bytes"
    keys += "train_seconds", "total_seconds"
    seconds = result["train_total_tokens"] / result["tokens_per_second"]
    return {key: result[key] for key in keys} | {"update_seconds": round(seconds, 1)}


def update_seconds(result: dict[str, Any]) -> float:
    """Seconds of their updates on their card, estimated as `plan --cost` estimates."""
    protocol = protocol_of(MEAN_TOKENS)
    traced = footprint.trace(twin(result, protocol), protocol, "cuda")
    return round(UPDATES * work_of(traced).seconds(load_catalog().devices["l40s"]) / EFFICIENCY, 1)


def table(rows: list[dict[str, Any]]) -> PrintedTable:
    """A row an experiment, and how many agree."""
    lines, exact, sizes, between = [], 0, 0, standing_beyond(rows)
    errors = {row["experiment"]: error for row in rows if (error := peak_error(row)) is not None}
    for row in sorted(rows, key=lambda row: row["experiment"]):
        ours, theirs, name = row["ours"], row["theirs"], row["experiment"]
        same = ours["trainable_parameters"] == theirs["trainable_parameters"]
        file = ours["adapter_bytes"]
        near = abs(file / theirs["adapter_file_bytes"] - 1) < 1e-3
        exact, sizes = exact + same, sizes + near
        cells = [
            short(name),
            f"{theirs['trainable_parameters']:,}",
            "the same" if same else f"{ours['trainable_parameters']:,}",
            f"{theirs['adapter_file_bytes']:,}",
            f"{file - theirs['adapter_file_bytes']:+,}",
            f"{between[name]:+,.0f}" if name in between else "–",
            f"{theirs['memory_max_bytes'] / GIB:.2f}",
            f"{ours['peak'] / GIB:.2f}" if name in errors else "–",
            f"{errors[name]:+.1f}" if name in errors else "–",
        ]
        lines.append([Text(cell) for cell in cells])
    notes = [f"{len(rows)} experiments: parameters the same in {exact}, bytes of the file within 0.1 % in {sizes}."]
    if errors:
        near = sum(abs(value) <= NEAR_MIB for value in between.values())
        notes.append(
            "Between updates: MiB that their card held on average, less our weights, adapter, gradients and optimizer,"
            f" less the median of that, {standing_median(rows):,.0f} MiB (their last batch's logits, keys and values,"
            f" which our step has let go): within {NEAR_MIB} MiB in {near} of {len(between)}."
        )
        notes.append(f"Peak of {len(errors)}: {summary(errors, PEAK_WITHIN)}.")
        known: dict[str, list[str]] = {}
        for name in beyond(errors, PEAK_WITHIN):
            known.setdefault(why(name), []).append(f"{short(name)} {errors[name]:+.1f} %")
        notes += [f"{', '.join(names)}: {reason}." for reason, names in known.items()]
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            reasons.setdefault(row["reason"].partition(". ")[0].rstrip("."), []).append(short(row["experiment"]))
    notes += [f"Not traced: {', '.join(names)} ({reason})." for reason, names in reasons.items()]
    if reasons:
        notes.append(
            "Those are made of the weights' values or of sparse tensors, and a twin without values has neither."
        )
    header = ["Experiment", "Parameters, theirs", "Ours", "File, bytes, theirs", "Ours, difference"]
    header += ["Between updates, MiB", "Peak, GiB, theirs", "Estimated", "Error, %"]
    return PrintedTable("peft-gpu", "PEFT's results on a GPU, and what is estimated here", header, [lines], notes)


def short(experiment: str) -> str:
    """An experiment's name without the model's, which all share."""
    return experiment.replace("/llama-3.2-3B", "")


def peak_error(row: dict[str, Any]) -> float | None:
    """Per cent by which the estimated peak is above theirs; None where none was traced."""
    peak = row["ours"].get("peak")
    return 100 * (peak / row["theirs"]["memory_max_bytes"] - 1) if peak else None


def seconds_error(row: dict[str, Any]) -> float:
    """Per cent by which the estimated seconds of updates are above theirs."""
    return 100 * (row["ours"]["update_seconds"] / row["theirs"]["update_seconds"] - 1)


def standing_median(rows: list[dict[str, Any]]) -> float:
    """MiB that their card held between updates beyond what we count, in the median."""
    return statistics.median(_held(row) for row in estimated(rows, "standing"))


def standing_beyond(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Experiment -> MiB between updates by which it is off the median of theirs less ours."""
    traced = estimated(rows, "standing")
    median = standing_median(rows) if traced else 0.0
    return {row["experiment"]: _held(row) - median for row in traced}


def _held(row: dict[str, Any]) -> float:
    return (row["theirs"]["memory_allocated_avg_bytes"] - row["ours"]["standing"]) / 2**20


def beyond(errors: dict[str, float], within: float) -> list[str]:
    """The experiments whose error is larger, the largest first."""
    return sorted((name for name in errors if abs(errors[name]) > within), key=lambda name: -abs(errors[name]))


def why(experiment: str) -> str:
    """What is known of a large error."""
    return next((text for part, text in WHY.items() if part in experiment), "no reason known")


def summary(errors: dict[str, float], within: float) -> str:
    """Median error, how many are within so many per cent, and the largest."""
    sizes = {name: abs(error) for name, error in errors.items()}
    worst = max(sizes, key=lambda name: sizes[name])
    return (
        f"median error {statistics.median(sizes.values()):.1f} %, {sum(s <= within for s in sizes.values())} of"
        f" {len(sizes)} within {within} %, the largest {errors[worst]:+.1f} % ({short(worst)})"
    )


def seconds_table(rows: list[dict[str, Any]]) -> PrintedTable:
    """A row an experiment whose seconds are estimated."""
    lines, errors = [], {}
    for row in sorted(estimated(rows, "update_seconds"), key=lambda row: row["experiment"]):
        ours, their = row["ours"]["update_seconds"], row["theirs"]
        errors[row["experiment"]] = seconds_error(row)
        seconds = (their["update_seconds"], their["train_seconds"], their["total_seconds"], ours)
        cells = [short(row["experiment"]), *(f"{value:,.0f}" for value in seconds)]
        cells += [f"{seconds_error(row):+.1f}", f"{ours / their['train_seconds']:.2f}"]
        lines.append([Text(cell) for cell in cells])
    pauses = [row["theirs"]["train_seconds"] - row["theirs"]["update_seconds"] for row in rows]
    notes = [
        f"Updates: their tokens by their tokens a second. Training has {min(pauses):,.0f} s more at least in their"
        f" {len(rows)} results, {statistics.median(pauses):,.0f} s in the median.",
        f"Estimated: {UPDATES:,} updates of 4 x {MEAN_TOKENS} tokens at {EFFICIENCY:.0%} of the roofline, a share"
        f" chosen on {' and '.join(short(name) for name in CHOSEN_ON)}.",
    ]
    others = {name: error for name, error in errors.items() if name not in CHOSEN_ON}
    if others:
        notes.append(f"Error of updates of the other {len(others)}: {summary(others, SECONDS_WITHIN)}.")
        notes.append(f"Beyond {SECONDS_WITHIN} %: {', '.join(map(short, beyond(others, SECONDS_WITHIN)))}.")
        below = sum(error < 0 for error in others.values())
        notes.append(f"The estimate is too low in {below} of them: a roofline has no time to launch a kernel.")
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

    traced = sorted(estimated(rows, "peak"), key=lambda row: (row["theirs"]["memory_max_bytes"], row["experiment"]))
    names = [short(row["experiment"]) for row in traced]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 0.6 + 0.145 * len(names)))
        axis = figure.subplots()
        axis.plot([row["theirs"]["memory_max_bytes"] / GIB for row in traced], names, "o", label="PEFT, measured")
        axis.plot([row["ours"]["peak"] / GIB for row in traced], names, "x", label="estimated here")
        axis.set_xlabel("Peak memory, GiB")
        axis.margins(y=0.01)
        axis.tick_params(axis="y", labelsize=6)
        axis.legend(loc="lower right")
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
    rows, results = list(known.values()), json.loads(arguments.facts.read_text(encoding="utf-8"))
    for result in results:
        name = result["experiment"]
        done = name in known and (arguments.count or known[name]["traced"])
        if re.search(arguments.only, name) and not done:
            known[name] = compared(result, arguments.count)
            print(name, known[name]["ours"], known[name]["reason"], file=sys.stderr, flush=True)
        if name in known:  # kept as it comes, so that a run that is stopped goes on
            known[name]["theirs"] = theirs(result)
            rows = [known[result["experiment"]] for result in results if result["experiment"] in known]
            write_json(arguments.output, rows)
    write_text(arguments.output.with_suffix(".md"), page(rows))
    if arguments.figure:
        draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
