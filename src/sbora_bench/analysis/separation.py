"""Can this experiment tell models apart? Three questions a column, answered on the items, paired.

Reference: does LoRA at its top rank beat the untuned base, and the most frequent answer, by more than ten points?
Gains: which tuned cells differ from the base, as trained here, on other items?
Differences: which methods at one rank or of equal parameters, or ranks of one method, differ; and on average?

An item is averaged over the seeds of its cell and counts once.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sbora_bench.analysis.collect import parameter_counts
from sbora_bench.analysis.estimate import estimate
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.paired_arrays import CellItems, Seeds, Values
from sbora_bench.analysis.pairs import Pair, average_pairs, by_seed, items_by_cell, judged, pooled, task_pairs
from sbora_bench.analysis.statistics import holm, paired, sign_flip
from sbora_bench.plan.metric import Metric
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.results.aggregate import value_of
from sbora_bench.results.read import Results

REFERENCE = ("lora", "qlora")  # the first of them that a table has
MARGIN = 0.10
REFERENCE_LEVEL, DIFFERENCE_LEVEL = 0.01, 0.05
AVERAGE_COLUMN = "average"

Column = tuple[str, str, str]  # table, model, task


@dataclass(frozen=True)
class Gain:
    """A tuned cell against its base on one task. `pairs`, `only_tuned`, `only_base`: items under a seed each, and those
    that one alone got right, where items are right or wrong. `p`: over the items, each averaged over the seeds.
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


@dataclass(frozen=True)
class ReferenceGain:
    """The reference method at its top rank against the base and the most frequent answer.

    `p`: of its not beating both by more than MARGIN, over seeds and items; `holds`: shown to.
    """

    gain: Gain
    most_frequent_answer: str
    most_frequent_rate: float
    p: float
    p_holm: float = 1.0
    holds: bool = False


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
    all models for the references, a table for the gains; the differences and the averages of a table are families of
    false discovery. What has no score is left out.
    """
    return results.once("separation", lambda: _separation(picked(results)))


def _separation(results: Results) -> Separation:
    plan, counts = results.plan, parameter_counts(results)
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
                metric = plan.metric(table, task)
                runs = [run for run in plan.runs_of(table) if run.model == model and task in results.done_scores(run)]
                cells = tasks[task] = items_by_cell(results, runs, task)
                of_task = _gains(cells, task, metric)
                gains += of_task
                references += _reference(results, runs, cells, of_task)
                differences += [replace(pair, column=task) for pair in task_pairs(cells, counts, metric)]
            shared = plan.common_metric(table)
            if shared is not None:
                of_model = average_pairs(list(tasks.values()), counts, shared, keep_items=True)
                averages += [replace(pair, column=AVERAGE_COLUMN) for pair in of_model]
        adjusted = holm([gain.p for gain in gains])
        all_gains += [
            replace(gain, p_holm=p, differs=p < DIFFERENCE_LEVEL) for gain, p in zip(gains, adjusted, strict=True)
        ]
        all_differences += judged(differences, DIFFERENCE_LEVEL)
        all_averages += judged(averages, DIFFERENCE_LEVEL)
    return Separation(_beating_both(references), all_gains, all_differences, all_averages)


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
    base = _base(cells)
    if base is None:
        return []
    tested = [_gain(cell, seeds, base, task, metric) for cell, seeds in cells.items() if not cell.is_base]
    return [gain for gain in tested if gain is not None]


def _base(cells: CellItems) -> Seeds | None:
    return next((seeds for cell, seeds in cells.items() if cell.is_base), None)


def _gain(cell: Cell, seeds: Seeds, base: Seeds, task: str, metric: Metric) -> Gain | None:
    both = by_seed(seeds, base, base=True)
    if not both:
        return None
    tuned, untuned = pooled(both)
    scores = float(np.mean(tuned)), float(np.mean(untuned))
    p = sign_flip([list(_less(seeds, next(iter(base.values()))).values())])
    gain = Gain(cell, task, metric, len(seeds), len(tuned), *scores, scores[0] - scores[1], p)
    if not metric.right_or_wrong:
        return gain
    test = paired(tuned, untuned)
    return replace(gain, only_tuned=test.only_a, only_base=test.only_b)


def _less(seeds: Seeds, other: Values) -> Values:
    """Item -> by how much it is above `other`, summed over its seeds."""
    sums: Values = {}
    for items in seeds.values():
        for item in items:
            if item in other:
                sums[item] = sums.get(item, 0.0) + items[item] - other[item]
    return sums


def _reference(results: Results, runs: list[Run], cells: CellItems, gains: list[Gain]) -> list[ReferenceGain]:
    """The reference of a column, before Holm; empty where the column has none, or other items than right and wrong."""
    method = next((name for name in REFERENCE if any(gain.cell.method == name for gain in gains)), None)
    if method is None or not gains[0].metric.right_or_wrong:
        return []
    top = max((gain for gain in gains if gain.cell.method == method), key=lambda gain: gain.cell.rank or 0)
    samples = results.items(next(run for run in runs if run.is_base), top.task)
    answer, rate = most_frequent_answer(samples)
    untuned = {sample["id"]: value_of(sample) for sample in samples}
    frequent = {sample["id"]: float(_normal(sample["answer"]) == answer) for sample in samples}
    p = max(_p_beats(cells[top.cell], other) for other in (untuned, frequent))
    return [ReferenceGain(top, answer, rate, p)]


def _p_beats(seeds: Seeds, other: Values) -> float:
    """One-sided, of a cell's not being more than MARGIN above `other`, over seeds and items."""
    less = {s: {i: value - other[i] for i, value in items.items() if i in other} for s, items in seeds.items()}
    over = estimate([less], share=True)
    p = None if over is None else over.p_above(MARGIN)
    return 1.0 if p is None else p


def _beating_both(references: list[ReferenceGain]) -> list[ReferenceGain]:
    """After Holm over them all: which are shown to beat the base and the most frequent answer by MARGIN."""
    adjusted = holm([reference.p for reference in references])
    return [replace(one, p_holm=p, holds=p < REFERENCE_LEVEL) for one, p in zip(references, adjusted, strict=True)]
