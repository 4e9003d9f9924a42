"""Stage `footprint`: parameters, bytes, memory and compute of a cell, foretold on `meta`: no GPU, no weights.

`sbora-bench footprint --model M --method X --rank R` for one cell, `--experiment E --table T` for every run
of a table, `--paper` for the 44 cells of the paper at true scale.
"""

import csv
import io
import json
from pathlib import Path

import peft
import torch

from sbora_bench.cost import meta_model as meta
from sbora_bench.cost import real_step as measure
from sbora_bench.cost import traced_step as foretell
from sbora_bench.cost.tracer import KINDS, Tracer
from sbora_bench.files import hash_of, write_text
from sbora_bench.inputs.adapters import merged
from sbora_bench.plan.catalog import Catalog, MethodEntry, Protocol
from sbora_bench.plan.experiment import Cell, Plan
from sbora_bench.results.paper.reported import SUITE_OF, UNSTATED_RANK, plain, read_reported
from sbora_bench.results.records import FootprintRecord, write_record

PAPER_COLUMNS = "table model method rank trainable_parameters total_parameters adapter_bytes reported_millions"
MEMORY_COLUMNS = ["table", "model", "method", "rank", "micro_batch", "length", *KINDS, "peak"]
SMALL = 512 * 2**20  # a step that is foretold to take no more bytes than this is run, too
# safetensors' names of dtypes, in the order in which it stores them.
SAFETENSORS = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


# All of a protocol that the counts depend on.
COUNTED = {"target_modules", "weights_dtype", "pad", "double_quantization"}


def run_footprints(plan: Plan, table: str, results: Path) -> None:
    """Write `runs/<run>/footprint.json` below `results` for every run of a table; a cell is counted once.

    Memory and FLOPs are those of an update at the protocol's longest, by the kernels of the device found here.
    """
    protocol = plan.protocol(table)
    kernels = "cuda" if torch.cuda.is_available() else "cpu"
    for cell, runs in plan.runs_by_cell(table).items():
        method = None if cell.is_base else plan.catalog.methods[cell.method]
        record = cell_footprint(plan.catalog, cell, method, protocol, kernels)
        for run in runs:
            write_record(Path(results) / "runs" / run.name / "footprint.json", record)


def cell_footprint(catalog: Catalog, cell: Cell, method: MethodEntry | None, protocol: Protocol, kernels: str):
    """The FootprintRecord of a cell at the protocol's micro-batch and length (no method: the untuned model)."""
    model = build(catalog, cell.model, method, cell.rank, protocol)
    record = record_of(model, cell, protocol, None if method is None else trace(model, protocol, kernels))
    notes = [f"memory: micro-batch {protocol.micro_batch} x {protocol.max_length} tokens, {kernels} kernels"]
    if method is not None and method.quantization:
        halved = record.trainable_parameters // 2
        notes.append(f"the authors' code halves the count of 4-bit cells and would print {halved:,}")
    measured = None
    if (
        method is not None
        and kernels == "cpu"
        and protocol.optimizer in measure.FUSED
        and record.memory["peak"] <= SMALL
    ):
        measured = measure.cell_peak(catalog, cell.model, method, cell.rank, protocol)
        notes.append("measured: the CPU allocator's bytes in a real step of this size, random weights, one thread")
    return record.model_copy(update={"notes": notes, "measured_peak_bytes": measured})


def trace(model, protocol: Protocol, kernels: str, micro_batch: int | None = None, length: int | None = None):
    """A traced training step of an adapted model, at the protocol's micro-batch and length where none is given."""
    adapter = adapter_state(model).values()
    rows, length = micro_batch or protocol.micro_batch, length or protocol.max_length
    return foretell.trace_training(model, adapter, protocol, rows, length, kernels)


def record_of(model, cell: Cell, protocol: Protocol, traced: Tracer | None) -> FootprintRecord:
    """Counts, and what the trace found: memory at the peak, FLOPs and bytes of an update."""
    found = counts(model)
    if traced is not None:
        times = protocol.batch_size // protocol.micro_batch
        flops = {name: value * times for name, value in traced.flops().items()}
        total = flops["forward"] + flops["recomputation"] + flops["backward"]
        found |= {"memory": traced.peak(), "flops": flops, "flops_per_step": total}
        found["moved_bytes_per_step"] = traced.moved() * times
    return FootprintRecord(model=cell.model, method=cell.method, rank=cell.rank, **found)


def build(catalog: Catalog, model: str, method: MethodEntry | None, rank: int | None, protocol: Protocol):
    """The model of a cell on `meta`, in the protocol's dtype, quantised and adapted as the method says."""
    entry = catalog.models.get(model)
    grows = protocol.pad == "add" and (entry is None or entry.source.kind != "pretrain")
    base = meta.build_base(meta.read_config(catalog, model), protocol, method, extra_rows=int(grows))
    if method is not None and method.quantization:  # as `finetune` does; what isn't 4-bit goes to fp32
        base = peft.prepare_model_for_kbit_training(base, use_gradient_checkpointing=protocol.gradient_checkpointing)
    return base if method is None else meta.attach(base, method, rank, protocol)


def build_scored(catalog: Catalog, model: str, method: MethodEntry | None, rank: int | None, protocol: Protocol):
    """The model of a cell as it is scored: without an adapter where the protocol merges it."""
    alone = method is None or merged(method, protocol)
    return build(catalog, model, None if alone else method, rank, protocol)


