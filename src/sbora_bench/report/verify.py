"""Recompute an experiment's tables from its samples alone, and look for what was edited, mixed or left out.

`sbora-bench verify results/ladder`: a line a finding. What it can't see: an edit of a sample together with every hash
of it (in `scores.json` and in the store), and the
memory and compute of footprints, which are taken as they are recorded (parameters are held against training's count).
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbora_bench.analysis.collect import collect
from sbora_bench.analysis.extend import extend
from sbora_bench.analysis.look import look
from sbora_bench.analysis.pick import pick
from sbora_bench.errors import UserError
from sbora_bench.files import content_sha256, read_json, read_jsonl, sha256
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import settings_hash
from sbora_bench.report.outputs import COLLECTED, table_files
from sbora_bench.report.tables import tables
from sbora_bench.results import folders
from sbora_bench.results.aggregate import of_samples
from sbora_bench.results.folders import VALIDATION, run_folder, samples_file, scored_parts
from sbora_bench.results.read import Results
from sbora_bench.results.records import (
    BaseRecord,
    ContaminationRecord,
    Environment,
    ScoresRecord,
    TaskScore,
    read_record,
    record_at,
    write_record,
)
from sbora_bench.results.stages import looks_made, rounds_made
from sbora_bench.results.store import DONE
from sbora_bench.results.table_data import data_difference

CLOSE = 1e-9
FEW = 3  # runs that may be missing before it is a part of the experiment


def verify(plan: Plan, results: Path) -> tuple[list[str], list[str]]:
    """(findings, notes on what could not be checked); no finding where all is as the samples say.

    Raises UserError where `results` isn't a folder of results, or lacks the records of many runs.
    """
    if not (results / folders.RUNS).is_dir():
        raise UserError(f"{results}: no runs/ here; give the folder of an experiment's results")
    last = {run: run_folder(results, run) / scored_parts(plan, run)[-1] / folders.SCORES for run in plan.all_runs}
    lacking = [run for run, path in last.items() if not path.exists()]
    if len(lacking) > FEW:
        raise UserError(
            f"{results}: {len(lacking)} of the {len(last)} runs of {plan.path} have no {folders.SCORES},"
            f" {lacking[0].name} say; run them, or verify the part that is here with its --only, --seeds and --limit"
        )
    findings: list[str] = []
    records: dict[Run, ScoresRecord] = {}
    held: dict[Run, ScoresRecord] = {}
    read = Results(plan, results)
    for run in plan.all_runs:
        for part in sorted(scored_parts(plan, run)):
            those = held if part else records
            try:
                record = _record(plan, results, run, part)
                read.training(run)
                tasks, differences = recomputed(run_folder(results, run) / part, record)
                those[run] = tasks
                findings += differences
            except UserError as error:
                findings.append(str(error))
    stored = {run: list(folders.store_folder(results, run).glob(f"*/{DONE}")) for run in records | held}
    for run, entries in stored.items():
        findings += changed(results, run, entries) if entries else []
    findings += mixed(read, records)
    findings += miscounted(read, records)
    findings += same_adapters(read, records)
    findings += other_inputs(plan, results)
    findings += wrong_files(plan, results, records, held)
    without = [run.name for run, entries in stored.items() if not entries]
    unstored = f"not checked against the store, which has no entry of {len(without)} runs, {''.join(without[:1])} say"
    notes = [unstored] if without else []
    return [_within(results, line) for line in findings], notes


def _within(results: Path, line: str) -> str:
    return line.replace(f"{results}/", "")


def _record(plan: Plan, results: Path, run: Run, part: str) -> ScoresRecord:
    path = run_folder(results, run) / part / folders.SCORES
    if not path.exists():
        cell = [other for other in plan.runs_of(run.table) if other.group == run.group]
        present = [str(other.seed) for other in cell if (run_folder(results, other) / part / folders.SCORES).exists()]
        missing = "the untuned base" if run.is_base else f"seed {run.seed} of {run.group}"
        raise UserError(f"{path}: missing: {missing} (seeds that are there: {', '.join(present) or 'none'})")
    record = read_record(path, ScoresRecord)
    if record.settings_sha256 != settings_hash(plan, run):
        hashes = f"found {record.settings_sha256[:12]}, the experiment file gives {settings_hash(plan, run)[:12]}"
        raise UserError(f"{path}: settings_sha256: {hashes}: made under other settings, or by another version")
    return record


def recomputed(folder: Path, record: ScoresRecord) -> tuple[ScoresRecord, list[str]]:
    """The record of a folder with every number taken from the samples, and where those that it holds are others."""
    path, tasks, findings = folder / folders.SCORES, {}, []
    for task, score in record.tasks.items():
        samples = samples_file(folder, task)
        rows = read_jsonl(samples)
        if sha256(samples) != score.samples_sha256:
            findings.append(f"{samples}: not the samples that scores.json was made of (SHA-256 {sha256(samples)[:12]})")
        again = tasks[task] = from_samples(samples, score, rows) if score.status == "ok" else score
        for key in TaskScore.model_fields:
            value, recorded = getattr(again, key), getattr(score, key)
            if not _same(value, recorded):
                findings.append(f"{path}: {task}: {key}: found {recorded}, the samples give {value}")
    return record.model_copy(update={"tasks": tasks}), findings


def from_samples(path: Path, recorded: TaskScore, rows: list[dict[str, Any]]) -> TaskScore:
    """A score counted again: the mean of the items, or that of the subjects' means where the record says so.

    Raises UserError where the rows are not samples of a scored task.
    """
    try:
        value, stderr, extra = of_samples(rows, recorded.mean_over)
        if recorded.mean_over == "subjects" and "macro" not in extra:
            raise UserError(f"{path}: subject: missing, and the score is a mean over subjects; score the run again")
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: not samples of a scored task ({error!r}); score the run again") from None
    return recorded.model_copy(update={"value": value, "stderr": stderr, "n": len(rows), "extra": extra})


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return abs(a - b) <= CLOSE if isinstance(a, float) and isinstance(b, float) else a == b


def changed(results: Path, run: Run, entries: list[Path]) -> Iterator[str]:
    """Files of a run that are none of those that the store's entries were committed with."""
    committed: dict[str, set[str]] = {}
    for entry in entries:
        for name, digest in read_json(entry).items():
            committed.setdefault(name, set()).add(digest)
    for name, digests in sorted(committed.items()):
        path = run_folder(results, run) / name
        if not path.is_file():
            yield f"{path}: missing: the store has it"
        elif sha256(path) not in digests:
            yield f"{path}: changed since it was made (SHA-256 {sha256(path)[:12]} is not in the store's {DONE})"


