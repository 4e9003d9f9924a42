"""`train.json`: what a training's settings were, what happened, on what."""

import math
from pathlib import Path
from typing import Any

from sbora_bench import provenance
from sbora_bench.code_hash import code_hash
from sbora_bench.errors import in_a_line
from sbora_bench.files import sha256, write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import training_settings
from sbora_bench.results.folders import ADAPTER, ADAPTER_FILES, TRAINING
from sbora_bench.results.records import TrainRecord, write_record
from sbora_bench.train.checkpoints import newest, step_of
from sbora_bench.train.split import training_file


def train_record(plan: Plan, run: Run, results: Path, happened: dict[str, Any], reason: str = "") -> TrainRecord:
    """The settings, what happened, on what; of a failed training where there is a reason."""
    return TrainRecord(
        **{key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")},
        experiment=plan.name,
        run=run.name,
        status="failed" if reason else "ok",
        reason=reason,
        asked=training_settings(plan, run),
        happened=happened,
        on={
            "versions": provenance.versions(),
            "code_sha256": code_hash("sbora_bench.train.finetune"),
            "git": provenance.git_state(),
            "hardware": provenance.hardware(),
            "threads": plan.protocol(run.table).threads,
            "algorithms": provenance.algorithms(),
            "train_sha256": sha256(training_file(plan, results, run)),
        },
    )


def write_failure(plan: Plan, run: Run, results: Path, made: Path, checkpoints: Path, error: Exception) -> None:
    """Write the `train.json` of a failed training, and an adapter of empty files, which nothing can load."""
    last = newest(checkpoints)
    happened = {"last_good_checkpoint": step_of(last) if last else None, **getattr(error, "happened", {})}
    write_record(made / TRAINING, train_record(plan, run, results, happened, in_a_line(error)))
    for name in ADAPTER_FILES:
        write_text(made / ADAPTER / name, "")


def logged_losses(history: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Trainer's log as rows of step, loss, learning_rate, grad_norm or step, validation_loss; finite ones alone."""
    names = {
        "loss": "loss",
        "learning_rate": "learning_rate",
        "grad_norm": "grad_norm",
        "eval_loss": "validation_loss",
    }
    rows = []
    for entry in history:
        row = {new: float(entry[old]) for old, new in names.items() if math.isfinite(entry.get(old, math.nan))}
        if row:
            rows.append({"step": entry["step"], **row})
    return rows
