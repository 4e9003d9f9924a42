"""An experiment with its catalog, and the cells and runs that it stands for.

A table is a union of grids (models x methods x ranks): its cells; a run is one cell with one seed. The untuned base of
every model of a table is scored once, as method `base`.
"""

import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import content_sha256, hash_of
from sbora_bench.plan.catalog import Catalog, load_catalog
from sbora_bench.plan.comparison import Planned, common_metric, planned
from sbora_bench.plan.data_entries import CATALOG, Answering, HubData, LmEvalData, OwnData, SyntheticData
from sbora_bench.plan.entry import NAME
from sbora_bench.plan.explain import explain
from sbora_bench.plan.hub_copies import below_root
from sbora_bench.plan.layer_widths import narrowest
from sbora_bench.plan.method_entry import LOW_RANK
from sbora_bench.plan.metric import GOLD_LOSS, Metric
from sbora_bench.plan.protocol import SCORING, Protocol
from sbora_bench.plan.regions import region_runs
from sbora_bench.plan.runs import Cell, Run, rate_text
from sbora_bench.plan.sizes import Grid, sized
from sbora_bench.plan.table import Experiment, Table
from sbora_bench.strict_yaml import read_yaml

SCORED = ("tasks", "also", "answers", "fresh_items")  # of a run's settings, those that training doesn't depend on


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

    def __post_init__(self) -> None:
        self._check()

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

    def data_settings(self, table: str, own: dict[str, str] | None = None) -> dict[str, Any]:
        """All that a table's prepared data depend on, as JSON; `own`: in the place of `own_data`, which reads files."""
        entry, protocol = self.experiment.tables[table], self.protocol(table)
        data = self.catalog.data
        own = self.own_data(table) if own is None else own
        more: dict[str, Any] = {"validation_items": entry.validation_items} if entry.learning_rates else {}
        if entry.also:
            more["also"] = {suite: self.protocol(table, suite).score_prompt for suite in entry.also}
        if self.gold(table):
            more["gold"] = True
        if seeds := self.fresh_seeds(table):
            more["fresh_seeds"] = seeds
        if own:
            more["own_data"] = own
        if whole := [task for task in self.scored(table) if self.catalog.tasks[task].own_template()]:
            more["own_templates"] = whole  # they read any column
        used = [
            protocol.train_prompt,
            *(self.protocol(table, suite).score_prompt for suite in self.scored(table).values()),
        ]
        if own_prompts := {name: self.catalog.prompts[name].stated for name in used if name in self.catalog.prompts}:
            more["own_prompts"] = own_prompts
        return more | {
            "suite": entry.suite,
            "train": {entry.train: data[entry.train].model_dump(mode="json")},
            "items": {task: data[name].model_dump(mode="json") for task, name in self.items(table).items()},
            "train_prompt": protocol.train_prompt,
            "score_prompt": protocol.score_prompt,
            **entry.model_dump(mode="json", include={"limit", "limit_seed", "contaminated", "missing"}),
        }

    def own_data(self, table: str) -> dict[str, str]:
        """Name -> SHA-256 of the data of one's own that a table is trained and scored on, copies of sets of the hub
        among them. Raises UserError where there is no such file.
        """
        names = [self.experiment.tables[table].train, *self.items(table).values()]
        data = {name: self.catalog.data[name] for name in names}
        own = {name: entry for name, entry in data.items() if isinstance(entry, OwnData | LmEvalData)}
        files = {name: entry.file() for name, entry in own.items() if isinstance(entry, OwnData) or entry.include_path}
        hashes = {name: [content_sha256(file)] for name, file in files.items()}
        instead = {entry.otherwise for entry in data.values() if isinstance(entry, HubData) and entry.otherwise}
        for name, entry in (data | {name: self.catalog.data[name] for name in sorted(instead)}).items():
            if folder := below_root(entry):
                hashes.setdefault(name, []).append(content_sha256(folder))
        return {name: both[0] if len(both) == 1 else hash_of(both) for name, both in hashes.items()}

    def command(self, stage: str, *arguments: str) -> str:
        """The command line of a stage for this experiment, or for the part of it that this is."""
        return shlex.join(["sbora-bench", stage, "--experiment", self.path, *self.part, *arguments])

    def settings(self, run: Run) -> dict[str, Any]:
        """All that a run depends on but its inputs' bytes and the code, as JSON: a record's settings."""
        entry = self.experiment.tables[run.table]
        method = None if run.is_base else self.catalog.methods[run.method].model_dump(mode="json")
        also = {suite: self.protocol(run.table, suite).model_dump(mode="json") for suite in entry.also}
        more: dict[str, Any] = {"also": also} if also else {}
        if self.gold(run.table):
            more["answers"] = {"gold": True, "by": entry.answer_by}
        if entry.fresh_items:
            more["fresh_items"] = True
        return more | {
            "experiment": self.name,
            "table": run.table,
            "run": run.name,
            "model": run.model,
            "method": run.method,
            "rank": run.rank,
            "seed": run.seed,
            "suite": entry.suite,
            "train": None if run.is_base else entry.train,
            "protocol_name": entry.protocol,
            "protocol": self.protocol_of(run).model_dump(mode="json"),
            "model_entry": self.catalog.models[run.model].model_dump(mode="json"),
            "method_entry": method,
            "tasks": {task: self.catalog.tasks[task].settings() for task in self.scored(run.table)},
        }

    def settings_hash(self, run: Run) -> str:
        return hash_of(self.settings(run))

    def training_settings(self, run: Run) -> dict[str, Any]:
        """The settings less those of scoring: another number of beams, say, doesn't train anew."""
        settings = {key: value for key, value in self.settings(run).items() if key not in SCORED}
        protocol = {key: value for key, value in settings["protocol"].items() if key not in SCORING}
        return settings | {"protocol": protocol}

    def training_hash(self, run: Run) -> str:
        return hash_of(self.training_settings(run))

    def _check(self) -> None:
        seen = set()
        for name, table in self.experiment.tables.items():
            where = f"{self.path}: tables.{name}"
            self._check_tasks(table, where)
            self.catalog.find("data", table.train, f"{where}.train")
            if table.fresh_items:
                self._check_fresh(name, f"{where}.fresh_items")
            self._check_stages(name, where)
            for index, grid in enumerate(table.grids):
                self._check_grid(grid, self.protocol(name), f"{where}.grids.{index}")
            for run in [*self.runs_of(name), *self.picking_runs(name)]:
                if run.name in seen:
                    raise UserError(f"{where}.grids: run {run.name} stands twice; each run once")
                seen.add(run.name)
            if table.comparisons and len(table.seeds) < 2:
                raise UserError(
                    f"{where}.seeds: found one, allowed at least 2 where comparisons are planned; add seeds"
                )
            self.comparisons(name)
            self.region_runs(name)

    def _check_tasks(self, table: Table, where: str) -> None:
        suites = [self.catalog.find("suites", table.suite, f"{where}.suite")]
        suites += [self.catalog.find("suites", suite, f"{where}.also") for suite in table.also]
        which, scored = table.items or self.experiment.items, [task for suite in suites for task in suite.tasks]
        for task in scored:
            if scored.count(task) > 1:
                raise UserError(f"{where}.also: task {task} stands in two of the suites; name each suite once")
            entry = self.catalog.tasks[task]
            if entry.items_of(task, which) is None:
                raise UserError(f"{where}.items: task {task}: {one_of(which, entry.items, 'set of items')}")
        for task in table.limit:
            if task not in scored:
                raise UserError(f"{where}.limit: {one_of(task, scored, 'task')}")

    def _check_stages(self, name: str, where: str) -> None:
        """Seeds, looks and learning rates of a table go together."""
        table, default = self.experiment.tables[name], self.protocol(name).learning_rate
        if both := sorted(set(table.seeds) & set(table.picking_seeds)):
            raise UserError(
                f"{where}.learning_rates.seeds: found {both[0]}, which the table's own runs have; pick with others,"
                " of which no result is shown"
            )
        if table.looks and not table.comparisons:
            raise UserError(
                f"{where}.seeds: looks, and no comparison that they could decide; plan comparisons, or give a list"
                " of seeds"
            )
        if table.learning_rates and not table.picking_seeds and default not in table.learning_rates:
            raise UserError(
                f"{where}.learning_rates: found {', '.join(map(rate_text, table.learning_rates))}, which lacks the"
                f" protocol's own, {rate_text(default)}; add it: what choosing gains is over that one"
            )
        by_score = table.metric != GOLD_LOSS or not table.picking_seeds
        for task in self.tasks(name) if table.learning_rates and by_score else ():
            metric = self.metric(name, task)
            if not (metric.is_share and metric.higher_is_better):
                raise UserError(
                    f"{where}.learning_rates: task {task} is scored from {metric.low} to {metric.high}, allowed a"
                    " score from 0 to 1 of which more is better; drop learning_rates or choose another metric"
                )

    def _check_fresh(self, table: str, where: str) -> None:
        for task, name in self.items(table).items():
            if not isinstance(self.catalog.data[name], SyntheticData):
                raise UserError(
                    f"{where}: task {task}: found data {name}, which is not made here, allowed are synthetic data;"
                    " drop fresh_items"
                )

    def _check_grid(self, grid: Grid, protocol: Protocol, where: str) -> None:
        methods = [self.catalog.find("methods", method, f"{where}.methods") for method in grid.methods]
        widths = [self.catalog.find("models", model, f"{where}.models").architecture for model in grid.models]
        for method in methods if grid.ranks else ():
            own = method.arguments.get("target_modules")
            targets = protocol.target_modules if own == "$target_modules" else own
            for model, architecture in zip(grid.models, widths, strict=True):
                layer, width = narrowest(architecture, targets)
                if method.peft_type in LOW_RANK and method.has_size and width and max(grid.ranks) > width:
                    raise UserError(
                        f"{where}.ranks: found rank {max(grid.ranks)}, allowed 1 to {width} ({layer} is the narrowest"
                        f" layer of {model} that is tuned); lower the rank"
                    )


