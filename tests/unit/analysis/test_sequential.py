"""Training until it is decided: the errors, coverage and power of the looks, simulated; and the procedure's ends."""

import numpy as np
import pytest
from scipy import stats

from sbora_bench.analysis.estimate import over_seeds
from sbora_bench.analysis.sequential import Decision, Verdict, decide, nominal_level

LOOKS, ALPHA = (4, 6, 8, 12), 0.05
TINY = 1e-9  # a margin that no interval fits into: nothing stops for equivalence


def at_looks(differences, looks=LOOKS):
    """The estimates at the looks that are reached, of one difference a seed; made as they are needed."""
    return (over_seeds(differences[:seeds]) for seeds in looks if seeds <= len(differences))


def decisions(mean, sd=1.0, *, draws=4000, alpha=ALPHA, margin=TINY, seed=0, looks=LOOKS):
    """Of experiments whose differences are normal."""
    values = np.random.default_rng(seed).normal(mean, sd, (draws, looks[-1]))
    return [decide(at_looks(row, looks), looks, alpha, margin) for row in values]


def count(made, *verdicts):
    return sum(one.verdict in verdicts for one in made)


def at_most(hits, draws, rate):
    """Whether a count fits a rate of at most this (99.9 %)."""
    return stats.binomtest(hits, draws, rate, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize(("alpha", "expected"), [(0.05, 0.0173), (0.05 / 4, 0.0038)])
def test_the_nominal_level_of_four_looks(alpha, expected):
    assert nominal_level(LOOKS, alpha) == pytest.approx(expected, rel=0.03)


def test_one_look_is_a_t_test():
    assert nominal_level([3], 0.05) == 0.05
    values = [0.1, 0.3, 0.2]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    made = decide([over_seeds(values)], [3], 0.05, 0.01)
    assert (made.low, made.high) == pytest.approx((low, high))
    assert made.verdict == ("better" if low > 0 else "undecided")


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 4])
def test_false_positives_and_coverage_of_equal_cells(alpha):
    made = decisions(0.0, alpha=alpha, draws=6000)
    assert at_most(count(made, Verdict.BETTER, Verdict.WORSE), len(made), alpha)
    assert count(made, Verdict.BETTER, Verdict.WORSE) > 0.5 * alpha * len(made)  # nor far below
    assert at_most(sum(not one.low <= 0 <= one.high for one in made), len(made), alpha)


def test_a_planted_difference_that_does_not_matter_is_rarely_called_one_that_does():
    """With both stops in force, and a true difference at the margin: equivalent at most as often as alpha."""
    made = decisions(0.5, margin=0.5, sd=0.4, seed=1)
    assert at_most(count(made, Verdict.EQUIVALENT), len(made), ALPHA)


@pytest.mark.parametrize(("effect", "power", "seeds"), [(1.0, 0.77, 9.1), (1.5, 0.985, 6.8), (2.0, 1.0, 5.5)])
def test_power_seeds_coverage_and_sign_at_a_planted_effect(effect, power, seeds):
    made = decisions(effect, seed=2)
    assert count(made, Verdict.BETTER) / len(made) == pytest.approx(power, abs=0.02)
    assert np.mean([one.seeds for one in made]) == pytest.approx(seeds, abs=0.2)
    assert at_most(sum(not one.low <= effect <= one.high for one in made), len(made), ALPHA)
    assert at_most(count(made, Verdict.WORSE), len(made), ALPHA / 2)


@pytest.mark.parametrize("effect", [0.02, 0.1, 0.3])
def test_the_wrong_sign_is_rare_at_any_small_effect(effect):
    made = decisions(effect, seed=3)
    assert at_most(count(made, Verdict.WORSE), len(made), ALPHA / 2)


def test_an_early_stop_leans_away_from_zero_and_its_interval_still_holds():
    made = [one for one in decisions(0.8, seed=4) if one.seeds == 4 and one.decided]
    assert np.mean([one.difference for one in made]) > 1.0


