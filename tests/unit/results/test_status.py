"""How far a reproduction is, told from records and logs made by the harness's own writers; and what may be deleted."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from sbora_bench import progress
from sbora_bench.cli.main import cli
from sbora_bench.errors import UserError
from sbora_bench.results import disk, status, store
from tests.factories import made_results

CELLS = ("base", "lora-r32-s0", "lora-r32-s1", "dora-r32-s0")
BASE, FIRST, SECOND, THIRD = (f"arithmetic-llama-7b-{cell}" for cell in CELLS)


@pytest.fixture
def plan(tmp_path):
    return made_results.make_plan(tmp_path)


def log(path: Path, lines) -> None:
    """A job's log: what `lines()` writes, other text around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file, contextlib.redirect_stderr(file):
        print("a warning of a library", file=file)
        lines()
        file.write('{"time": "2026-01-01T00:00:00.000+00:00", "event": "st')


def run_of(plan, name):
    return next(run for run in plan.runs if run.name == name)


def test_each_state_is_told(plan, tmp_path, monkeypatch):
    """Each line of a log is written five seconds after the one before."""
    start, ticks = datetime(2026, 1, 1, tzinfo=UTC), itertools.count(step=5)
    clock = SimpleNamespace(now=lambda _: start + timedelta(seconds=next(ticks)))
    monkeypatch.setattr(progress, "datetime", clock)
    results = tmp_path / "results"
    made_results.make_run(plan, results, run_of(plan, BASE))
    made_results.make_run(plan, results, run_of(plan, FIRST), failed="loss nan at step 3")
    made_results.make_run(plan, results, run_of(plan, THIRD))
    (results / "runs" / THIRD / "scores.json").unlink()

    def training():
        progress.write("finetune", "elsewhere", "begin", step=0, steps=10)
        progress.write("finetune", "elsewhere", "end")
        progress.write("finetune", SECOND, "begin", step=2, steps=10)
        progress.write("finetune", SECOND, "step", step=4, steps=10, loss=1.25)

    log(results / "logs" / "run" / "arithmetic-0.log", training)
    log(tmp_path / "logs" / "llama-s.log", lambda: progress.write("pretrain", "llama-s", "begin", step=0, steps=40))
    at_the_last = start + timedelta(seconds=20)
    states = status.status(plan, results, tmp_path, at_the_last)
    assert list(states["done"]) == [BASE] and states["failed"] == {FIRST: "loss nan at step 3"}
    assert states["running"].keys() == {"llama-s", SECOND}
    assert states["running"][SECOND].startswith("training, step 4 of 10, loss 1.25, 10 s left, last line 5 s ago")
    assert states["running"]["llama-s"].startswith("pre-training, step 0 of 40, last line 0 s ago")
    assert states["waiting"][THIRD] == "to be scored" and len(states["waiting"]) == len(plan.runs) - 3
    assert "1 done, 2 running, 1 failed, " in status.as_text(states)

    later = status.status(plan, results, tmp_path, at_the_last + timedelta(hours=3))
    assert later["running"] == {} and later["waiting"][SECOND].startswith("stopped in training, step 4 of 10")


def test_what_was_made_for_another_experiment_than_that_of_now_is_not_done(tmp_path):
    written = made_results.experiment()
    plan, results = made_results.make_experiment(tmp_path, written)
    made_results.with_settings(plan, results)
    assert len(status.status(plan, results, tmp_path)["done"]) == len(plan.runs)
    for number, (changes, reason) in enumerate(
        [
            ({"overrides": {"learning_rate": 0.5}}, "made under other settings than the experiment"),
            ({"limit": {"gsm8k": 3}}, "its data were made for other settings"),
        ]
    ):
        edited = made_results.make_plan(tmp_path / str(number), made_results.with_table(written, **changes))
        now = status.status(edited, results, tmp_path)
        assert {run.partition("-")[0] for run in now["done"]} == {"mmlu"}
        assert reason in now["waiting"][FIRST] and reason in now["waiting"][BASE]


