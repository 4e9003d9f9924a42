"""The tests and intervals behind the tables, all by scipy and statsmodels.

Two kinds of uncertainty, never mixed: over the items of one run (binomial), and over the seeds of one cell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower, normal_sample_size_one_tail
from statsmodels.stats.proportion import proportion_confint

LEVEL, POWER = 0.05, 0.8  # of the tests, and of the power estimate
RESAMPLES = 1999


@dataclass(frozen=True)
class Summary:
    """Values over seeds: `sd` needs two of them, as do the ends of the 95 % interval."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Mean, sample standard deviation and Student's t interval of one value a seed.

    One seed gives a mean alone. Raises ValueError for none.
    """
    if len(values) == 0:
        raise ValueError("no values to summarise")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Summary(1, mean, None, None, None)
    sd = float(np.std(values, ddof=1))
    if sd == 0:
        return Summary(len(values), mean, 0.0, mean, mean)
    low, high = stats.t.interval(confidence, len(values) - 1, loc=mean, scale=sd / np.sqrt(len(values)))
    return Summary(len(values), mean, sd, float(low), float(high))


def p_over_seeds(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test: one difference a seed against none. None for a single seed."""
    if len(differences) < 2:
        return None
    if np.ptp(differences) < 1e-12:  # alike but for rounding
        return 1.0 if abs(differences[0]) < 1e-12 else 0.0
    return float(stats.ttest_1samp(differences, 0).pvalue)


@cache
def seeds_needed(sd: float, difference: float) -> int:
    """Seeds with which the paired t test finds `difference` at LEVEL with POWER, where one seed's differs by `sd`.

    Of this one test alone, without a correction for others beside it. At least two.
    """
    if sd < difference / 100:
        return 2
    seeds = max(2, math.ceil(normal_sample_size_one_tail(difference, POWER, LEVEL / 2, std_null=sd)))
    while TTestPower().power(difference / sd, seeds, LEVEL) < POWER:  # the t test takes a few more
        seeds += 1
    return seeds


@dataclass(frozen=True)
class Bootstrapped:
    """A mean of means over other draws of the items: 95 % percentile interval, and p of it being none."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_average(samples: Sequence[Sequence[float]], seed: int = 0) -> Bootstrapped:
    """The unweighted mean of the means of some rows (a task's items each), each row resampled by itself.

    By scipy; the p value is two-sided and normal, with the bootstrap's standard error.
    """

    def average(*rows, axis=-1):
        return np.mean([np.mean(row, axis=axis) for row in rows], axis=0)

    rows = [np.asarray(row, dtype=float) for row in samples]
    mean = float(average(*rows))
    if all(np.ptp(row) == 0 for row in rows):
        return Bootstrapped(mean, mean, mean, float(mean == 0))
    found = stats.bootstrap(rows, average, n_resamples=RESAMPLES, method="percentile", rng=seed)
    p = 2 * stats.norm.sf(abs(mean) / found.standard_error)
    return Bootstrapped(mean, *map(float, found.confidence_interval), float(p))


def binomial_stderr(correct: float, n: int) -> float:
    """Standard error of a share of n items."""
    return float(stats.binom.std(n, correct / n) / n)


def wilson(correct: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of n items."""
    low, high = proportion_confint(correct, n, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


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


def paired(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """Exact McNemar test of two equally long, non-empty rows of right and wrong. Raises ValueError otherwise."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"paired rows of equal length needed, found {a.shape} and {b.shape}")
    table = [[int((a & b).sum()), int((a & ~b).sum())], [int((~a & b).sum()), int((~a & ~b).sum())]]
    p = float(mcnemar(table, exact=True).pvalue)
    return Paired(len(a), int(a.sum()), int(b.sum()), table[0][1], table[1][0], p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given; an empty family stays empty."""
    if len(p_values) == 0:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def effective_items(value: float, stderr: float) -> float:
    """How many items a share with this standard error would be of, were it a plain one (Kish's effective size)."""
    return value * (1 - value) / stderr**2
