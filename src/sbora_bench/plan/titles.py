"""Titles of what an experiment has, made different where two entries have the same one: by the entry's id."""

from collections import Counter
from collections.abc import Mapping
from functools import cache

from sbora_bench.plan.experiment import Cell, Plan


def unique_titles(titles: Mapping[str, str]) -> dict[str, str]:
    """Id -> title; with the id behind it, in brackets, where another id has that title too."""
    counts = Counter(titles.values())
    return {name: title if counts[title] == 1 else f"{title} ({name})" for name, title in titles.items()}


@cache
def model_titles(plan: Plan) -> dict[str, str]:
    """Model id -> its title, different from that of any other model of the experiment."""
    models = dict.fromkeys(run.model for run in plan.runs)
    return unique_titles({model: plan.catalog.models[model].title for model in models})


@cache
def method_titles(plan: Plan) -> dict[str, str]:
    """Method id -> its title, different from that of any other method of the experiment."""
    methods = dict.fromkeys(run.method for run in plan.runs if not run.is_base)
    return unique_titles({method: plan.catalog.methods[method].title for method in methods} | {"base": "Base, untuned"})


@cache
def task_titles(plan: Plan) -> dict[str, str]:
    """Task id -> its title, different from that of any other task that the experiment scores."""
    tasks = dict.fromkeys(task for table in plan.experiment.tables for task in plan.scored(table))
    return unique_titles({task: plan.catalog.tasks[task].title for task in tasks})


def row_titles(plan: Plan, row: Cell) -> tuple[str, str]:
    """Titles of a row's model and method."""
    return model_titles(plan)[row.model], method_titles(plan)[row.method]


def ranked_title(plan: Plan, method: str, rank: int | None) -> str:
    """A method with its rank: `LoRA r = 32`."""
    return method_titles(plan)[method] + ("" if rank is None else f" r = {rank}")
