"""Every cell of every table as a row of `tables/cells.csv`: over its seeds, and the runs that it comes from.

The way back of a printed number: its row here names the runs; `runs/<run>/scores.json` has their scores, and
`runs/<run>/samples/` what they were counted from.
"""

from typing import Any

from sbora_bench.analysis.entries import Entry
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import Layout, layouts
from sbora_bench.plan.runs import Cell
from sbora_bench.report.collected import entries_of
from sbora_bench.report.render import csv
from sbora_bench.report.view import TableView, of_experiment
from sbora_bench.results.paper.reported import AVERAGE
from sbora_bench.results.read import Results

COLUMNS = ["table", "model", "method", "rank", "task", "seeds", "mean", "sd", "low", "high", "interval", "runs"]
ONE_SEED = "none: one seed"


def cells_csv(results: Results) -> str:
    """`cells.csv`: mean, standard deviation and the 95 % interval over the seeds, in per cent."""
    plan = picked(results).plan
    rows = [row for layout in layouts(plan) for row in _rows(plan, layout, entries_of(results, layout))]
    return csv([COLUMNS, *rows])


def _rows(plan: Plan, layout: Layout, entries: dict[Cell, list[Entry]]) -> list[list[Any]]:
    places = [(column.table, column.task) for column in layout.columns]
    places += [(layout.tables[0], AVERAGE.lower())] if layout.averaged else []
    rows, runs_of = [], {table: plan.runs_of(table) for table in layout.tables}
    for row, cells in entries.items():
        for (table, task), cell in zip(places, cells, strict=True):
            if cell.summary is None:
                continue
            runs = [run.name for run in runs_of[table] if (run.model, run.method, run.rank) == _names(row)]
            summary = cell.summary
            interval = interval_of(cell)
            numbers = [summary.n, summary.mean, summary.sd, summary.low, summary.high]
            rows.append([table, *_names(row), task, *numbers, interval, " ".join(runs)])
    return rows


def interval_of(entry: Entry) -> str:
    """Which interval `low` and `high` are the ends of."""
    summary = entry.summary
    if summary is None or summary.low is None:
        return ONE_SEED if summary is None or summary.n < 2 else "none: equal values"
    return f"{'t of the log-odds' if entry.metric.is_share else 't'}, {summary.n - 1} degrees of freedom"


def _names(row: Cell) -> tuple[str, str, int | None]:
    return row.model, row.method, row.rank


CELL_RUNS = TableView(
    key="cells",
    subjects=of_experiment("cells"),
    formats=(),
    data_files={"cells.csv": cells_csv},
)
