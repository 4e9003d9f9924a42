"""Which of two cells of one model is better: at equal rank, at equal trainable parameters, or two ranks of one method.

Two tests a pair, for two questions. Over the items: would these very models differ on other items? An item is averaged
over its seeds and counts once; the signs of the items are flipped. Over items and seeds together: would models of other
seeds differ on other items of this kind? By one standard error of both (estimate.py). A cell is called better or worse
only by the second. Which pairs these are was not declared before, so they are exploratory: Benjamini and Hochberg's
false-discovery rate over the pairs of a table. What an experiment declares is decided by sequential.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations
from typing import Any

import numpy as np

from sbora_bench.analysis.estimate import Estimate, estimate, over_seeds
from sbora_bench.analysis.statistics import LEVEL, bootstrap_averages, false_discovery, paired, sign_flip
from sbora_bench.plan.comparison import equal_parameters
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.plan.runs import Cell, CellPair, Run
from sbora_bench.results.aggregate import value_of
from sbora_bench.results.read import Results

Values = dict[Any, float]  # item id -> what it counts: 1 or 0 where it is right or wrong
Seeds = dict[int | None, Values]  # seed -> its items
CellItems = dict[Cell, Seeds]


class Outcome(Enum):
    """What is shown of the first cell against the second."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "no difference shown"

    def turned(self) -> "Outcome":
        """The same seen from the second cell."""
        return {Outcome.BETTER: Outcome.WORSE, Outcome.WORSE: Outcome.BETTER}.get(self, self)


@dataclass(frozen=True)
class Pair(CellPair):
    """Two tuned cells of one model, what they have in common, and what the tests say of the first over the second.

    Scores and their difference are in the metric's own direction. `p`: over the items; `over`: the difference over
    seeds and items together; `p_seeds`: over the seeds on these items, None for one seed and without a spread. `pairs`,
    `only_a`, `only_b`: of one task, items under a seed each, and those that one cell alone got right; `tasks`, `items`
    and the bootstrap's 95 % interval over the items: of an average. `q`, `q_both`: the p over items, and over items and
    seeds, adjusted for the family (`judged`); the second is None for one seed.
    """

    equal: str
    parameters_ratio: float | None
    metric: Metric
    score_a: float
    score_b: float
    difference: float
    p: float
    over: Estimate
    p_seeds: float | None
    pairs: int | None = None
    only_a: int | None = None
    only_b: int | None = None
    tasks: int | None = None
    items: int | None = None
    items_low: float | None = None
    items_high: float | None = None
    column: str = ""  # a task, `average`, or a measure's name
    q: float = 1.0
    differs: bool = False
    outcome: Outcome = Outcome.NOT_SHOWN
    q_both: float | None = None

    @property
    def shown(self) -> bool:
        """Whether one of the two is better with other seeds and items too."""
        return self.outcome is not Outcome.NOT_SHOWN

    @property
    def of_methods(self) -> bool:
        """Whether two methods are compared, not two ranks of one."""
        return self.equal != "method"

    @property
    def gain(self) -> float:
        """By how much the first cell is better, negative where it is worse."""
        return self.metric.sign * self.difference

    @property
    def seeds(self) -> int:
        """That both cells have."""
        return self.over.n

    @property
    def sd(self) -> float | None:
        """Of the difference over the seeds."""
        return self.over.sd

    @property
    def low(self) -> float | None:
        """Of the 95 % interval over seeds and items; None for one seed."""
        return self.over.ends()[0] if self.seeds > 1 else None

    @property
    def high(self) -> float | None:
        """As `low`, its upper end."""
        return self.over.ends()[1] if self.seeds > 1 else None

    @property
    def p_both(self) -> float | None:
        """Over seeds and items; None for one seed, 1 where nothing varies and so nothing can be shown."""
        p = self.over.p()
        return None if self.seeds < 2 else 1.0 if p is None else p

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
            over=replace(self.over, mean=-self.over.mean),
            only_a=self.only_b,
            only_b=self.only_a,
            items_low=minus(self.items_high),
            items_high=minus(self.items_low),
            outcome=self.outcome.turned(),
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


def in_common(a: Cell, b: Cell, counts: dict[Cell, int]) -> tuple[str, float | None]:
    """What two cells have in common that makes them comparable ("" for nothing), and a's parameters over b's."""
    ratio = counts[a] / counts[b] if counts.get(a) and counts.get(b) else None
    if a.method == b.method:
        return "method", ratio
    near = ratio is not None and equal_parameters(counts[a], counts[b])
    return " and ".join(["rank"] * (a.rank == b.rank) + ["parameters"] * near), ratio


def comparable(cells: list[Cell], counts: dict[Cell, int]) -> list[tuple[Cell, Cell, str, float | None]]:
    """Every two tuned cells that can be compared, with what `in_common` says of them."""
    two = combinations([cell for cell in cells if not cell.is_base], 2)
    return [(a, b, *common) for a, b in two if (common := in_common(a, b, counts))[0]]


