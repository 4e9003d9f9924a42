"""Which learning rate each cell of a table is shown at: the one at which it scores best on held-out training rows.

Reads `runs/<run>/validation/` alone, never a test item's score.
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal

from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import GOLD_LOSS
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.stages import End
from sbora_bench.results.folders import VALIDATION
from sbora_bench.results.read import Results
from sbora_bench.results.records import ScoresRecord
from sbora_bench.results.stages import picked_rates


def picked(results: Results) -> Results:
    """The picked rate's runs alone; the same where no table varies the rate, or it is picked already
    (in a stage of its own: pick.py)."""
    plan = results.plan
    varied = [
        name for name, table in plan.experiment.tables.items() if table.learning_rates and not table.picking_seeds
    ]
    varied = [name for name in varied if not all(cell in plan.rates for cell in plan.tuned_cells(name))]
    rates = {cell: best_rate(tried) for table in varied for cell, tried in scores_by_rate(results, table).items()}
    return results.with_rates(rates)


def scores_by_rate(results: Results, table: str) -> dict[Cell, dict[float, list[float]]]:
    """Cell -> rate -> share of the held-out rows answered rightly, a seed each; of a table that is compared by the loss
    of the gold answer less that loss. The higher the better.
    """
    score = held_out_score(results.plan, table)
    shares: dict[Cell, dict[float, list[float]]] = {}
    for run in results.plan.picking_runs(table) or results.plan.runs_of(table):
        if run.learning_rate is not None:
            share = score(results.scores(run, VALIDATION))[0]
            shares.setdefault(run.cell, {}).setdefault(run.learning_rate, []).append(share)
    return shares


def held_out_score(plan: Plan, table: str) -> Callable[[ScoresRecord | None], tuple[float, int]]:
    """What a run's held-out rows count in a table, the higher the better, and how many they are."""
    return less_loss if by_loss(plan, table) else share_right


def share_right(record: ScoresRecord | None) -> tuple[float, int]:
    """Share of all held-out rows answered rightly, and their number; nothing is right of a run that failed.

    Of a metric of other values between 0 and 1 their mean; other ranges have no learning rates (Plan).
    """
    tasks = record.tasks.values() if record else ()
    scores = [(score.value, score.n) for score in tasks if score.value is not None]
    items = sum(n for _, n in scores)
    return (sum(value * n for value, n in scores) / items if items else 0.0), items


def picking_failures(results: Results, table: str) -> dict[Cell, int]:
    """Cell -> how many of the runs that its rate is picked by failed.

    Raises UserError where one left no scores of held-out rows.
    """
    failed: dict[Cell, int] = {}
    for run in results.plan.picking_runs(table):
        record = results.scores(run, VALIDATION)
        if record is None:
            raise UserError(f"{results.folder}: {run.name}: no scores of held-out rows; score it first")
        failed[run.cell] = failed.get(run.cell, 0) + (record.status == "failed")
    return failed


def by_loss(plan: Plan, table: str) -> bool:
    """Whether a table's rates are picked by the loss of the gold answer."""
    entry = plan.experiment.tables[table]
    return bool(entry.picking_seeds) and entry.metric == GOLD_LOSS


def less_loss(record: ScoresRecord | None) -> tuple[float, int]:
    """Minus the mean loss of all held-out rows' gold answers, and their number; minus infinity of a run that failed."""
    tasks = record.tasks.values() if record else ()
    losses = [(task.extra[GOLD_LOSS], task.n) for task in tasks if GOLD_LOSS in task.extra]
    items = sum(n for _, n in losses)
    return (-sum(loss * n for loss, n in losses) / items if items else -math.inf), items


def best_rate(rates: dict[float, list[float]]) -> float:
    """The rate with the highest mean over its seeds; of equals the lowest."""
    means = {rate: sum(shares) / len(shares) for rate, shares in rates.items()}
    return min(rate for rate, mean in means.items() if mean == max(means.values()))


def rate_ends(results: Results, table: str) -> dict[Cell, End]:
    """The cells whose picked rate is the lowest or the highest that they tried, so that a better one may lie beyond."""
    plan, entry = results.plan, results.plan.experiment.tables[table]
    cells = plan.tuned_cells(table)
    ends: dict[Cell, Literal["", End]] = {}
    if entry.picking_seeds:
        record = picked_rates(plan, results.folder, table)
        rates = {} if record is None else record.cells
        ends = {cell: rates[cell.name].edge for cell in cells if cell.name in rates}
    elif entry.learning_rates:
        ends = {cell: edge_of(plan.rates[cell], entry.learning_rates) for cell in cells if cell in plan.rates}
    return {cell: end for cell, end in ends.items() if end}


def edge_of(rate: float, tried: Iterable[float]) -> Literal["", End]:
    """Which end of the rates that were tried the best one is; empty for neither."""
    rates = list(tried)
    return "lowest" if rate == min(rates) else "highest" if rate == max(rates) else ""
