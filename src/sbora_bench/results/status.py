"""How far a reproduction is, from its files alone: `sbora-bench status EXPERIMENT`, while it runs or after.

Records say what is done or failed, the JSON lines of the jobs' logs (progress.py) what is at work.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sbora_bench import progress
from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Run
from sbora_bench.plan.settings import settings_hash
from sbora_bench.results.failures import failed_runs
from sbora_bench.results.folders import (
    CONTAMINATION,
    SCORES,
    TRAINING,
    data_folder,
    log_files,
    run_folder,
    scored_parts,
)
from sbora_bench.results.records import ContaminationRecord, Record, ScoresRecord, TrainRecord, read_record, record_at
from sbora_bench.results.table_data import changed_settings

STAGES = {"pretrain": "pre-training", "finetune": "training", "evaluate": "scoring"}
SILENT = 600  # seconds without a line after which a job counts as gone; or ten times what it took between lines
STATES = ("done", "running", "failed", "waiting")
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class LoopPosition:
    """How far the loop of a stage is, by the last line of its log."""

    stage: str
    step: int
    steps: int
    loss: float | None
    seconds_left: float | None  # if the rest goes as fast; None before the first step
    line_age: float  # seconds since the last line
    silent: bool  # for so long that the job counts as gone

    def __str__(self) -> str:
        unit = "task" if self.stage == "evaluate" else "step"
        parts = [f"{STAGES[self.stage]}, {unit} {self.step} of {self.steps}"]
        parts += [f"loss {self.loss:.4g}"] if isinstance(self.loss, float) else []
        parts += [f"{duration(self.seconds_left)} left"] if self.seconds_left is not None and not self.silent else []
        return ", ".join([*parts, f"last line {duration(self.line_age)} ago"])


def duration(seconds: float) -> str:
    """`4 s`, `3 min`, `2 h 5 min`."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{hours} h {round((seconds - 3600 * hours) / 60)} min"


def status(plan: Plan, results: Path, resources: Path, now: datetime | None = None) -> dict[str, dict[str, str]]:
    """State -> run, or base while it is pre-trained here -> a text: how far it is, or why it failed or waits.

    A run whose job fell silent is waiting, and its text says where it stopped.
    """
    now = now or datetime.now(UTC)
    logs = log_files(results, "run")
    bases = {run.model for run in plan.runs}
    logs += [resources / "logs" / f"{model}.log" for model in sorted(bases)]
    positions: dict[str, LoopPosition] = {}
    for log in filter(Path.is_file, logs):
        positions |= open_loops(progress.read(log), now)
    failed = failed_runs(plan, results)
    by_state: dict[str, dict[str, str]] = {state: {} for state in STATES}
    for base in sorted(bases & positions.keys()):
        if not positions[base].silent:
            by_state["running"][base] = str(positions[base])
    for run in plan.all_runs:
        name, trained = run.name, run.is_base or bool(_record(results, run, TRAINING, TrainRecord))
        if name in failed:
            by_state["failed"][name] = failed[name]
        elif trained and (scores := _record(results, run, SCORES, ScoresRecord, scored_parts(plan, run)[-1])):
            reason = _outdated(plan, results, run, scores)
            by_state["waiting" if reason else "done"][name] = reason
        elif name in positions and not positions[name].silent:
            by_state["running"][name] = str(positions[name])
        elif name in positions:
            by_state["waiting"][name] = f"stopped in {positions[name]}"
        else:
            by_state["waiting"][name] = "to be scored" if trained else ""
    return by_state


def _record(results: Path, run: Run, name: str, kind: type[R], part: str = "") -> R | None:
    try:
        return read_record(run_folder(results, run) / part / name, kind)
    except UserError:
        return None


def _outdated(plan: Plan, results: Path, run: Run, scores: ScoresRecord) -> str:
    """Why the results of a finished run are not the experiment's as it is now; empty where they are."""
    if scores.settings_sha256 != settings_hash(plan, run):
        return "made under other settings than the experiment and its catalog say now"
    try:
        data = record_at(data_folder(results, run.table) / CONTAMINATION, ContaminationRecord)
    except UserError as error:
        return str(error)
    reason = changed_settings(plan, run.table, data) if data else ""
    return f"its data were {reason}" if reason else ""


def open_loops(lines: list[dict], now: datetime) -> dict[str, LoopPosition]:
    """Run -> its position, of the loops that have begun and not ended."""
    running: dict[str, LoopPosition] = {}
    begun: dict[str, dict] = {}
    for line in lines:
        run = line["run"]
        if line["event"] == "end":
            running.pop(run, None)
            continue
        if line["event"] == "begin":
            begun[run] = line
        elif run not in begun:
            continue
        start = begun[run]
        step, first, steps = line.get("step", 0), start.get("step", 0), line.get("steps", 0)
        took = (_time(line) - _time(start)).total_seconds()
        age = (now - _time(line)).total_seconds()
        pace = took / (step - first) if step > first else None
        left = max(0.0, pace * (steps - step) - age) if pace is not None else None
        limit = max(SILENT, 10 * took if line is not start else 0)
        running[run] = LoopPosition(line["stage"], step, steps, line.get("loss"), left, age, age > limit)
    return running


def _time(line: dict) -> datetime:
    return datetime.fromisoformat(line["time"])


def as_text(by_state: dict[str, dict[str, str]], most: int = 20) -> str:
    """The states as text: what is done is counted, the rest is named, at most `most` of each state."""
    lines = [", ".join(f"{len(runs)} {state}" for state, runs in by_state.items())]
    for state, runs in by_state.items():
        if state != "done":
            shown = list(runs.items())[:most]
            lines += [f"  {state:8} {run}" + (f": {what}" if what else "") for run, what in shown]
            lines += [f"  {state:8} and {len(runs) - most} more"] if len(runs) > most else []
    return "\n".join(lines)
