"""The experiment on one self-contained page, `report.html`: the answer first, then what it rests on.

`sbora-bench report -e EXPERIMENT`. Works offline and asks for nothing: its policy lets run what stands in it alone, by
hash. All text is escaped. Without the script nothing is missing but sorting and searching.
"""

import base64
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sbora_bench.analysis.separation import separation
from sbora_bench.errors import UserError
from sbora_bench.files import write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.outputs import PAGE, figure_captions, figure_sections, timed_figures
from sbora_bench.report.page_answer import conclusions, highest_scores
from sbora_bench.report.page_runs import run_sections, samples_shown
from sbora_bench.report.page_shared import questions_of, without_shared_facts
from sbora_bench.report.page_tables import all_tables
from sbora_bench.report.render import HERE, PrintedTable, environment, latex
from sbora_bench.report.verdicts import verdict_remarks, verdict_sentences, verdict_summary
from sbora_bench.report.view import Hint
from sbora_bench.results.failures import failures_with_logs
from sbora_bench.results.read import Results

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"  # what follows are width and height in pixels
NARROW = 350  # pixels of a score figure that stands beside the forest and the sentences on a screen of 1,280
DOTS, PIXELS = 192, 96  # an inch: of a figure's file (paper.mplstyle), and of a page; at half its dots "=" stays "="


def report(plan: Plan, results: Path) -> None:
    """Write `report.html`. Raises UserError where `collect`, `figures` or `audit` has not run."""
    write_text(results / PAGE, page(plan, results))


def page(plan: Plan, results: Path, published: bool = False) -> str:
    """The page. `published`: without what each reproduction has of its own, seconds, memory, logs and machine, and
    without the runs one by one, which have most of that. Raises UserError as `report` does.
    """
    read, figures = Results(plan, results), figures_of(plan, results)
    left_out = timed_figures(plan) if published else set()
    usual = Path("results") / plan.name if published else results  # wherever these results lie
    tables: dict[str, list[tuple[PrintedTable, list[Hint]]]] = {}
    for view in all_tables():
        if not (published and view.timed):
            shown = [(table, commands(plan, usual, view.hints, table.name)) for table in view.tables(read)]
            tables.setdefault(view.section, []).extend(shown)
    sections, facts = without_shared_facts([] if published else run_sections(read))
    sections, questions = questions_of(sections)
    failures = failures_with_logs(plan, results)
    return (
        environment()
        .get_template("report.html")
        .render(
            title=plan.experiment.title,
            description=plan.experiment.description,
            narrow=NARROW,
            verdicts=verdict_sentences(read),
            verdict_remarks=verdict_remarks(read),
            verdict_summary=verdict_summary(read),
            conclusions=conclusions(plan, separation(read)),
            highest_scores=highest_scores(read),
            tables=tables,
            published=published,
            figures=[figure for figure in figures if figure["name"] not in left_out],
            latex_of=latex,
            failures=failures,
            sections=sections,
            facts=facts,
            questions=questions,
            samples_shown=samples_shown(sections, len(plan.runs)),
            anchors={section.name: section.anchor for section in sections},
            style=inline("report.css"),
            script=inline("report.js"),
        )
    )


@dataclass(frozen=True)
class Inline:
    """A file's text that stands in the page as it is, and the hash by which the page's policy lets it."""

    text: Markup
    hash: str


def inline(name: str) -> Inline:
    """A style sheet or script beside this module."""
    text = (HERE / name).read_text(encoding="utf-8")
    return Inline(Markup(text), f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}")


def commands(plan: Plan, results: Path, hints: tuple[Hint, ...], table: str) -> list[Hint]:
    """What to type to get at the numbers of a table again: what it does, and the command."""
    stages = ("show", "compare", "collect", "prepare", "finetune", "evaluate")
    words = {stage: plan.command(stage) for stage in stages}
    words["verify"] = plan.command("verify", str(results))
    return [(does, command.format(results=results, name=table, **words)) for does, command in hints]


def figures_of(plan: Plan, results: Path) -> list[dict[str, Any]]:
    """The PNG of every figure as base64, with its caption and its size in pixels of a page. Raises UserError for a
    missing one.
    """
    figures = []
    sections = figure_sections(plan)
    for name, caption in figure_captions(plan).items():
        path = results / "figures" / f"{name}.png"
        try:
            drawn = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run `sbora-bench figures` first") from None
        if not drawn.startswith(PNG):
            raise UserError(f"{path}: not a figure of ours: it is no PNG; run `sbora-bench figures` again")
        width, height = (round(dots * PIXELS / DOTS) for dots in struct.unpack(">II", drawn[16:24]))
        figures.append(
            {
                "name": name,
                "caption": caption,
                "data": base64.b64encode(drawn).decode("ascii"),
                "width": width,
                "height": height,
                "section": sections[name],
            }
        )
    return figures
