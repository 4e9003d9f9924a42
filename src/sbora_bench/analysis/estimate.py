"""A mean paired difference, and how far it would lie from itself with other seeds and other items.

Where every seed has items of its own, a t over the seeds' means covers both. Where all seeds share the items, the
spread over items counts too: a two-way analysis of seeds x items, both random, gives the variance of the mean. Its
critical value is the root of the seeds' and the items' squared t, weighted by their variances (after Cochran,
Biometrics 1964). With Satterthwaite's degrees of freedom instead, a test at the level 0.001 errs 20 times as often as
that with three seeds, and 9 times with four.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

Differences = Mapping[int | None, Mapping[Any, float]]  # of one task: seed -> item -> first less second
LEAST_DIFFERING = 2  # shares: an item's variance is at least as if one item differed each way


@dataclass(frozen=True)
class Estimate:
    """`n`: seeds; `sd`: over the seeds' means. `error`: standard error of the mean, over seeds and items, None where
    nothing varies: equal values don't say how far others lie. `parts`: the shares of its square that come of seeds and
    of items, with the degrees of freedom of each.
    """

    n: int
    mean: float
    sd: float | None = None
    error: float | None = None
    parts: tuple[tuple[float, float], ...] = ()
    fresh: bool = False

    def critical(self, level: float) -> float:
        """How many standard errors off the mean the two-sided test at `level` rejects."""
        from scipy import special

        squares = [share * float(special.stdtrit(degrees, 1 - level / 2)) ** 2 for share, degrees in self.parts]
        return float(sum(squares) ** 0.5)

    def p(self, mean_if_null: float = 0.0) -> float | None:
        """Two-sided, of the mean's being `mean_if_null`."""
        return None if self.error is None else self._level(abs(self.mean - mean_if_null) / self.error)

    @cached_property
    def p_both(self) -> float | None:
        """`p` of several seeds: None for one, 1 where nothing varies and so nothing can be shown."""
        p = self.p()
        return None if self.n < 2 else 1.0 if p is None else p

    def p_above(self, mean_if_null: float) -> float | None:
        """One-sided, of the mean's not being above `mean_if_null`."""
        p = self.p(mean_if_null)
        return None if p is None else p / 2 if self.mean > mean_if_null else 1 - p / 2

    def _level(self, errors: float) -> float:
        """At which the test just rejects a mean that is so many standard errors off."""
        from scipy import special

        if len(self.parts) == 1:
            return float(2 * special.stdtr(self.parts[0][1], -errors))
        low, high = -700.0, 0.0  # of the level's logarithm
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.critical(float(np.exp(middle))) > errors else (low, middle)
        return float(np.exp(high))

    def ends(self, level: float = 0.05) -> tuple[float, float] | tuple[None, None]:
        """Of the interval at `level`."""
        if self.error is None:
            return None, None
        half = self.critical(level) * self.error
        return self.mean - half, self.mean + half


def over_seeds(values: Sequence[float]) -> Estimate:
    """Of one difference a seed: the paired t. Raises ValueError for none."""
    return each_over_seeds(np.array([values], dtype=float))[0]


def each_over_seeds(rows: np.ndarray) -> list[Estimate]:
    """`over_seeds` of many: rows x seeds."""
    n = rows.shape[1]
    if not n:
        raise ValueError("no differences")
    means = rows.mean(axis=1).tolist()
    if n == 1:
        return [Estimate(1, mean) for mean in means]
    return [_of_spread(n, mean, sd) for mean, sd in zip(means, rows.std(axis=1, ddof=1).tolist(), strict=True)]


def _of_spread(n: int, mean: float, sd: float) -> Estimate:
    if sd <= 1e-12 * max(1.0, abs(mean)):  # equal, to rounding
        return Estimate(n, mean, 0.0)
    return Estimate(n, mean, sd, sd / n**0.5, ((1.0, n - 1.0),))


