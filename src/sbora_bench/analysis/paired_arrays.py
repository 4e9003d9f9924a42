"""The values of pairs of cells on the items that both have, as arrays.

Cells with the same seeds and items are taken together: numpy takes as long for one pair as for hundreds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbora_bench.analysis.estimate import are_fresh
from sbora_bench.plan.runs import Cell

Values = dict[Any, float]  # item id -> what it counts: 1 or 0 where it is right or wrong
Seeds = dict[int | None, Values]  # seed -> its items
CellItems = dict[Cell, Seeds]
Items = Mapping[int | None, list[Any]]  # seed -> item ids
Arrays = list[list[np.ndarray]]  # of a task and a seed: pairs x items

LARGEST = 2**22  # values of a batch: 32 MB, of which a few are held at a time


@dataclass(frozen=True)
class Batch:
    """Pairs of cells with the same seeds and items: their places among all pairs, and the values of their two cells.

    `fresh`: no item stands under two seeds; else all seeds have the same items in the same order.
    """

    places: list[int]
    fresh: bool
    first: Arrays
    second: Arrays

    @property
    def less(self) -> Arrays:
        """The first cell's values less the second's."""
        return [[a - b for a, b in zip(*of_task, strict=True)] for of_task in zip(self.first, self.second, strict=True)]

    @property
    def seeds(self) -> int:
        return len(self.first[0])

    @property
    def items(self) -> int:
        """Of all tasks together, an item that several seeds share once."""
        return sum(array.shape[1] for task in self.first for array in (task if self.fresh else task[:1]))


def pair_batches(tasks: Sequence[CellItems], pairs: Sequence[tuple[Cell, Cell]], least: int = 1) -> Iterator[Batch]:
    """The pairs on the tasks that both cells have, over the seeds that have them all.

    Left out: pairs with fewer than `least` such tasks or without such a seed, and those of which two seeds share items
    that not all do.
    """
    alike = _alike(tasks)
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (a, b) in enumerate(pairs):
        groups.setdefault((alike[a], alike[b]), []).append(place)
    for places in groups.values():
        a, b = pairs[places[0]]
        both = [cells for cells in tasks if a in cells and b in cells]
        common = [common_items(cells[a], cells[b]) for cells in both]
        seeds = [seed for seed in (common[0] if common else ()) if all(seed in task for task in common)]
        if len(both) < least or not seeds:
            continue
        common = [common_items(cells[a], cells[b], seeds) for cells in both]
        fresh = len(seeds) > 1 and all(are_fresh(task.values()) for task in common)
        if not fresh:
            if not all(set(items) == set(task[seeds[0]]) for task in common for items in task.values()):
                continue
            common = [dict.fromkeys(seeds, task[seeds[0]]) for task in common]
        most = max(1, LARGEST // sum(len(items) for task in common for items in task.values()))
        for start in range(0, len(places), most):
            some = places[start : start + most]
            first, second = ([_arrays(*of_task, [pairs[place][side] for place in some])
                              for of_task in zip(both, common, strict=True)] for side in (0, 1))  # fmt: skip
            yield Batch(some, fresh, first, second)


def _alike(tasks: Sequence[CellItems]) -> dict[Cell, int]:
    """Cell -> a number that it has in common with those of the same tasks, seeds and items."""
    known: dict[Any, int] = {}

    def number(value: Any) -> int:
        return known.setdefault(value, len(known))

    of_task = [
        {
            cell: number(tuple((seed, number(tuple(values))) for seed, values in seeds.items()))
            for cell, seeds in c.items()
        }
        for c in tasks
    ]
    cells = dict.fromkeys(cell for cells in tasks for cell in cells)
    return {cell: number(tuple(numbers.get(cell) for numbers in of_task)) for cell in cells}


def common_items(a: Seeds, b: Seeds, seeds: Sequence[int | None] = ()) -> dict[int | None, list[Any]]:
    """Seed -> the items that both cells have: those that all of `seeds` share, else, where items are fresh, its own."""
    common = {seed: [item for item in a[seed] if item in b[seed]] for seed in seeds or a if seed in b}
    common = {seed: items for seed, items in common.items() if items}
    shared = set.intersection(*map(set, common.values())) if seeds and common else set()
    return {seed: [item for item in items if item in shared] for seed, items in common.items()} if shared else common


def _arrays(cells: CellItems, items: Items, of_pairs: list[Cell]) -> list[np.ndarray]:
    """Seed by seed the values of these cells, of which many stand there often, on the items."""
    rows = {cell: row for row, cell in enumerate(dict.fromkeys(of_pairs))}
    taken = [rows[cell] for cell in of_pairs]
    return [
        np.array([[cells[cell][seed][item] for item in of_seed] for cell in rows], dtype=float)[taken]
        for seed, of_seed in items.items()
    ]
