"""Score against three costs, with the cells that no other beats on both: `pareto-<table>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.pareto import Better, Named, pareto_data
from sbora_bench.analysis.ranking import rankings
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import Layout
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import row_titles
from sbora_bench.report.many_methods import apart
from sbora_bench.report.plotting import draw_others, draw_points, method_style, panels, score_axis
from sbora_bench.report.view import FigureView, of_layouts
from sbora_bench.report.views.score_figure import score_points
from sbora_bench.results.paper.reported import AVERAGE
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pareto_figure(plan: Plan, rows: list[dict[str, Any]], among: Sequence[str] = ()) -> Figure:
    """A panel a model, column and cost; what no other cell beats on both stands on the stepped line, ringed. Other
    methods than those `among` are grey, if there are such."""

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        ahead = sorted((row["cost"], row["mean"]) for row in shown if row["front"])
        x, y = [cost for cost, _ in ahead], [score for _, score in ahead]
        axis.step([*x, max(row["cost"] for row in shown)], [*y, y[-1]], where="post", color="0.45", linewidth=0.9)
        axis.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor="0.2", label="best for its cost")
        others = [row for row in shown if among and row["method"] not in among]
        draw_others(axis, others, "cost")
        for method in dict.fromkeys(row["method"] for row in shown if row not in others):
            points = [row for row in shown if row["method"] == method]
            draw_points(axis, plan, points, "cost", **method_style(plan, method, among) | {"linestyle": "none"})
        axis.set_xlim(0, 1.08 * max(row["cost"] for row in shown))
        score_axis(axis, shown, shown[0]["of"])

    return panels(rows, draw)


def shown_in_panels(results: Results, layout: Layout) -> Better:
    """Which cell of a layout's averages is shown to be better than which, by the panel that it is drawn in."""
    plan = results.plan

    def named(cell: Cell) -> Named:
        return f"{row_titles(plan, layout.tables, cell)[0]}: {AVERAGE}", cell.method, cell.rank

    ranked = [ranking for table in layout.tables for ranking in rankings(results, table)] if layout.averaged else []
    return frozenset((named(a), named(b)) for ranking in ranked for a, b in ranking.better)


def _draw(results: Results, layout: Layout) -> Figure:
    rows = pareto_data(score_points(results, layout), shown_in_panels(results, layout))
    return pareto_figure(results.plan, rows, apart(results.plan, layout.tables, (row["method"] for row in rows)))


PARETO_FRONTS = FigureView(
    key="pareto",
    subjects=of_layouts("pareto-"),
    caption=lambda plan, layout: (
        f"{layout.title}: score against trainable parameters, the estimated peak memory of training, and the time of a"
        " training run on the machine that ran it; bars are 95 % intervals over the seeds. Ringed, on the stepped"
        " line: no other cell is shown to score better for as little, or scores as high for less."
    ),
    timed=True,
    draw=_draw,
)
