"""What an experiment's stages have decided so far: the learning rates that cells try beyond their grids, the rates that
are picked, and the seeds that cells still need.

`sbora-bench extend`, `pick` and `look` write these records, a table's each; the plan that is left of all that may be
run is read from them alone, in the same way by the workflow, the tables and `status`.
"""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from sbora_bench.errors import UserError
from sbora_bench.files import hash_of
from sbora_bench.plan.entry import Strict
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import GOLD_LOSS
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.results.folders import look_file, rates_file, round_file
from sbora_bench.results.records import StageRecord, record_at

R = TypeVar("R", bound=StageRecord)


class PickedRate(Strict):
    """`edge`: the best rate is the grid's lowest or highest, so that a better one may lie beyond."""

    learning_rate: float
    edge: Literal["", "lowest", "highest"] = ""
    means: dict[str, float | None] = Field(
        description="rate -> over the seeds, share of the held-out rows answered rightly, or less the loss of their"
        " gold answers; null where that of a run is not known"
    )
    failed: int = Field(default=0, description="runs that failed; they have nothing right")


class RatesRecord(StageRecord):
    """`rates/<table>.json`; `settings_sha256`: of the rates, the seeds to pick with and the cells."""

    cells: dict[str, PickedRate] = Field(description="by the cell's name")


class RoundRecord(StageRecord):
    """`rounds/<table>-<n>.json`; `settings_sha256` as of the rates."""

    round: int
    more: dict[str, float] = Field(description="cell's name -> the rate beyond its grid that it tries next")


class Compared(Strict):
    """What a look says of a planned comparison; the difference is a's score less b's, in the metric's unit."""

    model: str
    a: str
    b: str
    equal: Literal["rank", "parameters", "neither"]
    metric: str
    margin: float
    verdict: Literal["better", "worse", "equivalent", "undecided"]
    seeds: int = Field(description="that the verdict rests on")
    failed: int = Field(description="seeds of this look in which a or b has no score")
    difference: float | None
    low: float | None
    high: float | None


class LookRecord(StageRecord):
    """`looks/<table>-<n>.json`; `settings_sha256`: of the looks, the seeds and the comparisons."""

    look: int
    looks: list[int]
    alpha: float = Field(description="two-sided, of a comparison over all its looks")
    comparisons: list[Compared]
    more: list[str] = Field(description="names of the cells that need the next look")


def rates_hash(plan: Plan, table: str) -> str:
    """The key of how a table picks its learning rates."""
    entry = plan.experiment.tables[table]
    cells = [cell.name for cell in plan.tuned_cells(table)]
    extended = [entry.beyond] if entry.rounds else []
    return hash_of([[*entry.learning_rates], [*entry.picking_seeds], cells, *extended, *_compared_by(plan, table)])


def looks_hash(plan: Plan, table: str) -> str:
    """The key of how a table's comparisons are decided."""
    entry = plan.experiment.tables[table]
    comparisons = [one.model_dump(mode="json") for one in entry.comparisons]
    return hash_of([[*entry.seeds], [*entry.looks], comparisons, *_compared_by(plan, table)])


def _compared_by(plan: Plan, table: str) -> list[str]:
    """What a table's cells are compared by, where no setting of its runs says so."""
    metric = plan.experiment.tables[table].metric
    return [metric] if plan.gold(table) and metric != GOLD_LOSS else []


def _of_settings(path: Path, kind: type[R], settings_sha256: str) -> R | None:
    record = record_at(path, kind)
    return record if record is not None and record.settings_sha256 == settings_sha256 else None


def picked_rates(plan: Plan, results: Path, table: str) -> RatesRecord | None:
    """The rates that a table's stage picked, or None; None too where they are of another plan than this."""
    return _of_settings(rates_file(results, table), RatesRecord, rates_hash(plan, table))


def round_at(plan: Plan, results: Path, table: str, number: int) -> RoundRecord | None:
    """The record of a round, or None; None too where it is of another plan than this."""
    return _of_settings(round_file(results, table, number), RoundRecord, rates_hash(plan, table))


