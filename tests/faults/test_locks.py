"""Snakemake's lock after a kill is cleared by the next start, but never that of a Snakemake that is alive."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import forked
from tests.workflow.conftest import PATIENCE

SNAKEFILE = """
from pathlib import Path
from sbora_bench import locks

if workflow.is_main_process:
    print("cleared", len(locks.register(Path(".snakemake"))))

rule job:
    output: "done"
    shell: "touch started; while [ ! -e go ]; do sleep 0.1; done; touch done"
"""
COMMAND = [sys.executable, "-m", "snakemake", "--cores", "1", "--rerun-incomplete"]


@pytest.fixture
def started(tmp_path):
    """A Snakemake of its own process group whose one job waits for the file `go`; killed with all at the end."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(COMMAND, cwd=tmp_path, start_new_session=True, stdout=log, stderr=log)
    while not (tmp_path / "started").exists():
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    yield process
    kill(process)


def kill(process) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def again(folder: Path) -> subprocess.CompletedProcess:
    return forked.python(*COMMAND[1:], folder=folder)


def test_a_killed_ones_lock_is_cleared(started, tmp_path):
    kill(started)
    assert list((tmp_path / ".snakemake" / "locks").glob("*.lock"))
    (tmp_path / "go").touch()
    done = again(tmp_path)
    assert done.returncode == 0 and "cleared 1" in done.stdout + done.stderr, done.stderr
    assert (tmp_path / "done").exists() and not list((tmp_path / ".snakemake").glob("locks/*.lock"))


def test_a_living_ones_lock_is_left(started, tmp_path):
    done = again(tmp_path)
    assert done.returncode == 1 and "LockException" in done.stderr and "cleared 0" in done.stdout + done.stderr
    (tmp_path / "go").touch()
    assert started.wait(timeout=PATIENCE) == 0 and (tmp_path / "done").exists()
