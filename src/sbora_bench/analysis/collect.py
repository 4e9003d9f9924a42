"""Records to three flat files: `scores.csv`, a row a run and task; `footprint.csv` and `budget.csv`, a row a cell.

`low` and `high` of a score are the ends of its 95 % Wilson interval.

`sbora-bench collect -e EXPERIMENT`. The same records give the same bytes. A run that failed, or that nothing was left
of, has its rows too, with an empty value and a status that says so. Where a table picks a learning rate, `scores.csv`
has the runs at that rate alone.
"""

from collections import namedtuple
from pathlib import Path
from typing import Any

import pandas as pd

from sbora_bench.analysis.budget import budget_rows
from sbora_bench.analysis.statistics import binomial_stderr, effective_items, wilson
from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl, write_text
from sbora_bench.plan.experiment import Plan, Run
from sbora_bench.results.records import (
    ContaminationRecord,
    FootprintRecord,
    ScoresRecord,
    TaskScore,
    TrainRecord,
    record_at,
)

TEXT, WHOLE, FRACTION = "string", "Int64", "Float64"  # pandas types that know a missing value
PREDICTED = {"weights": "weights", "optimizer": "optimizer", "activation": "activations", "peak": "peak"}
SCORES = {
    "experiment": TEXT,
    "table": TEXT,
    "run": TEXT,
    "model": TEXT,
    "method": TEXT,
    "rank": WHOLE,
    "seed": WHOLE,
    "train": TEXT,
    "task": TEXT,
    "metric": TEXT,
    "value": FRACTION,
    "stderr": FRACTION,
    "n": WHOLE,
    "protocol": TEXT,
    "status": TEXT,
    "low": FRACTION,
    "high": FRACTION,
    "clean_value": FRACTION,  # of the items whose question is not in the training set
    "clean_n": WHOLE,
    "micro": FRACTION,  # over items and over subjects, where items have subjects
    "macro": FRACTION,
}
FOOTPRINT = {
    "experiment": TEXT,
    "table": TEXT,
    "model": TEXT,
    "method": TEXT,
    "rank": WHOLE,
    "trainable_parameters": WHOLE,
    "total_parameters": WHOLE,
    "adapter_bytes": WHOLE,
    **{f"{part}_bytes": WHOLE for part in PREDICTED},
    "measured_peak_bytes": WHOLE,
    "flops_per_step": WHOLE,
}
BUDGET = {
    "table": TEXT,
    "model": TEXT,
    "method": TEXT,
    "rank": WHOLE,
    "trained": WHOLE,  # seeds, whose means these are
    "steps": FRACTION,
    "examples": FRACTION,
    "tokens": FRACTION,
    "seconds": FRACTION,
    "flops": FRACTION,
    "peak_bytes": WHOLE,  # foretold
    "measured_peak_bytes": WHOLE,  # by an allocator
    "process_peak_bytes": WHOLE,  # of all that the process held, on a CPU
}


def collect(plan: Plan, results: Path) -> None:
    """Write `scores.csv`, `footprint.csv` and `budget.csv` into `results`.

    Raises UserError for a damaged record, one of another version, or one made under other settings than the plan's.
    """
    from sbora_bench.analysis.learning_rates import picked  # reads by what stands here

    chosen = picked(plan, results)
    scores, footprints = score_rows(chosen, results), footprint_rows(plan, results)
    write_text(results / "scores.csv", csv_text(SCORES, scores))
    write_text(results / "footprint.csv", csv_text(FOOTPRINT, footprints))
    write_text(results / "budget.csv", csv_text(BUDGET, budget_rows(chosen, results)))


def run_folder(results: Path, run: Run) -> Path:
    return results / "runs" / run.name


def scores_of(plan: Plan, results: Path, run: Run, part: str = "") -> ScoresRecord | None:
    """A run's scores, or None; `part`: those of a folder within the run's (held_out.VALIDATION).

    Raises UserError where they were made under other settings than the plan's.
    """
    path = run_folder(results, run) / part / "scores.json"
    record = record_at(path, ScoresRecord)
    if record is not None and record.settings_sha256 != plan.settings_hash(run):
        raise UserError(
            f"{path}: settings_sha256: found {record.settings_sha256[:12]}, allowed {plan.settings_hash(run)[:12]};"
            f" {plan.path} or its catalog has changed since: delete the folder and run it again"
        )
    return record


def training_of(results: Path, run: Run) -> TrainRecord | None:
    """What training left, or None (always for a base)."""
    return record_at(run_folder(results, run) / "train.json", TrainRecord)


def contamination_of(results: Path, table: str) -> ContaminationRecord | None:
    """Which test items of a table stand in its training set, or None where that was not checked."""
    return record_at(results / "data" / table / "contamination.json", ContaminationRecord)


def samples_of(results: Path, run: Run, task: str) -> list[dict[str, Any]]:
    """What the model said, item by item. Raises UserError if that file is missing or damaged."""
    return read_jsonl(run_folder(results, run) / "samples" / f"{task}.jsonl")


def task_scores(plan: Plan, results: Path, run: Run) -> dict[str, TaskScore | None]:
    """Task -> its score, in the suite's order; None where the run left none. A failed run's tasks all say failed."""
    record = scores_of(plan, results, run)
    training = None if record else training_of(results, run)
    failed = next((r for r in (record, training) if r is not None and r.status == "failed"), None)
    if failed is not None:
        return dict.fromkeys(plan.scored(run.table), TaskScore(status="failed", reason=failed.reason))
    return {task: record.tasks.get(task) if record else None for task in plan.scored(run.table)}


