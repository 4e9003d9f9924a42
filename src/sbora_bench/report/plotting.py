"""What all figures share: the look of a method, a panel a value, short numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sbora_bench.plan.experiment import Plan

STYLE = Path(__file__).parent / "paper.mplstyle"
MARKERS = "os^vDPX*"
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 5))]


def short(number: float) -> str:
    """28000000 -> 28M: three digits and a unit."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def look(plan: Plan, method: str) -> dict[str, Any]:
    """Colour, marker and dash of a method: by its place in the catalog."""
    place = list(plan.catalog.methods).index(method)
    colors = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return {
        "color": colors[place % len(colors)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place % len(DASHES)],
        "label": plan.catalog.methods[method].title,
    }


def untuned(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """The untuned base among `rows` as a dashed line at its mean."""
    for row in rows:
        if row["method"] == "base":
            axis.axhline(row["mean"], color="0.4", linestyle=(0, (4, 3)), linewidth=0.9, label="Base, untuned")


def short_ticks(axis: Axes) -> None:
    """Few numbers below the axis, short ones."""
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.xaxis.set_major_locator(MaxNLocator(5))


def panels(
    rows: list[dict[str, Any]], draw: Callable[[Axes, list[dict]], None], height: float = 2.4, across: int = 3
) -> Figure:
    """A panel for every value of `panel` (and `of`), `across` in a line, one legend below; or says there's nothing."""
    names = list(dict.fromkeys((row["panel"], row.get("of")) for row in rows))
    across = min(across, max(1, len(names)))
    down = -(-max(1, len(names)) // across)
    figure = Figure(figsize=(max(3.6, 2.5 * across), height * down + 0.4))
    if not names:
        figure.text(0.5, 0.5, "Nothing to draw: no run has finished.", ha="center")
        return figure
    axes = figure.subplots(down, across, squeeze=False)
    handles: dict[str, Any] = {}
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.set_title(name[0])
        draw(axis, [row for row in rows if (row["panel"], row.get("of")) == name])
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(handles)))
    return figure
