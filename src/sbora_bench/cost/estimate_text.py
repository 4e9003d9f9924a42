"""The costs of an experiment (estimate.py) for people and for programs."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sbora_bench.cost.estimate import BASIS, CellCost
from sbora_bench.cost.roofline import GIB, room
from sbora_bench.plan.catalog import DeviceEntry
from sbora_bench.plan.experiment import Plan
from sbora_bench.results.store import CHECKPOINTS

WIDTH = 170  # of the table where the terminal doesn't tell


def summary(
    plan: Plan, device: str, card: DeviceEntry | None, cells: list[CellCost], price: float | None = None
) -> dict[str, Any]:
    """Everything as JSON: the cells, the sums, and what each figure rests on. `price`: of an hour, in any currency."""
    known = [cell.hours for cell in cells if cell.hours is not None]
    expected = sum(cell.expected_hours for cell in cells if cell.expected_hours is not None)
    bases = {cell.model: cell.base_bytes for cell in cells}
    return {
        "experiment": plan.name,
        "runs": sum(cell.seeds for cell in cells),
        "device": device,
        "room_bytes": room(card),
        "cells": [asdict(cell) | {"hours": cell.hours, "expected_hours": cell.expected_hours} for cell in cells],
        "hours": sum(known),
        "expected_hours": expected,
        "price": None
        if price is None
        else {"an_hour": price, "expected": expected * price, "most": sum(known) * price},
        "runs_at_first_look": sum(cell.first for cell in cells),
        "hours_at_first_look": sum(cell.first_hours or 0.0 for cell in cells),
        "cells_without_hours": len(cells) - len(known),
        "adapter_bytes": sum(cell.seeds * cell.adapter_bytes for cell in cells),
        "samples_bytes": sum(cell.seeds * cell.samples_bytes for cell in cells),
        "base_bytes": bases,
        "checkpoint_bytes": max((cell.checkpoint_bytes for cell in cells), default=0),
        "does_not_fit": [cell.run for cell in cells if not (cell.trains and cell.scores)],
        "basis": basis(cells),
    }


def basis(cells: list[CellCost]) -> dict[str, str]:
    """What each kind of figure rests on, speeds by how many cells."""
    rests = {key: BASIS[key] for key in ("steps", "tokens", "hours", "peak", "adapter", "samples", "base", "score")}
    if all(cell.score_hours is None for cell in cells):
        rests["score"] = "not known: only cards have the peaks that an estimate takes"
    trained = [cell for cell in cells if cell.speed]
    kinds = {
        kind: sum(cell.speed == kind for cell in trained) for kind in ("measured", "roofline", "not traced", "none")
    }
    words = BASIS | {"measured": "measured here: FLOP/s of a micro-batch on two layers of random weights"}
    if trained:
        rests["train"] = "; ".join(
            f"{count} of {len(trained)} cells {words[kind]}" for kind, count in kinds.items() if count
        )
    return rests


def as_json(costs: dict[str, Any]) -> str:
    """The summary as JSON text."""
    return json.dumps(costs, indent=1, sort_keys=True)


def print_estimate(plan: Plan, costs: dict[str, Any], cells: list[CellCost], title: str) -> None:
    """Print a table for each of the experiment's tables, the sums, what doesn't fit and what the figures rest on."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    for name, entry in plan.experiment.tables.items():
        of_table = [cell for cell in cells if cell.table == name]
        protocol = plan.protocol(name)
        console.print(
            f"\n[bold]{name}[/]: {entry.suite}, trained on {entry.train}, protocol {entry.protocol},"
            f" batch {protocol.batch_size}, at most {protocol.max_length} tokens"
        )
        console.print(_table(of_table))
        console.print(f"{name}: {_sum(of_table, 'expected_hours')} hours expected, at most {_sum(of_table, 'hours')}")
    disk = [costs["adapter_bytes"], costs["samples_bytes"], sum(costs["base_bytes"].values())]
    spare = f"; at most {_size(costs['checkpoint_bytes'])} more while a run trains ({CHECKPOINTS} checkpoints)"
    unknown = f" ({costs['cells_without_hours']} cells not known)" if costs["cells_without_hours"] else ""
    runs = f"{costs['runs']} runs"
    if costs["runs_at_first_look"] < costs["runs"]:
        runs = f"At most {runs}"
        first, last = _stages(plan)
        console.print(
            f"\n{first} {costs['runs_at_first_look']} runs on {title}:"
            f" {_hours(costs['hours_at_first_look'])} hours expected; {last}:"
        )
    console.print(
        f"\n{runs} on {title}: {_hours(costs['expected_hours'])} hours expected, at most"
        f" {_hours(costs['hours'])}{unknown}{_price(costs['price'])}; disk {_size(sum(disk))}:"
        f" adapters {_size(disk[0])}, samples {_size(disk[1])}, bases {_size(disk[2])}"
        + (spare if costs["checkpoint_bytes"] else "")
    )
    for line in _unfit(cells, costs["room_bytes"]):
        console.print(line)
    for key, words in costs["basis"].items():
        console.print(f"[dim]{key:8} {words}[/]")


