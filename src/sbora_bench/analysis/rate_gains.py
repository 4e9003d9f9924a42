"""What picking a learning rate did: held-out and test scores at each rate, and what the rate picked gains.

The choice itself is made in learning_rates.py, without the test items that are read here.
"""

from dataclasses import dataclass, replace

from sbora_bench.analysis.learning_rates import best_rate, held_out_score, scores_by_rate
from sbora_bench.analysis.paired_arrays import CellItems
from sbora_bench.analysis.pairs import Pair, average_pairs, items_by_cell, task_pairs
from sbora_bench.analysis.statistics import Summary, seed_summary
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.results.folders import VALIDATION
from sbora_bench.results.read import Results

PICKED, DEFAULT = "at the rate picked", "at the protocol's rate"


@dataclass(frozen=True)
class RateScore:
    """A cell at a rate: over the seeds, on held-out rows and on the test items (the table's own tasks).

    `score`: None where a run failed, and of runs that a rate is only picked by. `gain`: of the picked rate over the
    protocol's, where they differ.
    """

    cell: Cell
    learning_rate: float
    picked: bool
    default: bool
    seeds: int
    validation_items: int
    validation: Summary
    score: Summary | None
    gain: Pair | None = None


def rate_scores(results: Results, table: str) -> list[RateScore]:
    """Every cell of a table at every rate."""
    plan = results.plan
    staged = bool(plan.experiment.tables[table].picking_seeds)
    default, rows = plan.protocol(table).learning_rate, []
    for cell, rates in scores_by_rate(results, table).items():
        best = best_rate(rates)
        for rate, shares in rates.items():
            runs = _runs(plan, cell, rate)
            items = max(held_out_score(plan, table)(results.scores(run, VALIDATION))[1] for run in runs)
            tested = [average for run in runs if (average := own_average(results, run)) is not None]
            rows.append(
                RateScore(
                    cell,
                    rate,
                    picked=rate == best,
                    default=rate == default,
                    seeds=len(runs),
                    validation_items=items,
                    validation=seed_summary(shares),
                    score=seed_summary(tested) if tested else None,
                    gain=rate_gain(results, cell, best, default) if rate == best != default and not staged else None,
                )
            )
    return rows


def own_average(results: Results, run: Run) -> float | None:
    """Mean of the scores of the table's own tasks that could be had; None where one of them failed, or where they
    don't average.
    """
    by_task, tasks = results.task_scores(run), results.plan.tasks(run.table)
    scores = [by_task[task] for task in tasks]
    done = (score.value for score in scores if score is not None and score.status == "ok")
    values = [value for value in done if value is not None]
    failed = any(score is None or score.status == "failed" for score in scores)
    averages = values and not failed and results.plan.common_metric(run.table) is not None
    return sum(values) / len(values) if averages else None


def rate_gain(results: Results, cell: Cell, best: float, default: float) -> Pair | None:
    """The test scores at rate `best` against those at `default`; None where a run of either failed."""
    sides = {PICKED: _runs(results.plan, cell, best), DEFAULT: _runs(results.plan, cell, default)}
    if any(own_average(results, run) is None for runs in sides.values() for run in runs):
        return None
    tasks: dict[str, CellItems] = {}
    for task in results.plan.tasks(cell.table):
        items = {side: items_by_cell(results, runs, task) for side, runs in sides.items()}
        tasks[task] = {replace(cell, method=side): seeds for side, cells in items.items() for seeds in cells.values()}
    if len(tasks) == 1:
        ((task, cells),) = tasks.items()
        pairs = task_pairs(cells, {}, results.plan.metric(cell.table, task))
    else:
        metric = results.plan.common_metric(cell.table)
        pairs = [] if metric is None else average_pairs(list(tasks.values()), {}, metric)
    return pairs[-1] if pairs else None


def _runs(plan: Plan, cell: Cell, rate: float) -> list[Run]:
    runs = plan.picking_runs(cell.table) or plan.runs_of(cell.table)
    return [run for run in runs if run.cell == cell and run.learning_rate == rate]
