"""The planned differences with their intervals and the zone that doesn't matter: the forest plot `forest`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sbora_bench.analysis.judged import Judgement, judgements
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.titles import model_titles, ranked_title
from sbora_bench.report.verdicts import ARROWS
from sbora_bench.report.view import FigureView, of_experiment
from sbora_bench.report.views.verdict_table import has_comparisons

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT = 7.5  # points
FROM_LEFT = ("figure fraction", "data")
BESIDE = ("axes fraction", "data")  # a place across the panel, and a row
BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
COLORS = {"better": "#0072B2", "worse": "#B84E00", "equivalent": "#00795A", "undecided": "#666666"}
MARKERS = {"better": "^", "worse": "v", "equivalent": "s", "undecided": "o"}
WIDTH = 4.9  # inches: as much as stands on a screen of 1,280 pixels beside the sentences and the scores
HEIGHT = 6.6  # inches at the most that such a screen has, as long as rows are no lower than LOW_ROW
USUAL, LETTER = 36, 0.06  # signs of a label that WIDTH has room for, and inches of one more
ROW, LOW_ROW = 0.2, 0.145  # inches
BELOW, SIDES = 0.38, 0.17  # inches of what stands below a panel, and once more of which side is the better
APART = 8
TICKS = 4  # of a panel, beyond the first: more run into each other where they have a sign and three decimals


def forest_figure(plan: Plan, rows: list[Judgement]) -> Figure:
    """A block a table and model, a row a comparison; a panel a unit and direction, or where blocks reach `APART` times
    as far as others a panel a block, so that none hides another's margin.
    """
    from matplotlib.figure import Figure

    panels = panels_of(rows)
    lines = [len(of_panel) + len(_blocks(of_panel)) for of_panel in panels]
    below = BELOW * len(panels) + SIDES
    row = max(LOW_ROW, min(ROW, (HEIGHT - below) / max(1, sum(lines))))
    longest = max((len(_label(plan, one)) for one in rows), default=0)
    width = WIDTH + LETTER * max(0, longest - USUAL)
    figure = Figure(figsize=(width, row * sum(lines) + below))
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=lines)[:, 0]
    for axis, of_panel in zip(axes, panels, strict=True):
        _panel(axis, plan, of_panel)
    sides = "◀ first is worse     (shaded: within the margin)     first is better ▶"
    axes[-1].set_xlabel(f"{axes[-1].get_xlabel()}\n{sides}")
    return figure


def panels_of(rows: list[Judgement]) -> list[list[Judgement]]:
    """The rows of each panel."""
    kinds: dict[tuple[str, bool], list[Judgement]] = {}
    for one in rows:
        kinds.setdefault((one.planned.metric.shown_unit, one.planned.metric.higher_is_better), []).append(one)
    panels = []
    for of_kind in kinds.values():
        blocks = list(_blocks(of_kind).values())
        reaches = [max(map(_reach, block)) for block in blocks]
        panels += blocks if max(reaches) > APART * min(reaches) else [of_kind]
    return panels


def _reach(one: Judgement) -> float:
    """How far from 0 a row's interval and margin go."""
    return max(one.planned.margin * one.planned.metric.scale, *(abs(end) for end in one.shown if end is not None), 0.0)


def _blocks(rows: list[Judgement]) -> dict[tuple[str, str], list[Judgement]]:
    blocks: dict[tuple[str, str], list[Judgement]] = {}
    for one in rows:
        blocks.setdefault((one.planned.table, one.planned.model), []).append(one)
    return blocks


def _panel(axis: Axes, plan: Plan, rows: list[Judgement]) -> None:
    from matplotlib.ticker import MaxNLocator

    metric = rows[0].planned.metric
    unit = "points" if metric.is_share else metric.unit
    place, ticks, labels = 0, [], []
    for (table, model), block in _blocks(rows).items():
        heading = f"{table}, {model_titles(plan, table)[model]}"
        text = axis.annotate(heading, (0.01, place), xycoords=FROM_LEFT, va="center", fontsize=TEXT, fontweight="bold")
        text.set(bbox=BEHIND, in_layout=False)
        place += 1
        for one in block:
            _row(axis, one, place)
            ticks.append(place)
            labels.append(_label(plan, one))
            place += 1
    axis.axvline(0, color="0.2", linewidth=0.8)
    axis.annotate("verdict, seeds", (1.01, 0), xycoords=BESIDE, va="center", color="0.35", fontsize=TEXT)
    axis.set_yticks(ticks, labels, fontsize=TEXT)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.set_ylim(place - 0.4, -0.6)
    axis.xaxis.set_major_locator(MaxNLocator(TICKS))
    if not metric.higher_is_better:
        axis.invert_xaxis()
    axis.set_xlabel(f"Difference, first − second, {unit}")


def _label(plan: Plan, one: Judgement) -> str:
    return " − ".join(ranked_title(plan, cell) for cell in one.planned.cells)


def _row(axis: Axes, one: Judgement, place: int) -> None:
    difference, low, high = one.shown
    margin, verdict = one.planned.margin * one.planned.metric.scale, one.decision.verdict.value
    axis.barh(place, 2 * margin, 0.9, left=-margin, color="0.88", linewidth=0)
    note = f"{ARROWS[verdict]} {verdict}, {one.decision.seeds}"
    axis.annotate(note, (1.01, place), xycoords=BESIDE, va="center", color=COLORS[verdict], fontsize=TEXT)
    if difference is None:
        return
    spread = None if low is None or high is None else [[difference - low], [high - difference]]
    color, marker = COLORS[verdict], MARKERS[verdict]
    axis.errorbar(
        [difference],
        [place],
        xerr=spread,
        elinewidth=1.4,
        capsize=2,
        markersize=5,
        linestyle="none",
        color=color,
        marker=marker,
    )


FOREST = FigureView(
    key="forest",
    subjects=of_experiment("forest", has_comparisons),
    caption=lambda plan, _: (
        "The planned differences, first method less second. Bars: the repeated intervals, two-sided; each table's hold"
        " together at 95 %, wherever training stopped. Shaded: within the margin, the difference that doesn't matter."
        " At the right the verdict on the first method (better, worse: the interval leaves out 0, however small the"
        " difference; equivalent: it lies within the margin) and the number of seeds that it rests on."
    ),
    draw=lambda results, _: forest_figure(results.plan, judgements(results)),
    published=True,
    section="answer",
)
