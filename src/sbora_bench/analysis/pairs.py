"""Which of two cells of one model is better: at equal rank, at equal trainable parameters, or two ranks of one method.

Two tests a pair, for two questions. Over the items: would these very models differ on other items? Exact McNemar for a
task of right and wrong, a bootstrap of the items for other values and for the average of a table's tasks. Over the
seeds: would other seeds differ on these items? The paired t test, whose interval covers with three seeds where a
bootstrap of seeds does not. A cell is called better or worse only where both say so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations
from typing import Any

import numpy as np

from sbora_bench.analysis.statistics import (
    LEVEL,
    Bootstrapped,
    Summary,
    bootstrap_averages,
    holm,
    over_seeds,
    p_over_seeds,
    paired,
    seeds_needed,
)
from sbora_bench.plan.comparison import PARAMETERS_WITHIN
from sbora_bench.plan.experiment import Cell, Run
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.results.aggregate import value_of
from sbora_bench.results.read import Results

Values = dict[Any, float]  # item id -> what it counts: 1 or 0 where it is right or wrong
Seeds = dict[int | None, Values]  # seed -> its items
CellItems = dict[Cell, Seeds]


class Outcome(Enum):
    """What both tests say of the first cell against the second."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"


@dataclass(frozen=True)
class Verdict:
    """`p`: the larger of the two, after Holm; None for one seed. `more_seeds`: that would show a point, as reckoned."""

    outcome: Outcome
    p: float | None = None
    more_seeds: int | None = None

    @property
    def shown(self) -> bool:
        return self.outcome is not Outcome.NOT_SHOWN

    def turned(self) -> "Verdict":
        """The same seen from the second cell."""
        other = {Outcome.BETTER: Outcome.WORSE, Outcome.WORSE: Outcome.BETTER}
        return replace(self, outcome=other.get(self.outcome, self.outcome))


@dataclass(frozen=True)
class Pair:
    """Two tuned cells of one model, what they have in common, and what the tests say of the first over the second.

    Scores and their difference are in the metric's own direction. `pairs`, `only_a`, `only_b`: of one task, items under
    a seed each, and those that one cell alone got right; `tasks`, `items` and the bootstrap's 95 % interval: of an
    average. `sd`, `low`, `high`, `p_seeds`: of the difference over the seeds; None for one.
    """

    a: Cell
    b: Cell
    equal: str
    parameters_ratio: float | None
    metric: Metric
    score_a: float
    score_b: float
    difference: float
    p: float
    seeds: int
    sd: float | None
    low: float | None
    high: float | None
    p_seeds: float | None
    seeds_for_1_point: int | None
    pairs: int | None = None
    only_a: int | None = None
    only_b: int | None = None
    tasks: int | None = None
    items: int | None = None
    items_low: float | None = None
    items_high: float | None = None
    column: str = ""  # a task, `average`, or a measure's name
    p_holm: float = 1.0
    differs: bool = False
    verdict: Verdict = Verdict(Outcome.NOT_SHOWN)

    @property
    def table(self) -> str:
        return self.a.table

    @property
    def model(self) -> str:
        return self.a.model

    @property
    def of_methods(self) -> bool:
        """Whether two methods are compared, not two ranks of one."""
        return self.equal != "method"

    @property
    def gain(self) -> float:
        """By how much the first cell is better, negative where it is worse."""
        return self.metric.sign * self.difference

    def turned(self) -> "Pair":
        """The same seen from the second cell."""

        def minus(value: float | None) -> float | None:
            return None if value is None else -value

        return replace(
            self,
            a=self.b,
            b=self.a,
            parameters_ratio=None if self.parameters_ratio is None else 1 / self.parameters_ratio,
            score_a=self.score_b,
            score_b=self.score_a,
            difference=-self.difference,
            low=minus(self.high),
            high=minus(self.low),
            only_a=self.only_b,
            only_b=self.only_a,
            items_low=minus(self.items_high),
            items_high=minus(self.items_low),
            verdict=self.verdict.turned(),
        )


def items_by_cell(results: Results, runs: list[Run], task: str) -> CellItems:
    """What the items of a task count under the runs of one model. Raises UserError where samples are missing."""
    cells: CellItems = {}
    for run in runs:
        values = {sample["id"]: value_of(sample) for sample in results.items(run, task)}
        if values:
            cells.setdefault(run.cell, {})[run.seed] = values
    return cells


def by_seed(a: Seeds, b: Seeds, base: bool = False) -> list[tuple[list[float], list[float]]]:
    """The values of two cells on the items that both have, seed by seed; a base's one seed stands for all."""
    seeds = []
    for seed in a:
        other = next(iter(b.values())) if base else b.get(seed, {})
        common = [item for item in a[seed] if item in other]
        if common:
            seeds.append(([a[seed][item] for item in common], [other[item] for item in common]))
    return seeds


def pooled(rows: list[tuple[list[float], list[float]]]) -> tuple[list[float], list[float]]:
    """What `by_seed` gives, of all seeds together: a pair is one item under one seed."""
    return [value for row, _ in rows for value in row], [value for _, row in rows for value in row]


def alike(a: Cell, b: Cell, counts: dict[Cell, int]) -> tuple[str, float | None]:
    """What two cells have in common that makes them comparable ("" for nothing), and a's parameters over b's."""
    ratio = counts[a] / counts[b] if counts.get(a) and counts.get(b) else None
    if a.method == b.method:
        return "method", ratio
    near = ratio is not None and max(ratio, 1 / ratio) <= 1 + PARAMETERS_WITHIN
    return " and ".join(["rank"] * (a.rank == b.rank) + ["parameters"] * near), ratio


