"""The leaderboard: who shares a letter, and how often a rank lies in its interval."""

import numpy as np
import pytest

from sbora_bench.analysis.ranking import compact_letters, ranking, shown_better
from sbora_bench.plan.experiment import Cell
from sbora_bench.plan.metric import SHARE

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


def drawn(rng, shares, seeds=6, items=100):
    """Cell -> seed -> item -> right, with a run effect of two points."""
    run = {cell: np.clip(share + rng.normal(0, 0.02, seeds), 0, 1) for cell, share in shares.items()}
    return {
        cell: {seed: dict(enumerate((rng.random(items) < of[seed]).tolist())) for seed in range(seeds)}
        for cell, of in run.items()
    }


def test_ranks_lie_in_their_intervals():
    """Twenty tables of four cells: in one of them at most may any true rank lie outside."""
    rng, wrong, widths = np.random.default_rng(0), 0, []
    truth = {A: 0.8, B: 0.7, C: 0.5, D: 0.5}
    ranks = {A: (1, 1), B: (2, 2), C: (3, 4), D: (3, 4)}  # of the equal two either
    for _ in range(20):
        made = ranking([drawn(rng, truth)], SHARE, {})
        inside = [one.first <= ranks[one.cell][0] and ranks[one.cell][1] <= one.last for one in made.cells]
        wrong += not all(inside)
        widths += [one.last - one.first for one in made.cells if one.cell is A]
    assert wrong <= 3 and np.mean(widths) < 2
    assert [one.score.mean for one in made.cells] == sorted((one.score.mean for one in made.cells), reverse=True)


def test_one_seed_ranks_nobody():
    made = ranking([drawn(np.random.default_rng(1), {A: 0.9, B: 0.1}, seeds=1)], SHARE, {A: 10})
    assert [(one.first, one.last, one.letters) for one in made.cells] == [(1, 2, "a"), (1, 2, "a")]
    assert made.better == frozenset() and made.cells[0].trainable_parameters == 10
    assert shown_better([]) == frozenset()
