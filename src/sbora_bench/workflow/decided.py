"""Inputs of rules that depend on what stages decide on the way: functions that wait for Snakemake's checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sbora_bench.plan.experiment import Plan
from sbora_bench.results.folders import round_file
from sbora_bench.results.stages import is_staged, look_at, round_at, rounds_made, with_grids, with_seeds
from sbora_bench.workflow.files import Files


def required_files(files: Files, checkpoints: Any, name: str) -> Any:
    """Input of a rule: the files, by a name of `Files` (`records`, say), of all runs that are needed.

    A list; where stages decide on the way, functions of Snakemake's, a table each, that wait for them (`checkpoints`).
    """
    if not is_staged(files.plan):
        return getattr(files, name)

    def of(table: str) -> Any:
        return lambda wildcards: getattr(_decided(files, checkpoints, table), name)

    return [of(table) for table in files.plan.experiment.tables]


def scores_of_rates(files: Files, checkpoints: Any) -> Callable[[Any], list[str]]:
    """Input of a round (`wildcards.table`, `wildcards.round`), or of picking: the scores at the rates tried so far, and
    the records of the rounds that added them.
    """

    def scores(wildcards: Any) -> list[str]:
        table, number = wildcards.table, getattr(wildcards, "round", None)
        before = None if number is None else int(number) - 1
        known, root = _decided(files, checkpoints, table, looks=0, rounds=before), Path(files.root)
        made = len(rounds_made(known.plan, root, table, before))
        return [*known.picking(table), *(str(round_file(root, table, one + 1)) for one in range(made))]

    return scores


def scores_of_seeds(files: Files, checkpoints: Any) -> Callable[[Any], list[str]]:
    """Input of a look (`wildcards.table`, `wildcards.look`): the scores of the seeds so far."""

    def scores(wildcards: Any) -> list[str]:
        known = _decided(files, checkpoints, wildcards.table, int(wildcards.look) - 1)
        return [*known.scored(known.plan.runs), *known.rates]

    return scores


def _decided(files: Files, checkpoints: Any, table: str, looks: int | None = None, rounds: int | None = None) -> Files:
    """The files of a table's runs as its stages have decided, up to so many looks and rounds; waits for what isn't
    decided yet.
    """
    whole = files.plan
    only = whole.experiment.model_copy(update={"tables": {table: whole.experiment.tables[table]}})
    plan, root = Plan(whole.name, only, whole.catalog, whole.path, part=whole.part), Path(files.root)
    entry = plan.experiment.tables[table]
    for number in range(1, entry.rounds + 1)[:rounds]:
        checkpoints.extend.get(table=table, round=number)
        asking = round_at(plan, root, table, number)
        if asking is None or not asking.more:
            break
    for number in range(1, len(entry.looks) + 1)[:looks]:
        checkpoints.look.get(table=table, look=number)
        record = look_at(plan, root, table, number)
        if record is None or not record.more:
            break
    return Files(with_grids(with_seeds(plan, root, looks), root, rounds), staged=True)
