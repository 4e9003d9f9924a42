"""The tests and intervals behind the tables, all by scipy and statsmodels.

Two kinds of uncertainty, never mixed: over the items of one run (binomial), and over the seeds of one cell.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

LEVEL = 0.05
CONFIDENCE = 0.95  # of intervals
RESAMPLES = 1999
FEW = 12  # items that differ, whose signs are all tried
TOGETHER = 500  # groups that are drawn again at a time: 8 MB a task


@dataclass(frozen=True)
class Summary:
    """Values over seeds: `sd` needs two of them, as do the ends of the 95 % interval, and different ones."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def seed_summary(values: Sequence[float]) -> Summary:
    """Mean, sample standard deviation and Student's 95 % interval of one value a seed.

    One seed gives a mean alone. Raises ValueError for none.
    """
    if len(values) == 0:
        raise ValueError("no values to summarise")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Summary(1, mean, None, None, None)
    sd = float(np.std(values, ddof=1))
    if sd == 0:  # equal values don't say how far other seeds would lie
        return Summary(len(values), mean, 0.0, None, None)
    ends = _t_interval(len(values) - 1) * (sd / np.sqrt(len(values))) + mean
    return Summary(len(values), mean, sd, *map(float, ends))


def share_summary(shares: Sequence[float], items: Sequence[float]) -> Summary:
    """The same of one share of right answers a seed, out of `items`: the interval is Student's of the log-odds, half an
    item added to right and wrong, so that its ends lie within 0 and 1. Seeds that agree spread by half an item.
    """
    from scipy import special

    plain = seed_summary(shares)
    if plain.sd is None:
        return plain
    n, right = np.asarray(items, dtype=float), np.asarray(shares, dtype=float) * np.asarray(items, dtype=float)
    log_odds = np.log((right + 0.5) / (n - right + 0.5))
    half_an_item = 0.5 * np.mean(1 / (right + 0.5) + 1 / (n - right + 0.5))
    sd = max(float(np.std(log_odds, ddof=1)), float(half_an_item))
    ends = log_odds.mean() + _t_interval(len(shares) - 1) * sd / len(shares) ** 0.5
    low, high = map(float, special.expit(ends))
    return Summary(plain.n, plain.mean, plain.sd, min(low, plain.mean), max(high, plain.mean))  # none right: from 0


@cache
def _t_interval(degrees: int) -> np.ndarray:
    """The ends of Student's interval of mean 0 and scale 1: the same for all with as many seeds."""
    from scipy import stats

    return np.array(stats.t.interval(CONFIDENCE, degrees))


