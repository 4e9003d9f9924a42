"""The paper's cells at true scale: parameters as counted and as reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbora_bench.report.plotting import first_above, panels
from sbora_bench.report.view import FigureView, of_experiment
from sbora_bench.report.views.paper_footprint_table import title_of
from sbora_bench.results.paper.footprint import read_paper_footprint
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def paper_footprint_figure(results: Results, _: None = None) -> Figure:
    """A panel a table of the paper: a bar a cell, diamonds where a number is reported."""
    models, methods = results.plan.catalog.models, results.plan.catalog.methods
    rows = []
    for line in read_paper_footprint(results.folder):
        if line["trainable_parameters"]:
            model, method = title_of(models, line["model"]), title_of(methods, line["method"])
            rank = f" r = {line['rank']}" if line["rank"] else ""
            reported = float(line["reported_millions"]) if line["reported_millions"] else None
            about = {"panel": line["table"].replace("_", " "), "label": f"{model}, {method}{rank}"}
            rows.append(about | {"count": int(line["trainable_parameters"]), "reported": reported})

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        labels = [row["label"] for row in shown]
        counts = [row["count"] / 1e6 for row in shown]
        axis.barh(labels, counts, color="#56B4E9", edgecolor="0.2", linewidth=0.4, label="counted")
        reported = [(row["reported"], row["label"]) for row in shown if row["reported"] is not None]
        if reported:
            axis.plot(*zip(*reported, strict=True), "D", color="black", markersize=3, label="reported")
        first_above(axis, "Trainable parameters, millions")

    return panels(rows, draw, height=4.0)


PAPER_FOOTPRINT_BARS = FigureView(
    key="paper footprint",
    subjects=of_experiment("paper_footprint", lambda plan: plan.experiment.paper_footprint),
    caption=lambda plan, _: (
        "The paper's cells at true scale: trainable parameters as counted (bars) and as reported (diamonds)."
    ),
    draw=paper_footprint_figure,
)
