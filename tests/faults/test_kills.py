"""`tiny`, its whole process group, killed twenty times with kill -9: the same command goes on, to the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
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
MOMENT = ""
# What is about to take its place when the kill comes, in the order in which a reproduction makes it: of each only the
# half written lies beside, a checkpoint's files lack the list that makes them one.
KILLS = [
    MOMENT,
    r"resources/models/ladder-xs$",
    MOMENT,
    r"data/arithmetic$",
    MOMENT,
    r"runs/arithmetic-.*/footprint\.json$",
    r"checkpoint-5/done\.json$",
    MOMENT,
    r"checkpoint-10/done\.json$",
    MOMENT,
    r"store/[^/]+/finetune-[0-9a-f]+$",
    MOMENT,
    MOMENT,
    r"store/[^/]+/evaluate-[0-9a-f]+$",
    MOMENT,
    r"tiny/scores\.csv$",
    r"tables/.*\.md$",
    r"figures/.*\.svg$",
    r"tiny/audit\.json$",
    r"tiny/report\.html$",
]
# Holds a process for as long as the kill takes to come: without it a busy machine would be too late for most of these.
STALL = """
import os, re, time

if os.environ.get("STALL_AT"):
    real = os.replace

    def replace(source, target, **rest):
        if re.search(os.environ["STALL_AT"], str(target)):
            open(os.environ["STALLED"], "w").close()
            time.sleep(600)
        return real(source, target, **rest)

    os.replace = replace
"""


def killed(root: Root, stall_at: str, seconds: float) -> bool:
    """Start the reproduction, and kill it where a file of the pattern `stall_at` appears, or after `seconds`.

    False where it came to its end before.
    """
    stalled, hook = root.folder / "stalled", root.folder / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(STALL)
    stalled.unlink(missing_ok=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SBORA_", "WANDB_"))}
    kept |= {
        "HF_HUB_OFFLINE": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(hook), os.environ.get("PYTHONPATH", "")]),
        "STALL_AT": stall_at,
        "STALLED": str(stalled),
    }
    with (root.folder / "killed.log").open("a") as log:
        process = subprocess.Popen(COMMAND, cwd=root.folder, env=kept, start_new_session=True, stdout=log, stderr=log)
    end = time.monotonic() + seconds
    while process.poll() is None and not (stalled.exists() if stall_at else time.monotonic() >= end):
        time.sleep(0.05)
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
def test_a_reproduction_killed_twenty_times_ends_in_the_same_bytes(request, root):
    draw, lost, resumed = random.Random(SEED), [], 0
    for number, pattern in enumerate(KILLS):
        before, started = checkpoints(root), time.time()
        gone = killed(root, pattern, draw.uniform(SHORTEST, LONGEST))
        assert gone, f"kill {number}, {pattern or 'a moment'}: it ended: {log_of(root)}"
        after = checkpoints(root)
        for run, (begun, reached) in told(root, started).items():
            assert begun == before.get(run, 0), f"kill {number}: {run} did not go on from its newest checkpoint"
            resumed += begun > 0
            if not is_finished(root, run):
                lost.append(reached - after.get(run, 0))
    finished(root.snakemake(*TINY))
    assert outcome(root) == request.getfixturevalue("undisturbed")
    assert max(lost) == INTERVAL and resumed >= 3, (lost, resumed)
    assert len(KILLS) == 20 and KILLS.count(MOMENT) == 8
    assert not list(root.folder.glob(".snakemake/locks/*.lock")) and not checkpoints(root)
    print(f"updates lost at each kill while training: {lost}; trainings that went on from a checkpoint: {resumed}")


def log_of(root: Root) -> str:
    return (root.folder / "killed.log").read_text()[-3000:]
