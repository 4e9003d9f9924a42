"""The experiment on one self-contained page, `report.html`: the answer first, then what it rests on.

`sbora-bench report -e EXPERIMENT`. Works offline and asks for nothing: its policy lets run what stands in it alone, by
hash. All text is escaped. Without the script nothing is missing but sorting and searching.
"""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from sbora_bench import audit, claims
from sbora_bench.answer import also, answer
from sbora_bench.collect import contamination_of, read_footprint, task_scores, training_of
from sbora_bench.errors import UserError
from sbora_bench.experiment import Plan, Run
from sbora_bench.files import write_text
from sbora_bench.outputs import figure_captions, layouts
from sbora_bench.render import HERE, Cell, View, environment
from sbora_bench.run_sections import sampled, sections
from sbora_bench.separation import separation
from sbora_bench.separation_tables import separation_views
from sbora_bench.tables import views


def report(plan: Plan, results: Path) -> None:
    """Write `report.html`. Raises UserError where `collect`, `figures` or `audit` has not run."""
    found, figures = separation(plan, results), figures_of(plan, results)
    findings = audit.read_findings(results / "audit.json")
    words = f"--experiment {Path(plan.path).stem}"
    told = sections(plan, results, words)
    parts: dict[str, Any] = {
        "tables": views(plan, results),
        "tests": separation_views(plan, found),
        "budget": [],
        "contamination": contamination_view(plan, results),
        "footprint": footprint_view(plan, results),
        "claims": claims.view(plan, results, found, findings),
        "audit": audit.view(findings),
        "runs": runs_view(plan, results),
    }
    shown = [view for part in parts.values() for view in (part if isinstance(part, list) else [part])]
    page = environment().get_template("report.html")
    text = page.render(
        title=plan.experiment.title,
        description=plan.experiment.description,
        answer=answer(plan, found),
        also=also(plan, results),
        figures=figures,
        sections=told,
        sampled=sampled(told),
        anchors={section.name: section.anchor for section in told},
        recompute={view.name: recompute(plan, view.name) for view in shown},
        style=inline("report.css"),
        script=inline("report.js"),
        **parts,
    )
    write_text(results / "report.html", text)


@dataclass(frozen=True)
class Inline:
    """A file's text that stands in the page as it is, and the hash by which the page's policy lets it."""

    text: Markup
    hash: str


def inline(name: str) -> Inline:
    """A style sheet or script beside this module."""
    text = (HERE / name).read_text(encoding="utf-8")
    return Inline(Markup(text), f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}")


def recompute(plan: Plan, view: str) -> list[tuple[str, str]]:
    """What to type to get at the numbers of a view again: what it does, and the command."""
    words, results = f"--experiment {Path(plan.path).stem}", f"results/{plan.name}"
    again = [("Every table from the samples alone, byte for byte", f"sbora-bench verify {results} {words}")]
    cells = ("From a cell to its runs", f"grep -E '^(table|TABLE,MODEL,METHOD,RANK,)' {results}/tables/cells.csv")
    run = ("From a run to its scores", f"sbora-bench show {words} RUN")
    samples = ("From a score to what the model said", f"less {results}/runs/RUN/samples/TASK.jsonl")
    pair = ("Two runs on the same items", f"sbora-bench compare {words} RUN RUN")
    if view in {layout.name for layout in layouts(plan)}:
        return [*again, cells, run, samples]
    if view in ("separation", "differences") or view.startswith(("gains-", "methods-")):
        return [*again, pair, ("The numbers", f"less {results}/tables/{_numbers_of(view)}.csv")]
    footprint = "sbora-bench footprint --model MODEL --method METHOD --rank RANK"
    return {
        "footprint": [("A cell counted anew, without weights", footprint)],
        "paper_footprint": [("A cell counted anew, without weights", footprint)],
        "contamination": [
            ("Compared anew", f"sbora-bench prepare {words} --table TABLE --output somewhere"),
            ("Which items", f"less {results}/data/TABLE/contamination.json"),
        ],
        "claims": [("What the paper reports, recomputed", "sbora-bench audit"), *again],
        "audit": [("Recomputed", f"sbora-bench audit --own --tables {results}/tables --output somewhere")],
        "runs": [run, ("One run again", f"sbora-bench finetune {words} RUN; sbora-bench evaluate {words} RUN")],
    }[view]


def _numbers_of(view: str) -> str:
    return "gains" if view.startswith("gains-") else "averages" if view.startswith("methods-") else view


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
