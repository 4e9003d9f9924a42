"""Snakemake's locks that a killed one left: cleared where no other Snakemake is alive in this folder, and only then.

Each running Snakemake holds a shared lock on a file, which the system releases however the process ends: one that gets
the exclusive lock is the only one.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sbora_bench.errors import UserError

ALIVE = "alive.lock"
_held: list[IO] = []  # until this process ends


def register(folder: Path) -> list[str]:
    """Hold the shared lock of `folder` (`.snakemake`) until this process ends; returns the stale locks' names.

    Where the file system has no locks, nothing is cleared.
    """
    folder.mkdir(exist_ok=True)
    file = open(folder / ALIVE, "a")  # noqa: SIM115  (held open)
    _held.append(file)
    stale = []
    with contextlib.suppress(OSError):  # another is alive, or there are no locks here
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stale = sorted((folder / "locks").glob("*.lock"))
        for lock in stale:
            lock.unlink()
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)
    return [lock.name for lock in stale]


@contextlib.contextmanager
def without_snakemake(folder: Path) -> Iterator[None]:
    """A block in which no Snakemake is at work in `folder`, which need not exist. Raises UserError where one is."""
    if not folder.is_dir():
        yield
        return
    with open(folder / ALIVE, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: a reproduction is under way; prune when it has ended") from None
        yield
