"""Collected files and records to figures, PNG and SVG: `figures/<name>.{png,svg}`. The same files, the same bytes.

`sbora-bench figures -e EXPERIMENT`. What is plotted comes from `*_data`, plain rows; drawing adds no numbers. A method
has one colour, marker and dash everywhere, so that it can be told in grey.
"""

from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation

from sbora_bench.analysis.csv_files import by_place, read_budget, read_footprint, read_scores
from sbora_bench.analysis.entries import entries, row_titles
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.pareto import COSTS, pareto_data
from sbora_bench.analysis.rate_gains import rate_rows
from sbora_bench.errors import UserError
from sbora_bench.files import whole_file
from sbora_bench.plan.experiment import Cell, Plan
from sbora_bench.plan.file_names import DRAWS, FIGURE_FORMATS, Layout, also_name, draw_groups, layouts, rates_name
from sbora_bench.report.learning_rate_tables import curve
from sbora_bench.report.plotting import STYLE, look, panels, short, short_ticks, untuned
from sbora_bench.report.side_figures import also_data, also_figure, draws_data, draws_figure, rates_figure
from sbora_bench.report.tables import lines_of, read_paper_footprint, trainable
from sbora_bench.results.paper.reported import AVERAGE
from sbora_bench.results.read import Results

# part of the memory -> hatch and colour
PARTS = {"weights": ("", "#BBBBBB"), "optimizer": ("///", "#E69F00"), "activation": ("...", "#009E73")}
PARTS |= {"other": ("xx", "#CC79A7")}
KINDS = {"weights": ("", "#BBBBBB"), "adapter": ("\\\\", "#0072B2"), "gradients": ("xx", "#CC79A7")}
KINDS |= {"optimizer": ("///", "#E69F00"), "activations": ("...", "#009E73"), "logits": ("++", "#D55E00")}
KINDS |= {"temporaries": ("--", "#F0E442")}
METADATA = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


def figures(plan: Plan, results: Path) -> None:
    """Write every file of `outputs.figure_files`. Raises UserError where `collect` has not run."""
    scores, footprint, budget = read_scores(results), read_footprint(results), read_budget(results)
    folder, whole = results / "figures", Results(plan, results)
    shown = picked(whole)
    plan = shown.plan
    with matplotlib.style.context(["default", STYLE]):  # not the user's own matplotlibrc
        for layout in layouts(plan):
            points = score_data(plan, layout, scores, footprint, budget)
            _write(score_figure(plan, points), folder / f"score-{layout.name}")
            _write(pareto_figure(plan, pareto_data(points)), folder / f"pareto-{layout.name}")
            bars = footprint_data(plan, layout, footprint)
            _write(footprint_figure(bars), folder / f"footprint-{layout.name}")
        for table, entry in plan.experiment.tables.items():
            if entry.learning_rates:
                points = curve(rate_rows(whole, table), plan)
                _write(rates_figure(plan, points), folder / rates_name(table))
            if entry.also:
                _write(also_figure(plan, also_data(shown, table)), folder / also_name(table))
            _write(training_figure(plan, training_data(shown, table)), folder / f"training-{table}")
        if draw_groups(plan):
            _write(draws_figure(draws_data(shown)), folder / DRAWS)
        if plan.experiment.paper_footprint:
            _write(paper_footprint_figure(plan, results), folder / "paper_footprint")
            _write(paper_memory_figure(plan, results / "paper_memory.csv"), folder / "paper_memory")


def _write(figure: Figure, path: Path) -> None:
    for suffix in FIGURE_FORMATS:
        with whole_file(path.with_name(f"{path.name}.{suffix}")) as beside:
            figure.savefig(beside, format=suffix, metadata=METADATA[suffix])


# --- what is plotted ------------------------------------------------------------------------------------------------