def _stages(plan: Plan) -> tuple[str, str]:
    """What is made whatever is decided on the way, and what is if all is that may be."""
    tables = plan.experiment.tables.values()
    first, last = [], []
    if any(table.looks for table in tables):
        first.append("at the first look")
        last.append("with no comparison decided before the last look")
    if any(table.rounds for table in tables):
        first.append("within the grids of learning rates")
        last.append("with all rates beyond a grid that may be tried")
    return ", ".join(first).capitalize(), ", ".join(last)


def _table(cells: Iterable[CellCost]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Run", no_wrap=True)
    heads = ("Seeds", "Updates", "M tokens", "Split", "Tokens/s", "Train h", "Score h", "All seeds h", "At most h")
    for head in (*heads, "Train GiB", "Score GiB", "Adapter"):
        table.add_column(head, justify="right", no_wrap=head == "Split")
    for cell in cells:
        split = "too large" if not cell.trains else f"{cell.micro_batch} x {cell.accumulation}"
        table.add_row(
            cell.run,
            str(cell.seeds),
            _number(cell.steps),
            "–" if cell.expected_tokens is None else f"{cell.expected_tokens / 1e6:,.1f}",
            "–" if cell.steps is None else split,
            _number(cell.tokens_per_second),
            _hours(cell.expected_train_hours),
            _hours(cell.expected_score_hours),
            _hours(cell.expected_hours),
            _hours(cell.hours),
            "–" if cell.train_peak_bytes is None else f"{cell.train_peak_bytes / GIB:.1f}",
            f"{cell.score_peak_bytes / GIB:.1f}",
            _size(cell.adapter_bytes) if cell.adapter_bytes else "–",
        )
    return table


def _sum(cells: list[CellCost], hours: str) -> str:
    """Hours of the cells that have an estimate."""
    known = [value for cell in cells if (value := getattr(cell, hours)) is not None]
    return _hours(sum(known) if known else None)


def _unfit(cells: list[CellCost], most: int) -> list[str]:
    """A line for each cell that is too large for the device."""
    lines = []
    for cell in cells:
        train, score = cell.train_peak_bytes or 0, cell.score_peak_bytes or 0
        if not cell.trains:
            lines.append(f"[red]{cell.run}: even one example takes {_gib(train)} of {_gib(most)}[/]")
        if not cell.scores:
            lines.append(f"[red]{cell.run}: scoring a batch takes {_gib(score)} of {_gib(most)}[/]")
    return lines


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _hours(value: float | None) -> str:
    return "–" if value is None else f"{value:,.2f}"


def _size(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB"


def _price(price: dict[str, float] | None) -> str:
    return (
        "" if price is None else f" ({price['expected']:,.0f} to {price['most']:,.0f} at {price['an_hour']:g} an hour)"
    )
