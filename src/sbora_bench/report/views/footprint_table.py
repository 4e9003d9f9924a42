"""Parameters and bytes of every cell, estimated and measured; on the page."""

from typing import Any

from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import method_titles, model_titles
from sbora_bench.report.collected import footprint_frame
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import whole
from sbora_bench.report.view import COUNT, TableView, of_experiment
from sbora_bench.results.read import Results


def footprint_table(results: Results, _: None = None) -> PrintedTable:
    """A row a cell: its parameters and bytes, as far as any cell's are known."""
    import pandas as pd

    plan = results.plan
    columns = {
        "trainable_parameters": "Trainable parameters",
        "total_parameters": "All parameters",
        "adapter_bytes": "Adapter, bytes",
        "weights_bytes": "Weights, bytes",
        "optimizer_bytes": "Optimizer, bytes",
        "activation_bytes": "Activations, bytes",
        "peak_bytes": "Peak, bytes, estimated",
        "measured_peak_bytes": "Peak, bytes, measured",
    }
    notes = [
        "Estimated: the peak of a training step at the protocol's longest, traced without weights. Measured: the most"
        " that the allocator held, on a GPU in the training runs, on a CPU in a real step of the same size where"
        " that is cheap. Error: estimated over measured. What the whole process held on a CPU stands under Runs."
    ]
    untraced = not_traced(results)
    for reason in dict.fromkeys(untraced.values()):
        names = [cell.name for cell, why in untraced.items() if why == reason]
        notes.append(f"Not traced: {', '.join(names)} ({reason}).")
    frame = footprint_frame(results)
    known = [column for column in columns if frame[column].notna().any() or (column == "peak_bytes" and untraced)]
    requested = requested_sizes(results)
    if requested:
        notes.append(
            "Requested: the size that a method's rank was chosen for (sbora-bench sizes), as trainable parameters or as"
            " bytes of the adapter; beside it, how far the method comes from it."
        )
    groups: dict[tuple, list[list[Text]]] = {}
    for row in frame.to_dict("records"):
        cell = Cell(row["table"], row["model"], row["method"], None if pd.isna(row["rank"]) else int(row["rank"]))
        numbers = [
            Text("not traced" if column == "peak_bytes" and cell in untraced else whole(row[column]))
            for column in known
        ]
        method = method_titles(plan, row["table"])[row["method"]]
        names = [row["table"], model_titles(plan, row["table"])[row["model"]], method]
        wanted = [Text(text) for text in _requested(row, requested.get(cell))] if requested else []
        line = [*(Text(name) for name in names), Text(whole(row["rank"])), *wanted, *numbers, Text(_error(row))]
        groups.setdefault((row["table"], row["model"]), []).append(line)
    sizes = ["Requested", "Off, %"] if requested else []
    header = ["Table", "Model", "Method", "Rank", *sizes, *(columns[column] for column in known), "Error, %"]
    return PrintedTable("footprint", "Parameters and bytes", header, list(groups.values()), notes, text_columns=3)


def requested_sizes(results: Results) -> dict[Cell, tuple[str, int]]:
    """Cell -> (column, number) of the size that its rank was chosen for."""
    return {
        Cell(table, model, method, rank): grid.at.wanted
        for table, entry in results.plan.experiment.tables.items()
        for grid in entry.grids
        if grid.at is not None
        for model in grid.models
        for method in grid.methods
        for rank in grid.ranks
    }


def _requested(row: dict[Any, Any], size: tuple[str, int] | None) -> tuple[str, str]:
    """The size that was requested of a cell, and how far the cell is from it, in per cent."""
    import pandas as pd

    if size is None:
        return "–", "–"
    column, wanted = size
    return whole(wanted), "–" if pd.isna(row[column]) else f"{100 * (row[column] / wanted - 1):+.1f}"


def not_traced(results: Results) -> dict[Cell, str]:
    """Cell -> why its memory could not be estimated."""
    reasons = {}
    for run in results.plan.runs:
        record = results.footprint(run)
        if record is not None and record.status == "not traced":
            reasons[run.cell] = record.reason
    return reasons


def _error(row: dict[Any, Any]) -> str:
    """How far the estimated peak is from the measured one, in per cent of the latter."""
    import pandas as pd

    known = not (pd.isna(row["peak_bytes"]) or pd.isna(row["measured_peak_bytes"]))
    return f"{100 * (row['peak_bytes'] / row['measured_peak_bytes'] - 1):+.1f}" if known else "–"


FOOTPRINT = TableView(
    key="footprint",
    subjects=of_experiment("footprint"),
    make=footprint_table,
    section="footprint",
    formats=(),
    hints=(COUNT,),
)
