"""The paper's cells at true scale: parameters as counted and as reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbora_bench.report.plotting import panels
from sbora_bench.report.view import FigureView, of_experiment
from sbora_bench.results.paper.footprint import read_paper_footprint
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def paper_footprint_figure(results: Results, _: None = None) -> Figure:
    """A panel a table of the paper: a bar a cell, diamonds where a number is reported."""
    plan, rows = results.plan, []
    for line in read_paper_footprint(results.folder):
        if line["trainable_parameters"]:
            method = plan.catalog.methods.get(line["method"])
            rank = f" r = {line['rank']}" if line["rank"] else ""
            model = plan.catalog.models.get(line["model"])
            name = f"{model.title if model else line['model']}, {method.title if method else line['method']}{rank}"
            reported = float(line["reported_millions"]) if line["reported_millions"] else None
            panel = line["table"].replace("_", " ")
            rows.append(
                {"panel": panel, "label": name, "count": int(line["trainable_parameters"]), "reported": reported}
            )

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        labels = [row["label"] for row in shown]
        counts = [row["count"] / 1e6 for row in shown]
        axis.barh(labels, counts, color="#56B4E9", edgecolor="0.2", linewidth=0.4, label="counted")
        reported = [(row["reported"], row["label"]) for row in shown if row["reported"] is not None]
        if reported:
            axis.plot(*zip(*reported, strict=True), "D", color="black", markersize=3, label="reported")
        axis.set_xlabel("Trainable parameters, millions")
        axis.invert_yaxis()
        axis.grid(False, axis="y")

    return panels(rows, draw, height=4.0)


PAPER_FOOTPRINT_BARS = FigureView(
    key="paper footprint",
    subjects=of_experiment("paper_footprint", lambda plan: plan.experiment.paper_footprint),
    caption=lambda plan, _: (
        "The paper's cells at true scale: trainable parameters as counted (bars) and as reported (diamonds)."
    ),
    draw=paper_footprint_figure,
)
