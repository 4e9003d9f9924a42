"""Finished runs, kept under the hash of all that they belong to, so that one's crash never costs another's work.

Snakemake deletes every declared output of a job before it runs again; what stands here is taken back instead of being
computed again, on equality of that hash only. Entries: `<results>/store/<run>/<hash>/` with `done.json` (file ->
SHA-256) written last.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sbora_bench.errors import UserError
from sbora_bench.files import read_json, sha256, whole_folder, write_json
from sbora_bench.results.folders import store_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock

DONE = "done.json"
CHECKPOINTS = 3  # newest ones that stay while a run trains, beside the best one


def entry_folder(results: Path, run: str, stage: str, identity: str) -> Path:
    """Folder of a finished run's files."""
    return store_folder(results, run) / f"{stage}-{identity[:16]}"


def checkpoints_of(folder: Path) -> Path:
    """The folder of the checkpoints of a training that makes `folder`."""
    return folder.with_name(f"{folder.name}.checkpoints")


def is_whole(folder: Path) -> bool:
    """Whether the entry is finished and every file has the bytes that it was committed with."""
    try:
        files = read_json(folder / DONE)
    except UserError:
        return False
    return isinstance(files, dict) and all(
        (folder / name).is_file() and sha256(folder / name) == digest for name, digest in files.items()
    )


@contextlib.contextmanager
def new_entry(folder: Path, needed: str = "") -> Iterator[Path]:
    """Yield a folder to fill; it becomes the entry `folder`, whole or not at all. `needed`: bytes, for a full disk."""
    with whole_folder(folder, needed) as made:
        yield made
        seal(made)


def seal(folder: Path) -> None:
    """Write `done.json`, the SHA-256 of every other file of `folder`."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    write_json(folder / DONE, {name: sha256(folder / name) for name in names if name != DONE})


def entry_lock(folder: Path) -> "BaseFileLock":
    """The lock of this entry, which one process at a time holds; it is released where a process is killed."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def take(folder: Path, target: Path) -> None:
    """Put an entry's files into `target`: hard links where the file system has them, copies elsewhere."""
    for name in read_json(folder / DONE):
        source, destination = folder / name, Path(target) / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        beside = destination.with_name(f".{destination.name}.{os.getpid()}.part")
        beside.unlink(missing_ok=True)
        try:
            os.link(source, beside)
        except OSError:
            shutil.copy2(source, beside)
        os.replace(beside, destination)
        beside.unlink(missing_ok=True)  # two links to one file: replacing does nothing
