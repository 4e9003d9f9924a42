"""The experiment on one self-contained page, `report.html`: the answer first, then what it rests on.

`sbora-bench report -e EXPERIMENT`. Works offline, runs no script and asks for nothing; all text is escaped.
"""

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from sbora_bench import audit, claims
from sbora_bench.collect import contamination_of, read_footprint, read_scores, task_scores, training_of
from sbora_bench.errors import UserError
from sbora_bench.experiment import Plan, Run
from sbora_bench.files import write_text
from sbora_bench.outputs import figure_captions, layouts
from sbora_bench.paper.reported import AVERAGE
from sbora_bench.render import Cell, View, environment
from sbora_bench.separation import Separation, separation
from sbora_bench.separation_tables import count_columns, separation_views, verdict
from sbora_bench.tables import entries, row_titles, views


def report(plan: Plan, results: Path) -> None:
    """Write `report.html`. Raises UserError where `collect`, `figures` or `audit` has not run."""
    found, figures = separation(plan, results), figures_of(plan, results)
    findings = audit.read_findings(results / "audit.json")
    page = environment().get_template("report.html")
    text = page.render(
        title=plan.experiment.title,
        description=plan.experiment.description,
        experiment=plan.name,
        results=f"results/{plan.name}",
        answer=answer(plan, results, found),
        tables=views(plan, results),
        separation=separation_views(plan, found),
        figures=figures,
        contamination=contamination_view(plan, results),
        footprint=footprint_view(plan, results),
        claims=claims.view(plan, results, found, findings),
        audit=audit.view(findings),
        runs=runs_view(plan, results),
    )
    write_text(results / "report.html", text)


def answer(plan: Plan, results: Path, found: Separation) -> list[str]:
    """What came out, in sentences: the highest score of every table, and what the tests could tell apart."""
    scores, sentences = read_scores(results), []
    for layout in layouts(plan):
        names = [AVERAGE.lower()] if layout.averaged else [column.title for column in layout.columns]
        cells = entries(plan, layout, scores)
        for place, name in enumerate(names, start=-1 if layout.averaged else 0):
            scored = {row: each[place] for row, each in cells.items() if each[place].summary is not None}
            tuned = {row: round(cell.summary.mean, 1) for row, cell in scored.items() if row.method != "base"}
            if not tuned:
                sentences.append(f"{layout.title}: no tuned run has a score ({name}).")
                continue
            best = [row for row, mean in tuned.items() if mean == max(tuned.values())]
            who = ["{1} at rank {2} on {0}".format(*row_titles(plan, row), row.rank) for row in best]
            base = next((row for row in scored if (row.model, row.method) == (best[0].model, "base")), None)
            untuned = f" (untuned: {scored[base].text} %)" if base else ""
            sentences.append(
                f"{layout.title}: the highest {name} is {scored[best[0]].text} %, {' and '.join(who)}{untuned}."
            )
    holds, columns = count_columns(found.claims, "holds")
    differ, compared = count_columns(found.differences, "differs")
    sentences.append(
        f"LoRA at its top rank beats both the untuned base and the most frequent answer by ten points on {holds} of"
        f" {columns} columns; methods or ranks differ on {differ} of the {compared} columns where several were run."
    )
    sentences += [verdict(found)] if verdict(found) else []
    failed = scores[scores.status.isin(["failed", "not run"])].run.nunique()
    sentences += [f"{failed} of {len(plan.runs)} runs have no score: they failed or were not run."] if failed else []
    return sentences


def figures_of(plan: Plan, results: Path) -> list[dict[str, str]]:
    """The SVG of every figure as base64, with its caption. Raises UserError for a missing one."""
    found = []
    for name, caption in figure_captions(plan).items():
        path = results / "figures" / f"{name}.svg"
        try:
            found.append({"caption": caption, "data": base64.b64encode(path.read_bytes()).decode("ascii")})
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run `sbora-bench figures` first") from None
    return found


def contamination_view(plan: Plan, results: Path) -> View:
    groups = []
    for table, entry in plan.experiment.tables.items():
        record, lines = contamination_of(results, table), []
        for task in plan.tasks(table):
            data = record.tasks.get(task) if record else None
            numbers = ["not checked", "–", "–"]
            if data is not None and data.status == "ok":
                numbers = [f"{len(data.contaminated):,}", f"{data.available:,}", f"{data.n:,}"]
            elif data is not None:
                numbers = [f"{data.status} ({data.reason})", "–", "–"]
            lines.append([Cell(text) for text in (table, entry.train, plan.catalog.tasks[task].title, *numbers)])
        groups.append(lines)
    header = ["Table", "Training set", "Task", "In the training set", "Items in the file", "Items scored"]
    return View("contamination", "Test items in the training set", header, groups, [], text_columns=3)


