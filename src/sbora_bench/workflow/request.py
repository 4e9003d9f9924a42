"""What `snakemake --config` requests: the part of an experiment to run, checked before any rule is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import check_writable
from sbora_bench.inputs.check import check_inputs, checked_plan
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.narrowing import OPTIONS, narrowed, words
from sbora_bench.report.outputs import figure_files, table_files
from sbora_bench.results.records import check_results
from sbora_bench.results.stages import is_staged

KEYS = ("experiment", "retry_failed", *OPTIONS)  # of `snakemake --config`


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
