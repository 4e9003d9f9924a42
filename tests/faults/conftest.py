"""A root in which the real workflow runs, what an undisturbed reproduction of `tiny` leaves, and small disks."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sbora_bench.files import sha256
from tests.workflow.conftest import Root, reproduced, root, shared_folder  # noqa: F401

TINY = ("--config", "experiment=tiny")


def outcome(made: Root, experiment: str = "tiny") -> dict[str, str]:
    """The SHA-256 of `scores.csv` and of every file of every adapter."""
    results = made.folder / "results" / experiment
    files = [results / "scores.csv", *sorted(results.glob("runs/*/adapter/*"))]
    return {str(file.relative_to(results)): sha256(file) for file in files}


@pytest.fixture
def undisturbed(shared_folder) -> dict[str, str]:  # noqa: F811
    """The outcome of a reproduction that nothing happened to."""
    with reproduced(shared_folder) as whole:
        digests = outcome(whole)
    assert len(digests) == 1 + 5 * 4, "five adapters of four files each: weights, config, card, logits"
    return digests


def finished(done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@dataclass
class Disk:
    """A small file system of its own at `folder`."""

    folder: Path

    def mount(self, options: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here (it takes root on Linux): {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def leave(self, size: int) -> None:
        """Fill the disk until `size` bytes are free."""
        ballast = self.folder / "ballast"
        ballast.unlink(missing_ok=True)
        stats = subprocess.run(["stat", "-f", "-c", "%f %S", str(self.folder)], capture_output=True, text=True)
        blocks, block = map(int, stats.stdout.split())
        ballast.write_bytes(b"\0" * max(0, blocks * block - size))

    def clear(self) -> None:
        (self.folder / "ballast").unlink()


@pytest.fixture
def disk(tmp_path):
    """A disk to be mounted at a folder: `disk(folder, "size=1m")`; gone at the end."""
    if sys.platform != "linux":
        pytest.skip("small disks are mounted on Linux alone")
    mounted = []

    def mount(folder: Path, options: str) -> Disk:
        made = Disk(folder)
        made.mount(options)
        mounted.append(made)
        return made

    yield mount
    for made in mounted:
        subprocess.run(["umount", "-l", str(made.folder)], check=True)