def comparable(cells: list[Cell], counts: dict[Cell, int]) -> list[tuple[Cell, Cell, str, float | None]]:
    """Every two tuned cells that can be compared, with what `alike` says of them."""
    two = combinations([cell for cell in cells if not cell.is_base], 2)
    return [(a, b, *common) for a, b in two if (common := alike(a, b, counts))[0]]


def task_pairs(cells: CellItems, counts: dict[Cell, int], metric: Metric = SHARE) -> list[Pair]:
    """The pairs of one task."""
    if not metric.right_or_wrong:
        return [
            replace(pair, pairs=(pair.items or 0) * pair.seeds) for pair in average_pairs([cells], counts, metric, 1)
        ]
    tested, differences = [], []
    for a, b, equal, ratio in comparable(list(cells), counts):
        seeds = by_seed(cells[a], cells[b])
        if seeds:
            test = paired(*pooled(seeds))
            scores = {"score_a": test.a_right / test.n, "score_b": test.b_right / test.n, "difference": test.difference}
            alone = {"pairs": test.n, "only_a": test.only_a, "only_b": test.only_b, "p": test.p}
            tested.append({"a": a, "b": b, "equal": equal, "parameters_ratio": ratio, **scores, **alone})
            differences.append([sum(x) / len(x) - sum(y) / len(y) for x, y in seeds])
    return _with_seeds(tested, differences, metric)


def average_pairs(
    tasks: Sequence[CellItems], counts: dict[Cell, int], metric: Metric = SHARE, least: int = 2
) -> list[Pair]:
    """The pairs on the unweighted average of the tasks that both cells have, over the seeds that have them all.

    Those with fewer than `least` such tasks are left out. Items may have any value, a log-likelihood say.
    """
    tested, differences, items = [], [], []
    for a, b, equal, ratio in comparable(list(dict.fromkeys(cell for cells in tasks for cell in cells)), counts):
        both = [(cells[a], cells[b]) for cells in tasks if a in cells and b in cells]
        seeds = [seed for seed in (both[0][0] if both else ()) if all(seed in x and seed in y for x, y in both)]
        if len(both) < least or not seeds:
            continue
        values = [common_values(x, y, seeds) for x, y in both]
        scores = [float(np.mean([cell[side].mean() for cell in values])) for side in (0, 1)]
        counted = {"tasks": len(both), "items": sum(x.shape[1] for x, _ in values)}
        counted |= {"score_a": scores[0], "score_b": scores[1]}
        tested.append({"a": a, "b": b, "equal": equal, "parameters_ratio": ratio, **counted})
        differences.append([float(np.mean([(x[k] - y[k]).mean() for x, y in values])) for k in range(len(seeds))])
        items.append([(x - y).mean(axis=0) for x, y in values])  # by how much a is over b on an item, over the seeds
    over_items = [_over_items(drawn) for drawn in bootstrap_averages(items)]
    return _with_seeds([row | drawn for row, drawn in zip(tested, over_items, strict=True)], differences, metric)


def _over_items(drawn: Bootstrapped) -> dict[str, float]:
    return {"difference": drawn.mean, "items_low": drawn.low, "items_high": drawn.high, "p": drawn.p}


def common_values(a: Seeds, b: Seeds, seeds: list[int | None]) -> list[np.ndarray]:
    """Of both cells the values, seeds x items: those that both have under every one of the seeds, in a's order."""
    shared = set(a[seeds[0]]).intersection(*(cell[seed] for cell in (a, b) for seed in seeds))
    items = [item for item in a[seeds[0]] if item in shared]
    return [np.array([[cell[seed][item] for item in items] for seed in seeds], dtype=float) for cell in (a, b)]


def _with_seeds(tested: list[dict[str, Any]], differences: list[list[float]], metric: Metric) -> list[Pair]:
    """The pairs with what the seeds say: how many, their spread, the 95 % t interval, p, and the seeds that one point
    would take. `differences`: of each pair, one a seed.
    """
    summaries: list[Summary] = [over_seeds(values) for values in differences]
    spreads = [round(summary.sd, 6) for summary in summaries if summary.sd is not None]
    needed = iter(seeds_needed(spreads, metric.point))
    return [
        Pair(
            **row,
            metric=metric,
            seeds=summary.n,
            sd=summary.sd,
            low=summary.low,
            high=summary.high,
            p_seeds=p,
            seeds_for_1_point=None if summary.sd is None else next(needed),
        )
        for row, summary, p in zip(tested, summaries, p_over_seeds(differences), strict=True)
    ]


def judged(pairs: list[Pair], level: float = LEVEL) -> list[Pair]:
    """The pairs of a family after Holm: `p_holm` over the items and whether it is below `level`; and the verdict, of
    the larger of the two p values, Holm over those that have both.
    """
    adjusted = holm([pair.p for pair in pairs])
    larger = [max(pair.p, pair.p_seeds) for pair in pairs if pair.p_seeds is not None]
    both = iter(holm(larger))
    return [
        replace(pair, p_holm=p, differs=p < level, verdict=_verdict(pair, next(both)))
        if pair.p_seeds is not None
        else replace(pair, p_holm=p, differs=p < level)
        for pair, p in zip(pairs, adjusted, strict=True)
    ]


def _verdict(pair: Pair, p: float) -> Verdict:
    """Better or worse where p is below LEVEL; else how far one point is from being shown."""
    if p < LEVEL:
        return Verdict(Outcome.BETTER if pair.gain > 0 else Outcome.WORSE, p)
    more = None if pair.seeds_for_1_point is None else max(pair.seeds_for_1_point - pair.seeds, 0)
    return Verdict(Outcome.NOT_SHOWN, p, more)