def other_inputs(plan: Plan, results: Path) -> Iterator[str]:
    """Tables whose prepared data are not what the experiment and its data files give now, and prepared models whose
    files are others than those that were hashed: a folder's are linked.
    """
    for table in plan.experiment.tables:
        path = folders.data_folder(results, table) / folders.CONTAMINATION
        if not path.is_file():
            continue
        try:
            if reason := data_difference(plan, table, read_record(path, ContaminationRecord)):
                yield f"{path}: {reason}"
        except UserError as error:
            yield f"{path}: {error}"
    for model in dict.fromkeys(run.model for run in plan.runs):
        path = folders.model_folder(model) / folders.BASE
        base = record_at(path, BaseRecord)
        for name, digest in base.files.items() if base else ():
            if not (path.parent / name).is_file() or content_sha256(path.parent / name) != digest:
                yield f"{path.parent / name}: changed since the model was prepared; run the experiment again"


def miscounted(results: Results, records: dict[Run, ScoresRecord]) -> Iterator[str]:
    """Runs whose footprint counts other trained parameters than training did."""
    for run in records:
        try:
            footprint, training = results.footprint(run), results.training(run)
        except UserError as error:
            yield str(error)
            continue
        counted = None if footprint is None else footprint.trainable_parameters
        trained = None if training is None else training.happened.trainable_parameters
        if counted is not None and trained is not None and counted != trained:
            path = run_folder(results.folder, run) / folders.FOOTPRINT
            yield f"{path}: trainable_parameters: found {counted:,}, training had {trained:,}; count the cell again"


