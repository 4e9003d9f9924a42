"""Score runs on their suite with lm-eval: `sbora-bench evaluate RUN...`.

Each run leaves `samples/<task>.jsonl` and `scores.json`; where its table picks a learning rate, the same again of the
held-out training rows in `validation/`. The base is loaded anew for each run, so a run's bytes do not depend on which
others share the process.
"""

import gc
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench import provenance
from sbora_bench.code_hash import code_hash
from sbora_bench.errors import UserError, in_a_line
from sbora_bench.files import hash_of, sha256
from sbora_bench.inputs.models.load import prepared_for
from sbora_bench.inputs.tasks.templates import config_in
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import run_settings, settings_hash, training_settings
from sbora_bench.results import store
from sbora_bench.results.folders import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONTAMINATION,
    MODEL_CARD,
    SCORES,
    TRAINING,
    VALIDATION,
    run_folder,
    scored_parts,
)
from sbora_bench.results.other_settings import other_setting
from sbora_bench.results.records import (
    ContaminationRecord,
    ScoresRecord,
    TrainRecord,
    read_record,
    record_at,
    write_record,
)
from sbora_bench.results.table_data import table_data
from sbora_bench.score.load import load_scorer
from sbora_bench.score.tasks import WrongValue, score_tasks

if TYPE_CHECKING:
    from sbora_bench.score.lm_eval_model import Scorer


def evaluate(plan: Plan, runs: list[Run], resources: Path, results: Path) -> None:
    """Score `runs`, one after the other; a finished one is taken from the store.

    A run whose scoring crashes leaves a `scores.json` that says so, and doesn't stop the others.
    """
    for run in runs:
        try:
            identity = hash_of(depends_on(plan, run, resources, results))
            folder = store.entry_folder(results, run.name, "evaluate", identity)
            if not store.is_whole(folder):
                _score_or_tell(plan, run, resources, results, folder)
            store.take(folder, run_folder(results, run))
        finally:
            gc.collect()  # a model's cycles hold its memory until then


def _score_or_tell(plan: Plan, run: Run, resources: Path, results: Path, folder: Path) -> None:
    """Make the store's entry `folder` of a run: its scores, or why there are none."""
    try:
        with store.new_entry(folder) as made:
            score_run(plan, run, resources, results, made)
    except Exception as error:
        explained = isinstance(error, WrongValue)
        if isinstance(error, UserError) and not explained:
            raise
        if not explained:
            traceback.print_exc()
        reason = str(error) if explained else in_a_line(error)
        print(f"{run.name}: failed: {reason}", file=sys.stderr, flush=True)
        with store.new_entry(folder) as made:
            score_run(plan, run, resources, results, made, f"scoring: {reason}")


def depends_on(plan: Plan, run: Run, resources: Path, results: Path) -> dict[str, Any]:
    """All that a run's scores depend on, as JSON. Raises UserError where a part of it is missing."""
    data, adapter = table_data(plan, results, run.table), adapter_folder(plan, results, run)
    contamination = read_record(data / CONTAMINATION, ContaminationRecord)
    held = {}
    if VALIDATION in scored_parts(plan, run):
        record = read_record(data / VALIDATION / CONTAMINATION, ContaminationRecord)
        held = {"validation": {task: entry.model_dump(mode="json") for task, entry in record.tasks.items()}}
    return held | {
        "settings": run_settings(plan, run),
        "code": code_hash("sbora_bench.score.evaluate"),
        "packages": provenance.versions(),
        "templates": task_configs(plan, run.table),
        "data": {task: entry.model_dump(mode="json") for task, entry in contamination.tasks.items()},
        "base": prepared_for(plan, run.model, resources),
        "training": training_failure(results, run),
        "adapter": {
            path.name: sha256(path) for path in sorted(adapter.iterdir()) if path.is_file() and path.name != MODEL_CARD
        }
        if adapter
        else None,
    }


