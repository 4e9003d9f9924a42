"""Which table and figure files an experiment leaves, told ahead of time for the workflow. Imports nothing heavy.

A layout is one printed table: an experiment's table with its suite's tasks as columns; or, as the paper prints MMLU,
all the tables of one suite that has a single task, with their training sets as columns.
"""

from dataclasses import dataclass, replace

from sbora_bench.errors import UserError
from sbora_bench.plan.catalog import MethodEntry
from sbora_bench.plan.experiment import Cell, Plan

TABLE_FORMATS = ("md", "csv", "tex", "html")
FIGURE_FORMATS = ("png", "svg")
MODEL_CARD = "README.md"  # in an adapter's folder
VALIDATION = "validation"  # folder of a table's data and of a run
SEPARATION = ("separation.md", "separation.csv", "gains.csv", "differences.csv", "averages.csv", "cells.csv")
RESERVED = {name.partition(".")[0] for name in SEPARATION}


@dataclass(frozen=True)
class Column:
    """A column of scores: one task of one of the experiment's tables."""

    table: str
    task: str
    title: str


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
        """Whether a column of averages ends the table: over several tasks, not over several training sets."""
        return len(self.tables) == 1 and len(self.columns) > 1


def layouts(plan: Plan) -> list[Layout]:
    """The printed tables of an experiment, in the order of its file. Raises UserError for a name that is taken."""
    tables = plan.experiment.tables
    groups: dict[str, list[str]] = {}
    for name, table in tables.items():
        single = len(plan.tasks(name)) == 1
        groups.setdefault(f"suite {table.suite}" if single else f"table {name}", []).append(name)
    found, taken = [], {*RESERVED, *side_tables(plan)}
    for members in groups.values():
        first = tables[members[0]]
        name = members[0] if len(members) == 1 else first.suite
        if name in taken or (len(members) > 1 and name in set(tables) - set(members)):
            raise UserError(f"{plan.path}: tables.{name}: this name is taken by a file of results; choose another")
        if len(members) == 1:
            tasks = plan.catalog.tasks
            columns = [Column(name, task, tasks[task].title) for task in plan.tasks(name)]
        else:
            columns = [
                Column(member, plan.tasks(member)[0], tables[member].title or tables[member].train)
                for member in members
            ]
        title = (first.title if len(members) == 1 else "") or plan.catalog.suites[first.suite].title
        title += f" ({plan.experiment.note})" if plan.experiment.note else ""
        rows = tuple(_rows(plan, name, members))
        found.append(Layout(name, title, first.suite, tuple(members), tuple(columns), rows))
    return found


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


def rates_name(table: str) -> str:
    """Name of the table and of the figure of a table's learning rates."""
    return f"rates-{table}"


def also_name(table: str) -> str:
    """Name of the table and of the figure of the suites scored beside a table's own."""
    return f"also-{table}"


def forgetting_name(table: str) -> str:
    """Name of the table of which method keeps more of what it was not tuned for."""
    return f"forgetting-{table}"


DRAWS = "draws"  # name of the table and of the figure of the factorials


@dataclass(frozen=True)
class DrawGroup:
    """A factorial: the methods of a table that are one but for a fixed index seed, on one model at one rank."""

    table: str
    model: str
    rank: int
    title: str
    methods: tuple[str, ...]
    index_seeds: tuple[int, ...]


def draw_groups(plan: Plan) -> list[DrawGroup]:
    """The factorials of an experiment, of two index seeds and two seeds at least."""
    found: dict[tuple, dict[str, int]] = {}
    titles: dict[str, str] = {}
    for method in plan.catalog.methods.values():
        titles.setdefault(_drawn(method), method.title)
    for name, table in plan.experiment.tables.items():
        for cell in plan.tuned_cells(name) if len(table.seeds) > 1 else ():
            method = plan.catalog.methods[cell.method]
            seed = method.arguments.get("random_seed")
            if isinstance(seed, int):
                found.setdefault((name, cell.model, cell.rank, _drawn(method)), {})[cell.method] = seed
    return [
        DrawGroup(name, model, rank, titles[alike], tuple(seeds), tuple(seeds.values()))
        for (name, model, rank, alike), seeds in found.items()
        if len(set(seeds.values())) > 1
    ]


