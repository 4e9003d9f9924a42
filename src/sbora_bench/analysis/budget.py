"""What each cell was given to train with: updates, tokens, seconds, operations, memory; the rows of `budget.csv`.

Equal budgets make scores comparable; where they differ, the table says by how much.
"""

from dataclasses import asdict
from typing import Any

from sbora_bench.plan.runs import Cell, Run
from sbora_bench.results.read import Results
from sbora_bench.results.records import TrainRecord


def budget_rows(results: Results) -> list[dict[str, Any]]:
    """A row a trained cell, in plan order, of a plan with one learning rate a cell: means over the `trained` runs, the
    seeds that trained to the end.

    `flops`: counted, of the whole training. `peak_bytes`: estimated. `measured_peak_bytes`: the most that an allocator
    held; `process_peak_bytes`: the most that a process on a CPU held, Python and libraries included. A figure that no
    run has is None. Raises UserError for a damaged record.
    """
    plan = results.plan
    cells = [pair for table in plan.experiment.tables for pair in plan.runs_by_cell(table).items()]
    return [row for cell, runs in cells if not cell.is_base and (row := _row(cell, runs, results))["trained"]]


def _row(cell: Cell, runs: list[Run], results: Results) -> dict[str, Any]:
    records = [results.training(run) for run in runs]
    trained = [record for record in records if record is not None and record.status == "ok"]
    footprints = (results.footprint(run) for run in runs)
    counted = next(filter(None, footprints), None)
    steps = _mean([record.happened.steps for record in trained])
    flops_per_step = counted.flops_per_step if counted else None
    on_gpu = [record for record in trained if record.on.hardware.gpu]
    on_cpu = [record for record in trained if record not in on_gpu]
    measured = [record.happened.peak_memory_bytes for record in on_gpu]
    measured += [counted.measured_peak_bytes] if counted else []
    return {
        **asdict(cell),
        "trained": len(trained),
        "steps": steps,
        "examples": _mean([record.happened.examples for record in trained]),
        "tokens": _mean([record.happened.tokens for record in trained]),
        "seconds": _mean([seconds(record) for record in trained]),
        "flops": None if flops_per_step is None or steps is None else flops_per_step * steps,
        "peak_bytes": counted.memory.get("peak") if counted else None,
        "measured_peak_bytes": max(filter(None, measured), default=None),
        "process_peak_bytes": max(filter(None, [r.happened.peak_memory_bytes for r in on_cpu]), default=None),
    }


def seconds(record: TrainRecord) -> float | None:
    """Of the whole training; where it went on from a checkpoint, all tokens at the speed since then."""
    happened = record.happened
    if happened.resumed_from_step and happened.tokens_per_second and happened.tokens is not None:
        return happened.tokens / happened.tokens_per_second
    return happened.seconds


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
