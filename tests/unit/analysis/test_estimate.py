"""A mean difference over seeds and items: its standard error on made matrices, and the error of its test on experiments
with item difficulty, item x method and run effects.
"""

import numpy as np
import pytest
from scipy import special, stats

from sbora_bench.analysis.estimate import estimate, over_seeds, over_seeds_and_items
from sbora_bench.analysis.sequential import decide

# standard deviations in log-odds: of an item's difficulty, of item x method, of a run
EFFECTS = {"items decide": (1.0, 1.0, 0.1), "runs decide": (1.0, 0.0, 0.4), "both": (1.5, 0.8, 0.6)}


def experiment(rng, seeds, items, of_item, of_method, of_run, fresh=False):
    """Differences of two equally good methods, seeds x items, right or wrong."""
    rows = seeds if fresh else 1
    difficulty = rng.normal(0, of_item, (1, rows, items))
    by_method = rng.normal(0, of_method, (2, rows, items))
    run = rng.normal(0, of_run, (2, seeds, 1))
    right = rng.random((2, seeds, items)) < special.expit(0.5 + difficulty + by_method + run)
    return right[0].astype(float) - right[1]


def rate(p_values):
    return float(np.mean([p is not None and p < 0.05 for p in p_values]))


@pytest.mark.parametrize("effects", EFFECTS.values(), ids=EFFECTS)
@pytest.mark.parametrize("seeds", [3, 4, 12])
def test_the_error_of_a_test_over_seeds_and_items_is_five_per_cent(effects, seeds):
    rng = np.random.default_rng(seeds)
    made = [experiment(rng, seeds, 100, *effects) for _ in range(1000)]
    assert rate([over_seeds_and_items([one], share=True).p() for one in made]) <= 0.065


def test_the_error_is_kept_at_a_low_level_where_satterthwaites_is_not():
    rng, level = np.random.default_rng(9), 0.004
    made = [experiment(rng, 4, 100, *EFFECTS["both"]) for _ in range(3000)]
    estimates = [over_seeds_and_items([one], share=True) for one in made]
    assert sum(one.p() < level for one in estimates) <= 2 * level * 3000
    free = [1 / sum(share**2 / degrees for share, degrees in one.parts) for one in estimates]
    p = [2 * special.stdtr(degrees, -abs(one.mean) / one.error) for one, degrees in zip(estimates, free, strict=True)]
    assert np.sum(np.array(p) < level) > 2 * level * 3000


def test_what_seeds_alone_items_alone_and_the_larger_p_would_err_by():
    """The same experiments by other procedures: these are the reasons for this one."""
    rng = np.random.default_rng(0)
    made = [experiment(rng, 12, 100, *EFFECTS["items decide"]) for _ in range(600)]
    seeds = [over_seeds(one.mean(axis=1)).p() for one in made]
    assert rate(seeds) > 0.15
    pooled = [stats.binomtest(int((one > 0).sum()), int((one != 0).sum())).pvalue for one in made]
    assert rate(pooled) > 0.15
    rng = np.random.default_rng(1)
    made = [experiment(rng, 12, 100, 1.0, 1.0, 0.3) for _ in range(1000)]
    items = [stats.ttest_1samp(one.mean(axis=0), 0).pvalue for one in made]
    larger = [max(a, over_seeds(one.mean(axis=1)).p()) for a, one in zip(items, made, strict=True)]
    assert rate(larger) > 0.06


def test_with_fresh_items_a_t_over_seeds_errs_by_five_per_cent():
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(2000):
        one = experiment(rng, 4, 50, *EFFECTS["items decide"], fresh=True)
        task = {seed: {(seed, item): value for item, value in enumerate(row)} for seed, row in enumerate(one)}
        made = estimate([task], share=True)
        assert made.fresh and made.parts in (((1.0, 3.0),), ())  # none where all four seeds are equal
        p_values.append(made.p())
    assert 0.03 <= rate(p_values) <= 0.065


