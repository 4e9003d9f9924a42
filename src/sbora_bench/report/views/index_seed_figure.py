"""Score by index seed, a line a seed of the data order: `draws`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.index_seeds import scores_of_group
from sbora_bench.plan.factorials import DRAWS, draw_groups
from sbora_bench.plan.titles import model_title
from sbora_bench.report.plotting import panels
from sbora_bench.report.view import FigureView, of_experiment
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def index_seed_data(results: Results) -> list[dict[str, Any]]:
    """Rows of panel, index_seed, seed, score in per cent."""
    rows, plan = [], results.plan
    for group in draw_groups(plan):
        scores = scores_of_group(results, group)
        for index, line in zip(group.index_seeds, () if scores is None else scores, strict=False):
            for seed, score in zip(plan.experiment.tables[group.table].common_seeds, line, strict=True):
                panel = f"{model_title(plan, group)}, {group.title}, r = {group.rank}"
                rows.append({"panel": panel, "index_seed": index, "seed": seed, "score": float(score)})
    return rows


def index_seed_figure(rows: list[dict[str, Any]]) -> Figure:
    """Score by index seed, a line a seed of the data order: lines that keep apart are the order, steps are the draw."""
    from matplotlib.ticker import MaxNLocator

    def draw(axis: Axes, shown: list[dict[str, Any]]) -> None:
        for place, seed in enumerate(dict.fromkeys(row["seed"] for row in shown)):
            points = [row for row in shown if row["seed"] == seed]
            style: dict[str, Any] = {"marker": "os^vD"[place % 5], "linewidth": 0.9}
            style["linestyle"] = ["-", "--", "-.", ":"][place % 4]
            x, y = [row["index_seed"] for row in points], [row["score"] for row in points]
            axis.plot(x, y, label=f"data order {seed}", **style)
        axis.set_xlabel("Index seed")
        axis.set_ylabel("Score, %")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))

    return panels(rows, draw, across=2)


INDEX_SEED_LINES = FigureView(
    key="index seeds",
    subjects=of_experiment(DRAWS, lambda plan: bool(draw_groups(plan))),
    caption=lambda plan, _: (
        "Score by index seed, which draws the columns or rows, a line a seed of data order and dropout: lines that keep"
        " apart show the order's part, common steps the draw's."
    ),
    draw=lambda results, _: index_seed_figure(index_seed_data(results)),
    published=True,
)
