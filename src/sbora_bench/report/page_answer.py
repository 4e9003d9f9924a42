"""What an experiment says, in sentences made from its tests: the first thing that a reader of the report sees."""

from pathlib import Path
from typing import Any

from sbora_bench.analysis.csv_files import read_scores
from sbora_bench.analysis.entries import entries, row_titles
from sbora_bench.analysis.separation import Separation
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.file_names import layouts
from sbora_bench.report.separation_tables import count_columns, method_rows, verdict
from sbora_bench.results.paper.reported import AVERAGE

OURS = "SBORA"  # the PEFT type of the paper's methods


def answer(plan: Plan, found: Separation) -> list[str]:
    """Three sentences: the paper's method against others, what all pairs of methods show, and whether tuning shows."""
    holds, columns = count_columns(found.claims, "holds")
    differ, compared = count_columns(found.differences, "differs")
    tuning = (
        f"LoRA at its top rank beats both the untuned base and the most frequent answer by ten points on {holds} of"
        f" {columns} columns; methods or ranks differ on {differ} of the {compared} columns where several were run."
    )
    return [sentence for sentence in (ours_against_others(plan, found), verdict(found), tuning) if sentence]


def ours_against_others(plan: Plan, found: Separation) -> str:
    """How SBoRA's pairs with other methods, at equal rank or equal parameters, came out; empty where there is none."""

    def ours(method: str) -> bool:
        return plan.catalog.methods[method].peft_type == OURS

    differences, words = [], []
    for table in plan.experiment.tables:
        for row in method_rows(found, table):
            if ours(row["method_a"]) != ours(row["method_b"]):
                turned = ours(row["method_b"])
                differences.append(100 * (-row["difference"] if turned else row["difference"]))
                words.append(_turned(row["word"]) if turned else row["word"])
    if not words:
        return ""
    better, worse = words.count("better"), words.count("worse")
    ranging = f"{min(differences):+.1f} to {max(differences):+.1f}".replace("-", "−")
    return (
        f"SBoRA against other methods at equal rank or equal trainable parameters: better in {better}, worse in"
        f" {worse} and no difference shown in {len(words) - better - worse} of {len(words)} pairs, taking items and"
        f" seeds together; as measured it lies {ranging} points from them."
    )


def _turned(word: str) -> str:
    return {"better": "worse", "worse": "better"}.get(word, word)


def also(plan: Plan, results: Path) -> list[str]:
    """The highest score of every table, which no test has to confirm, and how many runs have none."""
    scores, sentences = read_scores(results), []
    for layout in layouts(plan):
        names = [AVERAGE.lower()] if layout.averaged else [column.title for column in layout.columns]
        cells = entries(plan, layout, scores)
        for place, name in enumerate(names, start=-1 if layout.averaged else 0):
            sentences.append(f"{layout.title}: {_highest(plan, cells, place, name)}")
    failed = scores[scores.status.isin(["failed", "not run"])].run.nunique()
    told = f"{failed} of {len(plan.runs)} runs have no score: they failed or were not run."
    return sentences + ([told] if failed else [])


def _highest(plan: Plan, cells: dict[Any, list], place: int, name: str) -> str:
    scored = {row: each[place] for row, each in cells.items() if each[place].summary is not None}
    tuned = {row: round(cell.summary.mean, 1) for row, cell in scored.items() if row.method != "base"}
    if not tuned:
        return f"no tuned run has a score ({name})."
    best = [row for row, mean in tuned.items() if mean == max(tuned.values())]
    who = ["{1} at rank {2} on {0}".format(*row_titles(plan, row), row.rank) for row in best]
    base = next((row for row in scored if (row.model, row.method) == (best[0].model, "base")), None)
    untuned = f" (untuned: {scored[base].text} %)" if base else ""
    return f"the highest {name} is {scored[best[0]].text} %, {' and '.join(who)}{untuned}."
