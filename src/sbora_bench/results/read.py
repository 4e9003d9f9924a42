"""What runs left, read back: a run's records, samples and scores, and a table's contamination."""

from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl
from sbora_bench.plan.experiment import Plan, Run
from sbora_bench.results.records import (
    ContaminationRecord,
    ScoresRecord,
    TaskScore,
    TrainRecord,
    record_at,
)


def run_folder(results: Path, run: Run) -> Path:
    return results / "runs" / run.name


def scores_of(plan: Plan, results: Path, run: Run, part: str = "") -> ScoresRecord | None:
    """A run's scores, or None; `part`: those of a folder within the run's (held_out.VALIDATION).

    Raises UserError where they were made under other settings than the plan's.
    """
    path = run_folder(results, run) / part / "scores.json"
    record = record_at(path, ScoresRecord)
    if record is not None and record.settings_sha256 != plan.settings_hash(run):
        raise UserError(
            f"{path}: settings_sha256: found {record.settings_sha256[:12]}, allowed {plan.settings_hash(run)[:12]};"
            f" {plan.path} or its catalog has changed since: delete the folder and run it again"
        )
    return record


def training_of(results: Path, run: Run) -> TrainRecord | None:
    """What training left, or None (always for a base)."""
    return record_at(run_folder(results, run) / "train.json", TrainRecord)


def contamination_of(results: Path, table: str) -> ContaminationRecord | None:
    """Which test items of a table stand in its training set, or None where that was not checked."""
    return record_at(results / "data" / table / "contamination.json", ContaminationRecord)


def samples_of(results: Path, run: Run, task: str) -> list[dict[str, Any]]:
    """What the model said, item by item. Raises UserError if that file is missing or damaged."""
    return read_jsonl(run_folder(results, run) / "samples" / f"{task}.jsonl")


def task_scores(plan: Plan, results: Path, run: Run) -> dict[str, TaskScore | None]:
    """Task -> its score, in the suite's order; None where the run left none. A failed run's tasks all say failed."""
    record = scores_of(plan, results, run)
    training = None if record else training_of(results, run)
    failed = next((r for r in (record, training) if r is not None and r.status == "failed"), None)
    if failed is not None:
        return dict.fromkeys(plan.scored(run.table), TaskScore(status="failed", reason=failed.reason))
    return {task: record.tasks.get(task) if record else None for task in plan.scored(run.table)}
