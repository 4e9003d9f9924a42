"""Stage `footprint`: parameters, bytes, memory and compute of the cells of a table, on `meta`: no GPU, no weights.

A cell that can't be traced says so, and why, in its own record; it is counted still, where that can be.
"""

from pathlib import Path
from typing import Any

import torch

from sbora_bench.cost import counting, real_step
from sbora_bench.cost.traced_step import trace_training
from sbora_bench.cost.tracer import Tracer
from sbora_bench.errors import UserError, in_a_line
from sbora_bench.inputs.meta_twin import build
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Cell
from sbora_bench.results.folders import footprint_of
from sbora_bench.results.records import FootprintRecord, write_record

SMALL = 512 * 2**20  # a step that is estimated to take no more bytes than this is run, too


def run_footprints(plan: Plan, table: str, results: Path) -> None:
    """Write `runs/<run>/footprint.json` below `results` for every run of a table, or `footprints/<cell>.json` where
    it isn't known beforehand which runs are made; a cell is counted once.

    Memory and FLOPs are those of an update at the protocol's longest, by the kernels of the device that is here.
    """
    protocol = plan.protocol(table)
    kernels = "cuda" if torch.cuda.is_available() else "cpu"
    for cell, runs in plan.runs_by_cell(table).items():
        method = None if cell.is_base else plan.catalog.methods[cell.method]
        record = footprint_record(plan.catalog, cell, method, protocol, kernels)
        for path in dict.fromkeys(footprint_of(plan, results, run) for run in runs):
            write_record(path, record)


def footprint_record(
    catalog: Catalog, cell: Cell, method: MethodEntry | None, protocol: Protocol, kernels: str
) -> FootprintRecord:
    """The record of a cell at the protocol's micro-batch and length (no method: the untuned model)."""
    try:
        record, _, _ = counted_and_traced(catalog, cell, method, protocol, kernels)
    except UserError as error:
        if method is None:
            raise
        return FootprintRecord(**cell_fields(cell), status="not traced", reason=str(error))
    parted = f", {protocol.tokens_at_once} at once" if protocol.tokens_at_once else ""
    notes = [f"memory: micro-batch {protocol.micro_batch} x {protocol.max_length} tokens{parted}, {kernels} kernels"]
    if method is not None and method.quantization and record.trainable_parameters is not None:
        halved = record.trainable_parameters // 2
        notes.append(f"the authors' code halves the count of 4-bit cells and would print {halved:,}")
    measured, peak = None, record.memory.get("peak")
    if (
        method is not None
        and cell.rank is not None
        and kernels == "cpu"
        and protocol.optimizer in real_step.FUSED
        and peak is not None
        and peak <= SMALL
    ):
        try:
            measured = real_step.cell_peak(catalog, cell.model, method, cell.rank, protocol)
            notes.append("measured: the CPU allocator's bytes in a real step of this size, random weights, one thread")
        except Exception as error:
            notes.append(f"not measured: {in_a_line(error)}")
    return record.model_copy(update={"notes": notes, "measured_peak_bytes": measured})


def counted_and_traced(
    catalog: Catalog, cell: Cell, method: MethodEntry | None, protocol: Protocol, kernels: str
) -> tuple[FootprintRecord, Any, Tracer | None]:
    """(record, the model on `meta`, the trace of a step); None in the place of what could not be made.

    PEFT's methods and models raise whatever they like where `meta` has no values for them: the record has the reason.
    """
    model = traced = None
    reason = ""
    counts: dict[str, Any] = {}
    try:
        model = build(catalog, cell.model, method, cell.rank, protocol)
        counts = counting.counts(model)
        traced = None if method is None else trace(model, protocol, kernels)
    except Exception as error:
        if method is None or isinstance(error, UserError):
            raise
        reason = in_a_line(error)
    if not counts and method is not None and cell.rank is not None:
        try:
            counts = counting.counts_of_layers(catalog, cell.model, method, cell.rank, protocol)
        except Exception as error:
            reason += f"; not counted: {in_a_line(error)}"
    if reason:
        return FootprintRecord(**cell_fields(cell), **counts, status="not traced", reason=reason), model, None
    return (
        FootprintRecord(**cell_fields(cell), **(counts | (work_of_an_update(traced, protocol) if traced else {}))),
        model,
        traced,
    )


def cell_fields(cell: Cell) -> dict[str, Any]:
    """What a record says of whose footprint it is."""
    return {"model": cell.model, "method": cell.method, "rank": cell.rank}


def work_of_an_update(traced: Tracer, protocol: Protocol) -> dict[str, Any]:
    """Memory at the peak of a micro-batch (of its largest part), FLOPs and bytes moved of a whole update."""
    times = protocol.batch_size // protocol.micro_batch
    flops = {name: value * times for name, value in traced.flops().items()}
    return {
        "memory": traced.peak(),
        "flops": flops,
        "flops_per_step": flops["forward"] + flops["recomputation"] + flops["backward"],
        "moved_bytes_per_step": traced.moved() * times,
    }


def trace(
    model: torch.nn.Module, protocol: Protocol, kernels: str, micro_batch: int | None = None, length: int | None = None
) -> Tracer:
    """A traced training step of an adapted model, at the protocol's micro-batch and length where none is given."""
    adapter = counting.adapter_tensors(model)
    rows, length = micro_batch or protocol.micro_batch, length or protocol.max_length
    return trace_training(model, adapter, protocol, rows, length, kernels)