def task_pairs(cells: CellItems, counts: dict[Cell, int], metric: Metric = SHARE) -> list[Pair]:
    """The pairs of one task."""
    pairs = average_pairs([cells], counts, metric, 1, redrawn=not metric.right_or_wrong)
    if not metric.right_or_wrong:
        return [replace(pair, pairs=(pair.items or 0) * (1 if pair.over.fresh else pair.seeds)) for pair in pairs]
    counted = []
    for pair in pairs:
        test = paired(*pooled(by_seed(cells[pair.a], cells[pair.b])))
        of_one_task = replace(pair, pairs=test.n, only_a=test.only_a, only_b=test.only_b)
        counted.append(replace(of_one_task, tasks=None, items=None))
    return counted


def average_pairs(
    tasks: Sequence[CellItems],
    counts: dict[Cell, int],
    metric: Metric = SHARE,
    least: int = 2,
    which: Callable[[list[Cell], dict[Cell, int]], list[tuple[Cell, Cell, str, float | None]]] = comparable,
    redrawn: bool = True,
) -> list[Pair]:
    """The pairs on the unweighted average of the tasks that both cells have, over the seeds that have them all.

    Those with fewer than `least` such tasks are left out. Items may have any value, a log-likelihood say. `which`:
    cells to the pairs among them; `redrawn`: with the interval over other draws of the items, two thirds of the time.
    """
    pairs, rows = [], []
    for a, b, equal, ratio in which(list(dict.fromkeys(cell for cells in tasks for cell in cells)), counts):
        both = [(cells[a], cells[b]) for cells in tasks if a in cells and b in cells]
        common = [common_items(x, y) for x, y in both]
        seeds = [seed for seed in (common[0] if common else ()) if all(seed in task for task in common)]
        if len(both) < least or not seeds:
            continue
        common = [common_items(x, y, seeds) for x, y in both]
        less = [_less(x, y, of_task, seeds) for (x, y), of_task in zip(both, common, strict=True)]
        over = estimate(less, metric.right_or_wrong)
        if over is None:
            continue
        first, second = (_mean([cells[side] for cells in both], common, seeds) for side in (0, 1))
        of_items = [_over_their_seeds(task) for task in less]
        averages = [float(np.mean([np.mean(list(task[seed].values())) for task in less])) for seed in seeds]
        p, p_seeds = sign_flip([list(task.values()) for task in of_items]), over_seeds(averages).p()
        pair = Pair(a, b, equal, ratio, metric, first, second, over.mean, p, over, p_seeds)
        pairs.append(replace(pair, tasks=len(both), items=sum(map(len, of_items))))
        rows.append([[value / (1 if over.fresh else len(seeds)) for value in task.values()] for task in of_items])
    if not redrawn:
        return pairs
    drawn = bootstrap_averages(rows)
    return [replace(pair, items_low=one.low, items_high=one.high) for pair, one in zip(pairs, drawn, strict=True)]


def every_two(cells: list[Cell], counts: dict[Cell, int]) -> list[tuple[Cell, Cell, str, float | None]]:
    """Every two tuned cells, comparable or not."""
    return [(a, b, *in_common(a, b, counts)) for a, b in combinations([cell for cell in cells if not cell.is_base], 2)]


def common_items(a: Seeds, b: Seeds, seeds: Sequence[int | None] = ()) -> dict[int | None, list[Any]]:
    """Seed -> the items that both cells have: those that all of `seeds` share, else, where items are fresh, its own."""
    common = {seed: [item for item in a[seed] if item in b[seed]] for seed in seeds or a if seed in b}
    common = {seed: items for seed, items in common.items() if items}
    shared = set.intersection(*map(set, common.values())) if seeds and common else set()
    return {seed: [item for item in items if item in shared] for seed, items in common.items()} if shared else common


def _less(a: Seeds, b: Seeds, common: dict[int | None, list[Any]], seeds: list[int | None]) -> Seeds:
    return {seed: {item: a[seed][item] - b[seed][item] for item in common[seed]} for seed in seeds}


def _mean(cells: list[Seeds], common: list[dict[int | None, list[Any]]], seeds: list[int | None]) -> float:
    """Over the tasks, of the mean over the seeds."""
    tasks = list(zip(cells, common, strict=True))
    return float(np.mean([[np.mean([cell[s][i] for i in items[s]]) for s in seeds] for cell, items in tasks]))


def _over_their_seeds(task: Mapping[int | None, Values]) -> Values:
    """Item -> its difference, summed over the seeds that have it."""
    sums: Values = {}
    for items in task.values():
        for item, value in items.items():
            sums[item] = sums.get(item, 0.0) + value
    return sums


def judged(pairs: list[Pair], level: float = LEVEL) -> list[Pair]:
    """The pairs of a family after Benjamini and Hochberg: `q` over the items and whether it is below `level`; and the
    outcome, over items and seeds, adjusted over those that have several seeds.
    """
    adjusted = false_discovery([pair.p for pair in pairs])
    of_several_seeds = iter(false_discovery([pair.p_both for pair in pairs if pair.p_both is not None]))
    adjusted_both = [next(of_several_seeds) if pair.seeds > 1 else None for pair in pairs]
    return [
        replace(pair, q=q, differs=q < level, q_both=q_both, outcome=_outcome(pair, q_both, level))
        for pair, q, q_both in zip(pairs, adjusted, adjusted_both, strict=True)
    ]


def _outcome(pair: Pair, q: float | None, level: float) -> Outcome:
    if q is None or q >= level:
        return Outcome.NOT_SHOWN
    return Outcome.BETTER if pair.gain > 0 else Outcome.WORSE
