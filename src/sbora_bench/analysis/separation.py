"""Can this experiment tell models apart? Three questions a column, answered on the items, paired.

Reference: does LoRA at its top rank beat the untuned base, and the share of the most frequent answer, by ten points?
Gains: which tuned cells differ from the base?
Differences: which methods at one rank or of equal parameters, or ranks of one method, differ; and on average?

All seeds of a cell are pooled: a pair is one item under one seed. So a test speaks of the models trained here, on
these items; what other seeds would give is for the verdicts beside the differences (pairs.py).
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from sbora_bench.analysis.collect import trainable_parameters
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.measures import common_metric
from sbora_bench.analysis.pairs import (
    CellItems,
    Pair,
    Seeds,
    average_pairs,
    by_seed,
    common_values,
    items_by_cell,
    judged,
    pooled,
    task_pairs,
)
from sbora_bench.analysis.statistics import bootstrap_average, holm, paired
from sbora_bench.plan.experiment import Cell, Run
from sbora_bench.plan.metric import Metric
from sbora_bench.results.read import Results

REFERENCE = ("lora", "qlora")  # the first of them that a table has
MARGIN = 0.10
REFERENCE_LEVEL, DIFFERENCE_LEVEL = 0.01, 0.05
AVERAGE_COLUMN = "average"

Column = tuple[str, str, str]  # table, model, task


@dataclass(frozen=True)
class Gain:
    """A tuned cell against its base on one task, all seeds pooled. `only_tuned`, `only_base`: items that one alone got
    right, where items are right or wrong.
    """

    cell: Cell
    task: str
    metric: Metric
    seeds: int
    pairs: int
    score: float
    base: float
    difference: float
    p: float
    only_tuned: int | None = None
    only_base: int | None = None
    p_holm: float = 1.0
    differs: bool = False

    @property
    def table(self) -> str:
        return self.cell.table

    @property
    def model(self) -> str:
        return self.cell.model


@dataclass(frozen=True)
class ReferenceGain:
    """The reference method at its top rank against the base and the most frequent answer; `holds`: beats both."""

    gain: Gain
    most_frequent_answer: str
    most_frequent_rate: float
    holds: bool = False

    @property
    def table(self) -> str:
        return self.gain.table

    @property
    def model(self) -> str:
        return self.gain.model

    @property
    def task(self) -> str:
        return self.gain.task


@dataclass(frozen=True)
class Separation:
    """`references`: one a column of right and wrong; `gains`: one a cell of it; `differences`: a tested pair each;
    `averages`: a pair of a table each; in plan order.
    """

    references: list[ReferenceGain]
    gains: list[Gain]
    differences: list[Pair]
    averages: list[Pair]

    def undecided(self) -> list[Column]:
        """Columns in which no tested pair differs."""
        differ: dict[Column, bool] = {}
        for pair in self.differences:
            column = pair.table, pair.model, pair.column
            differ[column] = differ.get(column, False) or pair.differs
        return [column for column, any_differs in differ.items() if not any_differs]

    def method_pairs(self, table: str) -> list[Pair]:
        """A table's pairs of two methods: on the average of its tasks, or in the task where it has but one."""
        averages = [pair for pair in self.averages if pair.table == table]
        pairs = averages or [pair for pair in self.differences if pair.table == table]
        return [pair for pair in pairs if pair.of_methods]


def separation(results: Results) -> Separation:
    """The three questions for every column of every table, answered once for a `Results`. Holm's family: the columns of
    all models for the references, all that is compared in a table for the gains, the differences and the averages.
    What has no score is left out.
    """
    return results.once("separation", lambda: _separation(picked(results)))


