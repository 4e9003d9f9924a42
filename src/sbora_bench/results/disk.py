"""What a results folder takes on the disk, and what of it no table needs: `sbora-bench status EXPERIMENT --prune`.

Kept: records, samples, adapters, data, tables, and the store's entries that the records come from. Not needed:
checkpoints of runs and bases whose training ended well, entries of the store that another one has replaced, and what a
killed process left half written.
"""

import contextlib
import shutil
import time
from pathlib import Path

from sbora_bench import locks
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, sha256
from sbora_bench.plan.experiment import Plan
from sbora_bench.results import store
from sbora_bench.results.failures import RECORDS
from sbora_bench.results.folders import BASE, STORE, model_folder, run_folder, store_folder
from sbora_bench.results.records import read_record

ABANDONED = 86400  # seconds after which a half-written file counts as left behind


def size(path: Path, seen: set[tuple[int, int]] | None = None) -> int:
    """Bytes of the files below `path`; of one with several names once, and not at all where `seen` has it."""
    seen, total = set() if seen is None else seen, 0
    for file in [path] if path.is_file() else path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # work goes on beside
            stat = file.lstat()
            if not file.is_dir() and (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_size
    return total


def usage(results: Path) -> dict[str, int]:
    """Part of the results folder -> bytes; a file that stands in `runs` and in `store` counts for `runs`."""
    seen: set[tuple[int, int]] = set()
    parts = sorted(results.iterdir(), key=lambda path: (path.name == STORE, path.name)) if results.is_dir() else []
    return {path.name: size(path, seen) for path in parts}


def needless(plan: Plan, results: Path, resources: Path) -> dict[Path, str]:
    """Path -> why no table needs it."""
    reasons: dict[Path, str] = {}
    for base in {model_folder(run.model, resources) for run in plan.runs}:
        checkpoints = store.checkpoints_of(base)
        if checkpoints.is_dir() and (base / BASE).is_file():
            reasons[checkpoints] = "training ended well"
    for run in plan.all_runs:
        entries_of_run = store_folder(results, run)
        for stage, (name, kind) in RECORDS.items():
            record = run_folder(results, run) / name
            try:
                ended = read_record(record, kind).status == "ok"
            except UserError:
                continue
            entries = {entry: _digest(entry, name) for entry in entries_of_run.glob(f"{stage}-????????????????")}
            if sha256(record) not in entries.values():
                continue
            for entry, digest in entries.items():
                if digest != sha256(record):
                    reasons[entry] = "replaced by another"
            if ended:
                reasons |= dict.fromkeys(entries_of_run.glob(f"{stage}-*.checkpoints"), "training ended well")
    for part in [*results.rglob(".*.part"), *model_folder("", resources).rglob(".*.part")]:
        if time.time() - part.lstat().st_mtime > ABANDONED and not reasons.keys() & set(part.parents):
            reasons[part] = "half written, long ago"
    return dict(sorted(reasons.items()))


def _digest(entry: Path, name: str) -> str | None:
    try:
        return read_json(entry / store.DONE).get(name)
    except UserError:
        return None


def freed(paths: list[Path]) -> int:
    """Bytes that deleting them gives back: a file that has a name elsewhere stays."""
    names: dict[tuple[int, int], int] = {}
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    total = 0
    for file in files:
        stat = file.lstat()
        key = (stat.st_dev, stat.st_ino)
        names[key] = names.get(key, 0) + 1
        total += stat.st_size if names[key] == stat.st_nlink else 0
    return total


def prune(paths: list[Path], snakemake: Path) -> None:
    """Delete files and folders. Raises UserError while Snakemake runs here (`snakemake`: its folder `.snakemake`)."""
    with locks.without_snakemake(snakemake):
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
