"""What picking a learning rate did: held-out and test scores at each rate, and what the rate picked gains.

The choice itself is made in learning_rates.py, without the test items that are read here.
"""

from dataclasses import replace
from typing import Any

from sbora_bench.analysis.learning_rates import pick, share_right, tried
from sbora_bench.analysis.pairs import average_rows, items_by_cell, task_rows
from sbora_bench.analysis.statistics import over_seeds
from sbora_bench.plan.experiment import Cell, Plan, Run
from sbora_bench.plan.file_names import VALIDATION
from sbora_bench.results.read import Results

PICKED, DEFAULT = "at the rate picked", "at the protocol's rate"
COLUMNS = ["table", "model", "method", "rank", "learning_rate", "picked", "default", "seeds", "validation_items"]
COLUMNS += ["validation", "validation_sd", "score", "score_sd"]
GAIN = ["difference", "items_low", "items_high", "p", "low", "high", "p_seeds"]


def rate_rows(results: Results, table: str) -> list[dict[str, Any]]:
    """A row a cell and rate: mean over the seeds on held-out rows and on the test items (the table's own tasks); on
    the picked one, what it gains over the protocol's rate, tested over the items and over the seeds (comparison.py).
    """
    plan = results.plan
    default, rows = plan.protocol(table).learning_rate, []
    for cell, rates in tried(results, table).items():
        best = pick(rates)
        for rate, shares in rates.items():
            runs = _runs(plan, cell, rate)
            n = max(share_right(results.scores(run, VALIDATION))[1] for run in runs)
            tested = [average for run in runs if (average := own_average(results, run)) is not None]
            held, score = over_seeds(shares), over_seeds(tested) if tested else None
            row = {"table": table, **{key: getattr(cell, key) for key in ("model", "method", "rank")}}
            row |= {"learning_rate": rate, "picked": rate == best, "default": rate == default, "seeds": len(runs)}
            row |= {"validation_items": n, "validation": held.mean, "validation_sd": held.sd}
            row |= {"score": score.mean if score else None, "score_sd": score.sd if score else None}
            row |= dict.fromkeys(GAIN)
            if rate == best != default:
                row |= gain(results, cell, best, default)
            rows.append(row)
    return rows


def own_average(results: Results, run: Run) -> float | None:
    """Mean of the scores of the table's own tasks that could be had; None where one of them failed."""
    found = results.task_scores(run)
    scores = [found[task] for task in results.plan.tasks(run.table)]
    done = (score.value for score in scores if score is not None and score.status == "ok")
    values = [value for value in done if value is not None]
    failed = any(score is None or score.status == "failed" for score in scores)
    return None if failed or not values else sum(values) / len(values)


def gain(results: Results, cell: Cell, best: float, default: float) -> dict[str, Any]:
    """The test scores at rate `best` less those at `default`; nothing where a run of either failed."""
    sides = {PICKED: _runs(results.plan, cell, best), DEFAULT: _runs(results.plan, cell, default)}
    if any(own_average(results, run) is None for runs in sides.values() for run in runs):
        return {}
    tasks = {}
    for task in results.plan.tasks(cell.table):
        items = {side: items_by_cell(results, runs, task) for side, runs in sides.items()}
        tasks[task] = {replace(cell, method=side): seeds for side, cells in items.items() for seeds in cells.values()}
    rows = average_rows(tasks, {}) if len(tasks) > 1 else task_rows(next(iter(tasks.values())), {})
    return {key: row.get(key) for row in rows for key in GAIN}


def _runs(plan: Plan, cell: Cell, rate: float) -> list[Run]:
    return [run for run in plan.runs_of(cell.table) if run.cell == cell and run.learning_rate == rate]
