"""Trainable parameters, and memory at the peak of a training step: `footprint-<table>`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.learning_rates import picked
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import Layout
from sbora_bench.plan.titles import row_titles
from sbora_bench.report.collected import Lines, footprint_lines, lines_of
from sbora_bench.report.many_methods import apart
from sbora_bench.report.plotting import WIDE, draw_stack, panels, short, wrapped
from sbora_bench.report.view import FigureView, of_layouts
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# part of the memory -> hatch and colour
PARTS = {"weights": ("", "#BBBBBB"), "optimizer": ("///", "#E69F00"), "activation": ("...", "#009E73")}
PARTS |= {"other": ("xx", "#CC79A7")}


def footprint_data(plan: Plan, layout: Layout, footprint: Lines, among: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of panel, label, parameters, the predicted bytes of each part and the measured peak (None: not known).
    `among`: of these methods alone.
    """
    rows = []
    for row in layout.rows:
        shown = lines_of(layout, row, footprint)
        if row.is_base or not shown or (among and row.method not in among):
            continue
        first, (model, method) = shown[0], row_titles(plan, layout.tables, row)
        sizes = {key: value for key, value in first._asdict().items() if key.endswith("_bytes")}
        parts = [sizes[f"{part}_bytes"] for part in PARTS if part != "other"]
        sizes["other_bytes"] = None if sizes["peak_bytes"] is None else sizes["peak_bytes"] - sum(filter(None, parts))
        measured = [line.measured_peak_bytes for line in shown if line.measured_peak_bytes is not None]
        rows.append(
            {
                "panel": model,
                "label": f"{method} r = {row.rank}" if plan.catalog.methods[row.method].has_size else method,
                "parameters": first.trainable_parameters,
                **sizes,
                "measured_peak_bytes": max(measured, default=None),
            }
        )
    return rows


def footprint_figure(rows: list[dict[str, Any]]) -> Figure:
    """A panel of parameters for every model, and one of memory where more than the weights is known."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    known = ("measured_peak_bytes", "optimizer_bytes", "activation_bytes")
    memory = any(row[key] for row in rows for key in known)
    kinds = []
    for model in dict.fromkeys(row["panel"] for row in rows):
        shown = [row for row in rows if row["panel"] == model]
        kinds += [row | {"of": "Trainable parameters"} for row in shown]
        kinds += [row | {"of": "Memory, GiB"} for row in shown] if memory else []

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        labels = [wrapped(row["label"]) for row in shown]
        axis.set_xlabel(shown[0]["of"])
        if shown[0]["of"] == "Trainable parameters":
            bars = axis.barh(
                labels, [row["parameters"] for row in shown], color="#56B4E9", edgecolor="0.2", linewidth=0.4
            )
            axis.bar_label(bars, [short(row["parameters"]) for row in shown], padding=2, fontsize=6)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axis.margins(x=0.2)
        else:
            _memory_bars(axis, shown, labels)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_ylim(max(len(shown), 3) - 0.4, -0.6)
        axis.grid(False, axis="y")

    most = max((sum(row["panel"] == name for row in rows) for name in {row["panel"] for row in rows}), default=4)
    height = 0.8 + 0.16 * most
    return panels(kinds, draw, height, across=2, breadth=WIDE) if memory else panels(kinds, draw, height)


def _memory_bars(axis: Axes, shown: list[dict[str, Any]], labels: list[str]) -> None:
    gib = {part: [(row[f"{part}_bytes"] or 0) / 2**30 for row in shown] for part in PARTS}
    draw_stack(
        axis, labels, {f"{part}, estimated": (widths, *PARTS[part]) for part, widths in gib.items() if any(widths)}
    )
    measured = [
        (row["measured_peak_bytes"] / 2**30, wrapped(row["label"])) for row in shown if row["measured_peak_bytes"]
    ]
    if measured:
        axis.plot(*zip(*measured, strict=True), "D", color="black", markersize=3, label="measured peak")


def _draw(results: Results, layout: Layout) -> Figure:
    plan = picked(results).plan
    among = apart(plan, layout.tables, (row.method for row in layout.rows))
    return footprint_figure(footprint_data(plan, layout, footprint_lines(results), among))


FOOTPRINT_BARS = FigureView(
    key="footprint",
    subjects=of_layouts("footprint-"),
    caption=lambda plan, layout: (
        f"{layout.title}: trainable parameters, and memory at the peak of a training step: estimated parts stacked,"
        " what the allocator held at the most as diamonds. Of many methods those that comparisons were planned for; all"
        " are in the table below."
    ),
    draw=_draw,
)
