"""Which runs of a table have their regions shown: what their adapters change in the base's weights."""

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.comparison import ranked
from sbora_bench.plan.entry import Strict
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.plan.stages import Seed, each_once

ONCE = each_once("value")


class Regions(Strict):
    """Of these cells, of every model that has them, the runs of these seeds."""

    cells: Annotated[list[str], Field(min_length=1, description="methods with their ranks: sbora-fa-r16"), ONCE]
    seeds: Annotated[list[Seed], Field(min_length=1, description="of those that every cell is run with"), ONCE]

    def part(self, kept: Callable[[str], bool], seeds: Sequence[int]) -> "Regions | None":
        """What is left of it with the cells that are `kept` and these seeds; None where nothing is."""
        cells, left = [cell for cell in self.cells if kept(cell)], [seed for seed in self.seeds if seed in seeds]
        return Regions(cells=cells, seeds=left) if cells and left else None


def region_runs(regions: Regions, cells: Sequence[Cell], seeds: Sequence[int], where: str) -> list[Run]:
    """The runs, cell by cell in the order of `cells`, a table's tuned ones; `seeds`: those that every cell is run with.

    Raises UserError beginning with `where` for a cell or a seed that the table hasn't.
    """
    names = list(dict.fromkeys(map(ranked, cells)))
    for index, name in enumerate(regions.cells):
        if name not in names:
            raise UserError(f"{where}.cells.{index}: {one_of(name, names, 'cell of this table')}")
    for index, seed in enumerate(regions.seeds):
        if seed not in seeds:
            allowed = ", ".join(map(str, seeds))
            raise UserError(f"{where}.seeds.{index}: found {seed}, allowed {allowed}: the seeds that every cell has")
    return [Run(cell, seed) for cell in cells if ranked(cell) in regions.cells for seed in regions.seeds]
