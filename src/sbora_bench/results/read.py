"""An experiment's results folder, read once: what analysis and report take."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from sbora_bench.errors import UserError
from sbora_bench.files import read_jsonl
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.plan.settings import settings_hash, training_settings
from sbora_bench.results import folders
from sbora_bench.results.other_settings import other_setting
from sbora_bench.results.records import (
    ContaminationRecord,
    FootprintRecord,
    Record,
    ScoresRecord,
    TaskScore,
    TrainRecord,
    record_at,
)
from sbora_bench.results.regions import RegionsRecord
from sbora_bench.results.table_data import changed_settings

TEXTS = ("prompt", "response", "extracted")  # of a sample: large, and of no use to a test
R = TypeVar("R", bound=Record)
T = TypeVar("T")


class Results:
    """What the runs of a plan left in a folder. A file is read at its first use and kept.

    `plan`: the whole experiment, or the runs at the picked learning rates (`with_rates`); both share what was read.
    """

    def __init__(self, plan: Plan, folder: str | Path, kept: dict[Hashable, Any] | None = None) -> None:
        self.plan, self.folder = plan, Path(folder)
        self._kept: dict[Hashable, Any] = {} if kept is None else kept

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call with this key."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def with_rates(self, rates: dict[Cell, float]) -> "Results":
        """The same with the runs of one learning rate alone for each of these cells."""
        key = ("rates", *sorted(rates.items()))
        return self.once(key, lambda: Results(self.plan.decided(rates), self.folder, self._kept)) if rates else self

    def _record(self, path: Path, kind: type[R]) -> R | None:
        return self.once(path, lambda: record_at(path, kind))

    def scores(self, run: Run, part: str = "") -> ScoresRecord | None:
        """A run's scores, or None; `part`: those of a folder within the run's (`folders.VALIDATION`).

        Raises UserError where they were made under other settings than the plan's.
        """
        path = folders.run_folder(self.folder, run) / part / folders.SCORES
        record = self._record(path, ScoresRecord)
        if record is not None and record.settings_sha256 != self.settings_hash(run):
            raise UserError(
                f"{path}: settings_sha256: found {record.settings_sha256[:12]}, allowed {self.settings_hash(run)[:12]};"
                f" {self.plan.path} or its catalog has changed since: delete the folder and run it again"
            )
        return record

    def settings_hash(self, run: Run) -> str:
        return self.once(("settings", run), lambda: settings_hash(self.plan, run))

    def training(self, run: Run) -> TrainRecord | None:
        """What training left, or None (always for a base).

        Raises UserError where it is another experiment's or run's, or was made under other settings than the plan's.
        """
        return self.once(("training", run), lambda: self._training(run))

    def _training(self, run: Run) -> TrainRecord | None:
        path = folders.run_folder(self.folder, run) / folders.TRAINING
        record = self._record(path, TrainRecord)
        if record is None:
            return None
        for key, recorded, name in (("experiment", record.experiment, self.plan.name), ("run", record.run, run.name)):
            if recorded != name:
                raise UserError(
                    f"{path}: {key}: found {recorded}, allowed {name}: the record of another training; delete the"
                    " folder and run it again"
                )
        if reason := other_setting(record.asked, training_settings(self.plan, run)):
            raise UserError(f"{path}: {reason}; delete the folder and run it again")
        return record

    def footprint(self, run: Run) -> FootprintRecord | None:
        """What was counted of the run's cell, or None."""
        return self._record(folders.footprint_of(self.plan, self.folder, run), FootprintRecord)

    def regions(self, run: Run) -> RegionsRecord | None:
        """What the run's adapter changes in the base's weights, or None.

        Raises UserError where it was counted of another adapter than the run's.
        """
        path = folders.region_file(self.folder, run)
        record, training = self._record(path, RegionsRecord), self.training(run)
        if record is not None and training is not None and record.adapter_sha256 != training.happened.adapter_sha256:
            raise UserError(f"{path}: adapter_sha256: of another adapter than the run's; delete it and make it again")
        return record

    def contamination(self, table: str) -> ContaminationRecord | None:
        """Which test items of a table stand in its training set, or None where that was not checked.

        Raises UserError where the table's data were made under other settings than the plan's.
        """
        return self.once(("contamination", table), lambda: self._contamination(table))

    def _contamination(self, table: str) -> ContaminationRecord | None:
        path = folders.data_folder(self.folder, table) / folders.CONTAMINATION
        record = self._record(path, ContaminationRecord)
        if record is not None and (reason := changed_settings(self.plan, table, record)):
            raise UserError(f"{path}: {reason}; run the experiment again")
        return record

    def samples(self, run: Run, task: str) -> list[dict[str, Any]]:
        """The samples of a run, item by item; read anew at each call. Raises UserError if missing or damaged."""
        return read_jsonl(folders.samples_file(folders.run_folder(self.folder, run), task))

    def items(self, run: Run, task: str) -> list[dict[str, Any]]:
        """The samples without their texts: what an item is judged by. Raises UserError if missing or damaged."""

        def read() -> list[dict[str, Any]]:
            rows = self.samples(run, task)
            return [{key: value for key, value in row.items() if key not in TEXTS} for row in rows]

        return self.once(("items", run, task), read)

    def task_scores(self, run: Run) -> dict[str, TaskScore | None]:
        """Task -> its score, in the suite's order; None where the run left none. All of a failed run say failed, but
        for those whose items could not be obtained.
        """
        record, tasks = self.scores(run), self.plan.scored(run.table)
        training = None if record else self.training(run)
        failed = next((r for r in (record, training) if r is not None and r.status == "failed"), None)
        if failed is not None:
            data = self.contamination(run.table)
            absent = {task: items.reason for task, items in data.tasks.items() if items.status != "ok"} if data else {}
            of_all = TaskScore(status="failed", reason=failed.reason)
            return {t: TaskScore(status="not available", reason=absent[t]) if t in absent else of_all for t in tasks}
        return {task: record.tasks.get(task) if record else None for task in tasks}

    def done_scores(self, run: Run) -> dict[str, TaskScore]:
        """Task -> its score, of the tasks that were scored."""
        scores = self.task_scores(run).items()
        return {task: score for task, score in scores if score is not None and score.status == "ok"}
