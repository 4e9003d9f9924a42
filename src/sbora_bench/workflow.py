"""What the Snakefile takes from the package: the part of an experiment to run, its jobs, every stage's files and keys.

All paths are text, relative to the folder that `snakemake` runs in. The rules hold no Python of their own beyond calls.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from sbora_bench import code_hash
from sbora_bench.cost.expected import share_of_width
from sbora_bench.errors import UserError, one_of
from sbora_bench.files import check_writable, hash_of
from sbora_bench.inputs.check import check_inputs, checked_plan
from sbora_bench.inputs.models.sources import source_of
from sbora_bench.plan.catalog import load_catalog
from sbora_bench.plan.experiment import Plan, Run
from sbora_bench.plan.narrowing import OPTIONS, narrowed, words
from sbora_bench.plan.table import Table
from sbora_bench.report.outputs import COLLECTED, PAGE, audit_files, figure_files, table_files
from sbora_bench.results.folders import (
    ADAPTER,
    ADAPTER_FILES,
    MODEL_CARD,
    SCORES,
    TRAINING,
    footprint_of,
    rates_file,
    region_file,
    round_file,
    scored_parts,
)
from sbora_bench.results.records import check_results
from sbora_bench.results.stages import (
    is_staged,
    look_at,
    looks_hash,
    rates_hash,
    round_at,
    rounds_made,
    with_grids,
    with_seeds,
)

KEYS = ("experiment", "retry_failed", *OPTIONS)  # of `snakemake --config`
ADAPTER_PATHS = tuple(f"{ADAPTER}/{name}" for name in ADAPTER_FILES)
CARD = f"{ADAPTER}/{MODEL_CARD}"
PICKING = 1000  # the priority of what others wait for, above any number of tokens


@dataclass(frozen=True)
class Request:
    """What `--config` requests: `plan`, the part to run; `words`, its options for `sbora-bench`; failed runs again?"""

    plan: Plan
    words: list[str]
    retry_failed: bool


def requested(config: Mapping[str, Any], in_storage: bool = False, dry: bool = False, data: bool = True) -> Request:
    """The request of a `--config`: its experiment checked as a whole, its part's inputs, and its results folder.

    `in_storage`: outputs don't lie on this machine; `data`: look at the part's data and tasks too and, but for a `dry`
    run, at its methods; last, for that takes seconds. Raises UserError for an unknown key or value, a mistake in the
    experiment or its catalog, records of another version, and a folder that can't be written.
    """
    for key in config.keys() - set(KEYS):
        raise UserError(f"--config: {one_of(key, KEYS, 'key')}")
    again = str(config.get("retry_failed", False)).lower()
    if again not in ("true", "false"):
        raise UserError(f"--config: retry_failed: found {again!r}, allowed true or false")
    if again == "true" and in_storage:
        raise UserError(
            "--config: retry_failed: failed runs in a storage are not looked for; delete their train.json there, or"
            " name them with --forcerun"
        )
    part = {key: str(config[key]) for key in OPTIONS if config.get(key) is not None}
    whole = checked_plan(str(config.get("experiment", "ladder")), data=False)
    plan = narrowed(whole, **part)
    if in_storage and is_staged(plan):
        raise UserError(
            f"{plan.path}: looks and rounds of extend are read where Snakemake runs, and results in a storage are not;"
            " give lists of seeds and no extend, or run without --default-storage-provider"
        )
    table_files(plan), figure_files(plan)  # no two of one name
    check_results(f"results/{plan.name}")
    if not dry:
        check_writable(f"results/{plan.name}")
    check_inputs(plan, data, methods=data and not dry)
    return Request(plan, ["--experiment", plan.path, *words(whole, **part)], again == "true")


def code(*stages: str, without: tuple[str, ...] = ()) -> str:
    """The key of the code that stages run (`train.finetune`): an edit that changes what one does changes it.

    `without`: names of arguments that they do nothing with (`caption`).
    """
    return hash_of([code_hash.code_hash(f"sbora_bench.{stage}", frozenset(without)) for stage in stages])


def paper_catalog() -> str:
    """The key of the catalog's entries that the paper's own cells are counted from."""
    return hash_of(load_catalog().model_dump(mode="json", include={"models", "methods", "protocols"}))


def rule_name(*parts: object) -> str:
    """A name that Snakemake takes: `run_mmlu_0`."""
    return "_".join(map(str, parts)).replace("-", "_").replace(".", "_")


def tuned(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if not run.is_base]


def jobs(plan: Plan, table: str) -> Iterator[list[Run]]:
    """The runs that a job carries: those of a table and a model, `runs_per_job` at most, jobs of about the same size.

    Runs that a learning rate is picked by, which the others wait for, are apart from them; those of later looks and of
    rates beyond the grid, which may never be needed, are a job a cell and look, or rate.
    """
    together: dict[tuple, list[Run]] = {}
    for run in [*plan.runs_of(table), *plan.picking_runs(table)]:
        together.setdefault((run.model, *_decided_with(plan, run)), []).append(run)
    for group in together.values():
        size = math.ceil(len(group) / math.ceil(len(group) / plan.experiment.runs_per_job))
        yield from (group[start : start + size] for start in range(0, len(group), size))


def tokens_of_a_run(plan: Plan, table: str) -> float:
    """Expected in the training of a run of a table, padding among them; 0 where its number of updates isn't stated."""
    protocol = plan.protocol(table)
    share = share_of_width(plan.catalog, plan.experiment.tables[table].train, protocol)
    return (protocol.steps or 0) * protocol.batch_size * protocol.max_length * share


