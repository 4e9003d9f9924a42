"""How an experiment's scores are laid out in printed tables. Imports nothing heavy.

A layout is one printed table: an experiment's table with its suite's tasks as columns; or, as the paper prints MMLU,
all the tables of one suite that has a single task, with their training sets as columns.
"""

from dataclasses import dataclass, replace

from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.plan.runs import Cell

# names of the views that every experiment has beside its tables; the registry of views is held against it by a test
RESERVED = frozenset({"separation", "gains", "differences", "averages", "cells", "leaderboard"})


@dataclass(frozen=True)
class Column:
    """A column of scores: one task of one of the experiment's tables."""

    table: str
    task: str
    title: str
    metric: Metric = SHARE


@dataclass(frozen=True)
class Layout:
    """A printed table. `rows`: its cells, whose `table` is the layout's name, for a row may span several tables."""

    name: str
    title: str
    suite: str
    tables: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Cell, ...]

    @property
    def averaged(self) -> bool:
        """Whether a column of averages ends the table: over several tasks, not over several training sets, whose scores
        have one unit, range and direction.
        """
        alike = all(self.columns[0].metric.averages_with(column.metric) for column in self.columns)
        return len(self.tables) == 1 and len(self.columns) > 1 and alike


def layouts(plan: Plan) -> list[Layout]:
    """The printed tables of an experiment, in the order of its file. Raises UserError for a name that is taken."""
    tables = plan.experiment.tables
    groups: dict[str, list[str]] = {}
    for name, table in tables.items():
        single = len(plan.tasks(name)) == 1
        groups.setdefault(f"suite {table.suite}" if single else f"table {name}", []).append(name)
    placed: list[Layout] = []
    taken = set(RESERVED)
    for members in groups.values():
        first = tables[members[0]]
        name = members[0] if len(members) == 1 else first.suite
        if name in taken or (len(members) > 1 and name in set(tables) - set(members)):
            raise UserError(f"{plan.path}: tables.{name}: this name is taken by a file of results; choose another")
        if len(members) == 1:
            tasks = plan.catalog.tasks
            columns = [Column(name, task, tasks[task].title, plan.metric(name, task)) for task in plan.tasks(name)]
        else:
            columns = [
                Column(member, task, tables[member].title or tables[member].train, plan.metric(member, task))
                for member in members
                for task in plan.tasks(member)
            ]
        title = (first.title if len(members) == 1 else "") or plan.catalog.suites[first.suite].title
        title += f" ({plan.experiment.note})" if plan.experiment.note else ""
        rows = tuple(_rows(plan, name, members))
        taken.add(name)
        placed.append(Layout(name, title, first.suite, tuple(members), _different(columns), rows))
    return placed


def _different(columns: list[Column]) -> tuple[Column, ...]:
    """The columns; where two have one title, with what tells them apart behind it."""
    tables, titles = {column.table for column in columns}, [column.title for column in columns]
    return tuple(
        column
        if titles.count(column.title) == 1
        else replace(column, title=f"{column.title} ({column.task if len(tables) == 1 else column.table})")
        for column in columns
    )


def _rows(plan: Plan, layout: str, tables: list[str]) -> list[Cell]:
    """As the paper has them: model by model in the file's order, then rank by rank, within a rank the methods in file
    order. The untuned bases, which the paper has not, stand last.
    """
    grids = [grid for table in tables for grid in plan.experiment.tables[table].grids]
    models = list(dict.fromkeys(model for grid in grids for model in grid.models))
    methods = list(dict.fromkeys(method for grid in grids for method in grid.methods))
    rows = {replace(cell, table=layout) for table in tables for cell in plan.cells(table)}

    def place(row: Cell) -> tuple[bool, int, int, int]:
        if row.is_base:
            return True, models.index(row.model), 0, 0
        return False, models.index(row.model), row.rank or 0, methods.index(row.method)

    return sorted(rows, key=place)
