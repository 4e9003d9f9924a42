"""The report's tables of data, cost and runs (`render.View`), from what the stages left."""

from pathlib import Path
from typing import Any

import pandas as pd

from sbora_bench.analysis.csv_files import by_place, read_budget, read_footprint, read_scores
from sbora_bench.analysis.entries import Entry, entries, row_titles
from sbora_bench.plan.experiment import Plan, Run
from sbora_bench.plan.file_names import Layout, layouts
from sbora_bench.report.render import Text, View
from sbora_bench.report.tables import trainable
from sbora_bench.results.paper.reported import AVERAGE
from sbora_bench.results.read import Results
from sbora_bench.results.records import Training


def budget_views(plan: Plan, results: Path) -> list[View]:
    """A table for every printed one: what each cell was given to train with, beside its score."""
    scores, footprint, budget = read_scores(results), read_footprint(results), read_budget(results)
    return [_budget_view(plan, layout, scores, footprint, budget) for layout in layouts(plan)]


COSTS = {
    "steps": ("Updates", 1),
    "examples": ("Examples", 1),
    "tokens": ("Tokens", 1),
    "seconds": ("Seconds", 1),
    "flops": ("GFLOP", 1e9),
    "peak_bytes": ("Peak, MiB, foretold", 2**20),
    "measured_peak_bytes": ("Peak, MiB, measured", 2**20),
    "process_peak_bytes": ("Process, MiB", 2**20),
}


def _budget_view(
    plan: Plan, layout: Layout, scores: pd.DataFrame, footprint: pd.DataFrame, budget: pd.DataFrame
) -> View:
    names = [AVERAGE] if layout.averaged else [column.title for column in layout.columns]
    counted, given = by_place(footprint), by_place(budget)
    groups: dict[tuple, list[list[Text]]] = {}
    for row, cells in entries(plan, layout, scores).items():
        if row.method == "base":
            continue
        for table in layout.tables:
            mine = given.get((table, row.model, row.method, row.rank))
            if mine is None:
                continue
            shown = cells[-1:] if layout.averaged else _in_table(cells, layout, table)
            names_of = [table] * (len(layout.tables) > 1) + [*row_titles(plan, row), _whole(row.rank)]
            names_of += [f"{mine.trained}", _whole(trainable(layout, row, counted))]
            costs = [_sized(getattr(mine, key), unit, int(key == "seconds")) for key, (_, unit) in COSTS.items()]
            told = [Text(text) for text in names_of]
            told += [Text(c.text, interval=c.interval) if c else Text("–") for c in shown]
            told += [Text(text) for text in costs]
            groups.setdefault((table, row.model, row.rank), []).append(told)
    header = (["Table"] if len(layout.tables) > 1 else []) + [
        "Model",
        "Method",
        "Rank",
        "Seeds",
        "Trainable parameters",
    ]
    header += [f"{name}, %" for name in names] + [title for title, _ in COSTS.values()]
    notes = [
        "Means over the seeds of one training. GFLOP: 1e9 floating-point operations, counted. Peak, foretold: of a"
        " training step at the protocol's longest; measured: the most that an allocator held; process: the most that"
        " the whole process held on a CPU, libraries included. Seconds and measured memory are of the machine that"
        " trained, and of what else it did then."
    ]
    title = f"What each score cost: {layout.title}"
    text_columns = 3 if len(layout.tables) > 1 else 2
    return View(f"budget-{layout.name}", title, header, list(groups.values()), notes, text_columns=text_columns)


def _in_table(cells: list[Entry], layout: Layout, table: str) -> list[Entry | None]:
    """A row's entries, None in the columns of other tables."""
    return [cell if column.table == table else None for cell, column in zip(cells, layout.columns, strict=True)]


def _sized(number: Any, unit: float, decimals: int) -> str:
    return "–" if pd.isna(number) else f"{number / unit:,.{decimals}f}"


