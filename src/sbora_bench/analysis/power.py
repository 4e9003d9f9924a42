"""The smallest difference that a planned comparison can show, before anything runs, from a stated spread over seeds."""

from scipy import optimize, stats

LIKELY = 0.8  # in so many of such experiments it is shown


def smallest_difference(seeds: int, level: float, sd: float, power: float = LIKELY) -> float:
    """The true difference that a two-sided paired t test at `level` shows in a share `power` of experiments.

    `sd`: of one seed's difference. Of several looks this is that of the one with so many seeds, at its nominal level;
    the earlier ones add a little. By the noncentral t (Student, n - 1 degrees of freedom).
    """
    degrees, critical = seeds - 1, float(stats.t.isf(level / 2, seeds - 1))

    def lacking(shift: float) -> float:
        return float(stats.nct.sf(critical, degrees, shift) + stats.nct.cdf(-critical, degrees, shift)) - power

    beyond = critical
    while lacking(beyond) < 0:  # in small steps: far out scipy's noncentral t is not a number
        beyond *= 1.2
    return float(optimize.brentq(lacking, 0.0, beyond)) * sd / seeds**0.5
