"""What of a table is decided while it runs: how many seeds a cell needs, at which learning rate they are trained, and
which rates beyond its grid a cell tries before that.

Written as mappings in the places of plain lists; read, both are lists of all that may be run, and say the rest.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from sbora_bench.plan.entry import Strict
from sbora_bench.plan.explain import explain

FIRST_LOOK = 4  # seeds; with fewer a t of several looks rests on a spread of two or three numbers

SEEDS = 2**31
Seed = Annotated[int, Field(ge=0, lt=SEEDS, strict=True)]
HIGHEST_RATE = 1
Rate = Annotated[float, Field(gt=0, le=HIGHEST_RATE)]
End = Literal["lowest", "highest"]  # of a grid of learning rates
DIGITS = 3  # of a rate beyond a grid


def once(values: list[Any], one: str) -> list[Any]:
    """The values. Raises ValueError where one stands twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"a {one} stands twice")
    return values


def each_once(one: str) -> AfterValidator:
    """Of a list's type: no value stands twice; `one`: what a message calls a value."""
    return AfterValidator(partial(once, one=one))


class Looks(Strict):
    """Numbers of seeds after which the planned comparisons are decided; undecided ones go on to the next."""

    looks: list[Annotated[int, Field(ge=FIRST_LOOK, strict=True)]] = Field(min_length=1)
    first: Seed = Field(default=0, alias="from", description="the first seed; the others follow it")

    @field_validator("looks")
    @classmethod
    def _ascending(cls, looks: list[int]) -> list[int]:
        if looks != sorted(set(looks)):
            raise ValueError("allowed are ascending numbers of seeds")
        return looks

    @model_validator(mode="after")
    def _last(self) -> Self:
        last = self.first + self.looks[-1] - 1
        if last >= SEEDS:
            raise ValueError(f"the last seed would be {last}, allowed are seeds below {SEEDS}; lower `from` or `looks`")
        return self


class Seeds(list[int]):
    """All seeds that a cell may be run with; `looks`: after how many it is looked whether more are needed."""

    looks: tuple[int, ...] = ()

    @classmethod
    def of(cls, looks: Looks) -> Self:
        seeds = cls(range(looks.first, looks.first + looks.looks[-1]))
        seeds.looks = tuple(looks.looks)
        return seeds


class PickedRates(Strict):
    """Each cell is trained at every rate with seeds of its own; the best on held-out rows is its rate from then on."""

    pick: Annotated[list[Rate], Field(min_length=2), each_once("learning rate")]
    seeds: Annotated[
        list[Seed], Field(min_length=1, description="to pick with, none of the table's own"), each_once("seed")
    ]
    extend: Annotated[int, Field(ge=0, le=8, strict=True)] = Field(
        default=0, description="rates beyond an end of the grid that a cell whose best rate ends it tries, at most"
    )

    @field_validator("extend")
    @classmethod
    def _apart(cls, extend: int, others: ValidationInfo) -> int:
        grid = others.data.get("pick", [])
        further = rates_beyond(grid, extend) if grid else {}
        for end, rates in further.items():
            of_grid = min(grid) if end == "lowest" else max(grid)
            if len({of_grid, *rates}) <= len(rates):
                raise ValueError(
                    f"the two {end} rates are so near that their ratio gives no other of {DIGITS} digits; set them"
                    " further apart"
                )
        return extend


def rates_beyond(grid: Sequence[float], steps: int) -> dict[End, tuple[float, ...]]:
    """End of a grid -> so many rates beyond it, each the ratio of the last two there from the one before it, in three
    digits, so that names of runs stay; none above 1.
    """
    rates = [Decimal(repr(rate)) for rate in sorted(grid)]

    def following(last: Decimal, before: Decimal) -> tuple[float, ...]:
        exact = [last * (last / before) ** step for step in range(1, steps + 1)]
        return tuple(float(f"{rate:.{DIGITS}g}") for rate in exact if rate <= HIGHEST_RATE)

    return {"lowest": following(rates[0], rates[1]), "highest": following(rates[-1], rates[-2])}


class Rates(list[float]):
    """The grid of learning rates that a cell is run at; `picking_seeds`: those of the runs that one is picked by, none
    where all the table's runs are made at every rate; `beyond`: rates that a cell may try besides, end by end.
    """

    picking_seeds: tuple[int, ...] = ()
    beyond: dict[End, tuple[float, ...]]

    @classmethod
    def of(cls, picked: PickedRates) -> Self:
        rates = cls(picked.pick)
        rates.picking_seeds = tuple(picked.seeds)
        rates.beyond = rates_beyond(picked.pick, picked.extend)
        return rates


def _seeds(value: Any, read: ValidatorFunctionWrapHandler) -> list[int]:
    return Seeds.of(_typed(Looks, value)) if isinstance(value, dict) else once(read(value), "seed")


def _rates(value: Any, read: ValidatorFunctionWrapHandler) -> list[float]:
    return Rates.of(_typed(PickedRates, value)) if isinstance(value, dict) else once(read(value), "learning rate")


def _typed(kind: type[Strict], value: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ValueError(explain(error, kind)) from None


SeedList = Annotated[
    Annotated[list[Seed], Field(min_length=1)],
    WrapValidator(_seeds, json_schema_input_type=Annotated[list[Seed], Field(min_length=1)] | Looks),
]
RateList = Annotated[list[Rate], WrapValidator(_rates, json_schema_input_type=list[Rate] | PickedRates)]
