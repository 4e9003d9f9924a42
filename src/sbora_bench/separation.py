"""Can this experiment tell models apart? Three questions a column, answered on the items, paired.

Claims: does LoRA at its top rank beat the untuned base, and the share of the most frequent answer, by ten points?
Gains: which tuned cells differ from the base?
Differences: which methods at one rank, or ranks of one method, differ?

All seeds of a cell are pooled: a pair is one item under one seed. So a test speaks of the models trained here, on
these items; it doesn't say how another draw of seeds would fall.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from sbora_bench.collect import samples_of, scores_of
from sbora_bench.experiment import Plan, Run
from sbora_bench.outputs import Row
from sbora_bench.statistics import holm, paired

REFERENCE = ("lora", "qlora")  # the first of them that a table has
MARGIN = 0.10
CLAIM_LEVEL, DIFFERENCE_LEVEL = 0.01, 0.05

Answers = dict[Any, dict[str, Any]]  # item id -> its sample
Column = tuple[str, str, str]  # table, model, task


@dataclass(frozen=True)
class Separation:
    """`claims`: a row a column; `gains`: a row a cell of it; `differences`: a row a tested pair; in plan order."""

    claims: list[dict[str, Any]]
    gains: list[dict[str, Any]]
    differences: list[dict[str, Any]]

    def undecided(self) -> list[Column]:
        """Columns in which no tested pair differs."""
        verdicts: dict[Column, bool] = {}
        for row in self.differences:
            column = row["table"], row["model"], row["task"]
            verdicts[column] = verdicts.get(column, False) or row["differs"]
        return [column for column, differs in verdicts.items() if not differs]


def separation(plan: Plan, results: Path) -> Separation:
    """The three questions for every column of every table. Holm's family: the columns of all models for the claims,
    all that is compared in a table for the gains and for the differences. What has no score is left out.
    """
    claims, gains, differences = [], [], []
    for table in plan.experiment.tables:
        scored = {run: scores_of(plan, results, run) for run in plan.runs_of(table)}
        against_base, pairs = [], []
        for model in dict.fromkeys(run.model for run in scored):
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
                cells = _cells(results, runs, task)
                where = {"table": table, "model": model, "task": task}
                claims += [where | row for row in _claim(cells)]
                against_base += [where | row for row in _gains(cells)]
                pairs += [where | row for row in _pairs(cells)]
        for family in (against_base, pairs):
            for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
                row |= {"p_holm": p, "differs": p < DIFFERENCE_LEVEL}
        gains += against_base
        differences += pairs
    for row, p in zip(claims, holm([row["p"] for row in claims]), strict=True):
        far = min(row["score"] - row["base"], row["score"] - row["most_frequent_rate"]) >= MARGIN - 1e-12
        row |= {"p_holm": p, "holds": bool(far and p < CLAIM_LEVEL)}
    return Separation(claims, gains, differences)


def _cells(results: Path, runs: list[Run], task: str) -> dict[Row, dict[int | None, Answers]]:
    """Cell -> seed -> its samples by item."""
    cells: dict[Row, dict[int | None, Answers]] = {}
    for run in runs:
        samples = {sample["id"]: sample for sample in samples_of(results, run, task)}
        if samples:
            cells.setdefault(Row(run.model, run.method, run.rank), {})[run.seed] = samples
    return cells


def _matched(a: dict, b: dict, base: bool = False) -> tuple[list[bool], list[bool]]:
    """Right and wrong of two cells on the items and seeds that both have; a base's one seed stands for all."""
    rights: tuple[list[bool], list[bool]] = [], []
    for seed in a:
        other = next(iter(b.values())) if base else b.get(seed, {})
        for item in a[seed]:
            if item in other:
                rights[0].append(bool(a[seed][item]["correct"]))
                rights[1].append(bool(other[item]["correct"]))
    return rights


def most_frequent_answer(samples: Answers) -> tuple[str, float]:
    """The commonest right answer (the smallest of equals) and its share. Numbers are compared as numbers."""
    counts = Counter(_answer(sample["answer"]) for sample in samples.values())
    answer, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return answer, count / len(samples)


def _answer(answer: Any) -> str:
    try:
        return f"{float(answer):g}"
    except (TypeError, ValueError):
        return str(answer)


def _gains(cells: dict) -> list[dict[str, Any]]:
    base = next((seeds for cell, seeds in cells.items() if cell.method == "base"), None)
    rows = []
    for cell, seeds in cells.items():
        ours, theirs = _matched(seeds, base, base=True) if base and cell.method != "base" else ([], [])
        if ours:
            test = paired(ours, theirs)
            rows.append(
                {
                    "method": cell.method,
                    "rank": cell.rank,
                    "seeds": len(seeds),
                    "pairs": test.n,
                    "score": test.a_right / test.n,
                    "base": test.b_right / test.n,
                    "difference": test.difference,
                    "only_tuned": test.only_a,
                    "only_base": test.only_b,
                    "p": test.p,
                }
            )
    return rows


def _claim(cells: dict) -> list[dict[str, Any]]:
    gains = _gains(cells)
    method = next((name for name in REFERENCE if any(row["method"] == name for row in gains)), None)
    if method is None:
        return []
    top = max((row for row in gains if row["method"] == method), key=lambda row: row["rank"])
    base = next(seeds for cell, seeds in cells.items() if cell.method == "base")
    answer, rate = most_frequent_answer(next(iter(base.values())))
    return [top | {"most_frequent_answer": answer, "most_frequent_rate": rate}]


def _pairs(cells: dict) -> list[dict[str, Any]]:
    rows = []
    for a, b in combinations([cell for cell in cells if cell.method != "base"], 2):
        if (a.method == b.method) == (a.rank == b.rank):
            continue  # both differ: a difference would have two causes
        ours, theirs = _matched(cells[a], cells[b])
        if not ours:
            continue
        test = paired(ours, theirs)
        rows.append(
            {
                "method_a": a.method,
                "rank_a": a.rank,
                "method_b": b.method,
                "rank_b": b.rank,
                "pairs": test.n,
                "score_a": test.a_right / test.n,
                "score_b": test.b_right / test.n,
                "difference": test.difference,
                "only_a": test.only_a,
                "only_b": test.only_b,
                "p": test.p,
            }
        )
    return rows