def counts(model) -> dict:
    """Exact counts of a model on `meta`: parameters are numbers, however packed; bytes are as stored."""
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad] if isinstance(model, peft.PeftModel) else []
    held, adapter = meta.storage_bytes(meta.weight_tensors(model)), meta.storage_bytes(adapter_state(model).values())
    return {
        "trainable_parameters": sum(p.numel() for p in trained),
        "total_parameters": sum(numbers(p) for p in parameters),
        "adapter_bytes": adapter_bytes(adapter_state(model)) if trained else None,
        "memory": {"weights": held - adapter, "adapter": adapter, "peak": None},
    }


def adapter_state(model) -> dict[str, torch.Tensor]:
    """The tensors that PEFT would save of a model on `meta`; none for an untuned base."""
    if not isinstance(model, peft.PeftModel):
        return {}
    tensors = dict(meta.saved_tensors(model))
    return peft.get_peft_model_state_dict(model, state_dict=tensors, save_embedding_layers=False)


def numbers(parameter) -> int:
    """How many weights a parameter stands for (4-bit ones are packed two to a byte)."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def adapter_bytes(state: dict[str, torch.Tensor]) -> int:
    """Size of the `adapter_model.safetensors` that PEFT would write of these tensors, header included."""
    order = list(SAFETENSORS)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in sorted(state.items(), key=lambda item: (order.index(item[1].dtype), item[0])):
        end = offset + tensor.numel() * tensor.element_size()
        kind = SAFETENSORS[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = len(json.dumps(header, separators=(",", ":")))
    return 8 + (text + 7) // 8 * 8 + offset


def true_counts(catalog: Catalog):
    """A function of (table, model, method, rank), titles as the paper prints them, that builds and counts once."""
    models, methods = _by_title(catalog)
    known: dict[str, dict] = {}

    def count(table: str, model: str, method: str, rank: int) -> int:
        return counted(catalog, known, table, models[plain(model)], methods[plain(method)], rank)[
            "trainable_parameters"
        ]

    return count


def memory_ratio(catalog: Catalog, claim: dict) -> float:
    """Peak of a training step of a claim's method as a part of the other's, at the official protocol on a GPU."""
    models, methods = _by_title(catalog)
    protocol = catalog.protocol("official", claim["suite"], {}, "claims.yaml")
    peaks = []
    for side in ("of", "over"):
        method = catalog.methods[methods[plain(claim[side])]]
        model = build(catalog, models[plain(claim["model"])], method, claim["rank"], protocol)
        peaks.append(trace(model, protocol, "cuda").peak()["peak"])
    return peaks[0] / peaks[1]


def _by_title(catalog: Catalog) -> tuple[dict[str, str], dict[str, str]]:
    return {plain(name): name for name in catalog.models}, {plain(name): name for name in catalog.methods}


def counted(catalog: Catalog, known: dict[str, dict], table: str, model: str, method: str, rank: int) -> dict:
    """`counts` of a cell under the official protocol of a table of the paper; `known` keeps what was built."""
    protocol = catalog.protocol("official", SUITE_OF[table], {}, "reported.csv")
    key = hash_of([model, method, rank, protocol.model_dump(mode="json", include=COUNTED)])
    if key not in known:
        known[key] = counts(build(catalog, model, catalog.methods[method], rank, protocol))
    return known[key]


def paper_footprint(catalog: Catalog, output: Path) -> None:
    """Write a CSV of the paper's cells at true scale: exact counts beside the reported millions."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(PAPER_COLUMNS.split())
    known: dict[str, dict] = {}
    for table, model, method, rank, reported in paper_cells(catalog):
        count = counted(catalog, known, table, model, method, rank)
        figures = (count["trainable_parameters"], count["total_parameters"], count["adapter_bytes"])
        writer.writerow([table, model, method, rank, *figures, reported])
    write_text(output, out.getvalue())


def paper_memory(catalog: Catalog, output: Path) -> None:
    """Write a CSV of bytes by kind at the peak of a training step on a GPU, official protocol, for each method at each
    scale of the paper, at the lowest of its ranks; arithmetic's memory is commonsense's but for the micro-batch.
    """
    cells: dict[tuple[str, str, str], int] = {}
    for table, model, method, rank, _ in paper_cells(catalog):
        if table != "arithmetic":
            cells[table, model, method] = min(rank, cells.get((table, model, method), rank))
    out = io.StringIO()
    writer = csv.DictWriter(out, MEMORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for (table, model, method), rank in cells.items():
        protocol = catalog.protocol("official", SUITE_OF[table], {}, "reported.csv")
        traced = trace(build(catalog, model, catalog.methods[method], rank, protocol), protocol, "cuda")
        about = {"table": table, "model": model, "method": method, "rank": rank}
        sizes = {"micro_batch": protocol.micro_batch, "length": protocol.max_length}
        writer.writerow(about | sizes | traced.peak())
    write_text(output, out.getvalue())


def paper_cells(catalog: Catalog) -> list[tuple[str, str, str, int, float]]:
    """The paper's language-model cells: table, model and method of the catalog, rank, reported millions."""
    models, methods = _by_title(catalog)
    cells = dict.fromkeys(
        (row.table, row.model, row.method, row.rank, row.params_millions)
        for row in read_reported()
        if row.table in SUITE_OF
    )
    return [
        (table, models[plain(model)], methods[plain(method)], rank or UNSTATED_RANK, millions)
        for table, model, method, rank, millions in cells
    ]
