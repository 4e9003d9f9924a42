"""`tiny`, its whole process group, killed twenty times with kill -9: the same command goes on, to the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.conftest import TINY, finished, outcome
from sbora_bench import progress, store
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
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SBORA_", "WANDB_"))}
    with (root.folder / "killed.log").open("a") as log:
        process = subprocess.Popen(
            COMMAND,
            cwd=root.folder,
            env=kept | {"HF_HUB_OFFLINE": "1", "PATH": path},
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


def told(root: Root, since: float) -> dict[str, tuple[int, int]]:
    """Run -> (step that its training began at, step that it got to), as the logs of jobs begun after `since` tell."""
    found: dict[str, tuple[int, int]] = {}
    for log in (root.folder / RESULTS / "logs" / "finetune").glob("*.log"):
        for line in progress.read(log) if log.stat().st_mtime > since else []:
            if line["event"] in ("begin", "step"):
                found[line["run"]] = (found.get(line["run"], (line["step"],))[0], line["step"])
    return found


def is_finished(root: Root, run: str) -> bool:
    return bool(list(root.folder.glob(f"{RESULTS}/store/{run}/finetune-*/{store.DONE}")))


@pytest.mark.slow
def test_a_reproduction_killed_twenty_times_ends_in_the_same_bytes(undisturbed, root):
    draw, lost, resumed = random.Random(SEED), [], 0
    for number, pattern in enumerate(KILLS):
        before, started = checkpoints(root), time.time()
        due = appearance(root, pattern) if pattern else moment(draw.uniform(SHORTEST, LONGEST))
        assert killed(root, due), f"kill {number}, {pattern or 'a moment'}: it ended: {log_of(root)}"
        after = checkpoints(root)
        for run, (begun, reached) in told(root, started).items():
            assert begun == before.get(run, 0), f"kill {number}: {run} did not go on from its newest checkpoint"
            resumed += begun > 0
            if not is_finished(root, run):
                lost.append(reached - after.get(run, 0))
    finished(root.snakemake(*TINY))
    assert outcome(root) == undisturbed
    assert max(lost) == INTERVAL and resumed >= 3, (lost, resumed)
    assert len(KILLS) == 20 and KILLS.count(MOMENT) == 8
    assert not list(root.folder.glob(".snakemake/locks/*.lock")) and not checkpoints(root)
    print(f"updates lost at each kill while training: {lost}; trainings that went on from a checkpoint: {resumed}")


def log_of(root: Root) -> str:
    return (root.folder / "killed.log").read_text()[-3000:]
