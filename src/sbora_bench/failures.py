"""Runs that failed for good: named at the end of a reproduction, and forgotten to be run again.

snakemake --cores all --config retry_failed=true
"""

import shutil
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.experiment import Plan
from sbora_bench.records import ScoresRecord, TrainRecord, read_record

RECORDS = {"finetune": ("train.json", TrainRecord), "evaluate": ("scores.json", ScoresRecord)}


def failed_runs(plan: Plan, results: Path) -> dict[str, str]:
    """Run -> why it failed, as its records tell; in the order of the experiment."""
    found = {}
    for run in plan.runs:
        reasons = [_reason(Path(results) / "runs" / run.name, stage) for stage in RECORDS]
        if any(reasons):
            found[run.name] = next(filter(None, reasons))
    return found


def forget(plan: Plan, results: Path) -> list[str]:
    """Delete the records of failed runs, in their folders and in the store; checkpoints stay, to be gone on from.

    Returns the runs' names.
    """
    names = list(failed_runs(plan, results))
    for name in names:
        for stage, (record, _) in RECORDS.items():
            run = Path(results) / "runs" / name
            if _reason(run, stage):
                (run / record).unlink()
            for entry in (Path(results) / "store" / name).glob(f"{stage}-*"):
                if _reason(entry, stage):
                    shutil.rmtree(entry)
    return names


def _reason(folder: Path, stage: str) -> str:
    """Why the run failed whose record of a stage lies in `folder`; empty where it did not, or where no record can be
    read, which is for the stage itself to tell.
    """
    name, kind = RECORDS[stage]
    try:
        record = read_record(folder / name, kind)
    except UserError:
        return ""
    return (record.reason or "no reason was left") if record.status == "failed" else ""
