"""How much the draw of columns or rows decides, and how much the order of the data: a two-way analysis of variance.

A factorial is a table whose methods are one but for a fixed `random_seed` (`plan.factorials`), each with the same
seeds of data order and dropout. Both factors are random, one run a cell: score = mean + draw + order + rest.
"""

from dataclasses import dataclass

import numpy as np

from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.rate_gains import own_average
from sbora_bench.analysis.statistics import LEVEL
from sbora_bench.plan.factorials import DrawGroup, draw_groups
from sbora_bench.results.read import Results

RESAMPLES = 20_000


@dataclass(frozen=True)
class Component:
    """A part of the variance, with its 95 % interval; `f`, `p`: of its being none (not of the rest)."""

    source: str
    degrees: int
    mean_square: float
    variance: float
    low: float
    high: float
    f: float | None = None
    p: float | None = None


def components(scores: np.ndarray) -> list[Component]:
    """The parts of the variance of `scores` (draws, orders), at least 2 x 2.

    Mean squares by statsmodels' two-way analysis of variance, the parts by its expected mean squares, none below 0.
    Intervals: exact for the rest (chi-square), for the others those of Williams and Tukey, which cover 95 % or more.
    """
    import pandas as pd
    from scipy import stats
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    scores = np.asarray(scores, dtype=float)
    draws, orders = scores.shape
    frame = pd.DataFrame(
        {
            "score": scores.ravel(),
            "draw": np.repeat(np.arange(draws), orders),
            "order": np.tile(np.arange(orders), draws),
        }
    )
    table = anova_lm(ols("score ~ C(draw) + C(order)", frame).fit(), typ=2)
    rest_squares, rest_degrees = table.loc["Residual", ["sum_sq", "df"]]
    rest = rest_squares / rest_degrees
    components = []
    for source, times in (("draw", orders), ("order", draws)):
        squares, degrees, f, p = table.loc[f"C({source})", ["sum_sq", "df", "F", "PR(>F)"]]
        variance = max(0.0, (squares / degrees - rest) / times)
        low, high = (
            max(0.0, (squares - degrees * rest * stats.f.ppf(q, degrees, rest_degrees)))
            / (times * stats.chi2.ppf(q, degrees))
            for q in (1 - LEVEL / 2, LEVEL / 2)
        )
        components.append(Component(source, int(degrees), squares / degrees, variance, low, high, float(f), float(p)))
    low, high = (rest_squares / stats.chi2.ppf(q, rest_degrees) for q in (1 - LEVEL / 2, LEVEL / 2))
    return [*components, Component("rest", int(rest_degrees), rest, rest, low, high)]


def p_equal(parts: list[Component], draws: int, orders: int) -> float:
    """Two-sided, of the draw's and the order's variance being equal: one test of the two together, not two p values.

    A generalized test (Weerahandi, 1991): variances from mean squares whose chi-squares are drawn, seeded.
    """
    draw, order, rest = parts
    rng = np.random.default_rng(0)
    chances = [part.degrees * part.mean_square / rng.chisquare(part.degrees, RESAMPLES) for part in (draw, order, rest)]
    difference = (chances[0] - chances[2]) / orders - (chances[1] - chances[2]) / draws
    above = float((difference > 0).mean())
    return min(1.0, 2 * min(above, 1 - above) + 1 / RESAMPLES)


def scores_of_group(results: Results, group: DrawGroup) -> np.ndarray | None:
    """Averages of the table's tasks as they are shown, (index seeds, seeds); None where a run has none."""
    results = picked(results)
    seeds = results.plan.experiment.tables[group.table].common_seeds
    runs = {(run.model, run.rank, run.method, run.seed): run for run in results.plan.runs_of(group.table)}
    values = [
        [own_average(results, runs[group.model, group.rank, method, seed]) for seed in seeds]
        for method in group.methods
    ]
    metric = results.plan.common_metric(group.table)
    if metric is None or any(value is None for row in values for value in row):
        return None
    return metric.scale * np.array(values, dtype=float)


@dataclass(frozen=True)
class Factorial:
    """What decides in a factorial of index seeds x seeds: the parts of the scores' variance, and the scores' mean, in
    the units that are shown. `p_ratio`: of the draw's and the order's parts being equal.
    """

    group: DrawGroup
    parts: list[Component]
    index_seeds: int
    seeds: int
    mean: float
    p_ratio: float

    def share(self, part: Component) -> float | None:
        """A part's share of the sum of the parts."""
        whole = sum(one.variance for one in self.parts)
        return part.variance / whole if whole else None


def factorials(results: Results) -> list[Factorial]:
    """The factorials of an experiment all of whose runs have a score."""
    whole = []
    for group in draw_groups(results.plan):
        scores = scores_of_group(results, group)
        if scores is not None:
            parts = components(scores)
            shape = len(scores), scores.shape[1], float(scores.mean())
            whole.append(Factorial(group, parts, *shape, p_equal(parts, *scores.shape)))
    return whole
