"""Figures of what a table varies or scores beside the usual: learning rates, other suites, the draw of a region."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sbora_bench.analysis.forgetting import LOSS, also_rows
from sbora_bench.analysis.index_seeds import scores_of_group
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.file_names import draw_groups
from sbora_bench.report.forgetting_tables import measure_title
from sbora_bench.report.plotting import look, panels, short_ticks, untuned
from sbora_bench.results.read import Results


def rates_figure(plan: Plan, rows: list[dict[str, Any]]) -> Figure:
    """Score against learning rate, the rate picked ringed."""

    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        for method in dict.fromkeys(row["method"] for row in mine):
            points = sorted((row for row in mine if row["method"] == method), key=lambda row: row["rate"])
            x, y = [row["rate"] for row in points], [row["mean"] for row in points]
            axis.errorbar(x, y, yerr=[row["sd"] for row in points], elinewidth=0.8, **look(plan, method))
            ringed = [(row["rate"], row["mean"]) for row in points if row["picked"]]
            axis.plot(*zip(*ringed, strict=True), "o", markersize=9, fillstyle="none", color="0.2", linestyle="")
        rates = sorted({row["rate"] for row in mine})
        axis.set_xscale("log")
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xlabel("Learning rate")
        axis.set_ylabel("Score, %")
        axis.set_ylim(0, 100)

    return panels(rows, draw, across=2)


def also_data(results: Results, table: str) -> list[dict[str, Any]]:
    """Rows of panel, method, x (rank or trainable parameters), mean, low, high: per cent, or nats a token."""
    rows, plan = [], results.plan
    for row in also_rows(results, table):
        scale = 1 if row["measure"].endswith(LOSS) else 100
        ends = [row["mean"] if row[end] is None else row[end] for end in ("low", "high")]
        mean, low, high = (scale * value for value in (row["mean"], *ends))
        title = f"{plan.catalog.models[row['model']].title}: {measure_title(plan, row['measure'])}"
        own = row["measure"] == plan.experiment.tables[table].suite
        for of, key in ((("Rank", "rank"),) if own else ()) + (("Trainable parameters", "trainable_parameters"),):
            point = {"panel": title, "of": of, "method": row["method"], "x": row[key], "rank": row["rank"]}
            rows.append(point | {"mean": mean, "low": low, "high": high, "measure": row["measure"]})
    return rows


def also_figure(plan: Plan, rows: list[dict[str, Any]]) -> Figure:
    """Each suite against rank or parameters: a panel a measure; the untuned base dashed."""

    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        untuned(axis, mine)
        for method in dict.fromkeys(row["method"] for row in mine if row["x"] is not None and row["method"] != "base"):
            points = sorted((row for row in mine if row["method"] == method), key=lambda row: row["x"])
            y = [row["mean"] for row in points]
            bars = [[row["mean"] - row["low"] for row in points], [row["high"] - row["mean"] for row in points]]
            axis.errorbar([row["x"] for row in points], y, yerr=bars, elinewidth=0.8, **look(plan, method))
        axis.set_xlim(left=0)
        short_ticks(axis)
        axis.set_xlabel(mine[0]["of"])
        loss = mine[0]["measure"].endswith(LOSS)
        axis.set_ylabel("Loss, nats a token" if loss else "Score, %")
        axis.set_ylim(bottom=0)

    return panels(rows, draw, across=2)


def draws_data(results: Results) -> list[dict[str, Any]]:
    """Rows of panel, index_seed, seed, score in per cent."""
    rows, plan = [], results.plan
    for group in draw_groups(plan):
        scores = scores_of_group(results, group)
        for index, line in zip(group.index_seeds, () if scores is None else scores, strict=False):
            for seed, score in zip(plan.experiment.tables[group.table].seeds, line, strict=True):
                panel = f"{plan.catalog.models[group.model].title}, {group.title}, r = {group.rank}"
                rows.append({"panel": panel, "index_seed": index, "seed": seed, "score": float(score)})
    return rows


def draws_figure(rows: list[dict[str, Any]]) -> Figure:
    """Score by index seed, a line a seed of the data order: lines that keep apart are the order, steps are the draw."""

    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        for place, seed in enumerate(dict.fromkeys(row["seed"] for row in mine)):
            points = [row for row in mine if row["seed"] == seed]
            style: dict[str, Any] = {"marker": "os^vD"[place % 5], "linewidth": 0.9}
            style["linestyle"] = ["-", "--", "-.", ":"][place % 4]
            x, y = [row["index_seed"] for row in points], [row["score"] for row in points]
            axis.plot(x, y, label=f"data order {seed}", **style)
        axis.set_xlabel("Index seed")
        axis.set_ylabel("Score, %")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))

    return panels(rows, draw, across=2)
