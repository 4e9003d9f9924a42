"""Is it the form of an answer that tuning taught, or the answer? Of choices that are generated and read by likelihood.

A generated answer counts only in the form that the protocol reads. The likeliest label needs no form: all labels stand
in the words of the right answer. Both are of the same items.
"""

from dataclasses import dataclass

import numpy as np

from sbora_bench.analysis.learning_rates import picked
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.results.aggregate import value_of
from sbora_bench.results.read import Results


@dataclass(frozen=True)
class AnswerShares:
    """Of a cell's items, shares in [0, 1], the mean over tasks and seeds: an answer could be read out of the text, the
    likeliest label is right, the answer read out is right.
    """

    cell: Cell
    seeds: int
    in_the_format: float
    right_by_likelihood: float
    right_as_generated: float


def tasks_asked_both_ways(plan: Plan, table: str) -> list[str]:
    """Choices of a table that are generated and whose labels' likelihoods are taken too."""
    return [
        task
        for task in (plan.tasks(table) if plan.gold(table) else ())
        if plan.answer_by(table, task) == "template" and plan.catalog.tasks[task].answered("likelihood") == "label"
    ]


def answer_shares(results: Results, table: str) -> list[AnswerShares]:
    """A row a cell of which a seed has all those tasks, bases first. Raises UserError for samples that are missing."""
    results = picked(results)
    rows = []
    for cell, runs in sorted(results.plan.runs_by_cell(table).items(), key=lambda pair: not pair[0].is_base):
        shares = [of_run for run in runs if (of_run := _shares(results, run)) is not None]
        if shares:
            rows.append(AnswerShares(cell, len(shares), *np.mean(shares, axis=0).tolist()))
    return rows


def _shares(results: Results, run: Run) -> list[float] | None:
    """Of one run, the three shares; None where it lacks a task or a likelihood."""
    tasks = tasks_asked_both_ways(results.plan, run.table)
    if not results.done_scores(run).keys() >= set(tasks):
        return None
    shares = list[np.ndarray]()
    for task in tasks:
        rows = results.samples(run, task)
        if not all("likeliest" in row for row in rows):
            return None
        judged = [(row["extracted"] != "", row["likeliest"] == row["answer"], value_of(row)) for row in rows]
        shares.append(np.mean(judged, axis=0))
    return [float(share) for share in np.mean(shares, axis=0)]
