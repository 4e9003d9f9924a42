"""Score against trainable parameters: `score-<table>`.

A method has one colour, marker and dash everywhere, so that it can be known in grey.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.entries import Entry
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.pareto import COSTS
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import Layout
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import row_titles
from sbora_bench.report.collected import (
    Lines,
    budget_lines,
    entries_of,
    footprint_lines,
    lines_of,
    row_parameters,
)
from sbora_bench.report.many_methods import apart
from sbora_bench.report.plotting import (
    draw_others,
    draw_points,
    draw_untuned,
    method_style,
    panels,
    score_axis,
    upper_end,
)
from sbora_bench.report.verdicts import decided_otherwise
from sbora_bench.report.view import FigureView, of_layouts
from sbora_bench.results.paper.reported import AVERAGE
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW = 3.6  # inches of the figure of many methods: as wide as the others, to stand beside the verdicts
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
                    "parameters": row_parameters(layout, row, footprint),
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

    Of many methods those that no comparison was planned for are small and grey, without intervals, and sizes are on a
    log scale.
    """
    in_colour = apart(plan, layout.tables, (row["method"] for row in rows))
    if in_colour:
        return _crowded_figure(plan, in_colour, rows)

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        draw_untuned(axis, shown)
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


def _crowded_figure(plan: Plan, in_colour: list[str], rows: list[dict[str, Any]]) -> Figure:
    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        draw_untuned(axis, shown)
        axis.set_xscale("log")
        tuned = sorted((row for row in shown if row["parameters"]), key=lambda row: row["mean"])
        draw_others(axis, [row for row in tuned if row["method"] not in in_colour], "parameters")
        coloured = [row for row in tuned if row["method"] in in_colour]
        for row in sorted(coloured, key=lambda row: in_colour.index(row["method"])):
            beside = [one for one in coloured if abs(one["parameters"] / row["parameters"] - 1) <= WITHIN]
            moved = beside.index(row) - (len(beside) - 1) / 2
            draw_points(axis, plan, [row], "parameters", moved, **method_style(plan, row["method"], in_colour))
        score_axis(axis, shown, COSTS["parameters"])

    return panels(rows, draw, height=4.6, breadth=NARROW, across=1)


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


def _caption(plan: Plan, layout: Layout) -> str:
    return (
        f"{layout.title}: score against trainable parameters. Points are means over the seeds, bars 95 % intervals over"
        " them (none with one seed); a line joins the ranks (r) of a method; the dashed line is the untuned base."
        " Methods stand a little apart, so that each can be seen; of many those that no comparison was planned for are"
        " grey dashes, at their own size and without intervals: these are in the ranking."
        + "".join(f" {note}" for note in decided_otherwise(plan, layout.tables))
    )


SCORE_POINTS = FigureView(
    key="score",
    subjects=of_layouts("score-"),
    caption=_caption,
    draw=lambda results, layout: score_figure(results.plan, layout, score_points(results, layout)),
    published=True,
    section="answer",
)