def score_data(
    plan: Plan, layout: Layout, scores: pd.DataFrame, footprint: pd.DataFrame, budget: pd.DataFrame
) -> list[dict[str, Any]]:
    """Rows of panel, method, rank, parameters, peak (bytes, foretold), seconds (a run), mean, low, high (per cent).

    For the average, or else every column.
    """
    names = [AVERAGE] if layout.averaged else [column.title for column in layout.columns]
    rows, counted, given = [], by_place(footprint), by_place(budget)
    for row, cells in entries(plan, layout, scores).items():
        for name, cell in zip(names, cells[-1:] if layout.averaged else cells, strict=True):
            if cell.summary is None:
                continue
            rows.append(
                {
                    "panel": f"{row_titles(plan, row)[0]}: {name}",
                    "method": row.method,
                    "rank": row.rank,
                    "parameters": trainable(layout, row, counted),
                    "peak": foretold_peak(layout, row, counted),
                    "seconds": training_seconds(layout, row, given),
                    "mean": cell.summary.mean,
                    "low": cell.summary.low,
                    "high": cell.summary.high,
                }
            )
    return rows


def foretold_peak(layout: Layout, row: Cell, footprint: dict[tuple, Any]) -> int | None:
    """Bytes at the peak of a row's training step: the highest of its tables'; None for an untuned base."""
    known = [line.peak_bytes for line in lines_of(layout, row, footprint) if line.peak_bytes is not None]
    return None if row.is_base else max(known, default=None)


def training_seconds(layout: Layout, row: Cell, budget: dict[tuple, Any]) -> float | None:
    """Of a row's training, a mean over the seeds: the longest of its tables'; None for an untuned base."""
    return max((line.seconds for line in lines_of(layout, row, budget) if line.seconds is not None), default=None)


def training_data(results: Results, table: str) -> list[dict[str, Any]]:
    """Rows of panel, method, step, and mean, low, high of the seeds' loss; `kind` is training or validation."""
    rows, plan = [], results.plan
    for cell, runs in plan.runs_by_cell(table).items():
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
                        "panel": f"{plan.catalog.models[cell.model].title}, r = {cell.rank}",
                        "method": cell.method,
                        "kind": kind,
                        "step": step,
                        "mean": sum(losses) / len(losses),
                        "low": min(losses),
                        "high": max(losses),
                    }
                )
    return rows