def over_seeds_and_items(matrices: Sequence[np.ndarray], share: bool) -> Estimate:
    """Of differences, seeds x items, one matrix a task: the mean over the tasks of their means.

    The variance of the mean is (seeds' + items' - rest's mean square) / count, at least that of seeds or items alone.
    Of one seed over the items only. `share`: the values are shares of right answers.
    """
    seeds, tasks = matrices[0].shape[0], len(matrices)
    averages = np.mean([matrix.mean(axis=1) for matrix in matrices], axis=0)
    parts = [_items_and_rest(matrix, share) for matrix in matrices]
    of_items = [items / tasks**2 for items, _ in parts]
    items_variance, rest = sum(of_items), sum(rest for _, rest in parts) / tasks**2
    items_degrees = _satterthwaite(of_items, [matrix.shape[1] - 1 for matrix in matrices])
    mean = float(np.mean(averages))
    of_seeds_only = over_seeds(averages)
    seeds_variance = 0.0 if of_seeds_only.error is None else of_seeds_only.error**2
    variance = max(seeds_variance + items_variance - rest, seeds_variance, items_variance)
    if variance <= 1e-24 * max(1.0, mean**2):
        return Estimate(seeds, mean, of_seeds_only.sd)
    of_seeds = seeds_variance / (seeds_variance + items_variance)
    shares = [(of_seeds, seeds - 1.0), (1 - of_seeds, items_degrees)]
    kept = tuple((share, degrees) for share, degrees in shares if share > 0 and degrees > 0)
    return Estimate(seeds, mean, of_seeds_only.sd, float(variance**0.5), kept)


def _items_and_rest(matrix: np.ndarray, share: bool) -> tuple[float, float]:
    """What a task's items, and what is left beside seeds and items, add to the variance of its mean."""
    seeds, items = matrix.shape
    by_item = matrix.mean(axis=0)
    spread = float(by_item.var(ddof=1)) if items > 1 else 0.0
    spread = max(spread, LEAST_DIFFERING / items) if share else spread
    if seeds == 1 or items == 1:
        return spread / items, 0.0
    rest = matrix - by_item - matrix.mean(axis=1, keepdims=True) + matrix.mean()
    return spread / items, float((rest**2).sum()) / ((seeds - 1) * (items - 1)) / (seeds * items)


def _satterthwaite(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Degrees of freedom of a sum of variances over the items of several tasks, each with many."""
    total = sum(variances) ** 2
    parts = sum(variance**2 / free for variance, free in zip(variances, degrees, strict=True) if variance and free)
    return total / parts if parts else 1.0


def estimate(tasks: Sequence[Differences], share: bool) -> Estimate | None:
    """Of the differences of two cells, one mapping a task, over the seeds that have all tasks; None without one.

    Items that no two seeds share are fresh: then each seed counts with its own. Else those that all seeds share.
    """
    seeds = [seed for seed in (tasks[0] if tasks else ()) if all(task.get(seed) for task in tasks)]
    if not seeds:
        return None
    if len(seeds) > 1 and all(are_fresh(task[seed] for seed in seeds) for task in tasks):
        averages = [float(np.mean([np.mean(list(task[seed].values())) for task in tasks])) for seed in seeds]
        return replace(over_seeds(averages), fresh=True)
    matrices = []
    for task in tasks:
        shared = set(task[seeds[0]]).intersection(*(task[seed] for seed in seeds))
        items = [item for item in task[seeds[0]] if item in shared]
        if not items:
            return None
        matrices.append(np.array([[task[seed][item] for item in items] for seed in seeds], dtype=float))
    return over_seeds_and_items(matrices, share)


def are_fresh(seeds: Iterable[Iterable[Any]]) -> bool:
    """Whether no item stands under two seeds, given the items of each."""
    items = [item for of_seed in seeds for item in of_seed]
    return len(set(items)) == len(items)
