"""Training loss by update: `training-<table>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.learning_rates import picked
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.titles import model_title
from sbora_bench.report.many_methods import apart
from sbora_bench.report.plotting import large_panels, method_style, panels
from sbora_bench.report.view import FigureView, of_tables, table_title
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training_data(results: Results, table: str, among: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of panel, method, step, and mean, low, high of the seeds' loss; `kind` is training or validation.
    `among`: of these methods alone, whatever their ranks in one panel.
    """
    rows, plan = [], results.plan
    for cell, runs in plan.runs_by_cell(table).items():
        if among and cell.method not in among:
            continue
        records = [record for run in runs if (record := results.training(run)) is not None]
        points = [point for record in records for point in record.happened.loss_curve]
        for kind, key in (("training", "loss"), ("validation", "validation_loss")):
            by_step: dict[int, list[float]] = {}
            for point in points:
                if (value := getattr(point, key)) is not None:
                    by_step.setdefault(point.step, []).append(value)
            for step, losses in sorted(by_step.items()):
                rows.append(
                    {
                        "panel": model_title(plan, cell) + ("" if among else f", r = {cell.rank}"),
                        "method": cell.method,
                        "kind": kind,
                        "step": step,
                        "mean": sum(losses) / len(losses),
                        "low": min(losses),
                        "high": max(losses),
                    }
                )
    return rows


def training_figure(plan: Plan, rows: list[dict[str, Any]], among: Sequence[str] = ()) -> Figure:
    """Loss by update, a panel a model and rank; of the methods `among` a large panel a model."""
    from matplotlib.ticker import MaxNLocator

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        for method, kind in dict.fromkeys((row["method"], row["kind"]) for row in shown):
            points = [row for row in shown if (row["method"], row["kind"]) == (method, kind)]
            style = method_style(plan, method, among)
            steps = [row["step"] for row in points]
            if kind == "validation":
                style |= {"linestyle": (0, (1, 2)), "label": f"{style['label']}, validation"}
            style |= {"markevery": max(1, len(steps) // 6), "markersize": 3}
            axis.plot(steps, [row["mean"] for row in points], **style)
            spread = [row["low"] for row in points], [row["high"] for row in points]
            axis.fill_between(steps, *spread, color=style["color"], alpha=0.15, linewidth=0)
        axis.set_xlabel("Update")
        axis.set_ylabel("Loss, nats a token")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_ylim(bottom=0)

    return (large_panels if among else panels)(rows, draw)


def _draw(results: Results, table: str) -> Figure:
    plan = results.plan
    among = apart(plan, [table], (cell.method for cell in plan.tuned_cells(table)))
    return training_figure(plan, training_data(picked(results), table, among), among)


TRAINING_CURVES = FigureView(
    key="training",
    subjects=of_tables("training-"),
    caption=lambda plan, table: (
        f"{table_title(plan, table)}: training loss by update, mean of the seeds, with their range shaded; validation"
        " loss dashed where there is one. Of many methods those that comparisons were planned for."
    ),
    draw=_draw,
)