def test_time_left_is_that_of_the_pace_so_far():
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def line(event, seconds, **more):
        return {"time": (start + timedelta(seconds=seconds)).isoformat(), "stage": "finetune", "run": "r"} | {
            "event": event,
            **more,
        }

    lines = [line("begin", 0, step=50, steps=100), line("step", 20, step=60, steps=100, loss=0.5)]
    assert status.open_loops(lines, start + timedelta(seconds=25))["r"].seconds_left == pytest.approx(75)
    assert status.open_loops([*lines, line("end", 21)], start) == {}
    again = [*lines, line("begin", 30, step=60, steps=100)]
    assert status.open_loops(again, start + timedelta(seconds=31))["r"].seconds_left is None
    assert [status.duration(s) for s in (4, 600, 7500)] == ["4 s", "10 min", "2 h 5 min"]


def test_a_number_without_a_json_sign_is_text(capsys):
    with pytest.raises(ArithmeticError), progress.loop("finetune", "r", steps=3):
        progress.write("finetune", "r", "step", loss=float("nan"))
        raise ArithmeticError
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["begin", "step", "end"] and lines[1]["loss"] == "nan"


def stored(results: Path, run: str, stage: str, identity: str, name: str, text: str) -> Path:
    entry = store.entry_folder(results, run, stage, identity)
    with store.new_entry(entry) as made:
        (made / name).write_text(text)
    return entry


def test_what_no_table_needs_is_deleted_and_nothing_else(plan, tmp_path, monkeypatch):
    results = tmp_path / "results" / "by-hand"
    for name in (FIRST, SECOND):
        made_results.make_run(plan, results, run_of(plan, name), failed="loss nan" if name == SECOND else "")
    kept, gone = [], []
    for run in (FIRST, SECOND):
        record = results / "runs" / run / "train.json"
        current = stored(results, run, "finetune", "a" * 16, "train.json", record.read_text())
        store.take(current, record.parent)
        kept.append(current)
        gone.append(stored(results, run, "finetune", "b" * 16, "train.json", "{}"))
        checkpoints = current.with_name(f"{current.name}.checkpoints")
        (checkpoints / "checkpoint-5").mkdir(parents=True)
        (checkpoints / "checkpoint-5" / "weights").write_text("w" * 100)
        (gone if run == FIRST else kept).append(checkpoints)  # a failed training may be gone on from
    unfinished = results / "store" / THIRD / f"finetune-{'c' * 16}.checkpoints"
    unfinished.mkdir(parents=True)
    bases = tmp_path / "resources" / "models"
    made, unmade = (bases / f"{model}.checkpoints" for model in (run_of(plan, FIRST).model, "another"))
    (bases / run_of(plan, FIRST).model).mkdir(parents=True)
    (bases / run_of(plan, FIRST).model / "base.json").write_text("{}")
    half, fresh = results / "runs" / ".scores.json.17.part", results / "runs" / ".scores.json.18.part"
    within, alone = made / ".checkpoint-5.17.part", unmade / ".checkpoint-5.17.part"  # the first goes with its folder
    for path in (half, fresh, within, alone):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    for path in (half, within, alone):
        os.utime(path, (0, 0))
    gone += [half, made, alone]
    kept += [unfinished, unmade, fresh, results / "runs" / FIRST / "train.json"]

    needless = disk.needless(plan, results, tmp_path / "resources")
    assert set(needless) == set(gone)
    before, freed = disk.size(tmp_path), disk.freed(list(needless))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".snakemake").mkdir()
    with open(tmp_path / ".snakemake" / "alive.lock", "a") as alive:
        fcntl.flock(alive, fcntl.LOCK_SH)
        with pytest.raises(UserError, match="under way"):
            disk.prune(list(needless), Path(".snakemake"))
    assert all(path.exists() for path in gone)
    done = CliRunner().invoke(cli, ["status", plan.path, "--prune"], catch_exceptions=False)
    assert "training ended well" in done.output and "deleted" in done.output
    assert not any(path.exists() for path in gone) and all(path.exists() for path in kept)
    assert before - disk.size(tmp_path) == freed > 100
    assert disk.needless(plan, results, tmp_path / "resources") == {}


def test_a_file_of_two_names_is_counted_once_and_frees_nothing_by_one(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "runs" / "a").write_text("x" * 1000)
    os.link(tmp_path / "runs" / "a", tmp_path / "store" / "a")
    shutil.copy(tmp_path / "runs" / "a", tmp_path / "store" / "b")
    assert disk.usage(tmp_path) == {"runs": 1000, "store": 1000}
    assert disk.freed([tmp_path / "store"]) == 1000
    assert disk.freed([tmp_path / "store", tmp_path / "runs"]) == 2000
    assert disk.usage(tmp_path / "nowhere") == {}
