"""One cell for people: `sbora-bench footprint --model M --method X --rank R [--device CARD] [--sweep rank]`.

Counts, memory at the peak, compute; whether it fits a card, and the largest micro-batch and length that do.
"""

import json
from dataclasses import dataclass
from typing import Any

from sbora_bench.cost import footprint
from sbora_bench.cost.meta_model import read_config
from sbora_bench.cost.roofline import CONTEXT_GIB, GIB, room, work_of
from sbora_bench.cost.traced_step import trace_generation
from sbora_bench.errors import UserError
from sbora_bench.plan.catalog import Catalog, DeviceEntry, MethodEntry, Protocol
from sbora_bench.plan.experiment import Cell, layer_width

MOST = 4096  # rows of a micro-batch beyond which nobody looks
PASSING = ("activations", "logits", "temporaries")  # kinds of memory that grow with the tokens
RANKS, LENGTHS = (4, 8, 16, 32, 64, 128), (128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Asked:
    """What the user asked about; None where the protocol says."""

    model: str
    method: str
    rank: int | None
    protocol: str = "official"
    suite: str | None = None
    micro_batch: int | None = None
    length: int | None = None
    checkpointing: bool | None = None
    optimizer: str | None = None
    device: str | None = None
    sweep: str | None = None
    beams: int | None = None


def resolve(catalog: Catalog, asked: Asked) -> tuple[MethodEntry | None, Protocol, int]:
    """(method, protocol with the user's sizes, the model's positions). Raises UserError for what can't be."""
    method = None if asked.method == "base" else catalog.find("methods", asked.method, "--method")
    if method is not None and asked.rank is None:
        raise UserError(f"--rank: missing; method {asked.method} needs one")
    for name in ("rank", "micro_batch", "length", "beams"):
        value = getattr(asked, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {value}, allowed a whole number of at least 1")
    if asked.device is not None and asked.device != "cpu":
        catalog.find("devices", asked.device, "--device")
        if method is None and asked.beams is None:
            raise UserError("--device: the base isn't trained; name a --method, or --beams to generate with it")
    suite = asked.suite or ("mmlu" if method is not None and method.quantization else "commonsense")
    catalog.find("suites", suite, "--suite")
    protocol = catalog.protocol(asked.protocol, suite, {}, "--protocol")
    rows = asked.micro_batch or protocol.micro_batch
    changes: dict[str, Any] = {"micro_batch": rows, "max_length": asked.length or protocol.max_length}
    changes["batch_size"] = rows * -(-protocol.batch_size // rows)
    if asked.checkpointing is not None:
        changes["gradient_checkpointing"] = asked.checkpointing
    if asked.optimizer is not None:
        changes["optimizer"] = asked.optimizer
    protocol = protocol.model_copy(update=changes)
    positions = getattr(read_config(catalog, asked.model), "max_position_embeddings", None) or protocol.max_length
    if protocol.max_length > positions:
        raise UserError(f"--length: found {protocol.max_length}, allowed 1 to {positions}, the positions of the model")
    return method, protocol, positions


def report(catalog: Catalog, asked: Asked) -> dict[str, Any]:
    """Everything about the cell, as JSON. Raises UserError as `resolve` does."""
    method, protocol, positions = resolve(catalog, asked)
    kernels = "cpu" if asked.device == "cpu" else "cuda"
    card = catalog.devices.get(asked.device or "")
    model = footprint.build(catalog, asked.model, method, asked.rank, protocol)
    traced = footprint.trace(model, protocol, kernels) if method is not None else None
    cell = Cell("cell", asked.model, asked.method, asked.rank)
    found = footprint.record_of(model, cell, protocol, traced).model_dump(mode="json")
    found |= {"micro_batch": protocol.micro_batch, "length": protocol.max_length, "kernels": kernels}
    found |= {name: getattr(protocol, name) for name in ("batch_size", "gradient_checkpointing", "optimizer")}
    if asked.beams is not None:
        found["generation"] = generation(catalog, asked, method, protocol, kernels, positions)
    if card is not None and traced is not None:
        found["device"] = verdict(model, protocol, card, kernels, traced, positions)
    if asked.sweep:
        found["sweep"] = sweep(catalog, asked, protocol, kernels, positions)
    return found


def generation(catalog: Catalog, asked: Asked, method, protocol: Protocol, kernels: str, positions: int) -> dict:
    """The peak of generating the protocol's new tokens after prompts of the asked length, and how many of each."""
    rows, new = asked.micro_batch or protocol.score_batch, protocol.max_new_tokens
    if protocol.max_length + new > positions:
        raise UserError(
            f"--length: found {protocol.max_length} and {new} new tokens, allowed 1 to {positions - new},"
            f" for the model has {positions} positions"
        )
    model = footprint.build_scored(catalog, asked.model, method, asked.rank, protocol)
    peak = trace_generation(model, rows, protocol.max_length, new, asked.beams, kernels)
    return {"rows": rows, "beams": asked.beams, "prompt": protocol.max_length, "new_tokens": new, "memory": peak}


def verdict(model, protocol: Protocol, card: DeviceEntry, kernels: str, traced, positions: int) -> dict[str, Any]:
    """Whether a training step fits `card`, by how many GiB, the most that does, and the roofline's bound."""
    most = room(card)
    found = traced.peak()
    peak, empty = found["peak"], found["peak"] - sum(found[kind] for kind in PASSING)
    rows, length = protocol.micro_batch, protocol.max_length

    def at(rows: int, length: int) -> int:
        return footprint.trace(model, protocol, kernels, rows, length).peak()["peak"]

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
    peak_at, empty: int, start: int, peak: int, cap: int, room: int, unit: int = 1, looks: int = 5
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


def sweep(catalog: Catalog, asked: Asked, protocol: Protocol, kernels: str, positions: int) -> list[dict[str, int]]:
    """The peak over some ranks or lengths, those that the model has room for."""
    method = catalog.methods.get(asked.method)
    if method is None:
        raise UserError("--sweep: the base isn't trained; name a --method")
    width = layer_width(read_config(catalog, asked.model).to_dict())
    ranks = [r for r in RANKS if r <= width] if asked.sweep == "rank" else [asked.rank]
    lengths = [n for n in LENGTHS if n <= positions] if asked.sweep == "length" else [protocol.max_length]
    rows = []
    for rank in ranks:
        model = footprint.build(catalog, asked.model, method, rank, protocol)
        for length in lengths:
            peak = footprint.trace(model, protocol, kernels, length=length).peak()["peak"]
            trained = footprint.counts(model)["trainable_parameters"]
            rows.append({"rank": rank, "length": length, "trainable_parameters": trained, "peak": peak})
    return rows


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1, sort_keys=True)


def as_text(found: dict[str, Any]) -> str:
    """The same for reading."""
    lines = [f"{found['model']} {found['method']}" + (f" r={found['rank']}" if found["rank"] else "")]
    for name in ("trainable_parameters", "total_parameters", "adapter_bytes"):
        if found[name] is not None:
            lines.append(f"  {name.replace('_', ' '):24} {found[name]:>18,}")
    if found["memory"]["peak"]:
        ways = ", checkpointing" if found["gradient_checkpointing"] else ""
        lines.append(
            f"peak of a training step, micro-batch {found['micro_batch']} x {found['length']} tokens,"
            f" {found['optimizer']}{ways}, {found['kernels']} kernels, GiB"
        )
        lines += [f"  {name:24} {value / GIB:>18.3f}" for name, value in found["memory"].items()]
        intensity = found["flops_per_step"] / found["moved_bytes_per_step"]
        lines.append(f"an update of {found['batch_size']} examples, TFLOP ({intensity:.0f} FLOP a byte moved)")
        lines += [f"  {name:24} {value / 1e12:>18.3f}" for name, value in found["flops"].items()]
    else:
        lines.append(f"  {'weights, GiB':24} {found['memory']['weights'] / GIB:>18.3f}")
    if "generation" in found:
        made = found["generation"]
        lines.append(
            f"peak of generating {made['new_tokens']} tokens for {made['rows']} prompts of {made['prompt']},"
            f" beams {made['beams']}, GiB"
        )
        lines += [f"  {name:24} {value / GIB:>18.3f}" for name, value in made["memory"].items()]
    if "device" in found:
        lines += _verdict_lines(found["device"])
    for row in found.get("sweep", []):
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
