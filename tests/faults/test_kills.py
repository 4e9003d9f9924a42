"""`tiny`, its whole process group, killed 22 times with kill -9: the same command goes on, to the same bytes."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sbora_bench import progress
from sbora_bench.results import store
from sbora_bench.train.checkpoints import step_of
from tests.factories.held import Held
from tests.faults.conftest import TINY, finished, outcome
from tests.workflow.conftest import Root

COMMAND = [sys.executable, "-m", "snakemake", "--cores", "2", *TINY]
BASE = "ladder-xs"
INTERVAL = 5  # updates between two checkpoints: `checkpoint_every` of protocol tiny
BASE_INTERVAL = 10  # that of the base's recipe
SEED, SHORTEST, LONGEST = 0, 1.0, 12.0  # of the moments: seconds after the start
RESULTS = "results/tiny"
# What is about to take its place when a kill comes: of each only the half written lies beside, and a checkpoint's files
# lack the list that makes them one. In whatever order a reproduction comes to them, each is the reason for one kill.
APPEARANCES = [
    r"ladder-xs\.checkpoints/[0-9a-f]+/checkpoint-10$",
    r"ladder-xs\.checkpoints/[0-9a-f]+/checkpoint-30$",
    r"resources/models/ladder-xs$",
    r"data/arithmetic$",
    r"runs/[^/]+/footprint\.json$",
    r"checkpoint-5/done\.json$",
    r"checkpoint-10/done\.json$",
    r"store/[^/]+/finetune-[0-9a-f]+$",
    r"store/[^/]+/evaluate-[0-9a-f]+$",
    r"tiny/scores\.csv$",
    r"tables/.*\.md$",
    r"figures/.*\.svg$",
    r"tiny/audit\.json$",
    r"tiny/report\.html$",
]
MOMENTS = 8  # between the first kills at appearances


def killed(root: Root, appearances: list[str], seconds: float | None) -> str:
    """Start the reproduction, and kill it after `seconds` or, without any, where one of the patterns appears.

    Returns what appeared, or the empty string. Raises AssertionError where it came to its end before.
    """
    # held for as long as the kill takes to come: without it a busy machine would be too late for most of these
    held = Held(root.folder / f"hold-{time.monotonic_ns()}", "|".join(appearances), before=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SBORA_", "WANDB_"))}
    kept |= {
        "HF_HUB_OFFLINE": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        **held.environment,
    }
    with (root.folder / "killed.log").open("a") as log:
        process = subprocess.Popen(COMMAND, cwd=root.folder, env=kept, start_new_session=True, stdout=log, stderr=log)
    end = time.monotonic() + (seconds or 0)
    while process.poll() is None and not (held.appeared() if seconds is None else time.monotonic() >= end):
        time.sleep(0.05)
    ended = process.poll() is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not ended, f"it came to its end: {(root.folder / 'killed.log').read_text()[-3000:]}"
    return held.appeared()


def checkpoints(root: Root) -> dict[str, int]:
    """Run or base -> the step of its newest whole checkpoint, of those whose training is under way."""
    steps: dict[str, int] = {}
    runs = root.folder.glob(f"{RESULTS}/store/*/finetune-*.checkpoints/checkpoint-*")
    pairs = [(checkpoint.parent.parent.name, checkpoint) for checkpoint in runs]
    pairs += [(BASE, base) for base in root.folder.glob(f"resources/models/{BASE}.checkpoints/*/checkpoint-*")]
    for run, checkpoint in pairs:
        if store.is_whole(checkpoint):
            steps[run] = max(steps.get(run, 0), step_of(checkpoint))
    return steps


def logged_steps(root: Root, since: float) -> dict[str, tuple[int, int]]:
    """Run or base -> (step that its training began at, step that it got to), by the logs of jobs since `since`."""
    steps: dict[str, tuple[int, int]] = {}
    logs = [*root.folder.glob(f"{RESULTS}/logs/run/*.log"), *root.folder.glob(f"resources/logs/{BASE}.log")]
    for log in logs:
        for line in progress.read(log) if log.stat().st_mtime > since else []:
            if line["event"] in ("begin", "step"):
                steps[line["run"]] = (steps.get(line["run"], (line["step"],))[0], line["step"])
    return steps


def is_finished(root: Root, run: str) -> bool:
    if run == BASE:
        return (root.folder / "resources/models" / BASE / "base.json").is_file()
    return bool(list(root.folder.glob(f"{RESULTS}/store/{run}/finetune-*/{store.DONE}")))


@pytest.mark.slow
def test_a_reproduction_killed_22_times_ends_in_the_same_bytes(request, root):
    draw, kills, left = random.Random(SEED), 0, list(APPEARANCES)
    lost: dict[bool, list[int]] = {True: [], False: []}  # of the base, of runs
    resumed = {True: 0, False: 0}
    while left:
        at_moment = kills % 2 == 0 and kills // 2 < MOMENTS
        before, started = checkpoints(root), time.time()
        appeared = killed(root, left, draw.uniform(SHORTEST, LONGEST) if at_moment else None)
        if not at_moment:
            left.remove(next(pattern for pattern in left if re.search(pattern, appeared)))
        after = checkpoints(root)
        for run, (begun, reached) in logged_steps(root, started).items():
            assert begun == before.get(run, 0), f"kill {kills}: {run} did not go on from its newest checkpoint"
            resumed[run == BASE] += begun > 0
            if not is_finished(root, run):
                lost[run == BASE].append(reached - after.get(run, 0))
        kills += 1
        print(f"kill {kills}: {'a moment' if at_moment else appeared}", flush=True)
    assert kills == 22 == MOMENTS + len(APPEARANCES)
    finished(root.snakemake(*TINY))
    assert outcome(root) == request.getfixturevalue("undisturbed")
    assert max(lost[False]) == INTERVAL and max(lost[True]) == BASE_INTERVAL, lost
    assert resumed[False] >= 2 and resumed[True] >= 2, resumed
    assert not list(root.folder.glob(".snakemake/locks/*.lock")) and not checkpoints(root)
    print(f"updates lost at each kill (True: of pre-training): {lost}; went on from a checkpoint: {resumed}")