def _places(keys: Iterable[Any]) -> dict[Any, list[int]]:
    """Key -> where it stands."""
    places: dict[Any, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places


@dataclass(frozen=True)
class Bootstrapped:
    """A mean of means over other draws of the items: 95 % percentile interval, and p of it being none; 1 where no
    item differs from another: equal values show nothing.
    """

    mean: float
    low: float
    high: float
    p: float


def bootstrap_averages(groups: Sequence[Sequence[Sequence[float] | np.ndarray]], seed: int = 0) -> list[Bootstrapped]:
    """Of each group the unweighted mean of the means of some rows (a task's items each), each row resampled by itself.

    By scipy, groups of equally long rows on the same draws; the p value is two-sided and normal, with the bootstrap's
    standard error.
    """
    from scipy import stats

    rows = [[np.asarray(row, dtype=float) for row in samples] for samples in groups]
    means = [float(np.mean([row.mean() for row in group])) for group in rows]
    bootstrapped = [Bootstrapped(mean, mean, mean, 1.0) for mean in means]
    for lengths, places in _places(tuple(map(len, group)) for group in rows).items():
        uneven = [place for place in places if any(np.ptp(row) for row in rows[place])]
        for start in range(0, len(uneven), TOGETHER):
            some = uneven[start : start + TOGETHER]
            drawn = _redrawn_averages([rows[place] for place in some], lengths, seed)
            ends = drawn.confidence_interval
            for place, error, low, high in zip(some, drawn.standard_error, ends.low, ends.high, strict=True):
                p = 2 * stats.norm.sf(abs(means[place]) / error)
                bootstrapped[place] = Bootstrapped(means[place], float(low), float(high), float(p))
    return bootstrapped


def _redrawn_averages(groups: list[list[np.ndarray]], lengths: tuple[int, ...], seed: int) -> Any:
    """scipy's bootstrap of the averages of some groups, of rows of these lengths."""
    from scipy import stats

    tasks = [np.stack(of_task) for of_task in zip(*groups, strict=True)]

    def averages(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:  # of each row the places drawn, resamples x items
        return np.mean([_means_of_drawn(*of_task) for of_task in zip(tasks, drawn, strict=True)], axis=0)

    numbers = [np.arange(length) for length in lengths]
    return stats.bootstrap(numbers, averages, n_resamples=RESAMPLES, method="percentile", rng=seed)


def _means_of_drawn(rows: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Of each row (rows x items) and resample (the places drawn, resamples x items) the mean: rows x resamples.

    By how often an item is drawn: one product of matrices, a tenth of the time of gathering the items.
    """
    resamples, items = drawn.shape
    starts = items * np.arange(resamples)[:, None]
    times = np.bincount((drawn + starts).ravel(), minlength=resamples * items).reshape(resamples, items)
    return rows @ times.T.astype(float) / items


def bootstrap_average(samples: Sequence[Sequence[float]], seed: int = 0) -> Bootstrapped:
    """`bootstrap_averages` of one group."""
    return bootstrap_averages([samples], seed)[0]


@cache  # few scores differ among many runs of as many items
def binomial_stderr(correct: float, n: int) -> float:
    """Standard error of a share of n items."""
    from scipy import stats

    return float(stats.binom.std(n, correct / n) / n)


@cache
def wilson(correct: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n items."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(correct, n, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


def sign_flip(rows: Sequence[Sequence[float]]) -> float:
    """Two-sided p of the mean of some rows' means: of all signs that its items' differences could have had.

    A row is a task's items, each its difference summed over its seeds, so that an item counts once (a cluster). Exact
    for whole numbers in rows of one length, then for one seed McNemar's test, and where few items differ; else normal
    with the variance of the signs. 1 where no item differs.
    """
    return sign_flips([np.asarray(row, dtype=float)[None] for row in rows])[0]


def sign_flips(tasks: Sequence[np.ndarray]) -> list[float]:
    """`sign_flip` of many: a task is pairs x items."""
    if len({task.shape[1] for task in tasks}) > 1:
        return [_flipped([task[row] for task in tasks]) for row in range(len(tasks[0]))]
    values = np.concatenate(tasks, axis=1)
    rounded = np.round(values).astype(int)
    whole = (np.abs(values - rounded) < 1e-9).all(axis=1)
    sizes = [size for size in np.unique(np.abs(rounded[whole])).tolist() if size]
    counts = np.array([(np.abs(rounded) == size).sum(axis=1) for size in sizes]).T.tolist() or [[]] * len(values)
    totals = np.abs(rounded.sum(axis=1)).tolist()
    return [
        _whole_signs(tuple((size, count) for size, count in zip(sizes, counts[row], strict=True) if count), totals[row])
        if whole[row]
        else _flipped([task[row] for task in tasks])
        for row in range(len(values))
    ]


def _flipped(rows: Sequence[np.ndarray]) -> float:
    from scipy import special

    values = np.concatenate([row / len(row) for row in rows])
    values = values[values != 0]
    if not len(values):
        return 1.0
    total = abs(values.sum())
    if len(values) <= FEW:
        signs = np.array(np.meshgrid(*[[-1, 1]] * len(values))).reshape(len(values), -1)
        return float(np.mean(np.abs(values @ signs) >= total * (1 - 1e-12)))
    return float(2 * special.ndtr(-total / np.sqrt((values**2).sum())))


@cache  # few differ among many pairs of as many items
def _whole_signs(sizes: tuple[tuple[int, int], ...], total: int) -> float:
    """P of a sum at least as far from 0, of whole numbers with random signs: their distributions convolved.

    `sizes`: each size, and how many numbers have it.
    """
    from scipy import stats

    chances = np.ones(1)
    for size, count in sizes:
        spread = np.zeros(2 * size * count + 1)
        spread[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, spread)
    middle = len(chances) // 2
    return float(min(1.0, chances[middle + total :].sum() + chances[: middle - total + 1].sum()))


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p values, in the order given; an empty family stays empty."""
    from scipy import stats

    return stats.false_discovery_control(p_values).tolist() if len(p_values) else []


@dataclass(frozen=True)
class Paired:
    """Two models on the same items: how many each alone got right, and the exact two-sided McNemar p."""

    n: int
    a_right: int
    b_right: int
    only_a: int
    only_b: int
    p: float

    @property
    def difference(self) -> float:
        """Share right by a less share right by b."""
        return (self.a_right - self.b_right) / self.n


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Exact McNemar test of two equally long, non-empty rows of right (1) and wrong (0). Else ValueError."""
    of_a, of_b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if of_a.shape != of_b.shape or of_a.ndim != 1 or not len(of_a):
        raise ValueError(f"paired rows of equal length needed, found {of_a.shape} and {of_b.shape}")
    only_a, only_b = int((of_a & ~of_b).sum()), int((~of_a & of_b).sum())
    return Paired(len(of_a), int(of_a.sum()), int(of_b.sum()), only_a, only_b, _mcnemar(only_a, only_b))


@cache
def _mcnemar(only_a: int, only_b: int) -> float:
    from statsmodels.stats.contingency_tables import mcnemar

    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given; an empty family stays empty.

    The same as statsmodels' `multipletests`, which searches the whole process for garbage at each call: 0.1 s and more.
    """
    p = np.asarray(p_values, dtype=float)
    order, adjusted = np.argsort(p), np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def effective_items(value: float, stderr: float) -> float:
    """How many items a share with this standard error would be of, were it a plain one (Kish's effective size)."""
    return value * (1 - value) / stderr**2
