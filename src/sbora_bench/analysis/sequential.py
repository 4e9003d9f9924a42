"""Is one cell better than another, worse or as good? Decided at looks, numbers of seeds that were fixed beforehand.

At every look the seeds so far are tested at one nominal level, so low that all looks together err at `alpha` (Pocock's
constant boundary, Biometrika 1977, here for the paired t with its few degrees of freedom). The interval at that level
is Jennison and Turnbull's repeated interval: it holds at all looks together, so also at the one where training stopped.
The mean at an early stop leans away from zero; the interval allows for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

from sbora_bench.analysis.estimate import Estimate
from sbora_bench.plan.stages import FIRST_LOOK

DRAWS = 500_000


class Verdict(StrEnum):
    """Of the first cell against the second."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Decision:
    """`seeds`: that the verdict rests on; `difference`: their mean, None without one; `low`, `high`: the repeated
    interval, None before the first look and where the differences have no spread; in the metric's unit and direction.
    """

    verdict: Verdict
    seeds: int
    difference: float | None
    low: float | None
    high: float | None

    @property
    def decided(self) -> bool:
        """Whether more seeds are not needed."""
        return self.verdict is not Verdict.UNDECIDED


def nominal_level(looks: Sequence[int], alpha: float) -> float:
    """The level of each look's two-sided t test at which one or more of the looks reject equal cells in a share `alpha`
    of experiments; `alpha` itself for one look. By seeded Monte Carlo, so good to about two hundredths of itself.

    Raises ValueError for looks that don't ascend, or, where there are several, that begin before `FIRST_LOOK`.
    """
    planned = tuple(looks)
    least = FIRST_LOOK if len(planned) > 1 else 2
    if not planned or planned[0] < least or any(a >= b for a, b in zip(planned, planned[1:], strict=False)):
        raise ValueError(f"looks: found {list(planned)}, allowed ascending numbers of seeds from {least}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: found {alpha}, allowed numbers between 0 and 1")
    return alpha if len(planned) == 1 else _quantile(planned, alpha)


@lru_cache(maxsize=64)
def _quantile(looks: tuple[int, ...], alpha: float) -> float:
    return float(np.quantile(_smallest_p(looks), alpha))


@lru_cache(maxsize=4)
def _smallest_p(looks: tuple[int, ...]) -> np.ndarray:
    """Of each of `DRAWS` experiments with equal cells the smallest p over its looks."""
    from scipy import special

    rng = np.random.default_rng(0)
    total, squares, smallest = np.zeros(DRAWS), np.zeros(DRAWS), np.ones(DRAWS)
    for n in range(1, looks[-1] + 1):
        drawn = rng.standard_normal(DRAWS)
        total += drawn
        squares += drawn**2
        if n in looks:
            variance = (squares - total**2 / n) / (n - 1)
            p = 2 * special.stdtr(n - 1, -np.abs(total) / np.sqrt(n * variance))
            np.minimum(smallest, p, out=smallest)
    return smallest


def decide(
    estimates: Iterable[Estimate | None],
    looks: Sequence[int],
    alpha: float,
    margin: float,
    *,
    higher_is_better: bool = True,
) -> Decision:
    """The verdict of the first look that decides, else of the last that was reached.

    `estimates`: first cell minus second, one a look, None where no seed counts; those not reached yet are left out.
    `alpha`: two-sided error of all looks of this comparison. `margin`: the difference that doesn't matter, above 0.
    Equivalent where the whole interval lies within it, even without zero. Raises ValueError for bad looks, alpha or
    margin.
    """
    if not margin > 0:
        raise ValueError(f"margin: found {margin}, allowed numbers above 0")
    level = nominal_level(looks, alpha)
    least = FIRST_LOOK if len(looks) > 1 else 2
    decision = Decision(Verdict.UNDECIDED, 0, None, None, None)
    for estimate in estimates:
        if estimate is None:
            continue
        low, high = estimate.ends(level) if estimate.n >= least else (None, None)
        verdict = _verdict(low, high, margin, higher_is_better)
        decision = Decision(verdict, estimate.n, estimate.mean, low, high)
        if decision.decided:
            break
    return decision


def _verdict(low: float | None, high: float | None, margin: float, higher_is_better: bool) -> Verdict:
    if low is None or high is None:
        return Verdict.UNDECIDED
    if -margin < low and high < margin:
        return Verdict.EQUIVALENT
    if low <= 0 <= high:
        return Verdict.UNDECIDED
    return Verdict.BETTER if (low > 0) == higher_is_better else Verdict.WORSE
