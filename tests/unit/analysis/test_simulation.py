"""Do intervals cover, and tests err as often as they say? Experiments drawn with the spread over seeds that the
ladder's published cells have, and items drawn on top: each has a difficulty, the same in all runs, and an effect of
item x method. The error of one test over seeds and items, in experiments of other shapes: test_estimate.py.
"""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats

from sbora_bench.analysis import pairs as comparison
from sbora_bench.analysis import statistics
from sbora_bench.plan.runs import Cell

PUBLISHED = Path(__file__).parents[3] / "results/published/ladder/tables"
A, B = Cell("t", "m", "lora", 16), Cell("t", "m", "dora", 16)
ITEMS, SEEDS = 100, 3
DIFFICULTY, ITEM_BY_METHOD = 1.0, 0.5  # standard deviations, in log-odds


def spreads(column="Average") -> np.ndarray:
    """Standard deviation over the seeds of every published cell, as shares."""
    deviations = []
    for name in ("commonsense", "arithmetic"):
        with open(PUBLISHED / f"{name}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        names = [key for key in rows[0] if key.endswith(" sd") and (key == f"{column} sd" or column == "tasks")]
        deviations += [float(row[key]) / 100 for row in rows for key in names if row[key]]
    return np.array([spread for spread in deviations if spread > 0])


def agrees(hits: int, draws: int, rate: float) -> bool:
    """Whether a count is what this rate gives, within binomial error (99.9 %)."""
    return stats.binomtest(int(hits), draws, rate).pvalue > 0.001


def draw(rng, mean: float, shape) -> np.ndarray:
    """True shares under each seed, with a spread drawn from the ladder's task columns."""
    sd = np.minimum(rng.choice(spreads("tasks"), shape[0]), 0.12)
    return np.clip(mean + sd[:, None] * rng.normal(size=shape), 0.02, 0.98)


def answers(rng, shares: np.ndarray, difficulty: np.ndarray) -> dict[int, dict[int, bool]]:
    """Seed -> item -> right: a run's share in log-odds, less the item's difficulty and its own for this method."""
    hard = difficulty + rng.normal(0, ITEM_BY_METHOD, ITEMS)
    odds = special.logit(shares)[:, None] * math.sqrt(1 + 0.35 * hard.var()) - (hard - hard.mean())
    right = rng.random((len(shares), ITEMS)) < special.expit(odds)
    return {seed: dict(enumerate(row)) for seed, row in enumerate(right.tolist())}


def test_the_t_interval_over_three_seeds_covers_where_a_bootstrap_of_seeds_does_not():
    rng, draws = np.random.default_rng(1), 2000
    sd = rng.choice(spreads(), draws)
    values = 0.6 + sd[:, None] * rng.normal(size=(draws, SEEDS))
    intervals = [statistics.seed_summary(row) for row in values]
    assert agrees(sum(not interval.low <= 0.6 <= interval.high for interval in intervals), draws, 0.05)
    resampled = values[:, rng.integers(0, SEEDS, (500, SEEDS))].mean(-1)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=1)
    assert np.mean((low > 0.6) | (high < 0.6)) > 0.15


def test_the_interval_covers_counted_items_too():
    rng, draws = np.random.default_rng(2), 2000
    counts = rng.binomial(ITEMS, draw(rng, 0.6, (draws, SEEDS))) / ITEMS
    intervals = [statistics.seed_summary(row) for row in counts]
    missed = sum(one.low is None or not one.low <= 0.6 <= one.high for one in intervals)  # equal seeds have no interval
    assert agrees(missed, draws, 0.05)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_wilson_covers_on_average_over_nearby_shares(share):
    rng, draws = np.random.default_rng(3), 2000
    shares = rng.uniform(share - 0.04, share + 0.04, draws)
    counts = rng.binomial(ITEMS, shares)
    ends = {count: statistics.wilson(int(count), ITEMS) for count in set(counts.tolist())}
    missed = sum(
        not ends[count][0] <= true <= ends[count][1] for count, true in zip(counts.tolist(), shares, strict=True)
    )
    assert agrees(missed, draws, 0.05)


def test_the_bootstrap_of_items_covers_an_average_of_tasks_and_its_test_errs_as_often():
    rng, draws = np.random.default_rng(4), 150
    chance = [[0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.05, 0.9, 0.05], [0.3, 0.4, 0.3]]  # of -1, 0, 1
    estimates = [
        statistics.bootstrap_average([rng.choice([-1, 0, 1], ITEMS, p=p) for p in chance], seed=number)
        for number in range(draws)
    ]
    assert agrees(sum(not estimate.low <= 0 <= estimate.high for estimate in estimates), draws, 0.05)
    assert agrees(sum(estimate.p < 0.05 for estimate in estimates), draws, 0.05)