def priority(plan: Plan, runs: list[Run], tokens: float) -> int:
    """A job's: those of runs that a learning rate is picked by go first, for the table's other runs wait for them; then
    those of the most tokens, so that no long one is left alone at the end. `tokens`: of a run.
    """
    picking = runs[0].seed in plan.experiment.tables[runs[0].table].picking_seeds
    return (PICKING if picking else 0) + round(10 * math.log2(len(tuned(runs)) * tokens + 1))


def _decided_with(plan: Plan, run: Run) -> tuple:
    """What is equal for runs of a model that one decision makes needed, all at once; bases go with the first look."""
    table = plan.experiment.tables[run.table]
    if run.seed is not None and run.seed in table.picking_seeds:
        return ("pick", *((run.learning_rate, run.cell) if run.learning_rate not in table.learning_rates else ()))
    place = 0 if run.seed is None else table.seeds.index(run.seed)
    look = sum(place >= seeds for seeds in table.looks)
    return (look, run.cell) if look else (look,)


def at_every_rate(plan: Plan, run: Run) -> list[Run]:
    """The runs that a run may stand for while its learning rate is still to be picked; itself where none is."""
    table = plan.experiment.tables[run.table]
    if run.is_base or run.learning_rate is not None or not table.picking_seeds:
        return [run]
    return [replace(run, learning_rate=rate) for rate in table.every_rate]


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
        return [self.plan.settings_hash(one) for run in runs for one in at_every_rate(self.plan, run)]

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
        names = {"footprint": "paper_footprint.csv", "memory": "paper_memory.csv", "audit": "paper_audit.json"}
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
        return str(self.plan.data_settings(wildcards.table))

    def cell_settings(self, table: str) -> list[str]:
        """All that the footprints of a table's cells depend on but the code."""
        cells = [Run(cell) for cell in self.plan.tuned_cells(table)]
        return [self.plan.training_hash(run) for cell in cells for run in at_every_rate(self.plan, cell)]

    def models(self, pretrained: bool) -> str:
        """The models that are pre-trained here, or fetched, as a wildcard's constraint."""
        models = self.plan.catalog.models.items()
        return "|".join(name for name, model in models if (source_of(name, model).command == "pretrain") is pretrained)


def required_files(files: Files, checkpoints: Any, name: str) -> Any:
    """Input of a rule: the files, by a name of `Files` (`records`, say), of all runs that are needed.

    A list; where stages decide on the way, functions of Snakemake's, a table each, that wait for them (`checkpoints`).
    """
    if not is_staged(files.plan):
        return getattr(files, name)

    def of(table: str) -> Any:
        return lambda wildcards: getattr(_decided(files, checkpoints, table), name)

    return [of(table) for table in files.plan.experiment.tables]


def scores_of_rates(files: Files, checkpoints: Any) -> Callable[[Any], list[str]]:
    """Input of a round (`wildcards.table`, `wildcards.round`), or of picking: the scores at the rates tried so far, and
    the records of the rounds that added them.
    """

    def scores(wildcards: Any) -> list[str]:
        table, number = wildcards.table, getattr(wildcards, "round", None)
        before = None if number is None else int(number) - 1
        known, root = _decided(files, checkpoints, table, looks=0, rounds=before), Path(files.root)
        made = len(rounds_made(known.plan, root, table, before))
        return [*known.picking(table), *(str(round_file(root, table, one + 1)) for one in range(made))]

    return scores


def scores_of_seeds(files: Files, checkpoints: Any) -> Callable[[Any], list[str]]:
    """Input of a look (`wildcards.table`, `wildcards.look`): the scores of the seeds so far."""

    def scores(wildcards: Any) -> list[str]:
        known = _decided(files, checkpoints, wildcards.table, int(wildcards.look) - 1)
        return [*known.scored(known.plan.runs), *known.rates]

    return scores


def _decided(files: Files, checkpoints: Any, table: str, looks: int | None = None, rounds: int | None = None) -> Files:
    """The files of a table's runs as its stages have decided, up to so many looks and rounds; waits for what isn't
    decided yet.
    """
    whole = files.plan
    only = whole.experiment.model_copy(update={"tables": {table: whole.experiment.tables[table]}})
    plan, root = Plan(whole.name, only, whole.catalog, whole.path, part=whole.part), Path(files.root)
    entry = plan.experiment.tables[table]
    for number in range(1, entry.rounds + 1)[:rounds]:
        checkpoints.extend.get(table=table, round=number)
        asking = round_at(plan, root, table, number)
        if asking is None or not asking.more:
            break
    for number in range(1, len(entry.looks) + 1)[:looks]:
        checkpoints.look.get(table=table, look=number)
        record = look_at(plan, root, table, number)
        if record is None or not record.more:
            break
    return Files(with_grids(with_seeds(plan, root, looks), root, rounds), staged=True)
