"""What all figures share: the look of a method, a panel a value, short numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.plan.titles import method_titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = Path(__file__).parent / "paper.mplstyle"
WIDE = 3.1  # inches of a panel whose title, rates or numbers below bars need room
MARKERS = "os^vDPX*"
LABEL_WIDTH, PANEL_WIDTH = 32, 44  # characters of a line of a label, and of a panel's title
LETTER, LEGEND_MARK = 0.065, 0.45  # inches of a legend: a letter at most, and what stands before the text
FAR = 2  # times what the methods' intervals take: a base further from them stands in words
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 5))]


def short(number: float) -> str:
    """28000000 -> 28M: three digits and a unit."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def wrapped(title: str, width: int = LABEL_WIDTH) -> str:
    """A title on several lines where it is long."""
    return textwrap.fill(title, width, break_on_hyphens=False)


def method_style(plan: Plan, method: str, among: Sequence[str] = ()) -> dict[str, Any]:
    """Colour, marker and dash of a method: by its place in the catalog, or among a few, to be known in grey too."""
    import matplotlib

    place = (among or list(plan.catalog.methods)).index(method)
    colors = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    rounds = place // len(colors)  # a colour that comes again has another marker
    return {
        "color": colors[place % len(colors)],
        "marker": MARKERS[(place + (0 if among else rounds)) % len(MARKERS)],
        "fillstyle": "none" if among and place // len(MARKERS) % 2 else "full",  # as many shapes more
        "linestyle": DASHES[(place + rounds) % len(DASHES)],
        "label": wrapped(method_titles(plan).get(method, plan.catalog.methods[method].title)),
    }


def draw_untuned(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """The untuned base among `rows` as a dashed line at its mean; in words where the others would shrink to a line."""
    tuned = [row for row in rows if row["method"] != "base"]
    for base in (row for row in rows if row["method"] == "base"):
        mean, (low, high) = base["mean"], _in_sight(tuned)
        if not tuned or base["metric"].is_share or low <= mean <= high:
            axis.axhline(mean, color="0.4", linestyle=(0, (4, 3)), linewidth=0.9, label="Base, untuned")
            continue
        arrow, y, end = ("↑", 0.98, "top") if mean > high else ("↓", 0.02, "bottom")
        words = f"{arrow} Base, untuned: {mean:.3g}"
        axis.text(0.98, y, words, ha="right", va=end, transform=axis.transAxes, fontsize=6, color="0.4")


def _in_sight(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """What the intervals of `rows` take, and FAR times as much on either side."""
    low, high = min(map(lower_end, rows), default=0), max(map(upper_end, rows), default=0)
    return low - FAR * (high - low), high + FAR * (high - low)


def short_ticks(axis: Axes) -> None:
    """Few numbers below the axis, short ones."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    if axis.get_xscale() != "log":
        axis.xaxis.set_major_locator(MaxNLocator(5))


def panels(
    rows: list[dict[str, Any]],
    draw: Callable[[Axes, list[dict]], None],
    height: float = 2.4,
    across: int = 3,
    breadth: float = 2.5,
) -> Figure:
    """A panel for every value of `panel` (and `of`), `across` in a line, one legend below; or says there's nothing.

    `height`, `breadth`: inches of a panel.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys((row["panel"], row.get("of")) for row in rows))
    across = min(across, max(1, len(names)))
    down = -(-max(1, len(names)) // across)
    width = max(3.6, breadth * across)
    figure = Figure(figsize=(width, height * down + 0.4))
    if not names:
        figure.text(0.5, 0.5, "Nothing to draw: no run has finished.", ha="center")
        return figure
    axes = figure.subplots(down, across, squeeze=False)
    handles: dict[str, Any] = {}
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.set_title(wrapped(name[0], PANEL_WIDTH))
        draw(axis, [row for row in rows if (row["panel"], row.get("of")) == name])
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        longest = max(len(line) for label in handles for line in label.split("\n"))
        columns = min(4, len(handles), max(1, int(width / (LEGEND_MARK + LETTER * longest))))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    return figure


large_panels = partial(panels, height=3.6, across=1, breadth=5)  # of few methods among many, all ranks in one


def upper_end(row: dict[str, Any]) -> float:
    """Of a point's interval; the point itself where it has none."""
    return row["mean"] if row["high"] is None else row["high"]


def draw_points(axis: Axes, plan: Plan, points: list[dict[str, Any]], key: str, apart: float = 0, **style: Any) -> None:
    """One method's points with their intervals, moved sideways by `apart` times 1.6 pt to be seen beside others."""
    from matplotlib.transforms import ScaledTranslation

    low, high = [row["mean"] - lower_end(row) for row in points], [upper_end(row) - row["mean"] for row in points]
    moved = axis.transData + ScaledTranslation(1.6 * apart / 72, 0, axis.figure.dpi_scale_trans)
    x, y = [row[key] for row in points], [row["mean"] for row in points]
    drawn = method_style(plan, points[0]["method"]) | style
    axis.errorbar(x, y, yerr=[low, high], transform=moved, **{"elinewidth": 0.8} | drawn)
    axis.update_datalim([(row[key], end(row)) for row in points for end in (lower_end, upper_end)])
    axis.autoscale_view()


def draw_others(axis: Axes, points: list[dict[str, Any]], key: str) -> None:
    """The points of methods that are not told apart, as grey dashes without intervals; nothing of none."""
    if points:
        count = len({row["method"] for row in points})
        x, y = [row[key] for row in points], [row["mean"] for row in points]
        axis.plot(x, y, "_", color="0.6", markersize=7, zorder=1, label=f"{count} other methods")


def score_label(metric: Metric) -> str:
    """What an axis of scores says."""
    unit = f", {metric.shown_unit}" if metric.shown_unit else ""
    return f"Score{unit}" + ("" if metric.higher_is_better else " (less is better)")


def lower_end(row: dict[str, Any]) -> float:
    """As `upper_end`."""
    return row["mean"] if row["low"] is None else row["low"]


def score_axis(axis: Axes, points: list[dict[str, Any]], title: str) -> None:
    """Scores against what `title` says; of shares, what the intervals take and no less than ten points."""
    metric = points[0]["metric"] if points else SHARE
    short_ticks(axis)
    axis.set_xlabel(title)
    axis.set_ylabel(score_label(metric))
    if metric.is_share and points:
        low, high = min(map(lower_end, points)), max(map(upper_end, points))
        room = max(0.12 * (high - low), (10 - (high - low)) / 2)
        axis.set_ylim(max(0, low - room), min(106, high + room))


def draw_stack(axis: Axes, labels: list[str], parts: dict[str, tuple[list[float], str, str]]) -> None:
    """Bars of several parts one after the other; each part: a width a bar, its hatch and its colour."""
    left = [0.0] * len(labels)
    for label, (widths, hatch, color) in parts.items():
        axis.barh(labels, widths, left=left, color=color, hatch=hatch, edgecolor="0.2", linewidth=0.4, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]


def first_above(axis: Axes, title: str) -> None:
    """Bars to the right, the first above the others; `title` says what their lengths are."""
    axis.set_xlabel(title)
    axis.invert_yaxis()
    axis.grid(False, axis="y")