def score_rows(plan: Plan, results: Path) -> list[dict[str, Any]]:
    """The rows of `scores.csv`, sorted as text by table, run and task."""
    rows = []
    for run in plan.runs:
        entry = plan.experiment.tables[run.table]
        for task, score in task_scores(plan, results, run).items():
            done = score is not None and score.status == "ok" and score.value is not None
            stderr, low, high = over_items(score) if done else (None, None, None)
            rows.append(
                {
                    "experiment": plan.name,
                    "table": run.table,
                    "run": run.name,
                    "model": run.model,
                    "method": run.method,
                    "rank": run.rank,
                    "seed": run.seed,
                    "train": None if run.is_base else entry.train,
                    "task": task,
                    "metric": score.metric if score else "",
                    "value": score.value if done else None,
                    "stderr": stderr,
                    "n": score.n if done else None,
                    "protocol": entry.protocol,
                    "status": score.status if score else "not run",
                    "low": low,
                    "high": high,
                    **(beside(score) if done else {}),
                }
            )
    return sorted(rows, key=lambda row: (row["table"], row["run"], row["task"]))


def over_items(score: TaskScore) -> tuple[float | None, float, float]:
    """Standard error and the ends of Wilson's 95 % interval of a score over its items: binomial for a share of them.

    A macro average keeps its own standard error, and is taken as a share of as many items as have that one.
    """
    value, n, stderr = score.value, score.n, score.stderr
    if not score.metric.endswith("_macro"):
        return binomial_stderr(value * n, n), *wilson(value * n, n)
    size = effective_items(value, stderr) if stderr else n
    return stderr, *wilson(value * size, size)


def beside(score: TaskScore) -> dict[str, float | int | None]:
    """What stands beside a score: that of the clean items (all, where none is known), micro and macro average."""
    known = "clean_n" in score.extra
    return {
        "clean_value": score.extra.get("clean") if known else score.value,
        "clean_n": int(score.extra["clean_n"]) if known else score.n,
        "micro": score.extra.get("micro"),
        "macro": score.extra.get("macro"),
    }


def footprint_rows(plan: Plan, results: Path) -> list[dict[str, Any]]:
    """The rows of `footprint.csv`, sorted by table, model, method and rank. Cells without a record are left out.

    Raises UserError where two seeds of a cell count differently.
    """
    rows: dict[Run, dict[str, Any]] = {}
    for run in plan.runs:
        path = run_folder(results, run) / "footprint.json"
        record = record_at(path, FootprintRecord)
        if record is None:
            continue
        counted = {
            "trainable_parameters": record.trainable_parameters,
            "total_parameters": record.total_parameters,
            "adapter_bytes": record.adapter_bytes,
            **{f"{part}_bytes": record.memory.get(key) for part, key in PREDICTED.items()},
            "flops_per_step": record.flops_per_step,
        }
        cell = Run(run.table, run.model, run.method, run.rank)
        row = rows.setdefault(cell, counted | {"measured_peak_bytes": None})
        differing = [key for key, value in counted.items() if row[key] != value]
        if differing:
            raise UserError(
                f"{path}: {differing[0]}: found {counted[differing[0]]}, another seed of {cell.cell} has"
                f" {row[differing[0]]}; delete both files and count again"
            )
        measured = [row["measured_peak_bytes"], record.measured_peak_bytes, device_peak(training_of(results, run))]
        row["measured_peak_bytes"] = max((peak for peak in measured if peak is not None), default=None)
    order = sorted(rows, key=lambda cell: (cell.table, cell.model, cell.method, cell.rank or 0))
    return [
        {
            "experiment": plan.name,
            "table": cell.table,
            "model": cell.model,
            "method": cell.method,
            "rank": cell.rank,
            **rows[cell],
        }
        for cell in order
    ]


def device_peak(training: TrainRecord | None) -> int | None:
    """The most that a GPU's allocator held in a training run; None where it ran on a CPU: its figure is a process's."""
    on_device = training is not None and training.on.get("hardware", {}).get("gpu")
    return training.happened.get("peak_memory_bytes") if on_device else None


def csv_text(columns: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """CSV with a header, `\\n` at line ends, six decimals for fractions and nothing where there is no value."""
    frame = pd.DataFrame(rows, columns=list(columns)).astype(columns)
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")


def read_frame(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """A CSV that `collect` wrote, typed. Raises UserError if it's missing, damaged or has other columns."""
    try:
        found = pd.read_csv(path, nrows=0).columns.tolist()
        if found == list(columns):
            return pd.read_csv(path, dtype=columns, keep_default_na=False, na_values=[""])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `sbora-bench collect` first") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole table ({error}); delete it and collect again") from None
    raise UserError(f"{path}: columns: found {found}, allowed {list(columns)}; delete it and collect again")


def read_scores(results: Path) -> pd.DataFrame:
    """`scores.csv`, typed: a row a run and task."""
    return read_frame(results / "scores.csv", SCORES)


def read_footprint(results: Path) -> pd.DataFrame:
    """`footprint.csv`, typed: a row a table cell."""
    return read_frame(results / "footprint.csv", FOOTPRINT)


def read_budget(results: Path) -> pd.DataFrame:
    """`budget.csv`, typed: a row a trained table cell."""
    return read_frame(results / "budget.csv", BUDGET)


def lines(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples, None for what is missing: one by one they are read many times faster than a frame's."""
    line = namedtuple("Line", frame.columns)
    columns = [[None if value is pd.NA else value for value in frame[name].tolist()] for name in frame]
    return [line(*values) for values in zip(*columns, strict=True)]


def by_place(frame: pd.DataFrame) -> dict[tuple[str, str, str, int | None], Any]:
    """(table, model, method, rank) -> its line of `footprint.csv` or `budget.csv`."""
    return {(line.table, line.model, line.method, line.rank): line for line in lines(frame)}