def load_plan(name: str) -> Plan:
    """Read experiment `name` (`experiments/NAME.yaml`) or a path to a YAML file, and check all of it.

    Raises UserError with file, key, what was found and what is allowed.
    """
    path, experiment, catalog = read_experiment(name)
    tables = {}
    for key, table in experiment.tables.items():
        where = f"{path}: tables.{key}"
        protocol = catalog.protocol(table.protocol, table.suite, table.overrides, f"{where}.protocol")
        tables[key] = table.model_copy(update={"grids": sized(table.grids, catalog, protocol, path, where)})
    return Plan(path.stem, experiment.model_copy(update={"tables": tables}), catalog, str(path))


def read_experiment(name: str) -> tuple[Path, Experiment, Catalog]:
    """The file of an experiment, what it says, and its catalog; no rank is chosen yet where a grid says a size.

    Its catalog is the folder `catalog` beside the file or, where there is none, `experiments/catalog`. Raises UserError
    for an unknown name, a file that can't be read, and a key or value that isn't allowed.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        if not re.fullmatch(NAME, name):
            raise UserError(f"experiment {name!r}: a name has lower-case letters, digits, '.' and '-' only")
        path = Path("experiments") / f"{name}.yaml"
        if not path.is_file():
            known = sorted(p.stem for p in Path("experiments").glob("*.yaml"))
            if not known:
                raise UserError(f"{path}: no such file in {Path.cwd()}; run this in the root of the repository")
            raise UserError(f"{path}: {one_of(name, known, 'experiment')}")
    stem = path.stem
    if stem == "published":
        raise UserError(f"{path}: results/published/ is for published results; choose another name")
    if not re.fullmatch(NAME, stem):
        raise UserError(f"{path}: an experiment's file is named in lower-case letters, digits, '.' and '-' only")
    try:
        experiment = Experiment.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Experiment)}") from None
    beside = path.parent / "catalog"
    return path, experiment, load_catalog(str(beside if any(beside.glob("*.yaml")) else CATALOG))


def json_schema() -> dict[str, Any]:
    """The JSON schema of an experiment file (workflow/schemas/experiment.schema.json)."""
    schema = Experiment.model_json_schema()
    schema["properties"]["tables"]["additionalProperties"] = False  # pydantic lets names of other patterns pass
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
