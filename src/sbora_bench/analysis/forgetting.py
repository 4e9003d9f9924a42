"""What tuning forgets: the suites that a table names beside its own, against the base and between methods.

Table `also-<table>`: each cell on each suite, and its loss where a task is scored by likelihood. Table
`forgetting-<table>`: which of two methods keeps more, by the tests of comparison.py. For a loss, higher is less loss.
"""

from typing import Any

import numpy as np

from sbora_bench.analysis import pairs as comparison
from sbora_bench.analysis.collect import footprint_rows
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.pairs import Cells
from sbora_bench.analysis.statistics import LEVEL, Summary, over_seeds
from sbora_bench.plan.experiment import Cell, Run
from sbora_bench.results.read import Results

LOSS = " loss"  # ends the name of a measure in nats a token; others are shares
COLUMNS = ["table", "model", "method", "rank", "trainable_parameters", "measure", "seeds", "mean", "sd", "low", "high"]


def measured(results: Results, run: Run) -> dict[str, float]:
    """Measure -> value of a run: the average of each suite's tasks, own suite first, and the loss of those that have
    one. What failed or could not be had is left out.
    """
    scores, suites, found = results.task_scores(run), results.plan.scored(run.table), {}
    done = {task: score for task, score in scores.items() if score is not None and score.status == "ok"}
    for suite in dict.fromkeys(suites.values()):
        mine = [done[task] for task in done if suites[task] == suite]
        if len(mine) == sum(of == suite for of in suites.values()):
            found[suite] = float(np.mean([score.value for score in mine]))
            losses = [score.extra["loss"] for score in mine if "loss" in score.extra]
            found |= {suite + LOSS: float(np.mean(losses))} if losses else {}
    return found


def also_rows(results: Results, table: str) -> list[dict[str, Any]]:
    """A row a cell and measure, bases last: over the seeds, shares and nats a token."""
    results = picked(results)
    plan, counts = results.plan, parameters(results, table)
    rows = []
    for cell, mine in sorted(plan.runs_by_cell(table).items(), key=lambda pair: pair[0].is_base):
        values = [measured(results, run) for run in mine]
        for measure in dict.fromkeys(name for each in values for name in each):
            found = over_seeds([each[measure] for each in values if measure in each])
            names = {key: getattr(cell, key) for key in ("table", "model", "method", "rank")}
            names["trainable_parameters"] = counts.get(cell)
            rows.append(names | {"measure": measure, "seeds": found.n, **_summary(found)})
    return rows


def _summary(found: Summary) -> dict[str, float | None]:
    return {key: getattr(found, key) for key in ("mean", "sd", "low", "high")}


def parameters(results: Results, table: str) -> dict[Cell, int]:
    """Trainable parameters of a table's cells."""
    rows = [row for row in footprint_rows(results) if row["table"] == table]
    return {Cell(table, row["model"], row["method"], row["rank"]): row["trainable_parameters"] for row in rows}


def pair_rows(results: Results, table: str) -> list[dict[str, Any]]:
    """A row a pair of cells and measure beside the table's own suite; Holm's family is a measure's pairs."""
    results = picked(results)
    plan, counts, suites = results.plan, parameters(results, table), results.plan.scored(table)
    rows = []
    for suite in plan.experiment.tables[table].also:
        tasks = [task for task, of in suites.items() if of == suite]
        found: dict[str, list[dict[str, Any]]] = {}
        for model in dict.fromkeys(run.model for run in plan.runs_of(table)):
            runs = [run for run in plan.runs_of(table) if run.model == model and suite in measured(results, run)]
            cells = {task: comparison.items_by_cell(results, runs, task) for task in tasks}
            losses = {task: kept for task in tasks if (kept := likelihoods(results, runs, task))}
            tested = {suite: comparison.average_rows(cells, counts, 1)}
            if len(tasks) == 1:
                tested = {suite: comparison.task_rows(cells[tasks[0]], counts)}
            tested |= {suite + LOSS: comparison.average_rows(losses, counts, 1)} if losses else {}
            for measure, pairs in tested.items():
                where = {"table": table, "model": model, "measure": measure}
                found.setdefault(measure, []).extend(where | row for row in pairs)
        for pairs in found.values():
            comparison.corrected(pairs, LEVEL, "differs")
            comparison.judged(pairs)
            rows += pairs
    return rows


def likelihoods(results: Results, runs: list[Run], task: str) -> Cells:
    """Cell -> seed -> item -> log-likelihood of its continuation over the mean length of all: their mean is that of a
    token. Empty for a task that is not scored by likelihood.
    """
    cells: Cells = {}
    for run in runs:
        rows = results.items(run, task)
        if rows and "loss" in rows[0]:
            length = float(np.mean([row["tokens"] for row in rows]))
            cell = cells.setdefault(run.cell, {})
            cell[run.seed] = {row["id"]: -row["loss"] / length for row in rows}
    return cells