def footprint_data(plan: Plan, layout: Layout, footprint: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of panel, label, parameters, the predicted bytes of each part and the measured peak (None: not known)."""
    rows, counted = [], by_place(footprint)
    for row in layout.rows:
        mine = lines_of(layout, row, counted)
        if row.is_base or not mine:
            continue
        first, (model, method) = mine[0], row_titles(plan, row)
        known = {key: value for key, value in first._asdict().items() if key.endswith("_bytes")}
        parts = [known[f"{part}_bytes"] for part in PARTS if part != "other"]
        known["other_bytes"] = None if known["peak_bytes"] is None else known["peak_bytes"] - sum(filter(None, parts))
        measured = [line.measured_peak_bytes for line in mine if line.measured_peak_bytes is not None]
        rows.append(
            {
                "panel": model,
                "label": f"{method} r = {row.rank}",
                "parameters": first.trainable_parameters,
                **known,
                "measured_peak_bytes": max(measured, default=None),
            }
        )
    return rows


# --- how it is drawn ------------------------------------------------------------------------------------------------


def score_figure(plan: Plan, rows: list[dict[str, Any]]) -> Figure:
    """Score against trained parameters, a panel a column and model; above each cluster of points its ranks."""

    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        untuned(axis, mine)
        tuned = [row for row in mine if row["parameters"] is not None]
        methods = list(dict.fromkeys(row["method"] for row in tuned))
        for place, method in enumerate(methods):
            points = sorted((row for row in tuned if row["method"] == method), key=lambda row: row["parameters"])
            _points(axis, plan, points, "parameters", apart=place - (len(methods) - 1) / 2)
        for ranks, x, top in clusters(tuned):
            told = ", ".join(f"r{rank}" for rank in ranks)
            axis.annotate(told, (x, top), xytext=(0, 3), textcoords="offset points", fontsize=6, ha="center")
        axis.set_xlim(left=0)
        _score_axis(axis, mine, COSTS["parameters"])

    return panels(rows, draw)


def clusters(rows: list[dict[str, Any]], within: float = 0.06) -> list[tuple[list[int], float, float]]:
    """Points whose parameters lie within a share of the largest: their ranks, mean parameters, and highest end."""
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
            min(100, max(_top(row) for row in group)),
        )
        for group in groups
    ]


def _top(row: dict[str, Any]) -> float:
    return row["mean"] if row["high"] is None else row["high"]


def _points(axis: Axes, plan: Plan, points: list[dict[str, Any]], key: str, apart: float = 0, **style: Any) -> None:
    """One method's points with their intervals, moved sideways by `apart` times 1.6 pt to be seen beside others."""
    low = [0 if row["low"] is None else row["mean"] - row["low"] for row in points]
    high = [0 if row["high"] is None else row["high"] - row["mean"] for row in points]
    moved = axis.transData + ScaledTranslation(1.6 * apart / 72, 0, axis.figure.dpi_scale_trans)
    x, y = [row[key] for row in points], [row["mean"] for row in points]
    drawn = look(plan, points[0]["method"]) | style
    axis.errorbar(x, y, yerr=[low, high], elinewidth=0.8, transform=moved, **drawn)
    axis.update_datalim(list(zip(x, y, strict=True)))
    axis.autoscale_view()


def _score_axis(axis: Axes, mine: list[dict[str, Any]], title: str) -> None:
    short_ticks(axis)
    axis.set_xlabel(title)
    axis.set_ylabel("Score, %")
    axis.set_ylim(0, min(106, max([*map(_top, mine), 10]) * 1.1))


def pareto_figure(plan: Plan, rows: list[dict[str, Any]]) -> Figure:
    """A panel a model, column and cost; what no other cell beats on both stands on the stepped line, ringed."""

    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        ahead = sorted((row["cost"], row["mean"]) for row in mine if row["front"])
        x, y = [cost for cost, _ in ahead], [score for _, score in ahead]
        axis.step([*x, max(row["cost"] for row in mine)], [*y, y[-1]], where="post", color="0.45", linewidth=0.9)
        axis.plot(x, y, "o", markersize=9, markerfacecolor="none", markeredgecolor="0.2", label="best for its cost")
        for method in dict.fromkeys(row["method"] for row in mine):
            points = [row for row in mine if row["method"] == method]
            _points(axis, plan, points, "cost", linestyle="none")
        axis.set_xlim(0, 1.08 * max(row["cost"] for row in mine))
        _score_axis(axis, mine, mine[0]["of"])

    return panels(rows, draw)


def training_figure(plan: Plan, rows: list[dict[str, Any]]) -> Figure:
    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        for method, kind in dict.fromkeys((row["method"], row["kind"]) for row in mine):
            points = [row for row in mine if (row["method"], row["kind"]) == (method, kind)]
            style = look(plan, method)
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

    return panels(rows, draw)


def footprint_figure(rows: list[dict[str, Any]]) -> Figure:
    """A panel of parameters for every model, and one of memory where more than the weights is known."""
    known = ("measured_peak_bytes", "optimizer_bytes", "activation_bytes")
    memory = any(row[key] for row in rows for key in known)
    kinds = []
    for model in dict.fromkeys(row["panel"] for row in rows):
        mine = [row for row in rows if row["panel"] == model]
        kinds += [row | {"of": "Trainable parameters"} for row in mine]
        kinds += [row | {"of": "Memory, GiB"} for row in mine] if memory else []

    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        labels = [row["label"] for row in mine]
        axis.set_xlabel(mine[0]["of"])
        if mine[0]["of"] == "Trainable parameters":
            bars = axis.barh(
                labels, [row["parameters"] for row in mine], color="#56B4E9", edgecolor="0.2", linewidth=0.4
            )
            axis.bar_label(bars, [short(row["parameters"]) for row in mine], padding=2, fontsize=6)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
            axis.margins(x=0.2)
        else:
            _memory_bars(axis, mine, labels)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_ylim(max(len(mine), 3) - 0.4, -0.6)
        axis.grid(False, axis="y")

    most = max((sum(row["panel"] == name for row in rows) for name in {row["panel"] for row in rows}), default=4)
    return panels(kinds, draw, height=0.8 + 0.16 * most, across=2 if memory else 3)


def _memory_bars(axis: Axes, mine: list[dict[str, Any]], labels: list[str]) -> None:
    known = {part: [(row[f"{part}_bytes"] or 0) / 2**30 for row in mine] for part in PARTS}
    _stack(axis, labels, {f"{part}, foretold": (widths, *PARTS[part]) for part, widths in known.items() if any(widths)})
    measured = [(row["measured_peak_bytes"] / 2**30, row["label"]) for row in mine if row["measured_peak_bytes"]]
    if measured:
        axis.plot(*zip(*measured, strict=True), "D", color="black", markersize=3, label="measured peak")


def _stack(axis: Axes, labels: list[str], parts: dict[str, tuple[list[float], str, str]]) -> None:
    """Bars of several parts one after the other; each part: a width a bar, its hatch and its colour."""
    left = [0.0] * len(labels)
    for label, (widths, hatch, color) in parts.items():
        axis.barh(labels, widths, left=left, color=color, hatch=hatch, edgecolor="0.2", linewidth=0.4, label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]


def paper_memory_figure(plan: Plan, path: Path) -> Figure:
    """A panel a table and model of the paper: a bar a method, its kinds stacked. Raises UserError without the file."""
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `sbora-bench footprint --paper-memory` first") from None
    rows = [
        {
            "panel": f"{plan.catalog.models[row['model']].title}, {row['micro_batch']} x {row['length']} tokens",
            "label": f"{plan.catalog.methods[row['method']].title} r = {row['rank']}",
            **{kind: row[kind] / 2**30 for kind in KINDS},
        }
        for row in frame.to_dict("records")
    ]

    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        parts = {kind: ([row[kind] for row in mine], *drawn) for kind, drawn in KINDS.items()}
        _stack(axis, [row["label"] for row in mine], parts)
        axis.set_xlabel("Memory at the peak, GiB")
        axis.invert_yaxis()
        axis.grid(False, axis="y")

    return panels(rows, draw, height=1.7)


def paper_footprint_figure(plan: Plan, results: Path) -> Figure:
    rows = []
    for line in read_paper_footprint(results):
        if line["trainable_parameters"]:
            method = plan.catalog.methods.get(line["method"])
            rank = f" r = {line['rank']}" if line["rank"] else ""
            model = plan.catalog.models.get(line["model"])
            name = f"{model.title if model else line['model']}, {method.title if method else line['method']}{rank}"
            reported = float(line["reported_millions"]) if line["reported_millions"] else None
            panel = line["table"].replace("_", " ")
            rows.append(
                {"panel": panel, "label": name, "count": int(line["trainable_parameters"]), "reported": reported}
            )

    def draw(axis: Axes, mine: list[dict[str, Any]]) -> None:
        labels = [row["label"] for row in mine]
        counts = [row["count"] / 1e6 for row in mine]
        axis.barh(labels, counts, color="#56B4E9", edgecolor="0.2", linewidth=0.4, label="counted")
        said = [(row["reported"], row["label"]) for row in mine if row["reported"] is not None]
        if said:
            axis.plot(*zip(*said, strict=True), "D", color="black", markersize=3, label="reported")
        axis.set_xlabel("Trainable parameters, millions")
        axis.invert_yaxis()
        axis.grid(False, axis="y")

    return panels(rows, draw, height=4.0)