def adapter_folder(plan: Plan, results: Path, run: Run) -> Path | None:
    """The run's adapter; None for the untuned base and for a run whose training failed.

    Raises UserError where there is none, where `train.json` says that it was trained under other settings, and where a
    file differs from the SHA-256 that stands there.
    """
    if run.is_base or training_failure(results, run):
        return None
    folder = run_folder(results, run) / ADAPTER
    if not (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{folder}: no adapter here; make it with: {plan.command('finetune', run.name)}")
    record = training_record(results, run)
    if record is not None and record.asked != training_settings(plan, run):
        reason = other_setting(record.asked, training_settings(plan, run))
        raise UserError(
            f"{folder.parent / TRAINING}: {reason}; train it again with: {plan.command('finetune', run.name)}"
        )
    for name, expected in (record.happened.adapter_sha256 if record else {}).items():
        digest = sha256(folder / name) if (folder / name).is_file() else "no file"
        if digest != expected:
            raise UserError(
                f"{folder / name}: SHA-256 {digest}, train.json says {expected}: damaged; delete {folder.parent} and"
                " run the experiment again"
            )
    return folder


def training_record(results: Path, run: Run) -> TrainRecord | None:
    """How the run was trained; None for the untuned base, and for an adapter from elsewhere."""
    return None if run.is_base else record_at(run_folder(results, run) / TRAINING, TrainRecord)


def training_failure(results: Path, run: Run) -> str:
    """Why the run's training failed, as its `train.json` tells; empty where it did not."""
    record = training_record(results, run)
    return record.reason or "training failed" if record is not None and record.status == "failed" else ""


def task_configs(plan: Plan, table: str) -> dict[str, dict[str, Any]]:
    """Task -> its lm-eval configuration, of all that a table scores."""
    return {task: config_in(plan, table, task) for task in plan.scored(table)}


def score_run(plan: Plan, run: Run, resources: Path, results: Path, made: Path, failure: str = "") -> None:
    """Score one run into the folder `made`: `samples/<task>.jsonl` for every task, then `scores.json`;
    before that the held-out training rows into `validation/`, where the table picks a learning rate by them.

    `failure`: why there is nothing to score; a failed training is one too.
    """
    protocol, catalog = plan.protocol(run.table), plan.catalog
    data = table_data(plan, results, run.table)
    failure = failure or training_failure(results, run)
    method = None if run.is_base else catalog.methods[run.method]

    @cache
    def scorer() -> "Scorer":
        return load_scorer(
            catalog, run.model, resources, protocol, method, adapter_folder(plan, results, run), run.seed or 0
        )

    table, configs = plan.experiment.tables[run.table], task_configs(plan, run.table)
    own = {task: configs[task] for task in plan.tasks(run.table)}
    metrics = {task: catalog.tasks[task].metrics for task in configs}
    for part in scored_parts(plan, run):
        to_ask = own if part == VALIDATION else configs
        task_data = read_record(data / part / CONTAMINATION, ContaminationRecord).tasks
        of_seed = run.seed if table.fresh_items and not part else None
        scores = score_tasks(
            to_ask,
            metrics,
            task_data,
            data / part,
            protocol,
            scorer,
            run.name,
            made / part,
            failure,
            {task: plan.answer_by(run.table, task) for task in to_ask} if plan.gold(run.table) else None,
            of_seed,
        )
        record = ScoresRecord(
            **{key: getattr(run, key) for key in ("table", "model", "method", "rank", "seed")},
            experiment=plan.name,
            run=run.name,
            status="failed" if failure else "ok",
            reason=failure,
            suite=table.suite,
            train=None if run.is_base else table.train,
            protocol=table.protocol,
            settings_sha256=settings_hash(plan, run),
            algorithms=provenance.algorithms() if any(score.status == "ok" for score in scores.values()) else "",
            model_check=scorer().model_check if any(score.status == "ok" for score in scores.values()) else None,
            tasks=scores,
        )
        write_record(made / part / SCORES, record)
