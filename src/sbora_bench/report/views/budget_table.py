"""What each score cost: updates, tokens, seconds, operations and memory, for every printed table; on the page."""

from sbora_bench.analysis.entries import Entry
from sbora_bench.plan.layouts import Layout
from sbora_bench.plan.titles import row_titles
from sbora_bench.report.collected import budget_lines, entries_of, footprint_lines, row_parameters
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import fraction, whole
from sbora_bench.report.view import RUN, TableView, of_layouts
from sbora_bench.results.paper.reported import AVERAGE
from sbora_bench.results.read import Results

COSTS = {
    "steps": ("Updates", 1),
    "examples": ("Examples", 1),
    "tokens": ("Tokens", 1),
    "seconds": ("Seconds", 1),
    "flops": ("GFLOP", 1e9),
    "peak_bytes": ("Peak, MiB, estimated", 2**20),
    "measured_peak_bytes": ("Peak, MiB, measured", 2**20),
    "process_peak_bytes": ("Process, MiB", 2**20),
}


def budget_table(results: Results, layout: Layout) -> PrintedTable:
    """A row a cell: what it was given to train with, beside its score."""
    plan = results.plan
    names = [AVERAGE] if layout.averaged else [column.title for column in layout.columns]
    counted, budget = footprint_lines(results), budget_lines(results)
    groups: dict[tuple, list[list[Text]]] = {}
    for row, cells in entries_of(results, layout).items():
        if row.method == "base":
            continue
        for table in layout.tables:
            line = budget.get((table, row.model, row.method, row.rank))
            if line is None:
                continue
            shown = cells[-1:] if layout.averaged else _in_table(cells, layout, table)
            names_of = [table] * (len(layout.tables) > 1) + [*row_titles(plan, layout.tables, row), whole(row.rank)]
            names_of += [f"{line.trained}", whole(row_parameters(layout, row, counted))]
            costs = [fraction(getattr(line, key), int(key == "seconds"), unit) for key, (_, unit) in COSTS.items()]
            texts = [Text(text) for text in names_of]
            texts += [Text(c.text, interval=c.interval) if c else Text("–") for c in shown]
            texts += [Text(text) for text in costs]
            groups.setdefault((table, row.model, row.rank), []).append(texts)
    header = (["Table"] if len(layout.tables) > 1 else []) + [
        "Model",
        "Method",
        "Rank",
        "Seeds",
        "Trainable parameters",
    ]
    units = [column.metric.shown_unit for column in layout.columns][: len(names)]
    header += [f"{name}, {unit}".removesuffix(", ") for name, unit in zip(names, units, strict=True)] + [
        title for title, _ in COSTS.values()
    ]
    notes = [
        "Means over the seeds of one training. GFLOP: 1e9 floating-point operations, counted. Peak, estimated: of a"
        " training step at the protocol's longest; measured: the most that an allocator held; process: the most that"
        " the whole process held on a CPU, libraries included. Seconds and measured memory are of the machine that"
        " trained, and of what else it did then."
    ]
    title = f"What each score cost: {layout.title}"
    text_columns = 3 if len(layout.tables) > 1 else 2
    return PrintedTable(f"budget-{layout.name}", title, header, list(groups.values()), notes, text_columns=text_columns)


def _in_table(cells: list[Entry], layout: Layout, table: str) -> list[Entry | None]:
    """A row's entries, None in the columns of other tables."""
    return [cell if column.table == table else None for cell, column in zip(cells, layout.columns, strict=True)]


BUDGET = TableView(
    key="budget",
    subjects=of_layouts("budget-"),
    make=budget_table,
    section="budget",
    timed=True,
    formats=(),
    hints=(("The numbers", "less {results}/budget.csv"), RUN, ("Collected anew", "{collect}")),
)
