"""The smallest difference that can be shown, against statsmodels' own reckoning and a simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from sbora_bench.analysis.power import smallest_difference


@pytest.mark.parametrize(("seeds", "level"), [(4, 0.0173), (12, 0.0173), (12, 0.0038), (3, 0.05)])
def test_it_is_statsmodels_effect_size(seeds, level):
    d = TTestPower().solve_power(nobs=seeds, alpha=level, power=0.8)
    assert smallest_difference(seeds, level, 2.0) == pytest.approx(2 * d / 1.0, rel=1e-3)


def test_four_of_five_experiments_show_it():
    drawn = np.random.default_rng(0).normal(smallest_difference(8, 0.0173, 0.02), 0.02, size=(20_000, 8))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.0173) == pytest.approx(0.8, abs=0.01)