def test_the_interval_covers_where_either_stop_ended_it():
    for effect in (0.0, 0.3, 0.6):
        made = decisions(effect, sd=0.5, margin=0.8, seed=5)
        assert count(made, Verdict.EQUIVALENT) > 500
        assert at_most(sum(not one.low <= effect <= one.high for one in made), len(made), ALPHA)


def test_equal_cells_of_little_spread_are_equivalent():
    made = decisions(0.0, sd=0.2, margin=1.0, seed=6)
    assert count(made, Verdict.EQUIVALENT) > 0.98 * len(made)
    assert np.mean([one.seeds for one in made]) < 5
    assert all(one.low > -1 and one.high < 1 for one in made if one.verdict is Verdict.EQUIVALENT)


def test_a_shown_difference_within_the_margin_is_equivalent():
    values = [0.010, 0.011, 0.009, 0.0105]
    assert decide(at_looks(values), LOOKS, ALPHA, 0.02).verdict is Verdict.EQUIVALENT
    assert decide(at_looks(values), LOOKS, ALPHA, 0.005).verdict is Verdict.BETTER
    assert decide(at_looks(values), LOOKS, ALPHA, 0.005, higher_is_better=False).verdict is Verdict.WORSE
    assert decide(at_looks([-x for x in values]), LOOKS, ALPHA, 0.005, higher_is_better=False).verdict is Verdict.BETTER


def test_nothing_is_decided_before_four_seeds():
    same = [1.0, 1.001, 0.999]
    made = decide([over_seeds(same)], LOOKS, ALPHA, 0.1)
    assert made == Decision(Verdict.UNDECIDED, 3, pytest.approx(1.0), None, None)
    assert decide([], LOOKS, ALPHA, 0.1) == Decision(Verdict.UNDECIDED, 0, None, None, None)
    assert decide([over_seeds([*same, 1.0005])], LOOKS, ALPHA, 0.1).verdict is Verdict.BETTER


def test_the_first_look_that_decides_stands():
    sure = [1.0, 1.1, 0.9, 1.05]
    made = decide(at_looks([*sure, *[-5.0] * 8]), LOOKS, ALPHA, 0.01)
    assert made == decide(at_looks(sure), LOOKS, ALPHA, 0.01) and made.seeds == 4 and made.decided


def test_a_look_rests_on_the_seeds_that_did_not_fail():
    three, five = over_seeds([1.0, 1.1, 0.9]), over_seeds([1.0, 1.1, 0.9, 1.05, 1.0])  # of four and of six
    assert decide([three], LOOKS, ALPHA, 0.01).verdict is Verdict.UNDECIDED
    made = decide([three, five], LOOKS, ALPHA, 0.01)
    assert (made.verdict, made.seeds) == (Verdict.BETTER, 5)
    assert decide([None, five], LOOKS, ALPHA, 0.01) == made  # all of the first look's failed


def test_equal_differences_show_nothing_and_have_no_interval_without_width():
    for value in (0.0, 0.3):
        made = decide(at_looks([value] * 12), LOOKS, ALPHA, 0.01)
        assert (made.verdict, made.seeds, made.low, made.high) == (Verdict.UNDECIDED, 12, None, None)
        assert made.difference == pytest.approx(value)


@pytest.mark.parametrize("looks", [[], [3, 6], [6, 4], [4, 4], [1]])
def test_looks_that_cannot_be(looks):
    with pytest.raises(ValueError, match="looks: found"):
        nominal_level(looks, ALPHA)


@pytest.mark.parametrize(("alpha", "margin"), [(0.05, 0.0), (0.05, -1.0), (0.05, float("nan")), (0.0, 1.0), (1.0, 1.0)])
def test_a_margin_or_level_that_cannot_be(alpha, margin):
    with pytest.raises(ValueError, match="found"):
        decide(at_looks([0.1, 0.2, 0.1, 0.3]), LOOKS, alpha, margin)
