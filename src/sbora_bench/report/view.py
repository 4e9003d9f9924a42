"""What a view is: a kind of table or figure, in one module of `views/`, listed once in `tables.py` or `figures.py`.

Which files a view leaves is known before anything has run, from the plan alone; so these modules import pandas and
matplotlib only where they draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import Layout, layouts
from sbora_bench.report.render import PrintedTable
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE_FORMATS = ("md", "csv", "tex", "html")
FIGURE_FORMATS = ("png", "svg")
S = TypeVar("S")  # what one table or figure of a view is of: a Layout, the name of an experiment's table, or None
Subjects = Callable[[Plan], dict[str, S]]  # the file names, without their endings, that an experiment has -> of what

# Commands that lead to a table's numbers: what one does, and the command. Filled in: {results} the results folder,
# {name} the table's name, {verify}, {show}, {compare}, {collect} those commands as this experiment needs them.
Hint = tuple[str, str]
AGAIN: Hint = ("Every table from the samples alone, byte for byte", "{verify}")
RUN: Hint = ("From a run to its scores", "{show} RUN")
NUMBERS: Hint = ("The numbers", "less {results}/tables/{name}.csv")
PAIR: Hint = ("Two runs on the same items", "{compare} RUN RUN")
COUNT: Hint = (
    "A cell counted anew, without weights",
    "sbora-bench footprint --model MODEL --method METHOD --rank RANK",
)


@dataclass(frozen=True)
class TableView(Generic[S]):
    """A kind of table.

    `make` gives the table's data, or None where nothing is to be shown. `formats`: files `tables/<name>.<format>`, none
    for a table of the page alone; `data_files`: files beside them, name -> its text; a view may have these alone.
    `section`: of the page. `hints`: how to get at its numbers. `published`: whether `make publish` copies its Markdown
    and CSV files. `caption`: what Snakemake's own report says of it. `timed`: whether it shows seconds or memory of the
    machine that trained, which no reproduction gives again; then a published page leaves it out.
    """

    key: str
    subjects: Subjects[S]
    make: Callable[[Results, S], PrintedTable | None] = lambda results, subject: None
    caption: str = ""
    section: str = "tables"
    formats: tuple[str, ...] = TABLE_FORMATS
    data_files: dict[str, Callable[[Results], str]] = field(default_factory=dict)
    hints: tuple[Hint, ...] = (AGAIN, NUMBERS, RUN)
    published: bool = True
    timed: bool = False

    def files(self, plan: Plan) -> list[str]:
        """The files that it leaves, relative to the results folder."""
        names = self.subjects(plan) if self.formats else {}
        files = [f"{name}.{suffix}" for name in names for suffix in self.formats]
        return [f"tables/{name}" for name in (*files, *(self.data_files if self.subjects(plan) else ()))]

    def tables(self, results: Results) -> list[PrintedTable]:
        """Its tables that have something to show."""
        made = (self.make(results, subject) for subject in self.subjects(results.plan).values())
        return [table for table in made if table is not None]


@dataclass(frozen=True)
class FigureView(Generic[S]):
    """A kind of figure. `caption`: what one shows, below it on the page and in Snakemake's own report.

    `section`: of the page. `timed`: as of a table.
    """

    key: str
    subjects: Subjects[S]
    caption: Callable[[Plan, S], str]
    draw: Callable[[Results, S], Figure]
    published: bool = False
    section: str = "figures"
    timed: bool = False

    def files(self, plan: Plan) -> list[str]:
        """The files that it leaves, relative to the results folder."""
        return [f"figures/{name}.{suffix}" for name in self.subjects(plan) for suffix in FIGURE_FORMATS]


def of_layouts(prefix: str = "") -> Subjects[Layout]:
    """One for every printed table of the paper's layout."""
    return lambda plan: {f"{prefix}{layout.name}": layout for layout in layouts(plan)}


def of_tables(prefix: str, has: Callable[[Plan, str], bool] = lambda plan, table: True) -> Subjects[str]:
    """One for every table of the experiment file that `has` it."""
    return lambda plan: {f"{prefix}{table}": table for table in plan.experiment.tables if has(plan, table)}


def of_experiment(name: str, has: Callable[[Plan], bool] = lambda plan: True) -> Subjects[None]:
    """One for an experiment that `has` it."""
    return lambda plan: {name: None} if has(plan) else {}


def table_title(plan: Plan, table: str) -> str:
    """The title of a table of the experiment file, or its name."""
    return plan.experiment.tables[table].title or table
