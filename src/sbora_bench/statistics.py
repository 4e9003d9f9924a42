"""The tests and intervals behind the tables, all by scipy and statsmodels.

Two kinds of uncertainty, never mixed: over the items of one run (binomial), and over the seeds of one cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


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


def binomial_stderr(correct: int, n: int) -> float:
    """Standard error of a share of n items."""
    return float(stats.binom.std(n, correct / n) / n)


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
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
