"""Which learning rate each cell of a table is shown at: the one at which it scores best on held-out training rows.

Reads `runs/<run>/validation/` alone, never a test item's score.
"""

from pathlib import Path

from sbora_bench.plan.experiment import Cell, Plan
from sbora_bench.plan.file_names import VALIDATION
from sbora_bench.results.read import scores_of
from sbora_bench.results.records import ScoresRecord


def picked(plan: Plan, results: Path) -> Plan:
    """The plan with the picked rate's runs alone; itself where no table varies the rate, or it is picked already."""
    varied = [name for name, table in plan.experiment.tables.items() if table.learning_rates]
    if plan.rates or not varied:
        return plan
    return plan.at({cell: pick(rates) for table in varied for cell, rates in tried(plan, results, table).items()})


def tried(plan: Plan, results: Path, table: str) -> dict[Cell, dict[float, list[float]]]:
    """Cell -> rate -> share of the held-out rows answered rightly, a seed each."""
    found: dict[Cell, dict[float, list[float]]] = {}
    for run in plan.runs_of(table):
        if run.learning_rate is not None:
            share = share_right(scores_of(plan, results, run, VALIDATION))[0]
            found.setdefault(run.cell, {}).setdefault(run.learning_rate, []).append(share)
    return found


def share_right(record: ScoresRecord | None) -> tuple[float, int]:
    """Share of all held-out rows answered rightly, and their number; nothing is right of a run that failed."""
    scores = [score for score in (record.tasks.values() if record else ()) if score.value is not None]
    items = sum(score.n for score in scores)
    return (sum(score.value * score.n for score in scores) / items if items else 0.0), items


def pick(rates: dict[float, list[float]]) -> float:
    """The rate with the highest mean over its seeds; of equals the lowest."""
    means = {rate: sum(shares) / len(shares) for rate, shares in rates.items()}
    return min(rate for rate, mean in means.items() if mean == max(means.values()))
