"""In how many columns (a table's task on one model or another) something shows."""

from typing import Any

from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.titles import model_titles


def count_columns(rows: list[dict[str, Any]], key: str) -> tuple[int, int]:
    """In how many columns (a table's task) `key` is true of any row, and how many columns there are."""
    columns: dict[tuple[str, str], bool] = {}
    for row in rows:
        place = row["table"], row["task"]
        columns[place] = columns.get(place, False) or row[key]
    return sum(columns.values()), len(columns)


def count_text(plan: Plan, rows: list[dict[str, Any]], key: str) -> str:
    """`13 of 15 columns (ladder-s 13 of 15, ladder-m 9 of 14)`; models are named where there are several."""
    models = dict.fromkeys(row["model"] for row in rows)
    of = "{} of {}".format
    parts = [
        f"{model_titles(plan)[model]} {of(*count_columns([r for r in rows if r['model'] == model], key))}"
        for model in models
    ]
    total = of(*count_columns(rows, key)) + " columns"
    return f"{total} with one model or another ({', '.join(parts)})" if len(models) > 1 else total