def same_adapters(results: Results, records: dict[Run, ScoresRecord]) -> Iterator[str]:
    """Runs of different methods, else alike, that ended as the same adapter to the byte."""
    seen: dict[tuple[Any, ...], str] = {}
    for run in records:
        training = results.training(run)
        digest = None if training is None else training.happened.adapter_sha256.get(folders.ADAPTER_WEIGHTS)
        if digest is None:
            continue
        key = run.table, run.model, run.seed, run.learning_rate, digest
        other = seen.setdefault(key, run.name)
        if other != run.name:
            yield f"{run.name}: its adapter is that of {other}, byte for byte: the two methods do the same"


def mixed(results: Results, records: dict[Run, ScoresRecord]) -> Iterator[str]:
    """What should be one for all runs and isn't: package versions, code, and the task as lm-eval ran it."""
    seen: dict[str, dict[str, list[str]]] = {}
    for run, record in records.items():
        training = results.training(run)
        on = training.on if training else Environment()
        made = {f"{name} (training)": version for name, version in on.versions.items()}
        made |= {"sbora_bench (training)": on.code_sha256[:12]} if on.code_sha256 else {}
        made |= {
            f"{run.table}: task {task}": score.task_hash[:12] for task, score in record.tasks.items() if score.task_hash
        }
        for part, version in made.items():
            seen.setdefault(part, {}).setdefault(version, []).append(run.name)
    for part, versions in seen.items():
        if len(versions) > 1:
            by_version = [f"{version} ({len(runs)} runs, {runs[0]} say)" for version, runs in versions.items()]
            yield f"mixed version: {part}: {', '.join(by_version)}"


def wrong_files(
    plan: Plan, results: Path, records: dict[Run, ScoresRecord], held: dict[Run, ScoresRecord]
) -> Iterator[str]:
    """Collected files and tables that are not, byte for byte, what the recomputed records give; `held`: of the held-out
    training rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder)
        for name in (folders.DATA, folders.FOOTPRINTS, folders.REGIONS, folders.PAPER_FOOTPRINT):
            _link(results / name, again / name)
        for run in plan.all_runs:
            for name in (folders.TRAINING, folders.FOOTPRINT, folders.SAMPLES):
                _link(run_folder(results, run) / name, run_folder(again, run) / name)
            for part, those in (("", records), (VALIDATION, held)):
                if run in those:
                    write_record(run_folder(again, run) / part / folders.SCORES, those[run])
        try:
            decided = stages_again(plan, results, again)
            collect(plan, again)
            tables(plan, again)
        except UserError as error:
            yield f"the tables can't be drawn again: {_within(again, str(error))}"
            return
        for name in [*decided, *COLLECTED, *table_files(plan)]:
            if not (results / name).is_file():
                yield f"{name}: missing"
                continue
            present, due = ((place / name).read_bytes().splitlines(True) for place in (results, again))
            if present != due:
                first = next(i for i in range(max(len(present), len(due))) if present[i : i + 1] != due[i : i + 1])
                yield f"{name}: line {first + 1}: not what the samples give"


def stages_again(plan: Plan, results: Path, again: Path) -> list[str]:
    """Extend grids, pick rates and take the looks that were taken in `results` anew in `again`; the names of their
    files.
    """
    names: list[str] = []
    for name, table in plan.experiment.tables.items():
        for made in rounds_made(plan, results, name):
            extend(plan, name, made.round, again)
            names.append(str(folders.round_file("", name, made.round)))
        if table.picking_seeds:
            pick(plan, name, again)
            names.append(str(folders.rates_file("", name)))
        for record in looks_made(plan, results, name):
            look(plan, name, record.look, again)
            names.append(str(folders.look_file("", name, record.look)))
    return names


def _link(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source.resolve(), target)
