"""What the cells of a table have in common that their costs depend on: updates, questions and how long these are."""

from dataclasses import dataclass

from sbora_bench.cost.expected import expected_questions
from sbora_bench.inputs.tasks.templates import config_in
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.data_entries import HubData
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.steps import update_steps


@dataclass(frozen=True)
class Setting:
    """What the cells of a table have in common.

    `questions`: as `task_sizes` has them; `expected`: as `expected_questions` has them; `train`: its training set.
    """

    protocol: Protocol
    steps: int
    questions: list[tuple[int, int, int]]
    expected: list[tuple[int, float, float]]
    train: str


def setting_of(plan: Plan, table: str) -> Setting:
    """The setting of a table."""
    protocol = plan.protocol(table)
    steps = steps_of(plan.catalog, plan.experiment.tables[table].train, protocol)
    items_asked = task_sizes(plan, table)
    train = plan.experiment.tables[table].train
    return Setting(protocol, steps, items_asked, expected_questions(plan, table, items_asked), train)


def steps_of(catalog: Catalog, train: str, protocol: Protocol) -> int:
    """Updates of a run on the training set `train`."""
    if protocol.steps is not None:
        return protocol.steps
    return update_steps(row_count(catalog, train) - protocol.validation_rows, protocol)


def row_count(catalog: Catalog, data: str) -> int:
    """Rows of a data entry; those of a set that is made here are counted by making it."""
    entry = catalog.data[data]
    if isinstance(entry, HubData) and entry.sampler:
        from sbora_bench.inputs.data import flan

        return sum(flan.BUCKETS.values())
    if entry.rows is not None:
        return entry.rows
    key = data, entry.model_dump_json()
    if key not in _COUNTED:
        from sbora_bench.inputs.data.sources import read_examples

        _COUNTED[key] = len(read_examples(data, entry))
    return _COUNTED[key]


_COUNTED: dict[tuple[str, str], int] = {}  # rows of the sets that were made here or read, by name and entry


def task_sizes(plan: Plan, table: str) -> list[tuple[int, int, int]]:
    """(items, tokens of the longest prompt, new tokens at most) of each task that a table scores."""
    entry, suites, rows = plan.experiment.tables[table], plan.scored(table), []
    for task, data in plan.items(table).items():
        protocol = plan.protocol(table, suites[task])
        config = config_in(plan, table, task)
        items = row_count(plan.catalog, data)
        items = min(items, entry.limit.get(task, items))
        if config.get("output_type") == "generate_until":
            new = config["generation_kwargs"]["max_gen_toks"]
            rows.append((items, min(protocol.max_length, protocol.score_max_length - new), new))
        else:
            rows.append((items, protocol.score_max_length, 1))
    return rows
