"""An experiment with its catalog, and the cells and runs that it stands for.

A table is a union of grids (models x methods x ranks): its cells; a run is one cell with one seed. The untuned base of
every model of a table is scored once, as method `base`.
"""

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.comparison import Planned, common_metric, planned
from sbora_bench.plan.data_entries import Answering
from sbora_bench.plan.metric import GOLD_LOSS, Metric
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.regions import region_runs
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.plan.table import Experiment, Table


@dataclass(eq=False, repr=False)
class Plan:
    """A validated experiment with its catalog: the runs, and what each of them resolves to.

    `rates`: the learning rate that was picked for each cell (`decided`); without, a cell has runs at all of them or,
    where a rate is picked before the runs are made, its runs are known by name and not yet by rate.
    `numbers`: how many of its seeds each cell has; without, all of them.
    `tried`: the rates that each cell has runs at to pick one by; without, all that it may try.
    `part`: a command's options that stand for this part of the experiment file; empty for the whole.
    """

    name: str
    experiment: Experiment
    catalog: Catalog
    path: str
    rates: dict[Cell, float] = field(default_factory=dict)
    part: tuple[str, ...] = ()
    numbers: dict[Cell, int] = field(default_factory=dict)
    tried: dict[Cell, list[float]] = field(default_factory=dict)

    def decided(
        self,
        rates: dict[Cell, float] | None = None,
        numbers: dict[Cell, int] | None = None,
        tried: dict[Cell, list[float]] | None = None,
    ) -> "Plan":
        """The same plan with these cells' learning rates, numbers of seeds, or rates to pick from decided."""
        rates, numbers = self.rates | (rates or {}), self.numbers | (numbers or {})
        tried = self.tried | (tried or {})
        if not (rates or numbers or tried):
            return self
        return replace(self, rates=rates, numbers=numbers, tried=tried)

    @cached_property
    def runs(self) -> list[Run]:
        """Every run, bases first within a table, in the order of the file."""
        return [run for table in self.experiment.tables for run in self.runs_of(table)]

    @cached_property
    def all_runs(self) -> list[Run]:
        """Those that a learning rate is picked by too, last."""
        return [*self.runs, *(run for table in self.experiment.tables for run in self.picking_runs(table))]

    def runs_of(self, table: str) -> list[Run]:
        """The runs that a table shows, or may show while it isn't decided which; bases first."""
        entry = self.experiment.tables[table]
        rates: list[float | None] = [None] if entry.picking_seeds else [*entry.learning_rates] or [None]
        runs: list[Run] = []
        for cell in self.cells(table):
            if cell.is_base:
                runs.append(Run(cell))
                continue
            own_rates = [self.rates[cell]] if cell in self.rates and not entry.picking_seeds else rates
            seeds = entry.seeds[: self.numbers.get(cell, len(entry.seeds))]
            runs += [Run(cell, seed, rate) for rate in own_rates for seed in seeds]
        return runs

    def picking_runs(self, table: str) -> list[Run]:
        """The runs that a learning rate is picked by before the others, or may be while it isn't decided which rates a
        cell tries; none where all are run at every rate.
        """
        entry = self.experiment.tables[table]
        cells = {cell: self.tried.get(cell, entry.every_rate) for cell in self.tuned_cells(table)}
        seeds = entry.picking_seeds
        return [Run(cell, seed, rate) for cell, rates in cells.items() for rate in rates for seed in seeds]

    @property
    def most_runs(self) -> int:
        """How many runs are made if all seeds are needed, and all rates beyond a grid are tried."""
        return self._count(first=False)

    @property
    def first_runs(self) -> int:
        """How many runs are made if nothing beyond the first look and the grids of learning rates is needed."""
        return self._count(first=True)

    def _count(self, first: bool) -> int:
        cells = [cell for table in self.experiment.tables for cell in self.cells(table)]
        return sum(self.run_count(cell, first) for cell in cells)

    def run_count(self, cell: Cell, first: bool = False) -> int:
        """Runs of a cell, at most or up to the `first` look and within its grid; those that a learning rate is picked
        by too. Only one end of a grid is gone beyond: what lies beyond the other is no better than that end.
        """
        entry = self.experiment.tables[cell.table]
        if cell.is_base:
            return 1
        rates = len(entry.learning_rates) + (0 if first else entry.rounds) or 1
        seeds = entry.looks[0] if first and entry.looks else len(entry.seeds)
        return rates * len(entry.picking_seeds) + seeds if entry.picking_seeds else rates * seeds

    def runs_by_cell(self, table: str) -> dict[Cell, list[Run]]:
        """Cell of a table -> its runs, bases first, in the order of the file."""
        runs: dict[Cell, list[Run]] = {}
        for run in self.runs_of(table):
            runs.setdefault(run.cell, []).append(run)
        return runs

    def cells(self, table: str) -> list[Cell]:
        """The cells of a table, bases first."""
        grids = self.experiment.tables[table].grids
        models = dict.fromkeys(model for grid in grids for model in grid.models)
        cells = [Cell(table, *names) for g in grids for names in itertools.product(g.models, g.methods, g.ranks)]
        return [*(Cell(table, model, "base") for model in models), *cells]

    def tuned_cells(self, table: str) -> list[Cell]:
        """The cells of a table but its untuned bases."""
        return [cell for cell in self.cells(table) if not cell.is_base]

    @cached_property
    def _by_name(self) -> dict[str, Run]:
        return {run.name: run for run in self.all_runs}

    def run(self, name: str) -> Run:
        """The run of that name. Raises UserError naming near ones."""
        if name not in self._by_name:
            raise UserError(f"{self.path}: {one_of(name, self._by_name, 'run')}")
        return self._by_name[name]

    def comparisons(self, table: str) -> list[Planned]:
        """The planned comparisons of a table, a model each. Raises UserError for a mistake in one."""
        entry, where = self.experiment.tables[table], f"{self.path}: tables.{table}"

        def metric_of(name: str, place: str) -> Metric:
            tasks = {task: self.catalog.tasks[task] for task in self.tasks(table)}
            return common_metric(tasks, name, place, entry.answer_by)

        primary = {"metric": GOLD_LOSS} if entry.metric == GOLD_LOSS else {}
        comparisons = [one if one.metric else one.model_copy(update=primary) for one in entry.comparisons]
        return planned(comparisons, self.tuned_cells(table), metric_of, where)

    def region_runs(self, table: str) -> list[Run]:
        """The runs of a table whose regions are shown. Raises UserError for a mistake in which."""
        entry, where = self.experiment.tables[table], f"{self.path}: tables.{table}.regions"
        if entry.regions is None:
            return []
        if entry.learning_rates and not entry.picking_seeds:
            raise UserError(
                f"{where}: each cell is run at every learning rate here; pick the rate first (learning_rates.pick), or"
                " give one"
            )
        return region_runs(entry.regions, self.tuned_cells(table), entry.common_seeds, where)

    def table(self, name: str, where: str) -> Table:
        """The table of that name. Raises UserError beginning with `where` and naming near ones."""
        if name not in self.experiment.tables:
            raise UserError(f"{where}: {one_of(name, self.experiment.tables, 'table')}")
        return self.experiment.tables[name]

    def protocol(self, table: str, suite: str | None = None) -> Protocol:
        """The protocol of a table, or as it holds for a suite that the table scores beside its own."""
        entry = self.experiment.tables[table]
        where = f"{self.path}: tables.{table}.protocol"
        return self.catalog.protocol(entry.protocol, suite or entry.suite, entry.overrides, where)

    def protocol_of(self, run: Run) -> Protocol:
        """The protocol of a run: its table's, at the run's own learning rate where the table varies that.

        Raises UserError where that rate isn't picked yet.
        """
        protocol, rate = self.protocol(run.table), self.rate_of(run)
        return protocol if rate is None else protocol.model_copy(update={"learning_rate": rate})

    def rate_of(self, run: Run) -> float | None:
        """The learning rate of a run where its table varies that. Raises UserError where it isn't picked yet."""
        if run.learning_rate is not None or run.is_base or not self.experiment.tables[run.table].picking_seeds:
            return run.learning_rate
        if run.cell not in self.rates:
            pick = self.command("pick", "--table", run.table)
            raise UserError(f"{self.path}: {run.name}: its learning rate isn't picked yet; pick it with: {pick}")
        return self.rates[run.cell]

    def tasks(self, table: str) -> list[str]:
        """The tasks of a table's own suite; `scored` has those of the suites beside it too."""
        return self.catalog.suites[self.experiment.tables[table].suite].tasks

    def scored(self, table: str) -> dict[str, str]:
        """Task -> its suite, of all that a table scores: its own tasks, then those of the suites beside."""
        entry, suites = self.experiment.tables[table], self.catalog.suites
        return {task: suite for suite in (entry.suite, *entry.also) for task in suites[suite].tasks}

    def items(self, table: str) -> dict[str, str]:
        """Task -> data entry of the items that this table scores."""
        which = self.experiment.tables[table].items or self.experiment.items
        tasks = {task: self.catalog.tasks[task].items_of(task, which) for task in self.scored(table)}
        return {task: items for task, items in tasks.items() if items is not None}

    def gold(self, table: str) -> bool:
        """Whether the likelihood of the right answer is taken too."""
        entry = self.experiment.tables[table]
        compared = any(comparison.metric == GOLD_LOSS for comparison in entry.comparisons)
        return compared or entry.metric == GOLD_LOSS or entry.answer_by == "likelihood"

    def answer_by(self, table: str, task: str) -> Answering:
        """How a task is answered in a table."""
        return self.catalog.tasks[task].answered(self.experiment.tables[table].answer_by)

    def metric(self, table: str, task: str) -> Metric:
        """What a task's score is a mean of in a table."""
        return self.catalog.tasks[task].metric_by(self.experiment.tables[table].answer_by)

    def common_metric(self, table: str, tasks: Sequence[str] | None = None) -> Metric | None:
        """The metric that an average of these tasks of a table, or of its own, is in; None where they don't average."""
        metrics = [self.metric(table, task) for task in (self.tasks(table) if tasks is None else tasks)]
        return metrics[0] if metrics and all(metrics[0].averages_with(metric) for metric in metrics) else None

    def fresh_seeds(self, table: str) -> list[int]:
        """The seeds that have items of their own; none where all have the same."""
        entry = self.experiment.tables[table]
        return sorted(entry.seeds) if entry.fresh_items else []

    def command(self, stage: str, *arguments: str) -> str:
        """The command line of a stage for this experiment, or for the part of it that this is."""
        return shlex.join(["sbora-bench", stage, "--experiment", self.path, *self.part, *arguments])
