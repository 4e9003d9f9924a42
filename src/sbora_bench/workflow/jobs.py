"""Which runs a job carries, and which jobs go first."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from sbora_bench.cost.expected import share_of_width
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run

PICKING = 1000  # the priority of what others wait for, above any number of tokens


def tuned(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if not run.is_base]


def jobs(plan: Plan, table: str) -> Iterator[list[Run]]:
    """The runs that a job carries: those of a table and a model, `runs_per_job` at most, jobs of about the same size.

    Runs that a learning rate is picked by, which the others wait for, are apart from them; those of later looks and of
    rates beyond the grid, which may never be needed, are a job a cell and look, or rate.
    """
    together: dict[tuple, list[Run]] = {}
    for run in [*plan.runs_of(table), *plan.picking_runs(table)]:
        together.setdefault((run.model, *_decided_with(plan, run)), []).append(run)
    for group in together.values():
        size = math.ceil(len(group) / math.ceil(len(group) / plan.experiment.runs_per_job))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def tokens_of_a_run(plan: Plan, table: str) -> float:
    """Expected in the training of a run of a table, padding among them; 0 where its number of updates isn't stated."""
    protocol = plan.protocol(table)
    share = share_of_width(plan.catalog, plan.experiment.tables[table].train, protocol)
    return (protocol.steps or 0) * protocol.batch_size * protocol.max_length * share


def priority(plan: Plan, runs: list[Run], tokens: float) -> int:
    """A job's: those of runs that a learning rate is picked by go first, for the table's other runs wait for them; then
    those of the most tokens, so that no long one is left alone at the end. `tokens`: of a run.
    """
    picking = runs[0].seed in plan.experiment.tables[runs[0].table].picking_seeds
    return (PICKING if picking else 0) + round(10 * math.log2(len(tuned(runs)) * tokens + 1))


def _decided_with(plan: Plan, run: Run) -> tuple:
    """What is equal for runs of a model that one decision makes needed, all at once; bases go with the first look."""
    table = plan.experiment.tables[run.table]
    if run.seed is not None and run.seed in table.picking_seeds:
        return ("pick", *((run.learning_rate, run.cell) if run.learning_rate not in table.learning_rates else ()))
    place = 0 if run.seed is None else table.seeds.index(run.seed)
    look = sum(place >= seeds for seeds in table.looks)
    return (look, run.cell) if look else (look,)


def at_every_rate(plan: Plan, run: Run) -> list[Run]:
    """The runs that a run may stand for while its learning rate is still to be picked; itself where none is."""
    table = plan.experiment.tables[run.table]
    if run.is_base or run.learning_rate is not None or not table.picking_seeds:
        return [run]
    return [replace(run, learning_rate=rate) for rate in table.every_rate]