def footprint_view(plan: Plan, results: Path) -> View:
    columns = {
        "trainable_parameters": "Trainable parameters",
        "total_parameters": "All parameters",
        "adapter_bytes": "Adapter, bytes",
        "weights_bytes": "Weights, bytes",
        "optimizer_bytes": "Optimizer, bytes",
        "activation_bytes": "Activations, bytes",
        "peak_bytes": "Peak, bytes, foretold",
        "measured_peak_bytes": "Peak, bytes, measured",
    }
    notes = [
        "Foretold: the peak of a training step at the protocol's longest, traced without weights. Measured: the most"
        " that the allocator held, on a GPU in the training runs, on a CPU in a real step of the same size where"
        " that is cheap. Error: foretold over measured. What the whole process held on a CPU stands under Runs."
    ]
    frame = read_footprint(results)
    known = [column for column in columns if frame[column].notna().any()]
    groups: dict[tuple, list[list[Cell]]] = {}
    for row in frame.to_dict("records"):
        numbers = [Cell(_whole(row[column])) for column in known]
        method = "Base, untuned" if row["method"] == "base" else plan.catalog.methods[row["method"]].title
        names = [row["table"], plan.catalog.models[row["model"]].title, method]
        line = [*(Cell(name) for name in names), Cell(_whole(row["rank"])), *numbers, Cell(_error(row))]
        groups.setdefault((row["table"], row["model"]), []).append(line)
    header = ["Table", "Model", "Method", "Rank", *(columns[column] for column in known), "Error, %"]
    return View("footprint", "Parameters and bytes", header, list(groups.values()), notes, text_columns=3)


def _error(row: dict[str, Any]) -> str:
    """How far the foretold peak is from the measured one, in per cent of the latter."""
    known = not (pd.isna(row["peak_bytes"]) or pd.isna(row["measured_peak_bytes"]))
    return f"{100 * (row['peak_bytes'] / row['measured_peak_bytes'] - 1):+.1f}" if known else "–"


def runs_view(plan: Plan, results: Path) -> View:
    """A line a run: its mean score, how training went, what it ran on; or why it has none."""
    groups: dict[tuple, list[list[Cell]]] = {}
    for run in plan.runs:
        groups.setdefault((run.table, run.model), []).append([Cell(text) for text in _run_line(plan, results, run)])
    header = ["Run", "Status", "Mean score, %", "Updates", "Last loss", "Seconds", "Tokens a second", "Peak, MiB"]
    notes = ["Mean over the run's tasks. Seconds and memory are this machine's, and differ between reproductions."]
    return View("runs", "Every run", header, list(groups.values()), notes, text_columns=2)


def _run_line(plan: Plan, results: Path, run: Run) -> list[str]:
    scores = task_scores(plan, results, run)
    values = [score.value for score in scores.values() if score and score.status == "ok" and score.value is not None]
    bad = dict.fromkeys(
        f"{score.status} ({score.reason})" if score else "not run"
        for score in scores.values()
        if score is None or score.status != "ok"
    )
    record = training_of(results, run)
    happened: dict[str, Any] = record.happened if record else {}
    losses = [point["loss"] for point in happened.get("loss_curve") or [] if point.get("loss") is not None]
    peak = happened.get("peak_memory_bytes")
    return [
        run.name,
        "; ".join(bad) or "ok",
        f"{100 * sum(values) / len(values):.1f}" if values else "–",
        _whole(happened.get("steps")),
        f"{losses[-1]:.3f}" if losses else "–",
        f"{happened['seconds']:,.1f}" if happened.get("seconds") is not None else "–",
        f"{happened['tokens_per_second']:,.0f}" if happened.get("tokens_per_second") is not None else "–",
        f"{peak / 2**20:,.0f}" if peak is not None else "–",
    ]


def _whole(number: Any) -> str:
    """A whole number with its thousands apart; pandas' missing value and None as a dash."""
    return "–" if pd.isna(number) else f"{int(number):,}"