def test_looks_at_fixed_items_err_by_five_per_cent_where_looks_over_seeds_alone_do_not():
    rng, looks = np.random.default_rng(3), (4, 6, 8, 12)
    made = [experiment(rng, 12, 100, *EFFECTS["items decide"]) for _ in range(1000)]
    estimates = [[over_seeds_and_items([one[:n]], share=True) for n in looks] for one in made]
    shown = [decide(one, looks, 0.05, 1e-9).decided for one in estimates]
    assert np.mean(shown) <= 0.05 + 0.015
    alone = [decide((over_seeds(one.mean(axis=1)[:n]) for n in looks), looks, 0.05, 1e-9).decided for one in made]
    assert np.mean(alone) > 0.15


def test_the_variance_of_the_mean_is_that_of_the_expected_mean_squares():
    rng = np.random.default_rng(4)
    one = rng.normal(size=(5, 1)) + 2 * rng.normal(size=(1, 30)) + rng.normal(size=(5, 30))
    made = over_seeds_and_items([one], share=False)
    frame = one - one.mean()
    seeds = 30 * (frame.mean(axis=1) ** 2).sum() / 4
    items = 5 * (frame.mean(axis=0) ** 2).sum() / 29
    rest = ((frame - frame.mean(axis=1, keepdims=True) - frame.mean(axis=0)) ** 2).sum() / (4 * 29)
    assert made.error**2 == pytest.approx((seeds + items - rest) / 150)
    share = seeds / (seeds + items)
    assert made.parts == (pytest.approx((share, 4)), pytest.approx((1 - share, 29)))
    due = share * stats.t.isf(0.025, 4) ** 2 + (1 - share) * stats.t.isf(0.025, 29) ** 2
    assert made.critical(0.05) == pytest.approx(due**0.5) and made.mean == pytest.approx(one.mean())
    low, high = made.ends()
    assert (made.p(low), made.p(high)) == (pytest.approx(0.05), pytest.approx(0.05))
    assert made.p_above(made.mean) == pytest.approx(0.5)


def test_an_average_of_tasks_has_the_error_of_both():
    rng = np.random.default_rng(5)
    tasks = [rng.normal(size=(1, 40)), rng.normal(size=(1, 60))]
    made = over_seeds_and_items(tasks, share=False)
    assert made.error**2 == pytest.approx(sum(task.var(ddof=1) / task.shape[1] for task in tasks) / 4)


def test_one_seed_counts_over_its_items():
    task = {0: dict(enumerate([1.0, 0.0, 0.0, 1.0, 1.0]))}
    made = estimate([task], share=False)
    assert made.n == 1 and made.sd is None
    assert made.p() == pytest.approx(stats.ttest_1samp([1, 0, 0, 1, 1], 0).pvalue)


def test_equal_differences_have_a_width_where_right_answers_are_counted_else_no_test():
    same = {seed: dict.fromkeys(range(50), 1.0) for seed in range(4)}
    share, value = estimate([same], share=True), estimate([same], share=False)
    assert (share.mean, value.mean) == (1.0, 1.0)
    assert share.error == pytest.approx((2 / 50 / 50) ** 0.5) and 0 < share.p() < 1e-6
    assert value.error is None and value.p() is None and value.ends() == (None, None)
    assert over_seeds([0.3, 0.3, 0.3]).p() is None and over_seeds([0.3]).p() is None


def test_only_seeds_with_all_tasks_and_items_of_all_seeds_count():
    tasks = [{0: {1: 1.0, 2: 0.0}, 1: {1: 0.0, 2: 1.0, 3: 1.0}, 2: {1: 1.0, 2: 1.0}}, {0: {7: 1.0}, 1: {7: 0.0}}]
    made = estimate(tasks, share=True)
    assert made.n == 2 and made.mean == pytest.approx((0.5 + 0.5) / 2)
    assert estimate([{0: {}}], share=True) is None and estimate([], share=True) is None
    with pytest.raises(ValueError, match="no differences"):
        over_seeds([])
