"""`tiny`, its whole process group, killed twenty times with kill -9: the same command goes on, to the same bytes."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.conftest import TINY, finished, outcome
from sbora_bench import store
from sbora_bench.checkpoints import step_of
from workflow.conftest import Root

COMMAND = [sys.executable, "-m", "snakemake", "--cores", "2", *TINY]
INTERVAL = 5  # updates between two checkpoints: `checkpoint_every` of protocol tiny
SEED, SHORTEST, LONGEST = 0, 1.0, 12.0  # of the moments: seconds after the start
RESULTS = "results/tiny"
HALF = "checkpoint-{step}/adapter_model.safetensors"  # a checkpoint's first file: the others are still to come
MOMENT = ""
# What is waited for before each kill, in the order in which a reproduction makes them.
KILLS = [
    MOMENT,
    "resources/models/.ladder-xs.*.part/*",  # a base half written
    MOMENT,
    f"{RESULTS}/data/.arithmetic.*.part/*",  # a table's data half written
    MOMENT,
    f"{RESULTS}/runs/arithmetic-*/footprint.json",
    f"{RESULTS}/store/arithmetic-*-s0/finetune-*.checkpoints/{HALF.format(step=5)}",
    MOMENT,
    f"{RESULTS}/store/arithmetic-*-s1/finetune-*.checkpoints/{HALF.format(step=10)}",
    MOMENT,
    f"{RESULTS}/store/mmlu-*/finetune-*.checkpoints/{HALF.format(step=10)}",
    f"{RESULTS}/store/*/.finetune-*.part/adapter/*",  # a finished run half put away
    MOMENT,
    f"{RESULTS}/store/*/.evaluate-*.part/samples/*.jsonl",  # scores half put away
    MOMENT,
    f"{RESULTS}/store/*/evaluate-*/done.json",
    MOMENT,
    f"{RESULTS}/scores.csv",
    f"{RESULTS}/tables/*.md",
    f"{RESULTS}/report.html",
]


def seen(root: Root, pattern: str) -> set[tuple[str, int]]:
    """The files of a pattern; one that is written again is another."""
    found = set()
    for path in root.folder.glob(pattern):
        try:
            found.add((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return found


def appearance(root: Root, pattern: str) -> Callable[[], bool]:
    before = seen(root, pattern)
    return lambda: bool(seen(root, pattern) - before)


def moment(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def killed(root: Root, due: Callable[[], bool]) -> bool:
    """Start the reproduction, and kill it once `due()`; False where it came to its end before."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    told = {key: value for key, value in os.environ.items() if not key.startswith(("SBORA_", "WANDB_"))}
    with (root.folder / "killed.log").open("a") as log:
        process = subprocess.Popen(
            COMMAND,
            cwd=root.folder,
            env=told | {"HF_HUB_OFFLINE": "1", "PATH": path},
            start_new_session=True,
            stdout=log,
            stderr=log,
        )
    while process.poll() is None and not due():
        time.sleep(0.005)
    ended = process.poll() is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return not ended


def checkpoints(root: Root) -> dict[str, int]:
    """Run -> the step of its newest whole checkpoint, of the runs whose training is under way."""
    steps: dict[str, int] = {}
    for checkpoint in root.folder.glob(f"{RESULTS}/store/*/finetune-*.checkpoints/checkpoint-*"):
        if store.is_whole(checkpoint):
            run = checkpoint.parent.parent.name
            steps[run] = max(steps.get(run, 0), step_of(checkpoint))
    return steps


def begun(root: Root, since: float) -> dict[str, int]:
    """Run -> the step that a job trained it from, of the jobs that began after the time `since`, as their logs tell."""
    logs = [log for log in (root.folder / RESULTS / "logs" / "finetune").glob("*.log") if log.stat().st_mtime > since]
    lines = [re.findall(r"^(\S+): training from step (\d+)$", log.read_text(), re.MULTILINE) for log in logs]
    return {run: int(step) for found in lines for run, step in found}


@pytest.mark.slow
def test_a_reproduction_killed_twenty_times_ends_in_the_same_bytes(undisturbed, root):
    draw, lost, resumed = random.Random(SEED), [], 0
    for number, pattern in enumerate(KILLS):
        before, started = checkpoints(root), time.time()
        due = appearance(root, pattern) if pattern else moment(draw.uniform(SHORTEST, LONGEST))
        log = (root.folder / "killed.log").read_text()[-3000:] if number else ""
        assert killed(root, due), f"kill {number}, {pattern or 'a moment'}: it had ended: {log}"
        for run, step in begun(root, started).items():
            if run in before:
                assert step == before[run], f"kill {number}: {run} began at {step}, its checkpoint is {before[run]}"
                resumed += 1
        if "checkpoint-" in pattern:
            half = max(root.folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns).parent
            lost.append(step_of(half) - checkpoints(root).get(half.parent.parent.name, 0))
    assert len(KILLS) == 20 and KILLS.count(MOMENT) == 8
    finished(root.snakemake(*TINY))
    assert outcome(root) == undisturbed
    assert len(lost) == 3 and max(lost) <= INTERVAL and resumed >= 2, (lost, resumed)
    assert not list(root.folder.glob(".snakemake/locks/*.lock"))
    assert not list(root.folder.glob("results/tiny/**/*checkpoint-*"))
