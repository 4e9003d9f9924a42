"""A copy of the repository's root in which the real workflow runs, and one reproduction of `tiny` for all tests.

The reproduction is shared among pytest-xdist's workers: the first that needs it makes it, and one test at a time works
in it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from sbora_bench.files import sha256
from tests import forked
from tests.factories.shipped import ROOT

CANARY = "hf_canary0123456789abcdef0123456789abcdef"  # a token that no file may hold
PATIENCE = 900  # seconds for a reproduction that is interfered with
COPIED = ["Snakefile", "environment.yml", "workflow", "experiments", "profiles", "results/published/traces.json"]


def environment() -> dict[str, str]:
    """Offline, without a data root, with tokens that nothing may show."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SBORA_", "WANDB_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    tokens = dict.fromkeys(("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"), CANARY)
    return {**kept, **tokens, "HF_HUB_OFFLINE": "1", "PATH": path}


@dataclass(frozen=True)
class Root:
    """A folder with what Snakemake reads of the repository; the package itself is the installed one."""

    folder: Path

    @classmethod
    def copy(cls, folder: Path) -> "Root":
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name)
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        return cls(folder)

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Run a command here, in a process of its own."""
        return subprocess.run(
            command, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False, timeout=1500
        )

    def python(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run `python ARGUMENTS` here, in a fork that has the heavy imports."""
        return forked.python(*arguments, folder=self.folder, environment=environment())

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.python("-m", "snakemake", "--cores", "2", *arguments)

    def bench(self, *arguments: str) -> subprocess.CompletedProcess:
        return self.python("-m", "sbora_bench.cli", *arguments)


def results_of(folder: Path) -> dict[str, str]:
    """SHA-256 of the scores, all samples and every adapter."""
    results = folder / "results" / "tiny"
    paths = [results / "scores.csv", *results.glob("runs/*/adapter/*"), *results.glob("runs/*/samples/*")]
    return {str(path.relative_to(results)): sha256(path) for path in paths}


def wait_for(what: str, process: subprocess.Popen, look):
    """The first true value of `look()`; an error where the reproduction ends or time is up before."""
    end = time.monotonic() + PATIENCE
    while not (value := look()):
        assert process.poll() is None, f"the reproduction ended before: {what}"
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.05)
    return value


def killed_and_resumed(root: Root, experiment: str, record: str) -> Path:
    """The results of an experiment, killed once a checkpoint's `record` was there and run to its end, which left that
    as it was.
    """
    (root.folder / "experiments" / "small.yaml").write_text(experiment)
    results, config = root.folder / "results" / "small", ("--config", "experiment=small")
    planned = root.snakemake("-n", *config)
    assert planned.returncode == 0 and "checkpoint" in planned.stdout + planned.stderr, planned.stderr[-3000:]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *config]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, cwd=root.folder, env=offline, start_new_session=True) as process:
        wait_for(record, process, (results / record).exists)
        os.killpg(process.pid, signal.SIGKILL)
    first = (results / record).read_bytes()
    done = root.snakemake(*config)
    assert done.returncode == 0, done.stderr[-6000:]
    assert (results / record).read_bytes() == first
    again = root.snakemake(*config)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout + again.stderr, again.stderr[-3000:]
    return results


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, worker_id) -> Path:
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@contextmanager
def reproduced(shared_folder: Path):
    """`tiny` reproduced, for the block alone; to be left whole."""
    root = Root(shared_folder / "reproduction")
    with FileLock(shared_folder / "reproduction.lock"):
        if not root.folder.exists():
            Root.copy(root.folder)
            done = root.snakemake("--config", "experiment=tiny")
            (root.folder / "first.log").write_text(f"{done.returncode}\n{done.stdout}\n{done.stderr}")
        log = (root.folder / "first.log").read_text()
        assert log.startswith("0\n"), log[-6000:]
        yield root


@pytest.fixture
def reproduction(shared_folder):
    """`tiny` reproduced, for this test alone while it runs; leave it whole."""
    with reproduced(shared_folder) as root:
        yield root


@pytest.fixture
def root(tmp_path) -> Root:
    """A fresh copy with no results."""
    return Root.copy(tmp_path / "root")
