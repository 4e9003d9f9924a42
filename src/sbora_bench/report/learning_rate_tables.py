"""What picking a learning rate did: the table `rates-<table>`, and what its figure plots.

The choice itself is made in learning_rates.py, without the test items that are read here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sbora_bench.analysis.collect import scores_of, task_scores
from sbora_bench.analysis.learning_rates import pick, share_right, tried
from sbora_bench.analysis.pairs import average_rows, cells_of, task_rows
from sbora_bench.analysis.statistics import over_seeds
from sbora_bench.inputs.held_out import VALIDATION
from sbora_bench.plan.experiment import Plan, Run, cell_of, rate_text
from sbora_bench.plan.file_names import Row, rates_name
from sbora_bench.report.render import Cell, View
from sbora_bench.report.separation_tables import difference_text, method_title, p_text

PICKED, DEFAULT = "at the rate picked", "at the protocol's rate"
COLUMNS = ["table", "model", "method", "rank", "learning_rate", "picked", "default", "seeds", "validation_items"]
COLUMNS += ["validation", "validation_sd", "score", "score_sd"]
GAIN = ["difference", "items_low", "items_high", "p", "low", "high", "p_seeds"]


def rate_rows(plan: Plan, results: Path, table: str) -> list[dict[str, Any]]:
    """A row a cell and rate: mean over the seeds on held-out rows and on the test items (the table's own tasks); on
    the picked one, what it gains over the protocol's rate, tested over the items and over the seeds (comparison.py).
    """
    default, rows = plan.protocol(table).learning_rate, []
    for cell, rates in tried(plan, results, table).items():
        best = pick(rates)
        for rate, shares in rates.items():
            runs = _runs(plan, cell, rate)
            n = max(share_right(scores_of(plan, results, run, VALIDATION))[1] for run in runs)
            tested = [score for run in runs if (score := own_average(plan, results, run)) is not None]
            held, score = over_seeds(shares), over_seeds(tested) if tested else None
            row = {"table": table, **{key: getattr(cell, key) for key in ("model", "method", "rank")}}
            row |= {"learning_rate": rate, "picked": rate == best, "default": rate == default, "seeds": len(runs)}
            row |= {"validation_items": n, "validation": held.mean, "validation_sd": held.sd}
            row |= {"score": score.mean if score else None, "score_sd": score.sd if score else None}
            row |= dict.fromkeys(GAIN)
            if rate == best != default:
                row |= gain(plan, results, cell, best, default)
            rows.append(row)
    return rows


def own_average(plan: Plan, results: Path, run: Run) -> float | None:
    """Mean of the scores of the table's own tasks that could be had; None where one of them failed."""
    found = task_scores(plan, results, run)
    scores = [found[task] for task in plan.tasks(run.table)]
    values = [score.value for score in scores if score is not None and score.status == "ok"]
    failed = any(score is None or score.status == "failed" for score in scores)
    return None if failed or not values else sum(values) / len(values)


def gain(plan: Plan, results: Path, cell: Run, best: float, default: float) -> dict[str, Any]:
    """The test scores at rate `best` less those at `default`; nothing where a run of either failed."""
    sides = {PICKED: _runs(plan, cell, best), DEFAULT: _runs(plan, cell, default)}
    if any(own_average(plan, results, run) is None for runs in sides.values() for run in runs):
        return {}
    tasks = {}
    for task in plan.tasks(cell.table):
        told = {side: cells_of(results, runs, task) for side, runs in sides.items()}
        tasks[task] = {
            Row(cell.model, side, cell.rank): seeds for side, cells in told.items() for seeds in cells.values()
        }
    rows = average_rows(tasks, {}) if len(tasks) > 1 else task_rows(next(iter(tasks.values())), {})
    return {key: row.get(key) for row in rows for key in GAIN}


def _runs(plan: Plan, cell: Run, rate: float) -> list[Run]:
    return [run for run in plan.runs_of(cell.table) if cell_of(run) == cell and run.learning_rate == rate]


def rates_view(plan: Plan, results: Path, table: str) -> View:
    """A row a cell: its score on the held-out rows at each rate, the rate picked, and what that gains."""
    rates, default = plan.experiment.tables[table].learning_rates, plan.protocol(table).learning_rate
    rows = rate_rows(plan, results, table)
    by_cell: dict[tuple, dict[float, dict[str, Any]]] = {}
    for row in rows:
        by_cell.setdefault((row["model"], row["method"], row["rank"]), {})[row["learning_rate"]] = row
    groups: dict[str, list[list[Cell]]] = {}
    for (model, method, rank), mine in by_cell.items():
        best = next(row for row in mine.values() if row["picked"])
        line = [Cell(plan.catalog.models[model].title), Cell(method_title(plan, method, rank))]
        line += [_rate_cell(mine[rate]) for rate in rates]
        line += [Cell(rate_text(best["learning_rate"])), Cell(_percent(best["score"]))]
        groups.setdefault(model, []).append([*line, Cell(_percent(mine[default]["score"])), _gain_cell(best)])
    n = max((row["validation_items"] for row in rows), default=0)
    tested = "average of the table's tasks" if len(plan.tasks(table)) > 1 else "table's task"
    notes = [
        f"Per cent right of {n:,} training rows held out of training, mean ± standard deviation over the seeds; test:"
        f" the {tested} at the same rate, which has no part in the choice. Bold: the rate picked, the highest on the"
        " held-out rows and of equals the lowest; a failed run has nothing right. All other tables show that rate.",
        f"Gain: points on the test items over the protocol's rate, {rate_text(default)}. In brackets the 95 % interval"
        " over the seeds (t; one seed: none); p, items: would these very models differ on other items; p, seeds: would"
        " other seeds differ on these. Not corrected for the number of rows.",
    ]
    header = ["Model", "Method", *map(rate_text, rates), "Picked", "Score", f"At {rate_text(default)}", "Gain"]
    numbers = [[*COLUMNS, *GAIN], *([row[key] for key in (*COLUMNS, *GAIN)] for row in rows)]
    title = f"Learning rate by held-out training rows: {plan.experiment.tables[table].title or table}"
    return View(rates_name(table), title, header, list(groups.values()), notes, numbers, text_columns=2)


def _percent(share: float | None) -> str:
    return "failed" if share is None else f"{100 * share:.1f}"


def _rate_cell(row: dict[str, Any]) -> Cell:
    spread = "" if row["validation_sd"] is None else f" ± {100 * row['validation_sd']:.1f}"
    return Cell(f"{100 * row['validation']:.1f}{spread}", row["picked"], (f"test {_percent(row['score'])}",))


def _gain_cell(best: dict[str, Any]) -> Cell:
    if best["default"]:
        return Cell("0, the protocol's")
    if best["difference"] is None:
        return Cell("–")
    below = [f"p, items {p_text(best['p'])}"] + [f"p, seeds {p_text(p)}" for p in (best["p_seeds"],) if p is not None]
    return Cell(difference_text(best), below=tuple(below))


def curve(rows: Iterable[dict[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """What is plotted of `rate_rows`: panel, method, rate, mean and standard deviation over the seeds, in per cent."""
    found = []
    for row in rows:
        for of, key in (("held-out training rows", "validation"), ("test items", "score")):
            if row[key] is not None:
                panel = f"{plan.catalog.models[row['model']].title}, r = {row['rank']}: {of}"
                spread = 100 * (row[f"{key}_sd"] or 0.0)
                point = {"panel": panel, "method": row["method"], "rate": row["learning_rate"], "picked": row["picked"]}
                found.append(point | {"mean": 100 * row[key], "sd": spread})
    return found
