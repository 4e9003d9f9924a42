"""Score against learning rate, on the rows that picked it and on the test items: `rates-<table>`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.learning_rates import by_loss
from sbora_bench.analysis.rate_gains import RateScore, rate_scores
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import rate_text
from sbora_bench.plan.titles import model_title
from sbora_bench.report.many_methods import apart
from sbora_bench.report.plotting import WIDE, large_panels, method_style, panels, short
from sbora_bench.report.view import FigureView, of_tables, table_title
from sbora_bench.report.views.rate_table import RATES_PREFIX, varies_rate
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 10  # times the lowest loss


def rate_data(rows: Iterable[RateScore], plan: Plan, among: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What is plotted of `rate_scores`: panel, method, rate, mean and standard deviation of the seeds, in per cent
    or, where rates are picked by it, the loss. `among`: of these methods alone, whatever their ranks in one panel."""
    points = []
    for row in rows:
        if among and row.cell.method not in among:
            continue
        loss = by_loss(plan, row.cell.table)
        for rows_scored, score in (("held-out training rows", row.validation), ("test items", row.score)):
            if score is not None and math.isfinite(score.mean):
                rank = "" if among else f", r = {row.cell.rank}"
                panel = f"{model_title(plan, row.cell)}{rank}: {rows_scored}"
                point = {"panel": panel, "method": row.cell.method, "rate": row.learning_rate, "picked": row.picked}
                if loss:
                    points.append(point | {"mean": -score.mean, "sd": score.sd or 0.0, "loss": True})
                else:
                    points.append(point | {"mean": 100 * score.mean, "sd": 100 * (score.sd or 0.0)})
    return points


def rate_figure(plan: Plan, rows: list[dict[str, Any]], among: Sequence[str] = ()) -> Figure:
    """Score against learning rate, the rate picked ringed; of the methods `among` a large panel."""

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        for method in dict.fromkeys(row["method"] for row in shown):
            points = sorted((row for row in shown if row["method"] == method), key=lambda row: row["rate"])
            x, y = [row["rate"] for row in points], [row["mean"] for row in points]
            axis.errorbar(x, y, yerr=[row["sd"] for row in points], elinewidth=0.8, **method_style(plan, method, among))
            ringed = [(row["rate"], row["mean"]) for row in points if row["picked"]]
            axis.plot(*zip(*ringed, strict=True), "o", markersize=9, fillstyle="none", color="0.2", linestyle="")
        rates = sorted({row["rate"] for row in shown})
        axis.set_xscale("log")
        axis.set_xticks(rates, [rate_text(rate) for rate in rates], minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xlabel("Learning rate")
        if any("loss" in row for row in shown):
            _loss_axis(axis, [row["mean"] for row in shown])
        else:
            axis.set_ylabel("Score, %")
            axis.set_ylim(0, 100)

    return large_panels(rows, draw) if among else panels(rows, draw, across=2, breadth=WIDE)


def _loss_axis(axis: Axes, losses: list[float]) -> None:
    """Logarithmic where a rate that is far too high would leave no room to tell the others apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_ylabel("Gold loss, nats a token")
    if max(losses) > FAR * min(losses) > 0:
        axis.set_ylabel("Gold loss, nats a token, log scale")
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axis.yaxis.set_minor_formatter(NullFormatter())


def _draw(results: Results, table: str) -> Figure:
    plan, rows = results.plan, rate_scores(results, table)
    among = apart(plan, [table], (row.cell.method for row in rows))
    return rate_figure(plan, rate_data(rows, plan, among), among)


def _caption(plan: Plan, table: str) -> str:
    """What is drawn: runs that only pick a rate have no score on test items."""
    measured = "loss of the gold answer" if by_loss(plan, table) else "score"
    seeds = plan.experiment.tables[table].picking_seeds
    where = "" if seeds else " and on the test items"
    points = "" if len(seeds) == 1 else " Points are means, bars one standard deviation over the seeds."
    methods = {cell.method for cell in plan.tuned_cells(table)}
    of_many = " Of the methods that comparisons were planned for; the others' are in the table of learning rates."
    of_many = of_many if apart(plan, [table], methods) else ""
    return (
        f"{table_title(plan, table)}: {measured} against learning rate, on the training rows held out to pick the rate"
        f" by{where}.{points} A ring marks the rate picked.{of_many}"
    )


RATE_CURVES = FigureView(
    key="rates",
    subjects=of_tables(RATES_PREFIX, varies_rate),
    caption=_caption,
    draw=_draw,
    published=True,
)
