"""The suite tuned for, then what was not tuned for: `also-<table>`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.forgetting import measured_cells
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import LOSS
from sbora_bench.plan.titles import model_title
from sbora_bench.report.plotting import draw_untuned, method_style, panels, score_label, short_ticks
from sbora_bench.report.view import FigureView, of_tables, table_title
from sbora_bench.report.views.other_suites_table import OTHER_SUITES_PREFIX, has_other_suites
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def other_suites_data(results: Results, table: str) -> list[dict[str, Any]]:
    """Rows of panel, method, x (rank or trainable parameters), mean, low, high: per cent, or nats a token."""
    rows, plan = [], results.plan
    for row in measured_cells(results, table):
        cell, metric, seeds = row.cell, row.measure.metric, row.summary
        ends = [seeds.mean if end is None else end for end in (seeds.low, seeds.high)]
        mean, low, high = (metric.scale * value for value in (seeds.mean, *ends))
        title = f"{model_title(plan, cell)}: {row.measure.title}"
        own = row.measure.name == plan.experiment.tables[table].suite
        for axis_title, x in ((("Rank", cell.rank),) if own else ()) + (
            ("Trainable parameters", row.trainable_parameters),
        ):
            point = {"panel": title, "of": axis_title, "method": cell.method, "x": x, "rank": cell.rank}
            rows.append(point | {"mean": mean, "low": low, "high": high, "measure": row.measure.name, "metric": metric})
    return rows


def other_suites_figure(plan: Plan, rows: list[dict[str, Any]]) -> Figure:
    """Each suite against rank or parameters: a panel a measure; the untuned base dashed."""

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        draw_untuned(axis, shown)
        for method in dict.fromkeys(row["method"] for row in shown if row["x"] is not None and row["method"] != "base"):
            points = sorted((row for row in shown if row["method"] == method), key=lambda row: row["x"])
            y = [row["mean"] for row in points]
            bars = [[row["mean"] - row["low"] for row in points], [row["high"] - row["mean"] for row in points]]
            axis.errorbar([row["x"] for row in points], y, yerr=bars, elinewidth=0.8, **method_style(plan, method))
        axis.set_xlim(left=0)
        short_ticks(axis)
        axis.set_xlabel(shown[0]["of"])
        axis.set_ylabel("Loss, nats a token" if shown[0]["metric"] == LOSS else score_label(shown[0]["metric"]))
        if shown[0]["metric"].low == 0:
            axis.set_ylim(bottom=0)

    return panels(rows, draw, across=2)


def _draw(results: Results, table: str) -> Figure:
    return other_suites_figure(results.plan, other_suites_data(results, table))


OTHER_SUITES_PANELS = FigureView(
    key="also",
    subjects=of_tables(OTHER_SUITES_PREFIX, has_other_suites),
    caption=lambda plan, table: (
        f"{table_title(plan, table)}: the suite tuned for against rank and against trainable parameters; then what was"
        " not tuned for: other suites and the loss on held-out text. Bars are 95 % t intervals over the seeds; the"
        " dashed line is the untuned base."
    ),
    draw=_draw,
    published=True,
)
