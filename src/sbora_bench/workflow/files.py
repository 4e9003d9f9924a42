"""Every stage's files and settings. All paths are text, relative to the folder that `snakemake` runs in."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from sbora_bench.inputs.models.sources import source_of
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import data_settings, settings_hash, training_hash
from sbora_bench.plan.table import Table
from sbora_bench.report.outputs import COLLECTED, PAGE, audit_files, figure_files, table_files
from sbora_bench.results.folders import (
    ADAPTER,
    ADAPTER_FILES,
    MODEL_CARD,
    PAPER_FOOTPRINT,
    SCORES,
    TRAINING,
    footprint_of,
    rates_file,
    region_file,
    scored_parts,
)
from sbora_bench.results.stages import is_staged, looks_hash, rates_hash
from sbora_bench.workflow.jobs import at_every_rate, tuned

ADAPTER_PATHS = tuple(f"{ADAPTER}/{name}" for name in ADAPTER_FILES)
CARD = f"{ADAPTER}/{MODEL_CARD}"


@dataclass(frozen=True)
class Files:
    """Every file of an experiment's results, and what the rules' parameters are.

    `staged`: the plan is a table of an experiment in which some table is decided on the way.
    """

    plan: Plan
    staged: bool = False

    @property
    def root(self) -> str:
        return f"results/{self.plan.name}"

    def depth(self, paths: list[str]) -> int:
        """Which ancestor of the first path, and so of a rule's first output wherever that lies, is the root."""
        return len(PurePosixPath(paths[0]).relative_to(self.root).parts)

    def of(self, runs: Iterable[Run], names: Iterable[str]) -> list[str]:
        """The files of these names of each run."""
        kept = list(names)
        return [f"{self.root}/runs/{run.name}/{name}" for run in runs for name in kept]

    def trained(self, runs: Iterable[Run]) -> list[str]:
        """What training leaves: nothing of an untuned base."""
        return self.of(tuned(runs), [TRAINING, *ADAPTER_PATHS])

    def scored(self, runs: Iterable[Run]) -> list[str]:
        """What scoring leaves; of the held-out training rows too, where the table picks a learning rate by them."""
        return [path for run in runs for path in self.of([run], self._scored_names(run))]

    def made(self, runs: list[Run]) -> list[str]:
        """What a job leaves: of each run what training and scoring leave."""
        return [*self.trained(runs), *self.scored(runs)]

    def rates_of(self, runs: Iterable[Run]) -> list[str]:
        """The picked rates that runs of a table are trained at; none where they are known from the experiment."""
        tables = dict.fromkeys(run.table for run in runs if at_every_rate(self.plan, run) != [run])
        return [str(rates_file(self.root, table)) for table in tables]

    def settings(self, runs: Iterable[Run]) -> list[str]:
        """All that runs depend on but their inputs and the code; a rate that is still to be picked is an input."""
        return [settings_hash(self.plan, one) for run in runs for one in at_every_rate(self.plan, run)]

    def _scored_names(self, run: Run) -> list[str]:
        names = []
        for part in sorted(scored_parts(self.plan, run)):
            tasks = self.plan.tasks(run.table) if part else self.plan.scored(run.table)
            of_part = [SCORES, *(f"samples/{task}.jsonl" for task in tasks)]
            names += [f"{part}/{name}" if part else name for name in of_part]
        return names

    @cached_property
    def score_records(self) -> list[str]:
        return [path for path in self.scored(self.plan.all_runs) if path.endswith(".json")]

    @cached_property
    def samples(self) -> list[str]:
        return [path for path in self.scored(self.plan.all_runs) if path.endswith(".jsonl")]

    @property
    def train_records(self) -> list[str]:
        return self.of(tuned(self.plan.all_runs), [TRAINING])

    @property
    def footprint_records(self) -> list[str]:
        return [path for table in self.plan.experiment.tables for path in self.footprints(table)]

    def footprints(self, table: str) -> list[str]:
        """A run each, or a cell each where it isn't known beforehand which runs are made."""
        if self.plan.experiment.tables[table].staged:
            runs = [Run(cell) for cell in self.plan.cells(table)]
        else:
            runs = self.plan.runs_of(table)
        return [str(footprint_of(self.plan, self.root, run)) for run in runs]

    @property
    def records(self) -> list[str]:
        """All JSON that the readers read."""
        return [*self.score_records, *self.footprint_records, *self.train_records, *self.rates]

    @property
    def rates(self) -> list[str]:
        """Which learning rates were picked, of the tables that pick them in a stage of its own."""
        tables = self.plan.experiment.tables.items()
        return [str(rates_file(self.root, name)) for name, table in tables if table.picking_seeds]

    def picking(self, table: str) -> list[str]:
        """The scores that the learning rates of a table are picked by."""
        return [path for path in self.scored(self.plan.picking_runs(table)) if path.endswith(".json")]

    @property
    def picking_tables(self) -> str:
        """The tables whose rates are picked, as a wildcard's constraint."""
        return self._tables_where(lambda table: table.picking_seeds)

    @property
    def extending_tables(self) -> str:
        """The tables whose grids of learning rates are extended, as a wildcard's constraint."""
        return self._tables_where(lambda table: table.rounds)

    @property
    def looking_tables(self) -> str:
        """The tables whose seeds are added in looks, as a wildcard's constraint."""
        return self._tables_where(lambda table: table.looks)

    def _tables_where(self, wanted: Callable[[Table], Any]) -> str:
        tables = self.plan.experiment.tables.items()
        return "|".join(name for name, table in tables if wanted(table)) or "none"

    def stage_settings(self, wildcards: Any) -> list[str]:
        """All that a table's rounds, picked rates and looks (`wildcards.table`) depend on but records and code."""
        return [rates_hash(self.plan, wildcards.table), looks_hash(self.plan, wildcards.table)]

    @property
    def cards(self) -> list[str]:
        return [self.every_card] if self.staged or is_staged(self.plan) else self.of(tuned(self.plan.runs), [CARD])

    @property
    def runs(self) -> list[str]:
        """Every file that runs leave."""
        return list(dict.fromkeys([*self.records, *self.samples, *self.trained(self.plan.all_runs), *self.cards]))

    def data_of(self, table: str) -> str:
        return f"{self.root}/data/{table}"

    @property
    def data(self) -> list[str]:
        return [self.data_of(table) for table in self.plan.experiment.tables]

    @property
    def collected(self) -> list[str]:
        return [f"{self.root}/{name}" for name in COLLECTED]

    @property
    def paper(self) -> dict[str, list[str]]:
        """What is counted at the paper's scale, by name; lists of none where the experiment has no part of that."""
        names = {"footprint": PAPER_FOOTPRINT, "memory": "paper_memory.csv", "audit": "paper_audit.json"}
        return {key: [f"{self.root}/{name}"] * self.plan.experiment.paper_footprint for key, name in names.items()}

    @property
    def region_jobs(self) -> dict[tuple[str, str], list[Run]]:
        """(table, model) -> the runs whose regions are shown, in one job."""
        together: dict[tuple[str, str], list[Run]] = {}
        for run in (run for table in self.plan.experiment.tables for run in self.plan.region_runs(table)):
            together.setdefault((run.table, run.model), []).append(run)
        return together

    def regions_of(self, runs: Iterable[Run]) -> list[str]:
        """What these runs' adapters change."""
        return [str(region_file(self.root, run)) for run in runs]

    @property
    def regions(self) -> list[str]:
        """What the adapters change of all runs whose regions are shown."""
        return [path for runs in self.region_jobs.values() for path in self.regions_of(runs)]

    @property
    def tables(self) -> list[str]:
        return [f"{self.root}/{name}" for name in table_files(self.plan)]

    @property
    def figures(self) -> list[str]:
        return [f"{self.root}/{name}" for name in figure_files(self.plan)]

    @property
    def audit(self) -> list[str]:
        return [f"{self.root}/{name}" for name in audit_files()]

    @property
    def page(self) -> str:
        return f"{self.root}/{PAGE}"

    @property
    def every_run_ok(self) -> str:
        return f"{self.root}/every-run-ok"

    @property
    def every_card(self) -> str:
        """Stands for all model cards where it isn't known beforehand which runs have one."""
        return f"{self.root}/every-card"

    @property
    def beside_runs(self) -> list[str]:
        """Every file of the whole experiment's that runs don't leave themselves."""
        paper = [path for paths in self.paper.values() for path in paths]
        files = [*self.data, *self.collected, *paper, *self.regions, *self.tables, *self.figures, *self.audit]
        return [self.every_run_ok, self.page, *files]

    @property
    def all(self) -> list[str]:
        return [*self.beside_runs, *self.runs]

    @property
    def where(self) -> str:
        """The last line that Snakemake prints."""
        return f"Tables: {self.root}/tables/  figures: {self.root}/figures/  report: {self.page}"

    def model_settings(self, wildcards: Any) -> str:
        """All that a prepared model (`wildcards.model`) depends on but the code."""
        entry = self.plan.catalog.models[wildcards.model]
        return entry.model_dump_json() + source_of(wildcards.model, entry).content()

    def data_settings(self, wildcards: Any) -> str:
        """All that a table's prepared data (`wildcards.table`) depend on but the code."""
        return str(data_settings(self.plan, wildcards.table))

    def cell_settings(self, table: str) -> list[str]:
        """All that the footprints of a table's cells depend on but the code."""
        cells = [Run(cell) for cell in self.plan.tuned_cells(table)]
        return [training_hash(self.plan, run) for cell in cells for run in at_every_rate(self.plan, cell)]

    def models(self, pretrained: bool) -> str:
        """The models that are pre-trained here, or fetched, as a wildcard's constraint."""
        models = self.plan.catalog.models.items()
        return "|".join(name for name, model in models if (source_of(name, model).command == "pretrain") is pretrained)