def _drawn(method: MethodEntry) -> str:
    """What methods have in common that differ in title and index seed alone."""
    arguments = method.arguments | {"random_seed": "$seed"}
    return method.model_copy(update={"title": "", "arguments": arguments}).model_dump_json()


def side_tables(plan: Plan) -> list[str]:
    """Names of the tables beside the layouts: of learning rates, of other suites, of the factorials."""
    tables = plan.experiment.tables
    names = [rates_name(name) for name, table in tables.items() if table.learning_rates]
    names += [spell(name) for name, table in tables.items() if table.also for spell in (also_name, forgetting_name)]
    return names + [DRAWS] * bool(draw_groups(plan))


def table_files(plan: Plan) -> list[str]:
    """Every file that `tables` writes, relative to the results folder."""
    names = [layout.name for layout in layouts(plan)]
    names += side_tables(plan)
    names += ["paper_footprint"] if plan.experiment.paper_footprint else []
    files = [f"tables/{name}.{suffix}" for name in names for suffix in TABLE_FORMATS]
    return [*files, *(f"tables/{name}" for name in SEPARATION)]


def audit_files() -> list[str]:
    """Every file that `audit` writes, relative to the results folder."""
    return ["audit.json", *(f"audit.{suffix}" for suffix in TABLE_FORMATS)]


def figure_captions(plan: Plan) -> dict[str, str]:
    """Name of every figure -> what it shows."""
    captions = {}
    for layout in layouts(plan):
        captions[f"score-{layout.name}"] = (
            f"{layout.title}: score against trainable parameters. A line joins the ranks of a method; bars are 95 %"
            " t intervals over the seeds (none with one seed); the dashed line is the untuned base. Methods stand a"
            " little apart, to be told from each other."
        )
        captions[f"pareto-{layout.name}"] = (
            f"{layout.title}: score against trainable parameters, the foretold peak memory of training, and the time of"
            " a training run on the machine that ran it; bars as above. Ringed, on the stepped line: by the means no"
            " other cell scores as high for as little."
        )
        captions[f"footprint-{layout.name}"] = (
            f"{layout.title}: trainable parameters, and memory at the peak of a training step: foretold parts stacked,"
            " what the allocator held at the most as diamonds."
        )
    for name, table in plan.experiment.tables.items():
        captions[f"training-{name}"] = (
            f"{table.title or name}: training loss by update, mean of the seeds, with their range shaded;"
            " validation loss dashed where there is one."
        )
        if table.learning_rates:
            captions[rates_name(name)] = (
                f"{table.title or name}: score against learning rate, on the training rows held out to pick the rate by"
                " and on the test items. Points are means, bars one standard deviation over the seeds; a ring marks the"
                " rate picked."
            )
        if table.also:
            captions[also_name(name)] = (
                f"{table.title or name}: the suite tuned for against rank and against trainable parameters; then what"
                " was not tuned for: other suites and the loss on held-out text. Bars are 95 % t intervals over the"
                " seeds; the dashed line is the untuned base."
            )
    if draw_groups(plan):
        captions[DRAWS] = (
            "Score by index seed, which draws the columns or rows, a line a seed of data order and dropout: lines that"
            " keep apart show the order's part, common steps the draw's."
        )
    if plan.experiment.paper_footprint:
        captions["paper_memory"] = (
            "The paper's methods at its scales: memory at the peak of a training step on a GPU, by kind, foretold at"
            " the official protocol's micro-batch and longest example."
        )
        captions["paper_footprint"] = (
            "The paper's cells at true scale: trainable parameters as counted (bars) and as reported (diamonds)."
        )
    return captions


def figure_files(plan: Plan) -> list[str]:
    """Every file that `figures` writes, relative to the results folder."""
    return [f"figures/{name}.{suffix}" for name in figure_captions(plan) for suffix in FIGURE_FORMATS]