def rounds_made(plan: Plan, results: Path, table: str, most: int | None = None) -> list[RoundRecord]:
    """A table's rounds so far, or so many, in order; the first that adds no rate is the last."""
    made: list[RoundRecord] = []
    for number in range(1, plan.experiment.tables[table].rounds + 1)[:most]:
        record = round_at(plan, results, table, number)
        if record is None:
            break
        made.append(record)
        if not record.more:
            break
    return made


def missing_round(plan: Plan, results: Path, table: str, number: int) -> UserError:
    """That a round is still to be made, and how."""
    command = plan.command("extend", "--table", table, "--round", str(number))
    return UserError(f"{round_file(results, table, number)}: no such round of this plan; make it with: {command}")


def rounds_ended(plan: Plan, results: Path, table: str) -> bool:
    """Whether no round of a table is still to come."""
    made = rounds_made(plan, results, table)
    return len(made) == plan.experiment.tables[table].rounds or bool(made) and not made[-1].more


def look_at(plan: Plan, results: Path, table: str, look: int) -> LookRecord | None:
    """The record of a look, or None; None too where it is of another plan than this."""
    return _of_settings(look_file(results, table, look), LookRecord, looks_hash(plan, table))


def looks_made(plan: Plan, results: Path, table: str) -> list[LookRecord]:
    """A table's looks so far, in order."""
    made: list[LookRecord] = []
    for number in range(1, len(plan.experiment.tables[table].looks) + 1):
        record = look_at(plan, results, table, number)
        if record is None:
            break
        made.append(record)
    return made


def is_staged(plan: Plan) -> bool:
    """Whether it is decided on the way which runs are made."""
    return any(table.staged for table in plan.experiment.tables.values())


def with_rates(plan: Plan, results: Path) -> Plan:
    """The plan with the learning rates that are picked by now. Raises UserError for a damaged record."""
    rates: dict[Cell, float] = {}
    for name, table in plan.experiment.tables.items():
        picked = picked_rates(plan, results, name) if table.picking_seeds else None
        if picked is not None:
            rates |= {cell: picked.cells[cell.name].learning_rate for cell in plan.tuned_cells(name)}
    return plan.decided(rates)


def with_grids(plan: Plan, results: Path, rounds: int | None = None) -> Plan:
    """The plan with the learning rates that each cell tries, by what its rounds have decided.

    `rounds`: as it was after so many, where others were made since. Raises UserError for a damaged record.
    """
    tried: dict[Cell, list[float]] = {}
    for name, table in plan.experiment.tables.items():
        made = rounds_made(plan, results, name, rounds)
        for cell in plan.tuned_cells(name) if table.rounds else ():
            tried[cell] = [*table.learning_rates, *(one.more[cell.name] for one in made if cell.name in one.more)]
    return plan.decided(tried=tried)


def settled(plan: Plan) -> list[Run]:
    """The runs whose settings are known by now: all but those at a rate that is still to be picked."""
    tables = plan.experiment.tables
    return [
        run
        for run in plan.all_runs
        if run.is_base or run.learning_rate is not None or not tables[run.table].picking_seeds or run.cell in plan.rates
    ]


def with_seeds(plan: Plan, results: Path, looks: int | None = None) -> Plan:
    """The plan with the seeds that its looks have decided to need, whatever the rates.

    `looks`: as it was after so many, where others were taken since. Raises UserError for a damaged record.
    """
    numbers: dict[Cell, int] = {}
    for name, table in plan.experiment.tables.items():
        if not table.looks:
            continue
        cells = plan.tuned_cells(name)
        numbers |= dict.fromkeys(cells, table.looks[0])
        for following, record in zip(table.looks[1:], looks_made(plan, results, name)[:looks], strict=False):
            numbers |= {cell: following for cell in cells if cell.name in record.more}
    return plan.decided(numbers=numbers)


def so_far(plan: Plan, results: Path, looks: int | None = None) -> Plan:
    """The plan with the runs that can be made by what its stages have decided; the same where none decides.

    `looks`: as `with_seeds` has it. Cells whose rate isn't picked yet have no runs. Raises UserError for a damaged
    record.
    """
    known = with_rates(with_seeds(with_grids(plan, results), results, looks), results)
    tables = [name for name, table in plan.experiment.tables.items() if table.picking_seeds]
    waiting = [cell for name in tables for cell in plan.tuned_cells(name) if cell not in known.rates]
    return known.decided(numbers=dict.fromkeys(waiting, 0))
