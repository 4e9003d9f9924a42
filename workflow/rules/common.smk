# The experiment, checked as a whole before any rule is made, and what the rules share.
import os
import shlex
import sys
from pathlib import Path

from sbora_bench import gpus, locks, provenance
from sbora_bench.errors import UserError, one_of
from sbora_bench.files import check_writable
from sbora_bench.plan import file_names as outputs
from sbora_bench.plan.experiment import Run
from sbora_bench.plan.narrowing import OPTIONS, narrowed, words
from sbora_bench.results import failures
from sbora_bench.results.records import check_results
from sbora_bench.inputs.check import checked_plan

DRY = {"-n", "--dry-run", "--dryrun"} & set(sys.argv)  # the workflow can't tell yet
STORED = workflow.storage_settings.default_storage_provider  # None: outputs lie here
PART = {key: str(config[key]) for key in OPTIONS if config.get(key) is not None}

try:
    for key in config.keys() - {"experiment", "retry_failed", *OPTIONS}:
        raise UserError(
            f"--config: {one_of(key, ['experiment', 'retry_failed', *OPTIONS], 'key')}"
        )
    AGAIN = str(config.get("retry_failed", False)).lower()
    if AGAIN not in ("true", "false"):
        raise UserError(
            f"--config: retry_failed: found {AGAIN!r}, allowed true or false"
        )
    if AGAIN == "true" and STORED:
        raise UserError(
            "--config: retry_failed: failed runs in a storage are not looked for; delete their train.json there,"
            " or name them with --forcerun"
        )
    WHOLE = checked_plan(str(config.get("experiment", "ladder")))
    PLAN = narrowed(WHOLE, **PART)
    check_results(f"results/{PLAN.name}")
    if not DRY:
        check_writable(f"results/{PLAN.name}")
except UserError as error:
    print(f"snakemake: {error}", file=sys.stderr, flush=True)
    os._exit(2)  # Snakemake would turn any exception into exit status 1

if workflow.is_main_process:
    STALE = locks.enter(Path(".snakemake"))
    if STALE:
        print(f"snakemake: cleared {len(STALE)} locks of a process that is gone")
    if AGAIN == "true" and not DRY:
        for name in failures.forget(PLAN, f"results/{PLAN.name}"):
            print(f"snakemake: {name} failed, to be run again")

# rules call `sbora-bench` by name: the one beside this Python comes first
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

# as many jobs that want a GPU side by side as there are GPUs here, unless `--resources gpu=N` says otherwise or it's a
# cluster, to which `--jobs` belongs, that runs them
GPUS = gpus.pool()
ON_CLUSTER = workflow.resource_settings.nodes is not None
if GPUS and not ON_CLUSTER and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", len(GPUS))

EXPERIMENT = PLAN.experiment
FILE = PLAN.path
# how a job's command names the experiment, or the part of it that is asked for
ASKED = ["--experiment", FILE, *words(WHOLE, **PART)]
RESULTS = f"results/{PLAN.name}"
RUNS = f"{RESULTS}/runs"
ADAPTER = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json"]
CARD = "adapter/README.md"  # of scoring, for it tells the scores
TABLES = [f"{RESULTS}/{name}" for name in outputs.table_files(PLAN)]
FIGURES = [f"{RESULTS}/{name}" for name in outputs.figure_files(PLAN)]
AUDIT = [f"{RESULTS}/{name}" for name in outputs.audit_files()]
CHECKED = f"{RESULTS}/every-run-ok"
WHERE = f"Tables: {RESULTS}/tables/  figures: {RESULTS}/figures/  report: {RESULTS}/report.html"


def files_of(run):
    """Every file that a run leaves."""
    names = ["footprint.json", *scored_files(run.table)]
    if not run.is_base:
        names += ["train.json", *ADAPTER, CARD]
    return [f"{RUNS}/{run.name}/{name}" for name in names]


def samples_of(table):
    return [f"samples/{task}.jsonl" for task in PLAN.scored(table)]


def scored_files(table):
    """What scoring a run leaves; of the held-out training rows too, where the table picks a learning rate by them."""
    names = ["scores.json", *samples_of(table)]
    if EXPERIMENT.tables[table].learning_rates:
        tasks = PLAN.tasks(table)
        names += [
            "validation/scores.json",
            *(f"validation/samples/{task}.jsonl" for task in tasks),
        ]
    return names


RECORDS = [name for run in PLAN.runs for name in files_of(run)]


def code_of(stage):
    """The source files that a stage is made of: an edit to one of them runs the stage again."""
    here = Path.cwd()
    files = provenance.source_files(f"sbora_bench.{stage}")
    return kept_here(
        str(file.relative_to(here)) if file.is_relative_to(here) else str(file)
        for file in files
    )


def kept_here(files):
    """Files that come with the workflow; none where outputs are in a storage, for all inputs are taken from there then."""
    return [] if STORED else list(files)


def jobs(table, stage):
    """The runs that a job of a stage carries: those of a table and a model, `runs_per_job` at a time."""
    runs = [
        run for run in PLAN.runs_of(table) if stage == "evaluate" or not run.is_base
    ]
    size = EXPERIMENT.runs_per_job
    for model in dict.fromkeys(run.model for run in runs):
        mine = [run for run in runs if run.model == model]
        yield from (mine[start : start + size] for start in range(0, len(mine), size))


def in_report(name):
    """An output, which Snakemake's own report (`--report`) shows too if it is a table's or a page's HTML or an SVG."""
    path = Path(name)
    kind, _, of = path.stem.partition("-")
    if path.suffix == ".svg":
        known = (Path(workflow.basedir) / f"workflow/report/{kind}.rst").is_file()
        caption, category = f"../report/{kind if known else 'figure'}.rst", "Figures"
        labels = {"figure": kind.replace("_", " "), "of": of or "the paper"}
    elif path.suffix == ".html":
        kind = path.stem if path.parent.name == PLAN.name else "table"
        caption = f"../report/{'page' if kind == 'report' else kind}.rst"
        category = {"table": "Tables", "audit": "Audit", "report": "Page"}[kind]
        labels = {kind if kind == "table" else "what": path.stem.replace("_", " ")}
    else:
        return name
    return report(name, caption=caption, category=category, labels=labels)


def rule_name(*parts):
    return "_".join(map(str, parts)).replace("-", "_").replace(".", "_")


def of(runs, names):
    return [f"{RUNS}/{run.name}/{name}" for run in runs for name in names]


def tuned(runs):
    return [run for run in runs if not run.is_base]


def trained(runs):
    """What scoring needs of training: nothing of an untuned base."""
    return of(tuned(runs), ["train.json", *ADAPTER])


def model_settings(wildcards):
    return PLAN.catalog.models[wildcards.model].model_dump_json()


def data_settings(wildcards):
    return str(PLAN.data_settings(wildcards.table))
