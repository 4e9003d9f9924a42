"""One cell for people: `sbora-bench footprint --model M --method X --rank R [--device CARD] [--sweep rank]`.

Counts, memory at the peak, compute; whether it fits a card, and the largest micro-batch and length that do.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sbora_bench.cost.counting import counts
from sbora_bench.cost.footprint import counted_and_traced, trace
from sbora_bench.cost.roofline import CONTEXT_GIB, GIB, room, work_of
from sbora_bench.cost.traced_step import trace_generation
from sbora_bench.errors import UserError
from sbora_bench.inputs.meta_twin import build, build_base, build_scored, targeted
from sbora_bench.inputs.models.config import first_layers, positions_of, read_config
from sbora_bench.inputs.models.scored_rows import numbered
from sbora_bench.plan.catalog import Catalog, DeviceEntry
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Cell

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from sbora_bench.cost.tracer import Tracer

ALL = "all-linear"  # PEFT's name of every linear layer but the head
MOST = 4096  # rows of a micro-batch beyond which nobody looks
PASSING = ("activations", "logits", "temporaries")  # kinds of memory that grow with the tokens
RANKS, LENGTHS = (4, 8, 16, 32, 64, 128), (128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class CellRequest:
    """The cell that a user wants to know about; None where the protocol says."""

    model: str
    method: str
    rank: int | None
    protocol: str = "official"
    suite: str | None = None
    micro_batch: int | None = None
    length: int | None = None
    tokens_at_once: int | None = None
    checkpointing: bool | None = None
    optimizer: str | None = None
    device: str | None = None
    sweep: str | None = None
    beams: int | None = None
    target_modules: str | None = None


def resolve(catalog: Catalog, request: CellRequest) -> tuple[MethodEntry | None, Protocol, int]:
    """(method, protocol with the user's sizes, the model's positions). Raises UserError for what can't be."""
    method = None if request.method == "base" else catalog.find("methods", request.method, "--method")
    if method is not None and request.rank is None:
        raise UserError(f"--rank: missing; method {request.method} needs one: {method.rank_means}")
    for name in ("rank", "micro_batch", "length", "tokens_at_once", "beams"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {value}, allowed a whole number of at least 1")
    if request.device is not None and request.device != "cpu":
        catalog.find("devices", request.device, "--device")
        if method is None and request.beams is None:
            raise UserError("--device: the base isn't trained; name a --method, or --beams to generate with it")
    suite = request.suite or ("mmlu" if method is not None and method.quantization else "commonsense")
    catalog.find("suites", suite, "--suite")
    protocol = catalog.protocol(request.protocol, suite, {}, "--protocol")
    rows = request.micro_batch or protocol.micro_batch
    changes: dict[str, Any] = {"micro_batch": rows, "max_length": request.length or protocol.max_length}
    changes["batch_size"] = rows * -(-protocol.batch_size // rows)
    if request.checkpointing is not None:
        changes["gradient_checkpointing"] = request.checkpointing
    changes |= {
        name: value for name in ("optimizer", "tokens_at_once") if (value := getattr(request, name)) is not None
    }
    config = read_config(catalog, request.model)
    if method is not None:
        changes["target_modules"] = targets(config, method, request, protocol)
    protocol = protocol.model_copy(update=changes)
    positions = positions_of(config.to_dict()) or protocol.max_length
    if protocol.max_length > positions:
        raise UserError(f"--length: found {protocol.max_length}, allowed 1 to {positions}, the positions of the model")
    return method, protocol, positions


def targets(
    config: "PretrainedConfig", method: MethodEntry, request: CellRequest, protocol: Protocol
) -> list[str] | str:
    """The target modules: the user's, else the protocol's or, where the model has none of those, all linear layers.

    Those of the protocol are LLaMA's; another model's layers have other names.
    """
    wanted = request.target_modules
    if wanted is not None:
        return wanted if wanted == ALL else [name for name in wanted.split(",") if name]
    if "$target_modules" not in method.arguments.values() or request.rank is None:
        return protocol.target_modules
    base = build_base(first_layers(config, 1), protocol)
    return protocol.target_modules if any(targeted(base, method, request.rank, protocol)) else ALL


def cell_report(catalog: Catalog, request: CellRequest) -> dict[str, Any]:
    """Everything about the cell, as JSON. Raises UserError as `resolve` does."""
    known = catalog.methods.get(request.method)
    if request.rank is None and known is not None and not known.has_size:
        request = replace(request, rank=1)
    method, protocol, positions = resolve(catalog, request)
    kernels = "cpu" if request.device == "cpu" else "cuda"
    card = catalog.devices.get(request.device or "")
    cell = Cell("cell", request.model, request.method, request.rank)
    record, model, traced = counted_and_traced(catalog, cell, method, protocol, kernels)
    figures = record.model_dump(mode="json")
    figures |= {"micro_batch": protocol.micro_batch, "length": protocol.max_length, "kernels": kernels}
    shown = ("batch_size", "gradient_checkpointing", "optimizer", "tokens_at_once")
    figures |= {name: getattr(protocol, name) for name in shown}
    if method is not None:
        figures["target_modules"] = protocol.target_modules
    if record.status == "ok" and request.beams is not None:
        beside = room(card) - figures["memory"]["weights"] - figures["memory"].get("adapter", 0)
        figures["generation"] = generation(catalog, request, method, protocol, kernels, positions, beside)
    if card is not None and traced is not None:
        figures["device"] = verdict(model, protocol, card, kernels, traced, positions)
    if record.status == "ok" and request.sweep:
        figures["sweep"] = sweep(catalog, request, protocol, kernels, positions)
    return figures


def generation(
    catalog: Catalog,
    request: CellRequest,
    method: MethodEntry | None,
    protocol: Protocol,
    kernels: str,
    positions: int,
    beside: int,
) -> dict:
    """The peak of generating the protocol's new tokens after prompts of the requested length, in bytes, and how many of
    each; `beside`: bytes that the weights leave. Raises UserError where prompt and new tokens are more than the model's
    positions.
    """
    new = protocol.max_new_tokens
    if protocol.max_length + new > positions:
        raise UserError(
            f"--length: found {protocol.max_length} and {new} new tokens, allowed 1 to {positions - new},"
            f" for the model has {positions} positions"
        )
    batched = protocol.model_copy(update={"num_beams": request.beams or 1})
    batched = numbered(batched, read_config(catalog, request.model), beside, protocol.max_length + new)
    rows = request.micro_batch or int(batched.score_batch)
    model = build_scored(catalog, request.model, method, request.rank, protocol)
    peak = trace_generation(model, rows, protocol.max_length, new, request.beams or 1, kernels)
    return {"rows": rows, "beams": request.beams, "prompt": protocol.max_length, "new_tokens": new, "memory": peak}


def verdict(
    model: "torch.nn.Module", protocol: Protocol, card: DeviceEntry, kernels: str, traced: "Tracer", positions: int
) -> dict[str, Any]:
    """Whether a training step fits `card`, by how many GiB, the most that does, and the roofline's bound."""
    most = room(card)
    memory = traced.peak()
    peak, empty = memory["peak"], memory["peak"] - sum(memory[kind] for kind in PASSING)
    rows, length = protocol.micro_batch, protocol.max_length

    def at(rows: int, length: int) -> int:
        return trace(model, protocol, kernels, rows, length).peak()["peak"]

    times = protocol.batch_size // protocol.micro_batch
    return {
        "title": card.title,
        "memory_gib": card.memory_gib,
        "context_gib": CONTEXT_GIB,
        "fits": peak <= most,
        "spare_gib": round((most - peak) / GIB, 2),
        "largest_micro_batch": largest(lambda n: at(n, length), empty, rows, peak, MOST, most),
        "largest_length": largest(lambda n: at(rows, 8 * n), empty, length // 8, peak, positions // 8, most, unit=8),
        "seconds_per_update_at_least": work_of(traced).seconds(card, protocol.tf32) * times,
    }


def largest(
    peak_at: Callable[[int], int], empty: int, start: int, peak: int, cap: int, room: int, unit: int = 1, looks: int = 5
) -> int | None:
    """The largest n <= `cap`, in units, that was seen to fit `room`; None if none was.

    `empty`: the peak at none, `peak` that at `start`. Memory grows almost linearly in n, so each look is where a line
    through two known points meets the room. After `looks` the largest n that fitted is the answer: it may be a little
    too small, never too large.
    """
    seen = {0: empty, max(start, 1): peak}
    for _ in range(looks):
        fits = max((n for n in seen if seen[n] <= room), default=0)
        fails = min((n for n in seen if seen[n] > room), default=cap + 1)
        if fails - fits <= 1:
            break
        one, other = sorted(seen)[-2:] if fails > cap else [fits, fails]
        slope = (seen[other] - seen[one]) / (other - one)
        guess = int(one + (room - seen[one]) / slope) if slope > 0 else cap
        guess = min(max(guess, fits + 1), fails - 1)
        seen[guess] = peak_at(guess)
    return max((n for n, size in seen.items() if n and size <= room), default=0) * unit or None


def sweep(
    catalog: Catalog, request: CellRequest, protocol: Protocol, kernels: str, positions: int
) -> list[dict[str, int]]:
    """The peak over some ranks or lengths, those that the model has room for: `rank`, `length` and bytes by kind.

    Raises UserError for the untuned base.
    """
    method = catalog.methods.get(request.method)
    if method is None:
        raise UserError("--sweep: the base isn't trained; name a --method")
    ranks = RANKS if request.sweep == "rank" else [request.rank]
    lengths = [n for n in LENGTHS if n <= positions] if request.sweep == "length" else [protocol.max_length]
    rows = []
    for rank in ranks:
        try:
            model = build(catalog, request.model, method, rank, protocol)
        except UserError:  # a rank above a layer's width
            if rank == request.rank:
                raise
            continue
        for length in lengths:
            peak = trace(model, protocol, kernels, length=length).peak()["peak"]
            trained = counts(model)["trainable_parameters"]
            rows.append({"rank": rank, "length": length, "trainable_parameters": trained, "peak": peak})
    return rows


def as_json(figures: dict[str, Any]) -> str:
    """The report as JSON text."""
    return json.dumps(figures, indent=1, sort_keys=True)


def as_text(figures: dict[str, Any]) -> str:
    """The report for reading."""
    lines = [f"{figures['model']} {figures['method']}" + (f" r={figures['rank']}" if figures["rank"] else "")]
    for name in ("trainable_parameters", "total_parameters", "adapter_bytes"):
        if figures[name] is not None:
            lines.append(f"  {name.replace('_', ' '):24} {figures[name]:>18,}")
    if figures.get("target_modules") == ALL:
        lines.append("  target modules: all linear layers")
    if figures["status"] == "not traced":
        lines.append(f"  not traced: {figures['reason']}")
    if figures["memory"].get("peak"):
        parted = f" ({figures['tokens_at_once']:,} at once)" if figures["tokens_at_once"] else ""
        ways = ", checkpointing" if figures["gradient_checkpointing"] else ""
        lines.append(
            f"peak of a training step, micro-batch {figures['micro_batch']} x {figures['length']} tokens{parted},"
            f" {figures['optimizer']}{ways}, {figures['kernels']} kernels, GiB"
        )
        lines += [f"  {name:24} {value / GIB:>18.3f}" for name, value in figures["memory"].items()]
        intensity = figures["flops_per_step"] / figures["moved_bytes_per_step"]
        lines.append(f"an update of {figures['batch_size']} examples, TFLOP ({intensity:.0f} FLOP a byte moved)")
        lines += [f"  {name:24} {value / 1e12:>18.3f}" for name, value in figures["flops"].items()]
    elif "weights" in figures["memory"]:
        lines.append(f"  {'weights, GiB':24} {figures['memory']['weights'] / GIB:>18.3f}")
    if "generation" in figures:
        generated = figures["generation"]
        lines.append(
            f"peak of generating {generated['new_tokens']} tokens for {generated['rows']} prompts of"
            f" {generated['prompt']}, beams {generated['beams']}, GiB"
        )
        lines += [f"  {name:24} {value / GIB:>18.3f}" for name, value in generated["memory"].items()]
    if "device" in figures:
        lines += _verdict_lines(figures["device"])
    for row in figures.get("sweep", []):
        lines.append(f"  rank {row['rank']:<5} length {row['length']:<6} {row['peak'] / GIB:>10.3f} GiB")
    return "\n".join(lines)


def _verdict_lines(device: dict[str, Any]) -> list[str]:
    spare, word = abs(device["spare_gib"]), "fits, to spare" if device["fits"] else "does not fit, short of"
    return [
        f"{device['title']} ({device['memory_gib']:g} GiB, {device['context_gib']:g} of them the context's)",
        f"  {word} {spare:.2f} GiB; the most that fits: micro-batch {device['largest_micro_batch'] or 'none'} of this"
        f" length, length {device['largest_length'] or 'none'} at this micro-batch",
        f"  an update takes {device['seconds_per_update_at_least']:.3f} s or more (roofline)",
    ]
