"""Titles of what an experiment has, made different where two entries have the same one: by the entry's id."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Protocol

from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell, Run


def unique_titles(titles: Mapping[str, str]) -> dict[str, str]:
    """Id -> title; with the id behind it, in brackets, where another id has that title too."""
    counts = Counter(titles.values())
    return {name: title if counts[title] == 1 else f"{title} ({name})" for name, title in titles.items()}


@cache
def model_titles(plan: Plan, *tables: str) -> dict[str, str]:
    """Model id -> its title, different from that of any other model of these tables, or of the experiment."""
    models = {cell.model: plan.catalog.models[cell.model].title for cell in _cells(plan, tables)}
    return unique_titles(models)


@cache
def method_titles(plan: Plan, *tables: str) -> dict[str, str]:
    """Method id -> its title, different from that of any other method of these tables, or of the experiment."""
    methods = {cell.method for cell in _cells(plan, tables)} - {"base"}
    titles = {method: entry.title for method, entry in plan.catalog.methods.items() if method in methods}
    return unique_titles(titles | {"base": "Base, untuned"})


@cache
def task_titles(plan: Plan, *tables: str) -> dict[str, str]:
    """Task id -> its title, different from that of any other task that these tables score, or the experiment."""
    tasks = dict.fromkeys(task for table in tables or plan.experiment.tables for task in plan.scored(table))
    return unique_titles({task: plan.catalog.tasks[task].title for task in tasks})


def _cells(plan: Plan, tables: tuple[str, ...]) -> list[Cell]:
    """Those without a run too: their rate may not be picked yet."""
    return [cell for table in tables or plan.experiment.tables for cell in plan.cells(table)]


def row_titles(plan: Plan, tables: tuple[str, ...], row: Cell) -> tuple[str, str]:
    """Titles of the model and the method of a row of a printed table that spans these tables."""
    return model_titles(plan, *tables)[row.model], method_titles(plan, *tables)[row.method]


class OfModel(Protocol):
    """What is of a model in a table of the experiment file: a cell, a run, a pair."""

    @property
    def table(self) -> str: ...

    @property
    def model(self) -> str: ...


def model_title(plan: Plan, of: OfModel) -> str:
    """Of a cell's, a run's or a pair's model, among those of its table."""
    return model_titles(plan, of.table)[of.model]


def ranked_title(plan: Plan, cell: Cell | Run) -> str:
    """A cell's method with its rank: `LoRA r = 32`; without one where it has no size of its own: `IA3`."""
    sized = cell.rank is not None and plan.catalog.methods[cell.method].has_size
    return method_titles(plan, cell.table)[cell.method] + (f" r = {cell.rank}" if sized else "")


def cell_titles(plan: Plan, cell: Cell | Run) -> tuple[str, str]:
    """`model_title` and `ranked_title`, with which a row of a table begins."""
    return model_title(plan, cell), ranked_title(plan, cell)