def contamination_view(results: Results) -> View:
    groups, plan = [], results.plan
    for table, entry in plan.experiment.tables.items():
        record, lines = results.contamination(table), []
        for task in plan.tasks(table):
            data = record.tasks.get(task) if record else None
            numbers = ["not checked", "–", "–"]
            if data is not None and data.status == "ok":
                numbers = [f"{len(data.contaminated):,}", f"{data.available:,}", f"{data.n:,}"]
            elif data is not None:
                numbers = [f"{data.status} ({data.reason})", "–", "–"]
            lines.append([Text(text) for text in (table, entry.train, plan.catalog.tasks[task].title, *numbers)])
        groups.append(lines)
    header = ["Table", "Training set", "Task", "In the training set", "Items in the file", "Items scored"]
    return View("contamination", "Test items in the training set", header, groups, [], text_columns=3)


def footprint_view(plan: Plan, results: Path) -> View:
    columns = {
        "trainable_parameters": "Trainable parameters",
        "total_parameters": "All parameters",
        "adapter_bytes": "Adapter, bytes",
        "weights_bytes": "Weights, bytes",
        "optimizer_bytes": "Optimizer, bytes",
        "activation_bytes": "Activations, bytes",
        "peak_bytes": "Peak, bytes, foretold",
        "measured_peak_bytes": "Peak, bytes, measured",
    }
    notes = [
        "Foretold: the peak of a training step at the protocol's longest, traced without weights. Measured: the most"
        " that the allocator held, on a GPU in the training runs, on a CPU in a real step of the same size where"
        " that is cheap. Error: foretold over measured. What the whole process held on a CPU stands under Runs."
    ]
    frame = read_footprint(results)
    known = [column for column in columns if frame[column].notna().any()]
    groups: dict[tuple, list[list[Text]]] = {}
    for row in frame.to_dict("records"):
        numbers = [Text(_whole(row[column])) for column in known]
        method = "Base, untuned" if row["method"] == "base" else plan.catalog.methods[row["method"]].title
        names = [row["table"], plan.catalog.models[row["model"]].title, method]
        line = [*(Text(name) for name in names), Text(_whole(row["rank"])), *numbers, Text(_error(row))]
        groups.setdefault((row["table"], row["model"]), []).append(line)
    header = ["Table", "Model", "Method", "Rank", *(columns[column] for column in known), "Error, %"]
    return View("footprint", "Parameters and bytes", header, list(groups.values()), notes, text_columns=3)


def _error(row: dict[Any, Any]) -> str:
    """How far the foretold peak is from the measured one, in per cent of the latter."""
    known = not (pd.isna(row["peak_bytes"]) or pd.isna(row["measured_peak_bytes"]))
    return f"{100 * (row['peak_bytes'] / row['measured_peak_bytes'] - 1):+.1f}" if known else "–"


def runs_view(results: Results) -> View:
    """A line a run: its mean score, how training went, what it ran on; or why it has none."""
    groups: dict[tuple, list[list[Text]]] = {}
    for run in results.plan.runs:
        groups.setdefault((run.table, run.model), []).append([Text(text) for text in _run_line(results, run)])
    header = ["Run", "Status", "Mean score, %", "Updates", "Last loss", "Seconds", "Tokens a second", "Peak, MiB"]
    notes = ["Mean over the run's tasks. Seconds and memory are this machine's, and differ between reproductions."]
    return View("runs", "Every run", header, list(groups.values()), notes, text_columns=2)


def _run_line(results: Results, run: Run) -> list[str]:
    scores = results.task_scores(run)
    values = [score.value for score in scores.values() if score and score.status == "ok" and score.value is not None]
    bad = dict.fromkeys(
        f"{score.status} ({score.reason})" if score else "not run"
        for score in scores.values()
        if score is None or score.status != "ok"
    )
    record = results.training(run)
    happened = record.happened if record else Training()
    losses, peak = happened.losses(), happened.peak_memory_bytes
    return [
        run.name,
        "; ".join(bad) or "ok",
        f"{100 * sum(values) / len(values):.1f}" if values else "–",
        _whole(happened.steps),
        f"{losses[-1]:.3f}" if losses else "–",
        f"{happened.seconds:,.1f}" if happened.seconds is not None else "–",
        f"{happened.tokens_per_second:,.0f}" if happened.tokens_per_second is not None else "–",
        f"{peak / 2**20:,.0f}" if peak is not None else "–",
    ]


def _whole(number: Any) -> str:
    """A whole number with its thousands apart; pandas' missing value and None as a dash."""
    return "–" if pd.isna(number) else f"{int(number):,}"
