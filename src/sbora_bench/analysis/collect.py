"""Records to three flat files: `scores.csv`, a row a run and task; `footprint.csv` and `budget.csv`, a row a cell.

`low` and `high` of a score are the ends of its 95 % interval over the items, Wilson's of a share.

`sbora-bench collect -e EXPERIMENT`. The same records give the same bytes. A run that failed, or that nothing was left
of, has its rows too, with an empty value and a status that says so. Where a table picks a learning rate, `scores.csv`
has the runs at that rate alone.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from sbora_bench.analysis.budget import budget_rows
from sbora_bench.analysis.csv_files import BUDGET, FOOTPRINT, PREDICTED, SCORES, csv_text
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.statistics import binomial_stderr, effective_items, wilson
from sbora_bench.errors import UserError
from sbora_bench.files import write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell
from sbora_bench.results.folders import FOOTPRINT as FOOTPRINT_FILE
from sbora_bench.results.folders import run_folder
from sbora_bench.results.read import Results
from sbora_bench.results.records import TaskScore, TrainRecord

NORMAL_95 = 1.959964  # standard errors on either side


def collect(plan: Plan, results: Path) -> None:
    """Write `scores.csv`, `footprint.csv` and `budget.csv` into `results`.

    Raises UserError as `collected` does.
    """
    for name, text in collected(plan, results).items():
        write_text(results / name, text)


def collected(plan: Plan, results: Path) -> dict[str, str]:
    """The three files by name.

    Raises UserError for a damaged record, one of another version, or one made under other settings than the plan's.
    """
    whole = Results(plan, results)
    return csv_texts(whole, picked(whole))


def csv_texts(whole: Results, shown: Results) -> dict[str, str]:
    """The three files by name; `shown`: what is `picked` of the whole. Raises UserError as `collected` does."""
    for table in whole.plan.experiment.tables:
        whole.contamination(table)
    return {
        "scores.csv": csv_text(SCORES, score_rows(shown)),
        "footprint.csv": csv_text(FOOTPRINT, footprint_rows(whole)),
        "budget.csv": csv_text(BUDGET, budget_rows(shown)),
    }


def runs_waiting(results: Results) -> list[str]:
    """The runs of which a task has no score yet, in the plan's order."""
    return [run.name for run in results.plan.runs if None in results.task_scores(run).values()]


def score_rows(results: Results) -> list[dict[str, Any]]:
    """The rows of `scores.csv`, sorted as text by table, run and task."""
    rows, plan = [], results.plan
    for run in plan.runs:
        entry = plan.experiment.tables[run.table]
        for task, score in results.task_scores(run).items():
            done = score if score is not None and score.status == "ok" and score.value is not None else None
            stderr, low, high = over_items(done) if done else (None, None, None)
            rows.append(
                {
                    "experiment": plan.name,
                    **asdict(run.cell),
                    "run": run.name,
                    "seed": run.seed,
                    "train": None if run.is_base else entry.train,
                    "task": task,
                    "metric": score.metric if score else "",
                    "mean_over": score.mean_over if score else "items",
                    "value": done.value if done else None,
                    "stderr": stderr,
                    "n": done.n if done else None,
                    "protocol": entry.protocol,
                    "status": score.status if score else "not run",
                    "low": low,
                    "high": high,
                    "learning_rate": plan.rates.get(run.cell) if entry.picking_seeds else None,
                    **(beside(done) if done else {}),
                }
            )
    return sorted(rows, key=lambda row: (row["table"], row["run"], row["task"]))


def over_items(score: TaskScore) -> tuple[float | None, float | None, float | None]:
    """Standard error and the ends of a score's 95 % interval over its items: binomial and Wilson's for a share of them.

    A macro average keeps its own standard error, and is taken as a share of as many items as have that one. A mean of
    other values has lm-eval's, and the normal interval within the metric's range. One item says nothing of its spread:
    then there is no standard error, and an interval of a share alone.
    """
    value, n, stderr, metric = score.value, score.n, score.stderr, score.measured
    assert value is not None, score.status
    if not metric.right_or_wrong:
        if stderr is None:
            return None, None, None
        return stderr, metric.within(value - NORMAL_95 * stderr), metric.within(value + NORMAL_95 * stderr)
    if score.mean_over == "items":
        return binomial_stderr(value * n, n) if n > 1 else None, *wilson(value * n, n)
    size = effective_items(value, stderr) if stderr else n
    return stderr, *wilson(value * size, size)


def beside(score: TaskScore) -> dict[str, float | int | None]:
    """What stands beside a score: that of the clean items (all, where none is known), micro and macro average."""
    has_clean = "clean_n" in score.extra
    return {
        "clean_value": score.extra.get("clean") if has_clean else score.value,
        "clean_n": int(score.extra["clean_n"]) if has_clean else score.n,
        "micro": score.extra.get("micro"),
        "macro": score.extra.get("macro"),
        "gold_loss": score.extra.get("gold_loss"),
        "by_likelihood": score.extra.get("by_likelihood"),
    }


def footprint_rows(results: Results) -> list[dict[str, Any]]:
    """The rows of `footprint.csv`, sorted by table, model, method and rank. Cells without a record are left out.

    Raises UserError where two seeds of a cell count differently.
    """
    rows: dict[Cell, dict[str, Any]] = {}
    for run in results.plan.runs:
        record = results.footprint(run)
        if record is None:
            continue
        training = results.training(run)
        uncounted = record.trainable_parameters is None and training is not None  # then what training counted
        source = training.happened if uncounted and training is not None else record
        counted = {
            "trainable_parameters": source.trainable_parameters,
            "total_parameters": source.total_parameters,
            "adapter_bytes": record.adapter_bytes,
            **{f"{part}_bytes": record.memory.get(key) for part, key in PREDICTED.items()},
            "flops_per_step": record.flops_per_step,
        }
        row = rows.setdefault(run.cell, counted | {"measured_peak_bytes": None})
        differing = [key for key, value in counted.items() if row[key] != value]
        if differing:
            path = run_folder(results.folder, run) / FOOTPRINT_FILE
            raise UserError(
                f"{path}: {differing[0]}: found {counted[differing[0]]}, another seed of {run.cell.name} has"
                f" {row[differing[0]]}; delete both files and count again"
            )
        measured = [row["measured_peak_bytes"], record.measured_peak_bytes, device_peak(training)]
        row["measured_peak_bytes"] = max((peak for peak in measured if peak is not None), default=None)
    order = sorted(rows, key=lambda cell: (cell.table, cell.model, cell.method, cell.rank or 0))
    return [{"experiment": results.plan.name} | asdict(cell) | rows[cell] for cell in order]


def device_peak(training: TrainRecord | None) -> int | None:
    """The most that a GPU's allocator held in a training run; None where it ran on a CPU: its figure is a process's."""
    if training is None or not training.on.hardware.gpu:
        return None
    return training.happened.peak_memory_bytes


def parameter_counts(results: Results) -> dict[Cell, int]:
    """Of each cell that was counted."""
    rows = footprint_rows(results)
    return {Cell(row["table"], row["model"], row["method"], row["rank"]): row["trainable_parameters"] for row in rows}
