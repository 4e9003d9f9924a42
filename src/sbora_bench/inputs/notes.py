"""What a user should know of a plan that is good, a line each: rows of many tokens, warm-up, data that are missing."""

from sbora_bench.errors import UserError
from sbora_bench.hub import Unreachable
from sbora_bench.inputs.data import lm_eval_tasks
from sbora_bench.inputs.models.config import positions_of
from sbora_bench.inputs.models.sources import source_of
from sbora_bench.plan.data_entries import LmEvalData
from sbora_bench.plan.experiment import Plan


def notes(plan: Plan) -> list[str]:
    """What a user should know of a plan that is good, a line each."""
    return length_notes(plan) + warmup_notes(plan) + missing_notes(plan)


def warmup_notes(plan: Plan) -> list[str]:
    """A line for each table of so many `steps` that its learning rate is never reached."""
    lines = []
    for table in plan.experiment.tables:
        protocol = plan.protocol(table)
        if protocol.steps and protocol.warmup_steps >= protocol.steps and protocol.schedule != "constant":
            lines.append(
                f"{plan.path}: tables.{table}.protocol: warmup_steps: found {protocol.warmup_steps:,} of"
                f" {protocol.steps:,} updates, so the learning rate is never reached; lower it under `overrides`"
            )
    return lines


def missing_notes(plan: Plan) -> list[str]:
    """A line for each of lm-eval's tasks whose data can't be had here, and whose table says `missing: skip`.

    No problem, since another machine may have them; without them each run is trained and has no score of the task.
    """
    lines = []
    for table, entry in plan.experiment.tables.items():
        for task, name in plan.items(table).items() if entry.missing == "skip" else ():
            data = plan.catalog.data[name]
            if isinstance(data, LmEvalData):
                try:
                    lm_eval_tasks.data_at_hand(data)
                except Unreachable as error:
                    lines.append(f"{plan.path}: tables.{table}: task {task}: {error}; without it there is no score")
    return lines


def length_notes(plan: Plan) -> list[str]:
    """A line for each table whose protocol's max_length is beyond the positions of one of its models.

    No problem as long as rows are shorter, which `data_problems` looks at. Models whose config isn't at hand are left
    out.
    """
    notes = []
    for table in plan.experiment.tables:
        length = plan.protocol(table).max_length
        for model in dict.fromkeys(cell.model for cell in plan.cells(table)):
            try:
                positions = positions_of(source_of(model, plan.catalog.models[model]).values())
            except UserError:
                continue
            if positions and length > positions:
                notes.append(
                    f"{plan.path}: tables.{table}.protocol: max_length: found {length:,}, and model {model} has"
                    f" {positions:,} positions; set max_length: {positions} under `overrides`"
                )
    return notes
