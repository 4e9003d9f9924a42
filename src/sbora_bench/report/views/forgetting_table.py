"""Which of two methods keeps more of what neither was tuned for: `forgetting-<table>`."""

from typing import Any

from sbora_bench.analysis.forgetting import measured_pairs
from sbora_bench.analysis.measures import Measure
from sbora_bench.analysis.pairs import Pair
from sbora_bench.analysis.statistics import LEVEL
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import cell_titles, ranked_title
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import difference_text, p_text
from sbora_bench.report.verdicts import pair_values
from sbora_bench.report.view import TableView, of_tables, table_title
from sbora_bench.report.views.method_table import AVERAGE_COLUMNS
from sbora_bench.report.views.other_suites_table import FORGETTING_PREFIX, has_other_suites
from sbora_bench.results.read import Results


def forgetting_table(results: Results, table: str) -> PrintedTable:
    """A row a pair of methods at equal rank or equal parameters: which keeps more, measure by measure."""
    plan, rows = results.plan, measured_pairs(results, table)
    shown = [row for row in rows if row.pair.of_methods]
    measures = list(dict.fromkeys(row.measure for row in shown))
    pairs: dict[tuple[Cell, Cell, str], dict[Measure, Pair]] = {}
    for row in shown:
        pairs.setdefault((row.pair.a, row.pair.b, row.pair.equal), {})[row.measure] = row.pair
    groups: dict[str, list[list[Text]]] = {}
    for (a, b, equal), by_measure in pairs.items():
        line = [Text(text) for text in (*cell_titles(plan, a), ranked_title(plan, b), equal)]
        groups.setdefault(a.model, []).append([*line, *(_pair_text(by_measure.get(measure)) for measure in measures)])
    notes = [
        "Of the first method against the second, on what neither was tuned for: better keeps more, worse less. Points,"
        " or nats a token by which its loss is lower, with the 95 % interval over seeds and items; q: of both together,"
        f" Benjamini and Hochberg over a column's pairs, ranks of one method too; better or worse below {LEVEL}.",
        "The same items for all; one seed gives no interval and no word.",
    ]
    header = ["Model", "Method", "Against", "Equal", *(measure.title for measure in measures)]
    columns = ["measure" if column == "task" else column for column in AVERAGE_COLUMNS if column != "tasks"]
    columns = [column for column in columns if column not in ("items", "items_low", "items_high")]
    values = [pair_values(row.pair) for row in rows]
    numbers: list[list[Any]] = [columns, *([row[column] for column in columns] for row in values)]
    title = f"Which method forgets less: {table_title(plan, table)}"
    return PrintedTable(
        f"{FORGETTING_PREFIX}{table}", title, header, list(groups.values()), notes, numbers, text_columns=4
    )


def _pair_text(pair: Pair | None) -> Text:
    if pair is None:
        return Text("–")
    q = () if pair.q_both is None else (f"q {p_text(pair.q_both)}",)
    return Text(pair.outcome.value, pair.shown, (difference_text(pair), *q))


FORGETTING = TableView(
    key="forgetting",
    subjects=of_tables(FORGETTING_PREFIX, has_other_suites),
    make=forgetting_table,
    caption="Which of two methods keeps more of what neither was tuned for.",
)
