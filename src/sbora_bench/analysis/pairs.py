"""Which of two cells of one model is better: at equal rank, at equal trainable parameters, or two ranks of one method.

Two tests a pair, for two questions. Over the items: would these very models differ on other items? An item is averaged
over its seeds and counts once; the signs of the items are flipped. Over items and seeds together: would models of other
seeds differ on other items of this kind? By one standard error of both (estimate.py). A cell is called better or worse
only by the second. Which pairs these are was not declared before, so they are exploratory: Benjamini and Hochberg's
false-discovery rate over the pairs of a table. What an experiment declares is decided by sequential.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import combinations

import numpy as np

from sbora_bench.analysis.estimate import Estimate, each_over_seeds, over_seeds_and_items
from sbora_bench.analysis.paired_arrays import Arrays, Batch, CellItems, Seeds, pair_batches
from sbora_bench.analysis.statistics import LEVEL, bootstrap_averages, false_discovery, sign_flips
from sbora_bench.plan.comparison import equal_parameters
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.plan.runs import Cell, CellPair, Run
from sbora_bench.results.aggregate import value_of
from sbora_bench.results.read import Results


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
    seeds and items together; `p_seeds`: over the seeds on these items, None for one seed and without a spread. `pairs`:
    items under a seed each; `only_a`, `only_b`: those that one cell alone got right, where items are right or wrong.
    `of_items`: by task the items' differences, over their seeds, and `items_low`, `items_high` the bootstrap's 95 %
    interval over them (`redrawn`). `q`, `q_both`: the p over items, and over items and seeds, adjusted for the family
    (`judged`); the second is None for one seed.
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
    pairs: int
    tasks: int
    items: int
    only_a: int | None = None
    only_b: int | None = None
    items_low: float | None = None
    items_high: float | None = None
    of_items: list[np.ndarray] = field(default_factory=list, repr=False, compare=False)
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
        return self.over.p_both

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
            of_items=[-task for task in self.of_items],
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
    """Every two of the cells that can be compared, with what `in_common` says of them."""
    return [(a, b, *common) for a, b in combinations(cells, 2) if (common := in_common(a, b, counts))[0]]


def task_pairs(cells: CellItems, counts: dict[Cell, int], metric: Metric = SHARE) -> list[Pair]:
    """The pairs of one task."""
    return average_pairs([cells], counts, metric, 1)


def average_pairs(
    tasks: Sequence[CellItems],
    counts: dict[Cell, int],
    metric: Metric = SHARE,
    least: int = 2,
    keep_items: bool = False,
) -> list[Pair]:
    """The pairs on the unweighted average of the tasks that both cells have, over the seeds that have them all.

    Those with fewer than `least` such tasks are left out. Items may have any value, a log-likelihood say. `keep_items`:
    for `redrawn`.
    """
    compared = comparable(_tuned(tasks), counts)
    pairs: dict[int, Pair] = {}
    for batch in pair_batches(tasks, [(a, b) for a, b, _, _ in compared], least):
        less, size = batch.less, 1 if batch.fresh else batch.seeds
        of_items = [np.concatenate(task, axis=1) if batch.fresh else np.sum(task, axis=0) for task in less]
        first, second, p = _scores(batch.first), _scores(batch.second), sign_flips(of_items)
        only_a, only_b = _right_alone(batch.first, batch.second), _right_alone(batch.second, batch.first)
        over_seeds = each_over_seeds(_seed_averages(less))
        for row, (place, over) in enumerate(zip(batch.places, estimates(batch, metric.right_or_wrong), strict=True)):
            pairs[place] = Pair(
                *compared[place],
                metric=metric,
                score_a=first[row],
                score_b=second[row],
                difference=over.mean,
                p=p[row],
                over=over,
                p_seeds=over_seeds[row].p(),
                pairs=batch.items * size,
                only_a=only_a[row] if metric.right_or_wrong else None,
                only_b=only_b[row] if metric.right_or_wrong else None,
                tasks=len(of_items),
                items=batch.items,
                of_items=[task[row] / size for task in of_items] if keep_items else [],
            )
    return [pairs[place] for place in sorted(pairs)]


def redrawn(pairs: list[Pair]) -> list[Pair]:
    """The same with the 95 % interval over other draws of the items; of pairs whose items were kept."""
    drawn = bootstrap_averages([pair.of_items for pair in pairs])
    return [replace(pair, items_low=one.low, items_high=one.high) for pair, one in zip(pairs, drawn, strict=True)]


def pair_estimates(tasks: Sequence[CellItems], share: bool) -> dict[tuple[Cell, Cell], Estimate]:
    """Every two tuned cells -> the difference of the averages of the tasks that both have, over seeds and items.

    `share`: of right answers. Without the rest of a `Pair`, which takes longer.
    """
    pairs = list(combinations(_tuned(tasks), 2))
    made = {
        place: over
        for batch in pair_batches(tasks, pairs)
        for place, over in zip(batch.places, estimates(batch, share), strict=True)
    }
    return {pairs[place]: made[place] for place in sorted(made)}


def estimates(batch: Batch, share: bool) -> list[Estimate]:
    """Of each pair of a batch; as `estimate.estimate` of one."""
    if batch.fresh:
        return [replace(over, fresh=True) for over in each_over_seeds(_seed_averages(batch.less))]
    tasks = [np.stack(task, axis=1) for task in batch.less]
    return [over_seeds_and_items([task[row] for task in tasks], share) for row in range(len(batch.places))]


def _tuned(tasks: Sequence[CellItems]) -> list[Cell]:
    return [cell for cell in dict.fromkeys(cell for cells in tasks for cell in cells) if not cell.is_base]


def _means(values: Arrays) -> np.ndarray:
    """Of each pair, task and seed the mean over the items: pairs x tasks x seeds."""
    return np.stack([np.stack([array.mean(axis=1) for array in task], axis=-1) for task in values], axis=1)


def _seed_averages(values: Arrays) -> np.ndarray:
    """Of each pair and seed the mean over the tasks: pairs x seeds."""
    return np.ascontiguousarray(_means(values).swapaxes(1, 2)).mean(axis=2)


def _scores(values: Arrays) -> list[float]:
    """Of each pair the mean over tasks and seeds."""
    means = _means(values)
    return means.reshape(len(means), -1).mean(axis=1).tolist()


def _right_alone(values: Arrays, other: Arrays) -> list[int]:
    """Of each pair how many items under a seed count in `values` and not in the other."""
    both = zip(sum(values, []), sum(other, []), strict=True)
    return np.sum([((a != 0) & (b == 0)).sum(axis=1) for a, b in both], axis=0).tolist()


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
