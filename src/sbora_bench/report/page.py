"""The experiment on one self-contained page, `report.html`: the answer first, then what it rests on.

`sbora-bench report -e EXPERIMENT`. Works offline and asks for nothing: its policy lets run what stands in it alone, by
hash. All text is escaped. Without the script nothing is missing but sorting and searching.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sbora_bench.analysis.separation import separation
from sbora_bench.errors import UserError
from sbora_bench.files import write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.file_names import figure_captions, layouts
from sbora_bench.report import audit
from sbora_bench.report import paper_claims as claims
from sbora_bench.report.page_answer import also, answer
from sbora_bench.report.page_runs import sampled, sections
from sbora_bench.report.page_views import budget_views, contamination_view, footprint_view, runs_view
from sbora_bench.report.render import HERE, environment
from sbora_bench.report.separation_tables import separation_views
from sbora_bench.report.tables import views
from sbora_bench.results.failures import told_failures
from sbora_bench.results.read import Results

SIZE = re.compile(rb'<svg[^>]* width="([\d.]+)pt" height="([\d.]+)pt"')


def report(plan: Plan, results: Path) -> None:
    """Write `report.html`. Raises UserError where `collect`, `figures` or `audit` has not run."""
    read, figures = Results(plan, results), figures_of(plan, results)
    found = separation(read)
    findings = audit.read_findings(results / "audit.json")
    words = f"--experiment {Path(plan.path).stem}"
    told = sections(read, words)
    parts: dict[str, Any] = {
        "tables": views(read),
        "tests": separation_views(plan, found),
        "budget": budget_views(plan, results),
        "contamination": contamination_view(read),
        "footprint": footprint_view(plan, results),
        "claims": claims.view(read, found, findings),
        "audit": audit.view(findings),
        "runs": runs_view(read),
    }
    shown = [view for part in parts.values() for view in (part if isinstance(part, list) else [part])]
    printed = {layout.name for layout in layouts(plan)}
    page = environment().get_template("report.html")
    text = page.render(
        title=plan.experiment.title,
        description=plan.experiment.description,
        answer=answer(plan, found),
        also=also(plan, results),
        figures=figures,
        failures=told_failures(plan, results),
        sections=told,
        sampled=sampled(told),
        anchors={section.name: section.anchor for section in told},
        recompute={view.name: recompute(plan, view.name, printed) for view in shown},
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


def recompute(plan: Plan, view: str, printed: set[str]) -> list[tuple[str, str]]:
    """What to type to get at the numbers of a view again: what it does, and the command; `printed`: the layouts."""
    words, results = f"--experiment {Path(plan.path).stem}", f"results/{plan.name}"
    again = [("Every table from the samples alone, byte for byte", f"sbora-bench verify {results} {words}")]
    cells = ("From a cell to its runs", f"grep -E '^(table|TABLE,MODEL,METHOD,RANK,)' {results}/tables/cells.csv")
    run = ("From a run to its scores", f"sbora-bench show {words} RUN")
    samples = ("From a score to what the model said", f"less {results}/runs/RUN/samples/TASK.jsonl")
    pair = ("Two runs on the same items", f"sbora-bench compare {words} RUN RUN")
    if view in printed:
        return [*again, cells, run, samples]
    if view in ("separation", "differences") or view.startswith(("gains-", "methods-")):
        return [*again, pair, ("The numbers", f"less {results}/tables/{_numbers_of(view)}.csv")]
    if view.startswith("budget-"):
        return [("The numbers", f"less {results}/budget.csv"), run, ("Collected anew", f"sbora-bench collect {words}")]
    footprint = "sbora-bench footprint --model MODEL --method METHOD --rank RANK"
    told = {
        "footprint": [("A cell counted anew, without weights", footprint)],
        "paper_footprint": [("A cell counted anew, without weights", footprint)],
        "contamination": [
            ("Compared anew", f"sbora-bench prepare {words} --table TABLE --output somewhere"),
            ("Which items", f"less {results}/data/TABLE/contamination.json"),
        ],
        "claims": [("What the paper reports, recomputed", "sbora-bench audit"), *again],
        "audit": [("Recomputed", f"sbora-bench audit --own --tables {results}/tables --output somewhere")],
        "runs": [run, ("One run again", f"sbora-bench finetune {words} RUN; sbora-bench evaluate {words} RUN")],
    }
    return told.get(view, [*again, ("The numbers", f"less {results}/tables/{view}.csv"), run])


def _numbers_of(view: str) -> str:
    return "gains" if view.startswith("gains-") else "averages" if view.startswith("methods-") else view


def figures_of(plan: Plan, results: Path) -> list[dict[str, Any]]:
    """The SVG of every figure as base64, with its caption and its size in pixels, that the page may draw it when it is
    looked at. Raises UserError for a missing one.
    """
    found = []
    for name, caption in figure_captions(plan).items():
        path = results / "figures" / f"{name}.svg"
        try:
            drawn = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run `sbora-bench figures` first") from None
        size = SIZE.search(drawn)
        if size is None:
            raise UserError(f"{path}: not a figure of ours: it has no size in points; run `sbora-bench figures` again")
        width, height = (round(float(points) * 4 / 3) for points in size.groups())
        data = base64.b64encode(drawn).decode("ascii")
        found.append({"caption": caption, "data": data, "width": width, "height": height})
    return found
