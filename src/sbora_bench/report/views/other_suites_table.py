"""Every cell on the suites that a table names beside its own, against the untuned base: `also-<table>`."""

from typing import Any

from sbora_bench.analysis.forgetting import MeasuredCell, measured_cells
from sbora_bench.analysis.measures import Measure
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import cell_titles
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import signed
from sbora_bench.report.view import TableView, of_tables, table_title
from sbora_bench.results.read import Results

OTHER_SUITES_PREFIX, FORGETTING_PREFIX = "also-", "forgetting-"
COLUMNS = ["table", "model", "method", "rank", "trainable_parameters", "measure", "seeds", "mean", "sd", "low", "high"]


def has_other_suites(plan: Plan, table: str) -> bool:
    """Whether a table scores suites beside its own."""
    return bool(plan.experiment.tables[table].also)


def other_suites_table(results: Results, table: str) -> PrintedTable:
    """A row a cell: every suite's average, and the change over the base."""
    plan, rows = results.plan, measured_cells(results, table)
    measures = list(dict.fromkeys(row.measure for row in rows))
    cells: dict[Cell, dict[Measure, MeasuredCell]] = {}
    for row in rows:
        cells.setdefault(row.cell, {})[row.measure] = row
    groups: dict[str, list[list[Text]]] = {}
    for cell, by_measure in cells.items():
        base = {} if cell.is_base else cells.get(Cell(table, cell.model, "base"), {})
        count = next(iter(by_measure.values())).trainable_parameters
        line = [*map(Text, cell_titles(plan, cell)), Text(f"{count:,}" if count else "–")]
        line += [_score_text(by_measure.get(measure), base.get(measure)) for measure in measures]
        groups.setdefault(cell.model, []).append(line)
    trained = plan.experiment.tables[table].train
    notes = [
        f"All tuned on {trained}; the first column of scores is the suite that this is for, the others are what the"
        " models were not tuned for. Scores are averages of a suite's tasks in per cent, a loss is in nats a token;"
        " mean ± standard deviation over the seeds. Below: the change over the untuned base.",
        f"Which of two methods keeps more: {FORGETTING_PREFIX}{table}.",
    ]
    header = ["Model", "Method", "Trainable parameters", *(measure.title for measure in measures)]
    numbers = [COLUMNS, *(_numbers(row) for row in rows)]
    title = f"What tuning forgets: {table_title(plan, table)}"
    return PrintedTable(
        f"{OTHER_SUITES_PREFIX}{table}", title, header, list(groups.values()), notes, numbers, text_columns=2
    )


def _numbers(row: MeasuredCell) -> list[Any]:
    cell, seeds = row.cell, row.summary
    names = [cell.table, cell.model, cell.method, cell.rank, row.trainable_parameters, row.measure.name]
    return [*names, seeds.n, seeds.mean, seeds.sd, seeds.low, seeds.high]


def _score_text(row: MeasuredCell | None, base: MeasuredCell | None) -> Text:
    if row is None:
        return Text("–")
    metric, seeds = row.measure.metric, row.summary
    spread = "" if seeds.sd is None else f" ± {metric.text(seeds.sd)}"
    below = () if base is None else (signed(metric.scale * (seeds.mean - base.summary.mean), metric.digits),)
    return Text(f"{metric.text(seeds.mean)}{spread}", below=below)


OTHER_SUITES = TableView(
    key="also",
    subjects=of_tables(OTHER_SUITES_PREFIX, has_other_suites),
    make=other_suites_table,
    caption="What tuning forgets: the suite tuned for beside others, and the change over the untuned base.",
)
