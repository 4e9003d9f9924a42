"""The smallest difference that a planned comparison can show, before anything runs, from a stated spread over seeds."""

import numpy as np
from scipy import optimize, special, stats

LIKELY = 0.8  # in so many of such experiments it is shown
CONFIDENCE = 0.95  # of the limits of a spread that was measured on pilot seeds
STEPS = np.linspace(-9, 9, 3001)  # of a standard normal, to its ends


def smallest_difference(seeds: int, level: float, sd: float) -> float:
    """The true difference that a two-sided paired t test at `level` shows in a share LIKELY of experiments.

    `sd`: of one seed's difference. Of several looks this is that of the one with so many seeds, at its nominal level;
    the earlier ones add a little.
    """
    most = 4 * float(stats.t.isf(level / 2, seeds - 1)) + 10  # errors: the power here is 1 to more than four digits

    def lacking(errors: float) -> float:
        return share_shown(seeds, level, errors) - LIKELY

    return float(optimize.brentq(lacking, 0.0, most)) * sd / seeds**0.5


def share_shown(seeds: int, level: float, errors: float) -> float:
    """Power of a two-sided t test at `level` where the true difference is `errors` standard errors.

    The chance that the measured spread is small enough, averaged over the normal mean. scipy's noncentral t says the
    same where it says anything; in the tails of few degrees of freedom it is not a number.
    """
    degrees = seeds - 1
    critical = float(stats.t.isf(level / 2, degrees))
    means = errors + STEPS
    return float(np.average(special.chdtr(degrees, degrees * (means / critical) ** 2), weights=np.exp(-(STEPS**2) / 2)))


def spread_limits(sd: float, seeds: int) -> tuple[float, float]:
    """The limits of a spread that was measured as `sd` on so many pilot seeds, at `CONFIDENCE`: chi-square's."""
    degrees, beyond = seeds - 1, (1 - CONFIDENCE) / 2
    low, high = np.sqrt(degrees / stats.chi2.isf([beyond, 1 - beyond], degrees))
    return sd * float(low), sd * float(high)