def _separation(results: Results) -> Separation:
    plan, counts = results.plan, trainable_parameters(results)
    references: list[ReferenceGain] = []
    all_gains: list[Gain] = []
    all_differences: list[Pair] = []
    all_averages: list[Pair] = []
    for table in plan.experiment.tables:
        gains: list[Gain] = []
        differences: list[Pair] = []
        averages: list[Pair] = []
        for model in dict.fromkeys(run.model for run in plan.runs_of(table)):
            tasks: dict[str, CellItems] = {}
            for task in plan.tasks(table):
                metric = plan.catalog.tasks[task].metric
                runs = [run for run in plan.runs_of(table) if run.model == model and _is_scored(results, run, task)]
                cells = tasks[task] = items_by_cell(results, runs, task)
                of_task = _gains(cells, task, metric)
                gains += of_task
                references += _reference(results, runs, of_task)
                differences += [replace(pair, column=task) for pair in task_pairs(cells, counts, metric)]
            shared = common_metric(plan, plan.tasks(table))
            if shared is not None:
                found = average_pairs(list(tasks.values()), counts, shared)
                averages += [replace(pair, column=AVERAGE_COLUMN) for pair in found]
        adjusted = holm([gain.p for gain in gains])
        all_gains += [
            replace(gain, p_holm=p, differs=p < DIFFERENCE_LEVEL) for gain, p in zip(gains, adjusted, strict=True)
        ]
        all_differences += judged(differences, DIFFERENCE_LEVEL)
        all_averages += judged(averages, DIFFERENCE_LEVEL)
    return Separation(_beating_both(references), all_gains, all_differences, all_averages)


def _is_scored(results: Results, run: Run, task: str) -> bool:
    record = results.scores(run)
    score = record.tasks.get(task) if record is not None and record.status == "ok" else None
    return score is not None and score.status == "ok"


def most_frequent_answer(samples: list[dict[str, Any]]) -> tuple[str, float]:
    """The commonest right answer (the smallest of equals) and its share. Numbers are compared as numbers."""
    counts = Counter(_normal(sample["answer"]) for sample in samples)
    answer, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return answer, count / len(samples)


def _normal(answer: Any) -> str:
    try:
        return f"{float(answer):g}"
    except (TypeError, ValueError):
        return str(answer)


def _gains(cells: CellItems, task: str, metric: Metric) -> list[Gain]:
    """The tuned cells of one model against its base, before Holm; empty where the base has no score."""
    base = next((seeds for cell, seeds in cells.items() if cell.is_base), None)
    if base is None:
        return []
    test = _gain_of_shares if metric.right_or_wrong else _gain_of_values
    tested = [test(cell, seeds, base, task, metric) for cell, seeds in cells.items() if not cell.is_base]
    return [gain for gain in tested if gain is not None]


def _gain_of_shares(cell: Cell, seeds: Seeds, base: Seeds, task: str, metric: Metric) -> Gain | None:
    both = by_seed(seeds, base, base=True)
    if not both:
        return None
    test = paired(*pooled(both))
    shares = test.a_right / test.n, test.b_right / test.n
    return Gain(cell, task, metric, len(seeds), test.n, *shares, test.difference, test.p, test.only_a, test.only_b)


def _gain_of_values(cell: Cell, seeds: Seeds, base: Seeds, task: str, metric: Metric) -> Gain | None:
    tuned, untuned = common_values(seeds, dict.fromkeys(seeds, next(iter(base.values()))), list(seeds))
    if not tuned.size:
        return None
    scores = float(tuned.mean()), float(untuned.mean())
    over_items = bootstrap_average([(tuned - untuned).mean(axis=0)])
    return Gain(cell, task, metric, len(seeds), tuned.size, *scores, over_items.mean, over_items.p)


def _reference(results: Results, runs: list[Run], gains: list[Gain]) -> list[ReferenceGain]:
    """The reference of a column, before Holm; empty where the column has none, or other items than right and wrong."""
    method = next((name for name in REFERENCE if any(gain.cell.method == name for gain in gains)), None)
    if method is None or not gains[0].metric.right_or_wrong:
        return []
    top = max((gain for gain in gains if gain.cell.method == method), key=lambda gain: gain.cell.rank or 0)
    base = next(run for run in runs if run.is_base)
    return [ReferenceGain(top, *most_frequent_answer(results.items(base, top.task)))]


def _beating_both(references: list[ReferenceGain]) -> list[ReferenceGain]:
    """After Holm over them all: which beat the base and the most frequent answer by MARGIN."""
    judged_references = []
    for reference, p in zip(references, holm([reference.gain.p for reference in references]), strict=True):
        gain = replace(reference.gain, p_holm=p, differs=p < REFERENCE_LEVEL)
        margin = min(gain.score - gain.base, gain.score - reference.most_frequent_rate)
        holds = gain.differs and margin >= MARGIN - 1e-12
        judged_references.append(replace(reference, gain=gain, holds=holds))
    return judged_references
