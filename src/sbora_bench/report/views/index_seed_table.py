"""The table of what decides a score: the columns or rows drawn, or the order of the data."""

import numpy as np

from sbora_bench.analysis.index_seeds import COLUMNS, draw_rows
from sbora_bench.analysis.statistics import LEVEL
from sbora_bench.plan.file_names import DRAWS, draw_groups
from sbora_bench.plan.titles import model_titles
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import p_text
from sbora_bench.report.view import TableView, of_experiment
from sbora_bench.results.read import Results

SOURCES = {"draw": "columns or rows drawn", "order": "data order and dropout", "rest": "the rest"}


def index_seed_table(results: Results, _: None = None) -> PrintedTable:
    """A row a part of a factorial's variance."""
    plan, rows = results.plan, draw_rows(results)
    groups: dict[tuple, list[list[Text]]] = {}
    for row in rows:
        low, high = (np.sqrt(row[end]) for end in ("low", "high"))
        groups.setdefault((row["table"], row["model"], row["method"], row["rank"]), []).append(
            [
                Text(model_titles(plan, row["table"])[row["model"]]),
                Text(f"{row['method']} r = {row['rank']}"),
                Text(f"{row['index_seeds']} x {row['seeds']}"),
                Text(SOURCES[row["source"]]),
                Text(f"{np.sqrt(row['variance']):.2f} [{low:.2f}, {high:.2f}]"),
                Text("–" if row["share"] is None else f"{100 * row['share']:.0f}"),
                Text("–" if row["f"] is None else f"{row['f']:.2f}"),
                Text("–" if row["p"] is None else p_text(row["p"]), row["p"] is not None and row["p"] < LEVEL),
            ]
        )
    notes = [
        "Two-way analysis of variance with random factors, one run a cell: the average score of the table's tasks over"
        " index seeds x seeds. Points: the standard deviation that a factor brings, with its 95 % interval (Williams"
        " and Tukey; exact for the rest). p: of a factor's bringing none (F test), not corrected. The rest holds what"
        " draw and order do together.",
    ]
    header = ["Model", "Method", "Runs", "Source", "Points", "Share, %", "F", "p"]
    numbers = [COLUMNS, *([row[key] for key in COLUMNS] for row in rows)]
    title = "What decides: the columns or rows drawn, or the order of the data"
    return PrintedTable(DRAWS, title, header, list(groups.values()), notes, numbers, text_columns=4)


INDEX_SEEDS = TableView(
    key="index seeds",
    subjects=of_experiment(DRAWS, lambda plan: bool(draw_groups(plan))),
    make=index_seed_table,
    caption="How much the columns or rows drawn decide, and how much the order of the data.",
)
