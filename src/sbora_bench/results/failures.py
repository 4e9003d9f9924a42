"""Runs that failed for good: named at the end of a reproduction, and forgotten to be run again.

snakemake --cores all --config retry_failed=true
"""

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.results.folders import SCORES, TRAINING, VALIDATION, log_files, run_folder, store_folder
from sbora_bench.results.records import ScoresRecord, TrainRecord, read_record

PARTS = ("", VALIDATION)  # of a run's folder that may hold a record: of the items, and of held-out rows
LAST = 40  # lines of a log
RECORDS: dict[str, tuple[str, type[Any]]] = {"finetune": (TRAINING, TrainRecord), "evaluate": (SCORES, ScoresRecord)}


def failed_runs(plan: Plan, results: Path) -> dict[str, str]:
    """Run -> why it failed, by its records; in the order of the experiment."""
    failed = {}
    for run in plan.all_runs:
        reasons = [_reason(run_folder(results, run), stage) for stage in RECORDS]
        if any(reasons):
            failed[run.name] = next(filter(None, reasons))
    return failed


class Failure(NamedTuple):
    run: str
    reason: str
    log: str  # the last lines before the failure; empty where the job's log holds none any more


def failures_with_logs(plan: Plan, results: Path) -> list[Failure]:
    """The failed runs, each with the last lines that the log of its job has up to its failure."""
    return [Failure(run, reason, last_lines(results, run)) for run, reason in failed_runs(plan, results).items()]


def last_lines(results: Path, run: str) -> str:
    """At most LAST lines, where the packages' files are named without this machine's folders."""
    for log in log_files(results):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        ends = [number for number, line in enumerate(lines) if line.startswith(f"{run}: failed: ")]
        if ends:
            return "\n".join(_without_folders(line) for line in lines[max(0, ends[-1] + 1 - LAST) : ends[-1] + 1])
    return ""


def _without_folders(line: str) -> str:
    return re.sub(r'File "[^"]*/(?:site-packages|src|python3\.\d+)/', 'File "', line)


def forget(plan: Plan, results: Path) -> list[str]:
    """Delete the records of failed runs, in their folders and in the store; checkpoints stay, to be resumed from.

    Returns the runs' names.
    """
    names = list(failed_runs(plan, results))
    for name in names:
        for stage, (record, _) in RECORDS.items():
            run = run_folder(results, name)
            if _reason(run, stage):
                for part in PARTS:
                    (run / part / record).unlink(missing_ok=True)
            for entry in store_folder(results, name).glob(f"{stage}-*"):
                if _reason(entry, stage):
                    shutil.rmtree(entry)
    return names


def _reason(folder: Path, stage: str) -> str:
    """Why the run failed whose record of a stage lies in `folder`; empty where it did not, or where no record can be
    read, which the stage itself reports.
    """
    name, kind = RECORDS[stage]
    for part in PARTS:
        try:
            record = read_record(folder / part / name, kind)
        except UserError:
            continue
        if record.status == "failed":
            return record.reason or "no reason was left"
    return ""
