"""Titles of what an experiment has, made different where two entries have the same one: by the entry's id."""

from collections import Counter
from collections.abc import Mapping
from functools import cache

from sbora_bench.plan.experiment import Cell, Plan, Run


def unique_titles(titles: Mapping[str, str]) -> dict[str, str]:
    """Id -> title; with the id behind it, in brackets, where another id has that title too."""
    counts = Counter(titles.values())
    return {name: title if counts[title] == 1 else f"{title} ({name})" for name, title in titles.items()}


@cache
def model_titles(plan: Plan, *tables: str) -> dict[str, str]:
    """Model id -> its title, different from that of any other model of these tables, or of the experiment."""
    models = {run.model: plan.catalog.models[run.model].title for run in _runs(plan, tables)}
    return unique_titles(models)


@cache
def method_titles(plan: Plan, *tables: str) -> dict[str, str]:
    """Method id -> its title, different from that of any other method of these tables, or of the experiment."""
    methods = {run.method for run in _runs(plan, tables)} - {"base"}
    titles = {method: entry.title for method, entry in plan.catalog.methods.items() if method in methods}
    return unique_titles(titles | {"base": "Base, untuned"})


@cache
def task_titles(plan: Plan, *tables: str) -> dict[str, str]:
    """Task id -> its title, different from that of any other task that these tables score, or the experiment."""
    tasks = dict.fromkeys(task for table in tables or plan.experiment.tables for task in plan.scored(table))
    return unique_titles({task: plan.catalog.tasks[task].title for task in tasks})


def _runs(plan: Plan, tables: tuple[str, ...]) -> list[Run]:
    return [run for run in plan.runs if not tables or run.table in tables]


def row_titles(plan: Plan, tables: tuple[str, ...], row: Cell) -> tuple[str, str]:
    """Titles of the model and the method of a row of a printed table that spans these tables."""
    return model_titles(plan, *tables)[row.model], method_titles(plan, *tables)[row.method]


def ranked_title(plan: Plan, table: str, method: str, rank: int | None) -> str:
    """A method of a table with its rank: `LoRA r = 32`; without one where it has no size of its own: `IA3`."""
    sized = rank is not None and plan.catalog.methods[method].has_size
    return method_titles(plan, table)[method] + (f" r = {rank}" if sized else "")
