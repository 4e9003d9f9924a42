"""Score against three costs, with the cells that no other beats on both: `pareto-<table>`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.pareto import pareto_data
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.plotting import draw_points, panels, score_axis
from sbora_bench.report.view import FigureView, of_layouts
from sbora_bench.report.views.score_figure import score_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pareto_figure(plan: Plan, rows: list[dict[str, Any]]) -> Figure:
    """A panel a model, column and cost; what no other cell beats on both stands on the stepped line, ringed."""

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        ahead = sorted((row["cost"], row["mean"]) for row in shown if row["front"])
        x, y = [cost for cost, _ in ahead], [score for _, score in ahead]
        axis.step([*x, max(row["cost"] for row in shown)], [*y, y[-1]], where="post", color="0.45", linewidth=0.9)
        axis.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor="0.2", label="best for its cost")
        for method in dict.fromkeys(row["method"] for row in shown):
            points = [row for row in shown if row["method"] == method]
            draw_points(axis, plan, points, "cost", linestyle="none")
        axis.set_xlim(0, 1.08 * max(row["cost"] for row in shown))
        score_axis(axis, shown, shown[0]["of"])

    return panels(rows, draw)


PARETO_FRONTS = FigureView(
    key="pareto",
    subjects=of_layouts("pareto-"),
    caption=lambda plan, layout: (
        f"{layout.title}: score against trainable parameters, the estimated peak memory of training, and the time of a"
        " training run on the machine that ran it; bars are 95 % t intervals over the seeds. Ringed, on the stepped"
        " line: by the means no other cell scores as high for as little."
    ),
    draw=lambda results, layout: pareto_figure(results.plan, pareto_data(score_points(results, layout))),
)
