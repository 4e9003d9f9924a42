"""What an adapter changes in its base's weights: which rows and columns of which layers, how much, and how much not.

`sbora-bench regions RUN...`. The change is the merged weight less the base's, both in float32, entry by entry: an
entry is untouched where it is exactly 0. A 4-bit base is read before its quantisation.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sbora_bench.errors import UserError, in_a_line
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.folders import ADAPTER, TRAINING, region_file, run_folder
from sbora_bench.results.records import RunRecord, TrainRecord, read_record, record_at, write_record
from sbora_bench.results.regions import LayerChange, RegionsRecord

DIGITS = 5  # of a norm that is written
CLOSE = 1e-3  # of a norm, and of the entries of a layer: what another processor's rounding moves, and more


def region(layer: str, change: np.ndarray) -> LayerChange:
    """The region of one layer from its change, a matrix."""
    row_norms, column_norms = (_short(np.linalg.norm(change, axis=axis)) for axis in (1, 0))
    rows, columns = change.shape
    (norm,) = _short(np.array([np.linalg.norm(change)]))
    return LayerChange(
        layer=layer,
        rows=rows,
        columns=columns,
        untouched=int((change == 0).sum()),
        norm=norm,
        row_norms=row_norms,
        column_norms=column_norms,
    )


def _short(norms: np.ndarray) -> list[float]:
    return [float(f"{norm:.{DIGITS}g}") for norm in norms]


def record_of(folder: Path, resources: Path) -> RegionsRecord:
    """The regions of a run, from its folder: of each layer that its adapter changes.

    `failed`: its training failed, or its method changes no weight of its base (prompts, say). Raises UserError for the
    untuned base.
    """
    if not (folder / TRAINING).is_file():
        raise UserError(f"{folder / TRAINING}: no such file; name a tuned run: the untuned base has no region")
    record = read_record(folder / TRAINING, TrainRecord)
    of_run = {name: getattr(record, name) for name in RunRecord.model_fields}
    if record.status != "ok":
        return RegionsRecord(**of_run | {"reason": f"its training failed ({record.reason})"})
    layers = _layers(folder, resources, record)
    changed: dict[str, Any] = {"status": "failed", "reason": layers} if isinstance(layers, str) else {"layers": layers}
    return RegionsRecord(**of_run | changed, adapter_sha256=record.happened.adapter_sha256)


def _layers(folder: Path, resources: Path, record: TrainRecord) -> list[LayerChange] | str:
    """The regions of a run's layers, in the model's order; or why there is none."""
    from sbora_bench.inputs.models.load import load_adapter, load_base, load_tokenizer

    scoring = {"title": "", "score_prompt": "plain", "extraction": "strict"}  # a record of training lacks these
    settings = {**scoring, **record.asked["protocol"], "weights_dtype": "float32"}
    protocol, entry = Protocol.model_validate(settings), record.asked["model_entry"]
    tokenizer = load_tokenizer(resources, record.model, protocol, entry["pad_token"])
    base = load_base(resources, record.model, protocol, None, tokenizer)
    before = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    try:
        after = dict(load_adapter(base, folder / ADAPTER, merge=True).named_parameters())
    except (AttributeError, NotImplementedError, ValueError) as error:  # PEFT's own ways to say that it can't
        reason = f"{record.method} can't be merged into the base's weights, so it has no region there"
        return f"{reason} ({in_a_line(error)})"
    changes = {
        name: as_matrix((after[name] - weight).detach().numpy()) for name, weight in before.items() if name in after
    }
    return [region(name.removesuffix(".weight"), change) for name, change in changes.items() if change.any()]


def as_matrix(change: np.ndarray) -> np.ndarray:
    """The change of a weight as rows x columns: a vector (a norm's weight, a bias) is one column, experts follow each
    other by rows.
    """
    return change.reshape(-1, 1) if change.ndim < 2 else change.reshape(-1, change.shape[-1])


def keep(names: list[str], results: Path, resources: Path) -> None:
    """Write `regions/<run>.json` of each of these runs of a results folder."""
    for name in names:
        write_record(region_file(results, name), record_of(run_folder(results, name), resources))


def wrong_regions(plan: Plan, results: Path, resources: Path) -> Iterator[str]:
    """A line for each run of the plan whose kept regions are not what its adapter gives."""
    for run in (run for table in plan.experiment.tables for run in plan.region_runs(table)):
        path = region_file("", run)
        kept = record_at(results / path, RegionsRecord)
        if kept is None:
            yield f"{path}: missing"
            continue
        again = record_of(run_folder(results, run), resources)
        if reason := region_difference(kept, again):
            yield f"{path}: {reason}: not what the run's adapter gives"


def region_difference(kept: RegionsRecord, again: RegionsRecord) -> str:
    """The first key in which two records of a run differ by more than rounding; empty where none does."""
    for key in RegionsRecord.model_fields:
        if key != "layers" and getattr(kept, key) != getattr(again, key):
            return key
    if [part.layer for part in kept.layers] != [part.layer for part in again.layers]:
        return "layers"
    for ours, theirs in zip(kept.layers, again.layers, strict=True):
        if reason := _layer_difference(ours, theirs):
            return f"{ours.layer}: {reason}"
    return ""


def _layer_difference(a: LayerChange, b: LayerChange) -> str:
    if (a.rows, a.columns) != (b.rows, b.columns):
        return "rows, columns"
    if abs(a.untouched - b.untouched) > CLOSE * a.size:
        return "untouched"
    for key in ("row_norms", "column_norms"):
        ours, theirs = getattr(a, key), getattr(b, key)
        if len(ours) != len(theirs) or not all(_close(*pair) for pair in zip(ours, theirs, strict=True)):
            return key
    return "" if _close(a.norm, b.norm) else "norm"


def _close(a: float, b: float) -> bool:
    return bool(a) == bool(b) and math.isclose(a, b, rel_tol=CLOSE)
