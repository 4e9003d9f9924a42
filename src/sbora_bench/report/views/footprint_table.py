"""Parameters and bytes of every cell, estimated and measured; on the page."""

from typing import Any

from sbora_bench.plan.titles import method_titles, model_titles
from sbora_bench.report.collected import footprint
from sbora_bench.report.render import PrintedTable, Text
from sbora_bench.report.texts import whole
from sbora_bench.report.view import COUNT, TableView, of_experiment
from sbora_bench.results.read import Results


def footprint_table(results: Results, _: None = None) -> PrintedTable:
    """A row a cell: its parameters and bytes, as far as any cell's are known."""
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
    notes += not_traced(results)
    frame = footprint(results)
    known = [column for column in columns if frame[column].notna().any()]
    groups: dict[tuple, list[list[Text]]] = {}
    for row in frame.to_dict("records"):
        numbers = [Text(whole(row[column])) for column in known]
        method = method_titles(plan, row["table"])[row["method"]]
        names = [row["table"], model_titles(plan, row["table"])[row["model"]], method]
        line = [*(Text(name) for name in names), Text(whole(row["rank"])), *numbers, Text(_error(row))]
        groups.setdefault((row["table"], row["model"]), []).append(line)
    header = ["Table", "Model", "Method", "Rank", *(columns[column] for column in known), "Error, %"]
    return PrintedTable("footprint", "Parameters and bytes", header, list(groups.values()), notes, text_columns=3)


def not_traced(results: Results) -> list[str]:
    """A note for every reason for which cells could not be traced."""
    cells: dict[str, list[str]] = {}
    for table in results.plan.experiment.tables:
        for cell, runs in results.plan.runs_by_cell(table).items():
            records = (results.footprint(run) for run in runs)
            reason = next((record.reason for record in records if record and record.status == "not traced"), None)
            if reason is not None:
                cells.setdefault(reason, []).append(cell.name)
    return [f"Not traced: {', '.join(names)} ({reason})." for reason, names in cells.items()]


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
