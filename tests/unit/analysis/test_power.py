"""The smallest difference that can be shown, against statsmodels' own reckoning and a simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from sbora_bench.analysis.power import smallest_difference, spread_limits


@pytest.mark.parametrize(("seeds", "level"), [(4, 0.0173), (12, 0.0173), (12, 0.0038), (3, 0.05)])
def test_it_is_statsmodels_effect_size(seeds, level):
    d = TTestPower().solve_power(nobs=seeds, alpha=level, power=0.8)
    assert smallest_difference(seeds, level, 2.0) == pytest.approx(2 * d / 1.0, rel=1e-3)


@pytest.mark.parametrize(("seeds", "level"), [(8, 0.0173), (4, 0.0038), (3, 0.0015), (6, 0.005)])
def test_four_of_five_experiments_show_it(seeds, level):
    """Where scipy's noncentral t is not a number, too: few degrees of freedom at a low level."""
    drawn = np.random.default_rng(0).normal(smallest_difference(seeds, level, 0.02), 0.02, size=(20_000, seeds))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < level) == pytest.approx(0.8, abs=0.01)


def test_more_seeds_and_a_higher_level_show_less():
    levels = (0.0015, 0.002, 0.0038, 0.005, 0.01, 0.025, 0.05)
    shown = np.array([[smallest_difference(seeds, level, 1.0) for level in levels] for seeds in range(3, 13)])
    assert (np.diff(shown, axis=0) < 0).all() and (np.diff(shown, axis=1) < 0).all()


def test_the_limits_of_a_pilots_spread_cover_it():
    drawn = np.random.default_rng(1).normal(0, 2.0, size=(4000, 6)).std(axis=1, ddof=1)
    within = [low <= 2.0 <= high for low, high in (spread_limits(sd, 6) for sd in drawn)]
    assert np.mean(within) == pytest.approx(0.95, abs=0.01)
