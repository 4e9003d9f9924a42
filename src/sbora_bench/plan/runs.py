"""What an experiment's tables stand for: cells, and the runs of a cell; their names, the same everywhere."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, order=True)
class Cell:
    """A model with a method at a rank, in a table; the untuned model is method `base` and has no rank."""

    table: str
    model: str
    method: str
    rank: int | None = None

    @property
    def name(self) -> str:
        """`arithmetic-llama-7b-sbora-fa-r32`, `arithmetic-llama-7b-base`."""
        rank = "" if self.rank is None else f"-r{self.rank}"
        return f"{self.table}-{self.model}-{self.method}{rank}"

    @property
    def is_base(self) -> bool:
        return self.method == "base"


@dataclass(frozen=True)
class CellPair:
    """Two cells of a table and a model."""

    a: Cell
    b: Cell

    @property
    def table(self) -> str:
        return self.a.table

    @property
    def model(self) -> str:
        return self.a.model

    @property
    def cells(self) -> tuple[Cell, Cell]:
        return self.a, self.b


@dataclass(frozen=True, order=True)
class Run:
    """A cell with a seed; a base has none.

    `learning_rate`: where a cell has runs at several; else the plan knows it (`Plan.rate_of`), or the protocol's holds.
    """

    cell: Cell
    seed: int | None = None
    learning_rate: float | None = None

    @property
    def table(self) -> str:
        return self.cell.table

    @property
    def model(self) -> str:
        return self.cell.model

    @property
    def method(self) -> str:
        return self.cell.method

    @property
    def rank(self) -> int | None:
        return self.cell.rank

    @property
    def is_base(self) -> bool:
        return self.cell.is_base

    @property
    def group(self) -> str:
        """The run's name without its seed: runs of one group differ in their seeds alone."""
        return self.cell.name + ("" if self.learning_rate is None else f"-lr{rate_text(self.learning_rate)}")

    @property
    def name(self) -> str:
        """The cell's, its learning rate where a cell has several, its seed: `arithmetic-llama-7b-sbora-fa-r32-s0`."""
        return self.group if self.seed is None else f"{self.group}-s{self.seed}"


def rate_text(rate: float) -> str:
    """A learning rate as names of runs have it: 0.0003 -> 3e-4."""
    return f"{Decimal(repr(rate)).normalize():e}".replace("+", "")
