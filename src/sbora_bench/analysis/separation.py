"""Can this experiment tell models apart? Three questions a column, answered on the items, paired.

Claims: does LoRA at its top rank beat the untuned base, and the share of the most frequent answer, by ten points?
Gains: which tuned cells differ from the base?
Differences: which methods at one rank or of equal parameters, or ranks of one method, differ; and on average?

All seeds of a cell are pooled: a pair is one item under one seed. So a test speaks of the models trained here, on
these items; what other seeds would give is for the words beside the differences (comparison.py).
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sbora_bench.analysis import pairs as comparison
from sbora_bench.analysis.collect import footprint_rows
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.pairs import Cells, by_seed, corrected, items_by_cell, pooled
from sbora_bench.analysis.statistics import Paired, paired
from sbora_bench.plan.experiment import Cell, Run
from sbora_bench.results.read import Results

REFERENCE = ("lora", "qlora")  # the first of them that a table has
MARGIN = 0.10
CLAIM_LEVEL, DIFFERENCE_LEVEL = 0.01, 0.05

Column = tuple[str, str, str]  # table, model, task


@dataclass(frozen=True)
class Separation:
    """`claims`: a row a column; `gains`: a row a cell of it; `differences`: a row a tested pair; `averages`: a row a
    pair of a table; in plan order.
    """

    claims: list[dict[str, Any]]
    gains: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    averages: list[dict[str, Any]]

    def undecided(self) -> list[Column]:
        """Columns in which no tested pair differs."""
        verdicts: dict[Column, bool] = {}
        for row in self.differences:
            column = row["table"], row["model"], row["task"]
            verdicts[column] = verdicts.get(column, False) or row["differs"]
        return [column for column, differs in verdicts.items() if not differs]


def separation(results: Results) -> Separation:
    """`_separation`, computed once for a `Results`."""
    return results.once("separation", lambda: _separation(picked(results)))


def _separation(results: Results) -> Separation:
    """The three questions for every column of every table. Holm's family: the columns of all models for the claims,
    all that is compared in a table for the gains, the differences and the averages. What has no score is left out.
    """
    found, plan = Separation([], [], [], []), results.plan
    footprints = footprint_rows(results)
    for table in plan.experiment.tables:
        scored = {run: results.scores(run) for run in plan.runs_of(table)}
        counts = {
            Cell(table, row["model"], row["method"], row["rank"]): row["trainable_parameters"]
            for row in footprints
            if row["table"] == table
        }
        gains, differences, averages = [], [], []
        for model in dict.fromkeys(run.model for run in scored):
            tasks: dict[str, Cells] = {}
            for task in plan.tasks(table):
                runs = [
                    run
                    for run, record in scored.items()
                    if run.model == model
                    and record is not None
                    and record.status == "ok"
                    and (score := record.tasks.get(task)) is not None
                    and score.status == "ok"
                ]
                cells = tasks[task] = items_by_cell(results, runs, task)
                where = {"table": table, "model": model, "task": task}
                found.claims.extend(where | row for row in _claim(results, runs, task, cells))
                gains += [where | row for row in _gains(cells)]
                differences += [where | row for row in comparison.task_rows(cells, counts)]
            where = {"table": table, "model": model, "task": "average"}
            averages += [where | row for row in comparison.average_rows(tasks, counts)]
        for rows in (gains, differences, averages):
            corrected(rows, DIFFERENCE_LEVEL, "differs")
        for rows in (differences, averages):
            comparison.judged(rows)
        found.gains.extend(gains)
        found.differences.extend(differences)
        found.averages.extend(averages)
    corrected(found.claims, CLAIM_LEVEL, "holds")
    for row in found.claims:
        row["holds"] &= min(row["score"] - row["base"], row["score"] - row["most_frequent_rate"]) >= MARGIN - 1e-12
    return found


def most_frequent_answer(samples: list[dict[str, Any]]) -> tuple[str, float]:
    """The commonest right answer (the smallest of equals) and its share. Numbers are compared as numbers."""
    counts = Counter(_answer(sample["answer"]) for sample in samples)
    answer, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return answer, count / len(samples)


def _answer(answer: Any) -> str:
    try:
        return f"{float(answer):g}"
    except (TypeError, ValueError):
        return str(answer)


def _gains(cells: Cells) -> list[dict[str, Any]]:
    base = next((seeds for cell, seeds in cells.items() if cell.method == "base"), None)
    tuned = {cell: seeds for cell, seeds in cells.items() if cell.method != "base"}
    rows = []
    if base is None:
        return []
    for cell, seeds in tuned.items():
        both = by_seed(seeds, base, base=True)
        if both:
            named = {"method": cell.method, "rank": cell.rank, "seeds": len(seeds)}
            rows.append(named | _gain(paired(*pooled(both))))
    return rows


def _gain(test: Paired) -> dict[str, Any]:
    return {
        "pairs": test.n,
        "score": test.a_right / test.n,
        "base": test.b_right / test.n,
        "difference": test.difference,
        "only_tuned": test.only_a,
        "only_base": test.only_b,
        "p": test.p,
    }


def _claim(results: Results, runs: list[Run], task: str, cells: Cells) -> list[dict[str, Any]]:
    gains = _gains(cells)
    method = next((name for name in REFERENCE if any(row["method"] == name for row in gains)), None)
    if method is None:
        return []
    top = max((row for row in gains if row["method"] == method), key=lambda row: row["rank"])
    base = next(run for run in runs if run.is_base)
    answer, rate = most_frequent_answer(results.items(base, task))
    return [top | {"most_frequent_answer": answer, "most_frequent_rate": rate}]
