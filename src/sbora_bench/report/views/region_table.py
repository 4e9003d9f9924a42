"""What the adapters of a table's runs change in the base's weights, and what two runs both change."""

import itertools
from typing import Any

from sbora_bench.analysis.regions import norm, overlap, share_touched
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.titles import cell_titles, model_titles, ranked_title
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.view import TableView, of_tables, table_title
from sbora_bench.results.read import Results
from sbora_bench.results.regions import LayerChange, RegionsRecord

COLUMNS = ["table", "model", "method", "rank", "seed", "status", "layers", "weights", "untouched", "rows", "columns"]
COLUMNS += ["norm"]
PAIRED = ["table", "model", "method_a", "rank_a", "seed_a", "method_b", "rank_b", "seed_b", "rows", "columns"]
AXES = ("rows", "columns")


def has_regions(plan: Plan, table: str) -> bool:
    """Whether a table shows regions."""
    return bool(plan.region_runs(table))


def region_table(results: Results, table: str) -> PrintedTable:
    """A row a run: rows and columns that changed, weights that did not, and the norm of the change."""
    plan = results.plan
    numbers: list[list[Any]] = [COLUMNS]
    notes = [
        "Of the layers that the adapter changes: rows and columns of their weights that changed, and weights that did"
        " not, as the share of all; Frobenius' norm of the change. The merged weight less the base's, both in float32;"
        " untouched is exactly 0."
    ]
    groups: dict[str, list[list[Text]]] = {}
    for run in plan.region_runs(table):
        record = results.regions(run)
        line = [*map(Text, cell_titles(plan, run)), Text(str(run.seed))]
        place = [run.table, run.model, run.method, run.rank, run.seed]
        layers = [] if record is None else record.layers
        if not layers:
            notes.append(f"No region: {run.name} ({_reason(record)}).")
            groups.setdefault(run.model, []).append([*line, *[Text("–")] * 5])
            numbers.append([*place, "not run" if record is None else record.status, *[None] * 6])
            continue
        size, untouched = sum(part.size for part in layers), sum(part.untouched for part in layers)
        rows, columns = (share_touched(layers, axis) for axis in AXES)
        shares = [Text(_percent(share)) for share in (rows, columns, untouched / size)]
        groups.setdefault(run.model, []).append([*line, Text(f"{size:,}"), *shares, Text(f"{norm(layers):.3f}")])
        numbers.append([*place, "ok", len(layers), size, untouched, rows, columns, norm(layers)])
    header = ["Model", "Method", "Seed", "Weights", "Rows changed, %", "Columns changed, %", "Untouched, %", "Norm"]
    title = f"What an update changes: {table_title(plan, table)}"
    return PrintedTable(f"regions-{table}", title, header, list(groups.values()), notes, numbers, text_columns=2)


def _reason(record: RegionsRecord | None) -> str:
    if record is None:
        return "not run"
    return record.reason or "no weight differs from the base's"


def overlap_table(results: Results, table: str) -> PrintedTable:
    """A row two runs of a model: the rows and the columns that both change."""
    plan = results.plan
    numbers: list[list[Any]] = [PAIRED]
    layers: dict[str, dict[Run, list[LayerChange]]] = {}
    for run in plan.region_runs(table):
        if (record := results.regions(run)) is not None and record.layers:
            layers.setdefault(run.model, {})[run] = record.layers
    groups = []
    for model, of_model in layers.items():
        lines = []
        for a, b in itertools.combinations(of_model, 2):
            shares = [overlap(of_model[a], of_model[b], axis) for axis in AXES]
            runs = [Text(f"{ranked_title(plan, run)}, seed {run.seed}") for run in (a, b)]
            lines.append([Text(model_titles(plan, table)[model]), *runs, *(Text(_percent(share)) for share in shares)])
            places: list[Any] = [place for run in (a, b) for place in (run.method, run.rank, run.seed)]
            numbers.append([table, model, *places, *shares])
        if lines:
            groups.append(lines)
    notes = ["Rows and columns of the adapted layers that both runs change, as a share of those that either changes."]
    header = ["Model", "Run", "And run", "Rows, %", "Columns, %"]
    title = f"What two updates both change: {table_title(plan, table)}"
    return PrintedTable(f"overlaps-{table}", title, header, groups, notes, numbers, text_columns=3)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


REGIONS = TableView(
    key="regions",
    subjects=of_tables("regions-", has_regions),
    make=region_table,
    caption="What an update changes in the base's weights: rows, columns, and what is left as it was.",
)
OVERLAPS = TableView(
    key="overlaps",
    subjects=of_tables("overlaps-", lambda plan, table: len(plan.region_runs(table)) > 1),
    make=overlap_table,
    caption="The rows and columns that two runs both change.",
)
