# The experiment, checked as a whole before any rule is made. All Python that the rules use is in sbora_bench/workflow/.
import os
import shlex
import sys
from pathlib import Path

from sbora_bench import gpus, locks
from sbora_bench.errors import UserError
from sbora_bench.files import nearly_full
from sbora_bench.report.snakemake_report import report_entries
from sbora_bench.results import failures
from sbora_bench.results.stages import is_staged
from sbora_bench.workflow.decided import (
    required_files,
    scores_of_rates,
    scores_of_seeds,
)
from sbora_bench.workflow.files import Files
from sbora_bench.workflow.jobs import PICKING, jobs, priority, tokens_of_a_run
from sbora_bench.workflow.keys import code, paper_catalog, rule_name
from sbora_bench.workflow.request import requested

DRY = bool(
    {"-n", "--dry-run", "--dryrun"} & set(sys.argv)
)  # the workflow can't tell yet
IN_STORAGE = workflow.storage_settings.default_storage_provider is not None

try:
    REQUEST = requested(config, IN_STORAGE, DRY, data=workflow.is_main_process)
except UserError as error:
    for line in str(error).splitlines():
        print(f"snakemake: {line}", file=sys.stderr, flush=True)
    os._exit(2)  # Snakemake would turn any exception into exit status 1

PLAN = REQUEST.plan
OPTIONS = REQUEST.words
FILES = Files(PLAN)
STAGED = is_staged(PLAN)
RECORDS = required_files(FILES, checkpoints, "records")
SAMPLES = required_files(FILES, checkpoints, "samples")
ENTRIES = report_entries(PLAN, FILES.root)
REPORTING = "--report" in sys.argv

if workflow.is_main_process:
    STALE = locks.register(Path(".snakemake"))
    if STALE:
        print(f"snakemake: cleared {len(STALE)} locks of a process that is gone")
    if REQUEST.retry_failed and not DRY:
        for name in failures.forget(PLAN, Path(FILES.root)):
            print(f"snakemake: {name} failed, to be run again")

# rules call `sbora-bench` by name: the one beside this Python comes first
shell.prefix(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")

# as many jobs that want a GPU side by side as there are GPUs here, unless `--resources gpu=N` says otherwise or it's a
# cluster, to which `--jobs` belongs, that runs them
GPUS = gpus.pool()
ON_CLUSTER = workflow.resource_settings.nodes is not None
if GPUS and not ON_CLUSTER and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", len(GPUS))


def in_report(name):
    """An output, in Snakemake's own report too where it belongs there."""
    entry = ENTRIES.get(name)
    if entry is None:
        return name
    caption = entry.write(Path(".snakemake/captions")) if REPORTING else None
    return report(name, caption=caption, category=entry.category, labels=entry.labels)
