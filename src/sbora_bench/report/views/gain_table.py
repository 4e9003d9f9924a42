"""A table's tuned cells against their bases, task by task: `gains.csv`."""

from dataclasses import fields
from typing import Any

from sbora_bench.analysis.separation import DIFFERENCE_LEVEL, Gain, separation
from sbora_bench.plan.titles import cell_titles, task_titles
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import difference_units, p_csv, p_text, signed
from sbora_bench.report.view import AGAIN, PAIR, TableView, of_tables, table_title
from sbora_bench.results.read import Results

COLUMNS = ["table", "model", "task", "method", "rank", "seeds", "pairs", "score", "base"]
COLUMNS += ["difference", "only_tuned", "only_base", "p", "p_holm", "differs"]


def gains_csv(results: Results) -> str:
    """`gains.csv`: a row a cell and task."""
    return p_csv(COLUMNS, map(gain_values, separation(results).gains))


def gain_table(results: Results, table: str) -> PrintedTable | None:
    """A table's tuned cells against their bases: the difference in points, and p."""
    plan, rows = results.plan, [gain for gain in separation(results).gains if gain.cell.table == table]
    if not rows:
        return None
    gains = {(row.cell, row.task): row for row in rows}
    tasks = plan.tasks(table)
    groups: dict[str, list[list[Text]]] = {}
    for cell in dict.fromkeys(row.cell for row in rows):
        line = [Text(title) for title in cell_titles(plan, cell)]
        line += [_gain_text(gains.get((cell, task))) for task in tasks]
        groups.setdefault(cell.model, []).append(line)
    units = difference_units(row.metric for row in rows)
    notes = [
        f"{units} over the base on the same items. Bold: p < {DIFFERENCE_LEVEL} after Holm over this table (signs of"
        " the items flipped, each averaged over its seeds: it speaks of the models trained here). Counts: gains.csv."
    ]
    header = ["Model", "Method", *(task_titles(plan, table)[task] for task in tasks)]
    title = f"What tuning changed: {table_title(plan, table)}"
    return PrintedTable(f"gains-{table}", title, header, list(groups.values()), notes, text_columns=2)


def gain_values(gain: Gain) -> dict[str, Any]:
    """Column of `gains.csv` -> its value."""
    values = {field.name: getattr(gain, field.name) for field in fields(gain)}
    cell = gain.cell
    return values | {"table": cell.table, "model": cell.model, "method": cell.method, "rank": cell.rank}


def _gain_text(gain: Gain | None) -> Text:
    if gain is None:
        return Text("–")
    text = signed(gain.metric.scale * gain.difference, gain.metric.digits)
    zero = f"{0:.{gain.metric.digits}f}"
    text = zero if text.lstrip("+−") == zero else text
    return Text(text, gain.differs, (f"p {p_text(gain.p_holm)}",))


GAINS = TableView(
    key="gains",
    subjects=of_tables("gains-"),
    make=gain_table,
    section="tests",
    formats=(),
    data_files={"gains.csv": gains_csv},
    hints=(AGAIN, PAIR, ("The numbers", "less {results}/tables/gains.csv")),
)
