"""The leaderboard: who shares a letter, and how often a rank lies in its interval."""

import numpy as np
import pytest
from scipy import special, stats

from sbora_bench.analysis.ranking import compact_letters, ranking, shown_better
from sbora_bench.plan.metric import SHARE
from sbora_bench.plan.runs import Cell

A, B, C, D = (Cell("t", "m", name, 16) for name in ("lora", "dora", "sbora-fa", "sbora-fb"))


@pytest.mark.parametrize(
    ("better", "letters"),
    [
        ([], "a a a a"),
        ([(A, D)], "a ab ab b"),
        ([(A, C), (A, D), (B, D)], "a ab bc c"),
        ([(x, y) for i, x in enumerate([A, B, C, D]) for y in [A, B, C, D][i + 1 :]], "a b c d"),
        ([(A, B), (A, C), (A, D)], "a b b b"),
    ],
)
def test_two_share_a_letter_exactly_where_neither_is_shown_to_be_better(better, letters):
    made = compact_letters([A, B, C, D], frozenset(better))
    assert [made[cell] for cell in (A, B, C, D)] == letters.split()
    for one in (A, B, C, D):
        for other in (A, B, C, D):
            apart = (one, other) in better or (other, one) in better
            assert bool(set(made[one]) & set(made[other])) != apart


DIFFICULTY, ITEM_BY_METHOD, RUN = 1.0, 0.8, 0.3  # standard deviations, in log-odds


def drawn(rng, shares, seeds=6, items=100, difficulty=DIFFICULTY, by_method=ITEM_BY_METHOD):
    """Cell -> seed -> item -> right: an item has a difficulty that all cells share and an effect of its own in each
    cell, the same under all seeds; each run has an effect too.
    """
    hard, cells = rng.normal(0, difficulty, items), {}
    for cell, share in shares.items():
        odds = special.logit(share) - hard - rng.normal(0, by_method, items) + rng.normal(0, RUN, (seeds, 1))
        right = rng.random((seeds, items)) < special.expit(odds)
        cells[cell] = {seed: dict(enumerate(row)) for seed, row in enumerate(right.tolist())}
    return cells


@pytest.mark.parametrize(
    ("shares", "ranks"),
    [
        ((0.9, 0.75, 0.5, 0.5), ((1, 1), (2, 2), (3, 4), (3, 4))),  # of the equal two either
        ((0.6, 0.6, 0.6, 0.6), ((1, 4),) * 4),
    ],
)
def test_ranks_lie_in_their_intervals(shares, ranks):
    """Of a table's cells, all at once: in one table of twenty, at most, may any true rank lie outside."""
    rng, wrong, widths, draws = np.random.default_rng(0), 0, [], 60
    cells = (A, B, C, D)
    for _ in range(draws):
        made = ranking([drawn(rng, dict(zip(cells, shares, strict=True)))], SHARE, {})
        true = dict(zip(cells, ranks, strict=True))
        wrong += not all(one.first <= true[one.cell][0] and true[one.cell][1] <= one.last for one in made.cells)
        widths += [one.last - one.first for one in made.cells if one.cell is A]
    assert stats.binomtest(wrong, draws, 0.05, alternative="greater").pvalue > 0.01
    assert np.mean(widths) < 2 or len(set(shares)) == 1
    assert [one.score.mean for one in made.cells] == sorted((one.score.mean for one in made.cells), reverse=True)


def test_one_seed_ranks_nobody():
    rng = np.random.default_rng(1)
    made = ranking([drawn(rng, {A: 0.9, B: 0.1}, seeds=1)], SHARE, {A: 10})
    assert [(one.first, one.last, one.letters) for one in made.cells] == [(1, 2, "a"), (1, 2, "a")]
    assert made.better == frozenset() and made.cells[0].trainable_parameters == 10
    assert shown_better({}, SHARE) == frozenset()


def test_where_the_alphabet_does_not_do_there_are_no_letters_and_no_thousands_of_groups():
    """Of 30 pairs of cells one is better in each: 2 to the 30 groups."""
    cells = [Cell("arithmetic", "m", f"method-{number}", 8) for number in range(60)]
    better = frozenset((cells[2 * pair], cells[2 * pair + 1]) for pair in range(30))
    assert set(compact_letters(cells, better).values()) == {""}
    few = frozenset((cells[2 * pair], cells[2 * pair + 1]) for pair in range(4))
    assert {letter for letters in compact_letters(cells[:8], few).values() for letter in letters} == set(
        "abcdefghijklmnop"
    )
