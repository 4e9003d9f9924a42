"""Score against trainable parameters: `score-<table>`.

A method has one colour, marker and dash everywhere, so that it can be known in grey.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.entries import Entry
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.pareto import COSTS
from sbora_bench.plan.experiment import Cell, Plan
from sbora_bench.plan.layouts import Layout
from sbora_bench.plan.titles import row_titles
from sbora_bench.report.collected import (
    Lines,
    budget_lines,
    entries_of,
    footprint_lines,
    lines_of,
    trainable_parameters,
)
from sbora_bench.report.plotting import draw_points, panels, score_axis, untuned, upper_end
from sbora_bench.report.view import FigureView, of_layouts
from sbora_bench.results.paper.reported import AVERAGE
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 14  # methods that can be told apart in a figure
BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}  # of a cluster's ranks
WITHIN = 0.06  # a share of a size: other sizes no further from it stand in one cluster


def score_data(
    plan: Plan, layout: Layout, entries: dict[Cell, list[Entry]], footprint: Lines, budget: Lines
) -> list[dict[str, Any]]:
    """Rows of panel, method, rank, parameters, peak (bytes, estimated), seconds (a run), mean, low, high (per cent).

    For the average, or else every column. `entries`: the layout's rows; `footprint`, `budget`: lines by place.
    """
    names = [AVERAGE] if layout.averaged else [column.title for column in layout.columns]
    rows = []
    for row, cells in entries.items():
        for name, cell in zip(names, cells[-1:] if layout.averaged else cells, strict=True):
            if cell.summary is None:
                continue
            rows.append(
                {
                    "panel": f"{row_titles(plan, layout.tables, row)[0]}: {name}",
                    "method": row.method,
                    "rank": row.rank,
                    "parameters": trainable_parameters(layout, row, footprint),
                    "peak": estimated_peak(layout, row, footprint),
                    "seconds": training_seconds(layout, row, budget),
                    "mean": cell.summary.mean,
                    "low": cell.summary.low,
                    "high": cell.summary.high,
                    "metric": cell.metric,
                }
            )
    return rows


def estimated_peak(layout: Layout, row: Cell, footprint: Lines) -> int | None:
    """Bytes at the peak of a row's training step: the highest of its tables'; None for an untuned base."""
    known = [line.peak_bytes for line in lines_of(layout, row, footprint) if line.peak_bytes is not None]
    return None if row.is_base else max(known, default=None)


def training_seconds(layout: Layout, row: Cell, budget: Lines) -> float | None:
    """Of a row's training, a mean over the seeds: the longest of its tables'; None for an untuned base."""
    return max((line.seconds for line in lines_of(layout, row, budget) if line.seconds is not None), default=None)


def score_points(results: Results, layout: Layout) -> list[dict[str, Any]]:
    """`score_data` of a results folder; where the learning rate is picked, at that rate."""
    results = picked(results)
    entries = entries_of(results, layout)
    return score_data(results.plan, layout, entries, footprint_lines(results), budget_lines(results))


def score_figure(plan: Plan, layout: Layout, rows: list[dict[str, Any]]) -> Figure:
    """Score against trained parameters, a panel a column and model; above each cluster of points its ranks.

    Of more than `MANY` methods those that no comparison was planned for are grey, and sizes are on a log scale.
    """
    if len({row["method"] for row in rows}) > MANY:
        return _crowded_figure(plan, compared(plan, layout), rows)

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        untuned(axis, shown)
        tuned = [row for row in shown if row["parameters"] is not None]
        methods = list(dict.fromkeys(row["method"] for row in tuned))
        for place, method in enumerate(methods):
            points = sorted((row for row in tuned if row["method"] == method), key=lambda row: row["parameters"])
            draw_points(axis, plan, points, "parameters", apart=place - (len(methods) - 1) / 2)
        ceiling = 100 if all(row["metric"].is_share for row in tuned) else math.inf
        for ranks, x, top in clusters(tuned, ceiling=ceiling):
            ranks_text = ", ".join(f"r{rank}" for rank in ranks)
            axis.annotate(
                ranks_text, (x, top), xytext=(0, 3), textcoords="offset points", fontsize=6, ha="center", bbox=BEHIND
            )
        axis.set_xlim(left=0)
        score_axis(axis, shown, COSTS["parameters"])

    return panels(rows, draw)


def compared(plan: Plan, layout: Layout) -> set[str]:
    """The methods of the planned comparisons of a layout's tables."""
    comparisons = [planned for table in layout.tables for planned in plan.comparisons(table)]
    return {cell.method for planned in comparisons for cell in (planned.a, planned.b)}


def _crowded_figure(plan: Plan, in_colour: set[str], rows: list[dict[str, Any]]) -> Figure:
    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        untuned(axis, shown)
        axis.set_xscale("log")
        tuned = sorted((row for row in shown if row["parameters"]), key=lambda row: row["mean"])
        others = {row["method"] for row in tuned} - in_colour
        grey = {"color": "0.75", "marker": "o", "markersize": 3, "linestyle": "none", "elinewidth": 0.5, "zorder": 1}
        grey |= {"label": f"{len(others)} other methods"}
        for row in tuned:
            beside = [one for one in tuned if abs(one["parameters"] / row["parameters"] - 1) <= WITHIN]
            apart = 0.4 * (beside.index(row) - (len(beside) - 1) / 2)
            draw_points(axis, plan, [row], "parameters", apart, **(grey if row["method"] in others else {}))
        score_axis(axis, shown, COSTS["parameters"])

    return panels(rows, draw, height=4.0, breadth=7.0, across=1)


def clusters(
    rows: list[dict[str, Any]], within: float = WITHIN, ceiling: float = 100
) -> list[tuple[list[int], float, float]]:
    """Points whose parameters lie within a share of the largest: their ranks, mean parameters, and highest end,
    at most `ceiling`."""
    near = within * max((row["parameters"] for row in rows), default=0)
    groups: list[list[dict[str, Any]]] = []
    for row in sorted(rows, key=lambda row: row["parameters"]):
        if groups and row["parameters"] - groups[-1][-1]["parameters"] <= near:
            groups[-1].append(row)
        else:
            groups.append([row])
    return [
        (
            sorted({row["rank"] for row in group}),
            sum(row["parameters"] for row in group) / len(group),
            min(ceiling, max(upper_end(row) for row in group)),
        )
        for group in groups
    ]


SCORE_POINTS = FigureView(
    key="score",
    subjects=of_layouts("score-"),
    caption=lambda plan, layout: (
        f"{layout.title}: score against trainable parameters. A line joins the ranks of a method; bars are 95 %"
        " intervals over the seeds (none with one seed); the dashed line is the untuned base. Methods stand a little"
        " apart, so that each can be seen, of many by their scores; grey are then those that no comparison was planned"
        " for."
    ),
    draw=lambda results, layout: score_figure(results.plan, layout, score_points(results, layout)),
    published=True,
    section="answer",
)
