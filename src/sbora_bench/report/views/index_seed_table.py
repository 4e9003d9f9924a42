"""The table of what decides a score: the columns or rows drawn, or the order of the data."""

from typing import Any

import numpy as np

from sbora_bench.analysis.index_seeds import factorials
from sbora_bench.analysis.statistics import LEVEL
from sbora_bench.plan.factorials import DRAWS, draw_groups
from sbora_bench.plan.titles import model_title
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import p_text
from sbora_bench.report.view import TableView, of_experiment
from sbora_bench.results.read import Results

COLUMNS = ["table", "model", "method", "rank", "source", "degrees", "mean_square", "variance", "low", "high"]
COLUMNS += ["share", "f", "p", "index_seeds", "seeds", "mean"]
SOURCES = {"draw": "columns or rows drawn", "order": "data order and dropout", "rest": "the rest"}


def index_seed_table(results: Results, _: None = None) -> PrintedTable:
    """A row a part of a factorial's variance."""
    plan = results.plan
    groups: list[list[list[Text]]] = []
    numbers: list[list[Any]] = [COLUMNS]
    for factorial in factorials(results):
        group = factorial.group
        lines: list[list[Text]] = []
        for part in factorial.parts:
            low, high = (np.sqrt(end) for end in (part.low, part.high))
            share = factorial.share(part)
            line = [
                Text(model_title(plan, group)),
                Text(f"{group.title} r = {group.rank}"),
                Text(f"{factorial.index_seeds} x {factorial.seeds}"),
                Text(SOURCES[part.source]),
                Text(f"{np.sqrt(part.variance):.2f} [{low:.2f}, {high:.2f}]"),
                Text("–" if share is None else f"{100 * share:.0f}"),
                Text("–" if part.f is None else f"{part.f:.2f}"),
                Text("–" if part.p is None else p_text(part.p), part.p is not None and part.p < LEVEL),
            ]
            lines.append(line)
            numbers.append(
                [
                    *(group.table, group.model, group.title, group.rank),
                    *(part.source, part.degrees, part.mean_square, part.variance, part.low, part.high),
                    *(share, part.f, part.p, factorial.index_seeds, factorial.seeds, factorial.mean),
                ]
            )
        groups.append(lines)
    ratios = "; ".join(
        f"{model_title(plan, one.group)}, {one.group.title} r = {one.group.rank}: p {p_text(one.p_ratio)}"
        for one in factorials(results)
    )
    notes = [
        f"Whether one of draw and order brings more than the other is one test of their difference, not two p values:"
        f" {ratios or 'nothing to test'}.",
        "Two-way analysis of variance with random factors, one run a cell: the average score of the table's tasks over"
        " index seeds x seeds. Points: the standard deviation that a factor brings, with its 95 % interval (Williams"
        " and Tukey; exact for the rest). p: of a factor's bringing none (F test), not corrected. The rest holds what"
        " draw and order do together.",
    ]
    header = ["Model", "Method", "Runs", "Source", "Points", "Share, %", "F", "p"]
    title = "What decides: the columns or rows drawn, or the order of the data"
    return PrintedTable(DRAWS, title, header, groups, notes, numbers, text_columns=4)


INDEX_SEEDS = TableView(
    key="index seeds",
    subjects=of_experiment(DRAWS, lambda plan: bool(draw_groups(plan))),
    make=index_seed_table,
    caption="How much the columns or rows drawn decide, and how much the order of the data.",
)
