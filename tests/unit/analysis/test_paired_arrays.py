"""Pairs computed together: each as it would be alone, whatever seeds and items its two cells have."""

from itertools import combinations

import numpy as np
import pytest

from sbora_bench.analysis import paired_arrays, pairs, statistics
from sbora_bench.analysis.estimate import estimate
from sbora_bench.analysis.paired_arrays import common_items, pair_batches
from sbora_bench.analysis.ranking import ranking
from sbora_bench.plan.experiment import Cell
from sbora_bench.plan.metric import SHARE

CELLS = [Cell("t", "m", name, 16) for name in ("lora", "dora", "pissa", "miss", "hira", "full", "bias", "oft")]


def made(fresh: bool) -> list[dict]:
    """Two tasks: most cells have six seeds, one has four; one lacks a task, one an item, one has another order."""
    rng, tasks = np.random.default_rng(0), []
    for task in range(2):
        cells = {}
        for place, cell in enumerate(CELLS[: 7 if task else 8]):
            seeds = range(4 if place == 2 else 6)
            cells[cell] = {
                seed: {(seed * fresh, item): float(rng.random() < 0.3 + place / 20) for item in range(30)}
                for seed in seeds
            }
        del cells[CELLS[3]][1][1 * fresh, 7]
        cells[CELLS[4]] = {seed: dict(reversed(items.items())) for seed, items in cells[CELLS[4]].items()}
        tasks.append(cells)
    return tasks


def alone(tasks: list[dict], a: Cell, b: Cell) -> tuple:
    """(estimate, scores, items that the first alone got right) of one pair, item by item."""
    both = [(cells[a], cells[b]) for cells in tasks if a in cells and b in cells]
    seeds = [seed for seed in both[0][0] if all(seed in x and seed in y for x, y in both)]
    common = [common_items(x, y, seeds) for x, y in both]
    less = [
        {seed: {item: x[seed][item] - y[seed][item] for item in items} for seed, items in of_task.items()}
        for (x, y), of_task in zip(both, common, strict=True)
    ]
    first, second = (
        np.mean([[np.mean([cells[seed][i] for i in of_task[seed]]) for seed in seeds] for cells, of_task in of_side])
        for of_side in (list(zip(side, common, strict=True)) for side in zip(*both, strict=True))
    )
    right = sum(value == 1 for task in less for items in task.values() for value in items.values())
    return estimate(less, True), first, second, right


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("largest", [1, 2**22])
def test_a_pair_among_others_is_as_it_is_alone(fresh, largest, monkeypatch):
    monkeypatch.setattr(paired_arrays, "LARGEST", largest)  # a pair in a batch, or all
    tasks = made(fresh)
    rows = pairs.average_pairs(tasks, {}, least=1)
    assert [(row.a, row.b) for row in rows] == list(combinations(CELLS, 2))
    for row in rows:
        over, first, second, right = alone(tasks, row.a, row.b)
        assert row.over.fresh == over.fresh == fresh and row.over.n == over.n == (
            4 if CELLS[2] in (row.a, row.b) else 6
        )
        assert (row.difference, row.over.error) == pytest.approx((over.mean, over.error))
        assert (row.score_a, row.score_b, row.only_a) == (pytest.approx(first), pytest.approx(second), right)
        assert row.tasks == (1 if CELLS[7] in (row.a, row.b) else 2)
    assert pairs.pair_estimates(tasks, True) == {(row.a, row.b): row.over for row in rows}


def test_cells_of_the_same_seeds_and_items_are_one_batch():
    """However many there are: of each of these 28 pairs alone the arrays would be made anew."""
    sizes = [len(batch.places) for batch in pair_batches(made(True), list(combinations(CELLS, 2)))]
    assert sum(sizes) == 28 and max(sizes) == 6  # every two of the four that have all


def test_two_seeds_that_share_items_which_the_third_has_not_are_no_pair():
    """Neither fresh nor the same items: no test is of such."""
    cells = {
        cell: {seed: dict.fromkeys(items, 1.0) for seed, items in enumerate(("ab", "bc", "cd"))} for cell in CELLS[:2]
    }
    assert pairs.average_pairs([cells], {}, least=1) == []


def test_what_nobody_reads_is_not_computed(monkeypatch):
    """A ranking reads no test over the items; the tables of pairs no interval over other draws of them."""
    monkeypatch.setattr(pairs, "bootstrap_averages", None)
    tasks = made(True)[1:]
    assert len(pairs.average_pairs(tasks, {}, least=1)) == 21
    monkeypatch.setattr(pairs, "sign_flips", None)
    assert len(ranking(tasks, SHARE, {}).cells) == 7


def test_chances_of_as_many_signs_are_computed_once(monkeypatch):
    from scipy import stats

    statistics._whole_signs.cache_clear()
    calls, pmf = [], stats.binom.pmf
    monkeypatch.setattr(stats.binom, "pmf", lambda *of: calls.append(of) or pmf(*of))
    rng = np.random.default_rng(1)
    p = {statistics.sign_flip([rng.permutation([1.0] * 9 + [-1.0] * 3 + [0.0] * 8)]) for _ in range(20)}
    assert list(p) == [pytest.approx(statistics.paired([1] * 9 + [0] * 3, [0] * 9 + [1] * 3).p)] and len(calls) == 1


def test_means_of_drawn_items_are_those_of_the_items_gathered():
    rng = np.random.default_rng(2)
    rows, drawn = rng.normal(size=(3, 7)), rng.integers(0, 7, (50, 7))
    assert statistics._means_of_drawn(rows, drawn) == pytest.approx(np.stack([row[drawn].mean(axis=1) for row in rows]))
