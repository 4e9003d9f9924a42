# The experiment, checked as a whole before any rule is made, and what the rules share.
import os
import sys
from pathlib import Path

from sbora_bench import outputs, provenance
from sbora_bench.check import checked_plan
from sbora_bench.errors import UserError, one_of
from sbora_bench.records import check_results

try:
    for key in config.keys() - {"experiment"}:
        raise UserError(f"--config: {one_of(key, ['experiment'], 'key')}")
    PLAN = checked_plan(str(config.get("experiment", "ladder")))
    check_results(f"results/{PLAN.name}")
except UserError as error:
    print(f"snakemake: {error}", file=sys.stderr, flush=True)
    os._exit(2)  # Snakemake would turn any exception into exit status 1

# rules call `sbora-bench` by name: the one beside this Python comes first
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
)

EXPERIMENT = PLAN.experiment
FILE = PLAN.path
RESULTS = f"results/{PLAN.name}"
RUNS = f"{RESULTS}/runs"
RUN_OF = {run.cell: run for run in PLAN.runs}
ADAPTER = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
TABLES = [f"{RESULTS}/{name}" for name in outputs.table_files(PLAN)]
FIGURES = [f"{RESULTS}/{name}" for name in outputs.figure_files(PLAN)]
WHERE = f"Tables: {RESULTS}/tables/  figures: {RESULTS}/figures/  report: {RESULTS}/report.html"


def files_of(run):
    """Every file that a run leaves."""
    names = ["scores.json", "footprint.json", *samples_of(run.table)]
    if not run.is_base:
        names += ["train.json", *ADAPTER]
    return [f"{RUNS}/{run.name}/{name}" for name in names]


def samples_of(table):
    return [f"samples/{task}.jsonl" for task in PLAN.tasks(table)]


RECORDS = [name for run in PLAN.runs for name in files_of(run)]


def code_of(stage):
    """The source files that a stage is made of: an edit to one of them runs the stage again."""
    here = Path.cwd()
    files = provenance.source_files(f"sbora_bench.{stage}")
    return [
        str(file.relative_to(here)) if file.is_relative_to(here) else str(file)
        for file in files
    ]


def chunks(table):
    """The table's seeds, `seeds_per_job` at a time."""
    seeds, size = EXPERIMENT.tables[table].seeds, EXPERIMENT.seeds_per_job
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def cells(table):
    """A regular expression for the names of the table's tuned cells."""
    return (
        "|".join(cell.cell.replace(".", r"\.") for cell in PLAN.cells_of(table))
        or "none"
    )


def base_weights(wildcards):
    return f"resources/models/{RUN_OF[wildcards.cell].model}/base.json"


def settings(wildcards):
    """Changes when anything changes that the run was asked for."""
    return PLAN.settings_hash(RUN_OF[wildcards.cell])


def model_settings(wildcards):
    return PLAN.catalog.models[wildcards.model].model_dump_json()


def data_settings(wildcards):
    return str(PLAN.data_settings(wildcards.table))
