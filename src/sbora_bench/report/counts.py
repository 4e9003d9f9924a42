"""In how many columns (a table's task on one model or another) something shows."""

from sbora_bench.analysis.separation import Separation
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.titles import model_titles

Shown = tuple[str, str, str, bool]  # table, model, task, and whether it shows there


def references_shown(tested: Separation) -> list[Shown]:
    """Where the reference beats the base and the most frequent answer."""
    return [(one.gain.cell.table, one.gain.cell.model, one.gain.task, one.holds) for one in tested.references]


def differences_shown(tested: Separation) -> list[Shown]:
    """Where a pair of cells differs."""
    return [(pair.table, pair.model, pair.column, pair.differs) for pair in tested.differences]


def count_columns(rows: list[Shown]) -> tuple[int, int]:
    """In how many columns (a table's task) it shows for any row, and how many columns there are."""
    columns: dict[tuple[str, str], bool] = {}
    for table, _, task, shows in rows:
        columns[table, task] = columns.get((table, task), False) or shows
    return sum(columns.values()), len(columns)


def count_text(plan: Plan, rows: list[Shown]) -> str:
    """`13 of 15 columns (ladder-s 13 of 15, ladder-m 9 of 14)`; models are named where there are several."""
    models = dict.fromkeys(model for _, model, _, _ in rows)
    count_of_all = "{} of {}".format
    parts = [
        f"{model_titles(plan)[model]} {count_of_all(*count_columns([row for row in rows if row[1] == model]))}"
        for model in models
    ]
    total = count_of_all(*count_columns(rows)) + " columns"
    return f"{total} with one model or another ({', '.join(parts)})" if len(models) > 1 else total