def simulated(rng, mean_a: float, mean_b: float, draws: int, seeds: int = SEEDS) -> list[comparison.Pair]:
    a, b = draw(rng, mean_a, (draws, seeds)), draw(rng, mean_b, (draws, seeds))
    pairs = []
    for x, y in zip(a, b, strict=True):
        difficulty = rng.normal(0, DIFFICULTY, ITEMS)
        pairs += comparison.task_pairs({A: answers(rng, x, difficulty), B: answers(rng, y, difficulty)}, {})
    return pairs


def test_false_positives_of_equal_methods():
    """The test over items speaks of these very models, and does tell models of other seeds apart; the words don't."""
    rows = simulated(np.random.default_rng(5), 0.6, 0.6, 600)
    assert sum(row.p < 0.05 for row in rows) > 0.15 * len(rows)
    assert sum(row.p_both < 0.05 for row in rows) <= 0.065 * len(rows)


def test_false_words_in_a_table_stay_at_five_per_cent():
    """Thirty tables of ten pairs of equal methods: one table in twenty, at most, may hold a wrong word."""
    rows = simulated(np.random.default_rng(6), 0.5, 0.5, 300)
    wrong = 0
    for start in range(0, 300, 10):
        table = rows[start : start + 10]
        wrong += any(pair.shown for pair in comparison.judged(table))
    assert stats.binomtest(wrong, 30, 0.05, alternative="greater").pvalue > 0.001


def test_false_words_stay_at_five_per_cent_where_pairs_share_their_cells():
    """Every two of five equal methods, as a table has them: ten pairs that depend on each other."""
    rng, tables, wrong = np.random.default_rng(11), 40, 0
    cells = [Cell("t", "m", f"method-{number}", 16) for number in range(5)]
    for _ in range(tables):
        difficulty = rng.normal(0, DIFFICULTY, ITEMS)
        made = {cell: answers(rng, row, difficulty) for cell, row in zip(cells, draw(rng, 0.5, (5, 6)), strict=True)}
        pairs = comparison.average_pairs([made], {}, least=1)
        assert len(pairs) == 10
        wrong += any(pair.shown for pair in comparison.judged(pairs))
    assert stats.binomtest(wrong, tables, 0.05, alternative="greater").pvalue > 0.01


def test_of_what_is_shown_at_most_one_in_twenty_is_false():
    """Half of the pairs differ by 25 points: the false ones among those shown."""
    rng = np.random.default_rng(7)
    same, apart = simulated(rng, 0.5, 0.5, 60, seeds=6), simulated(rng, 0.75, 0.5, 60, seeds=6)
    shown = [pair.shown for pair in comparison.judged(same + apart)]
    assert sum(shown[60:]) > 20
    assert sum(shown[:60]) <= 0.1 * sum(shown)


@pytest.mark.parametrize("mean", [0.6, 0.97])
def test_the_interval_of_shares_covers_near_the_end_too(mean):
    """What a cell scores on average over its seeds; the plain t interval reaches beyond 1 there."""
    rng, draws = np.random.default_rng(8), 1500
    spread = 0.4  # of a run, in log-odds
    middle = special.logit(mean)
    counts = rng.binomial(ITEMS, special.expit(rng.normal(middle, spread, (draws, 4))))
    made = [statistics.share_summary(row / ITEMS, [ITEMS] * 4) for row in counts]
    missed = sum(not one.low <= special.expit(middle) <= one.high for one in made)
    assert missed <= 0.07 * draws
    assert all(0 < one.low < one.high < 1 for one in made)
    plain = [statistics.seed_summary(row / ITEMS) for row in counts]
    beyond = sum(one.high is None or one.high > 1 for one in plain)
    assert beyond > (0.2 * draws if mean > 0.9 else -1)


def test_no_spread_over_the_items():
    assert statistics.bootstrap_average([[1.0, 1.0], [0.0, 0.0]]) == statistics.Bootstrapped(0.5, 0.5, 0.5, 1.0)
    assert statistics.bootstrap_average([[0.0], [0.0]]).p == 1


def test_tested_together_is_tested_alone():
    """Pairs of one table share their resamples; each has the numbers that it has by itself."""
    rng = np.random.default_rng(8)
    shapes = [(30, 20), (20, 30), (30, 20), (30,), (30, 20)]
    groups = [[rng.choice([-1, 0, 1], n, p=[0.2, 0.4, 0.4]) for n in shape] for shape in shapes]
    groups.append([np.ones(30), np.ones(20)])
    together = statistics.bootstrap_averages(groups)
    assert together == [statistics.bootstrap_average(group) for group in groups]
    for group, estimate in zip(groups[:-1], together, strict=False):
        average = lambda *rows, axis=-1: np.mean([np.mean(row, axis=axis) for row in rows], axis=0)  # noqa: E731
        alone = stats.bootstrap(group, average, n_resamples=statistics.RESAMPLES, method="percentile", rng=0)
        assert (estimate.low, estimate.high) == tuple(alone.confidence_interval)
        assert estimate.p == pytest.approx(2 * stats.norm.sf(abs(estimate.mean) / alone.standard_error))
