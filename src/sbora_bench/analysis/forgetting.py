"""What tuning forgets: the suites that a table names beside its own, against the base and between methods.

Each cell on each suite, and its loss where a task is scored by likelihood; and which of two methods keeps more, by the
tests of pairs.py. There what is better the less of it there is, a loss, is turned: higher is less loss.
"""

from dataclasses import dataclass, replace

import numpy as np

from sbora_bench.analysis.collect import parameter_counts
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.measures import LIKELIHOOD, Measure, loss_measure, suite_measure
from sbora_bench.analysis.paired_arrays import CellItems
from sbora_bench.analysis.pairs import Pair, average_pairs, items_by_cell, judged, task_pairs
from sbora_bench.analysis.statistics import Summary, seed_summary, share_summary
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.results.read import Results


@dataclass(frozen=True)
class MeasuredCell:
    """A cell on a measure, over its seeds."""

    cell: Cell
    measure: Measure
    trainable_parameters: int | None
    summary: Summary


@dataclass(frozen=True)
class MeasuredPair:
    """Two methods on a measure of what neither was tuned for."""

    measure: Measure
    pair: Pair


def measured_values(results: Results, run: Run) -> dict[Measure, float]:
    """Measure -> value of a run: the average of each suite's tasks, own suite first, and the loss of those that have
    one. What failed or could not be obtained is left out, as are suites whose tasks' scores don't average.
    """
    plan, suites = results.plan, results.plan.scored(run.table)
    scores = results.done_scores(run)
    values: dict[Measure, float] = {}
    for suite in dict.fromkeys(suites.values()):
        tasks = [task for task, its_suite in suites.items() if its_suite == suite]
        scored = [scores[task] for task in tasks if task in scores]
        if len(scored) < len(tasks):
            continue
        metric = plan.common_metric(run.table, tasks)
        if metric is not None:
            values[suite_measure(plan, suite, metric)] = float(np.mean([score.value for score in scored]))
        losses = [score.extra["loss"] for score in scored if "loss" in score.extra]
        if losses:
            values[loss_measure(plan, suite)] = float(np.mean(losses))
    return values


def measured_cells(results: Results, table: str) -> list[MeasuredCell]:
    """Every cell of a table on every measure, bases last."""
    results = picked(results)
    counts, cells = parameter_counts(results), results.plan.runs_by_cell(table)
    rows = []
    for cell, runs in sorted(cells.items(), key=lambda pair: pair[0].is_base):
        values = [measured_values(results, run) for run in runs]
        for measure in dict.fromkeys(measure for of_run in values for measure in of_run):
            of_seeds = [of_run[measure] for of_run in values if measure in of_run]
            share = measure.metric.is_share
            summary = (
                share_summary(of_seeds, [_items(results, runs, measure)] * len(of_seeds))
                if share
                else seed_summary(of_seeds)
            )
            rows.append(MeasuredCell(cell, measure, counts.get(cell), summary))
    return rows


def _items(results: Results, runs: list[Run], measure: Measure) -> int:
    """Of all tasks of a measure's suite."""
    suites = results.plan.scored(runs[0].table)
    scores = [results.task_scores(run) for run in runs]
    return max(
        sum(score.n or 0 for task, score in of_run.items() if score is not None and suites[task] == measure.name)
        for of_run in scores
    )


def measured_pairs(results: Results, table: str) -> list[MeasuredPair]:
    """Every pair of cells on every measure beside the table's own suite; Holm's family is a measure's pairs."""
    results = picked(results)
    plan, counts, suites = results.plan, parameter_counts(results), results.plan.scored(table)
    rows: list[MeasuredPair] = []
    for suite in plan.experiment.tables[table].also:
        tasks = [task for task, its_suite in suites.items() if its_suite == suite]
        metric, tested = plan.common_metric(table, tasks), dict[Measure, list[Pair]]()
        for model in dict.fromkeys(run.model for run in plan.runs_of(table)):
            runs = [run for run in plan.runs_of(table) if run.model == model]
            runs = [run for run in runs if results.done_scores(run).keys() >= set(tasks)]
            cells = [items_by_cell(results, runs, task) for task in tasks]
            if metric is not None:
                if not metric.higher_is_better:
                    cells = [_turned(of_task) for of_task in cells]
                kept_more = metric.model_copy(update={"higher_is_better": True})
                pairs = task_pairs(cells[0], counts, kept_more) if len(tasks) == 1 else None
                pairs = average_pairs(cells, counts, kept_more, 1) if pairs is None else pairs
                tested.setdefault(suite_measure(plan, suite, kept_more), []).extend(pairs)
            losses = [items for task in tasks if (items := likelihoods(results, runs, task))]
            if losses:
                pairs = average_pairs(losses, counts, LIKELIHOOD, 1)
                tested.setdefault(loss_measure(plan, suite, LIKELIHOOD), []).extend(pairs)
        for measure, pairs in tested.items():
            rows += [MeasuredPair(measure, replace(pair, column=measure.name)) for pair in judged(pairs)]
    return rows


def _turned(cells: CellItems) -> CellItems:
    return {
        cell: {seed: {item: -value for item, value in items.items()} for seed, items in seeds.items()}
        for cell, seeds in cells.items()
    }


def likelihoods(results: Results, runs: list[Run], task: str) -> CellItems:
    """Cell -> seed -> item -> log-likelihood of its continuation over the mean length of all: their mean is that of a
    token. Empty for a task that is not scored by likelihood.
    """
    cells: CellItems = {}
    for run in runs:
        rows = results.items(run, task)
        if rows and "loss" in rows[0]:
            length = float(np.mean([row["tokens"] for row in rows]))
            cells.setdefault(run.cell, {})[run.seed] = {row["id"]: -row["loss"] / length for row in rows}
    return cells
