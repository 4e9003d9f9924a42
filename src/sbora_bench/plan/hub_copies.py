"""Copies of sets of the hub that lie below SBORA_DATA_ROOT, which anyone may change, and are read in their place."""

import os
from pathlib import Path

from sbora_bench.plan.data_entries import DataEntry, HubData, LmEvalData
from sbora_bench.plan.lm_eval_yaml import data_set_of


def below_root(entry: DataEntry) -> Path | None:
    """The folder that an entry's set is read from; None where it has none there."""
    if not os.environ.get("SBORA_DATA_ROOT"):
        return None  # a task's YAML is looked for only where there can be one
    if isinstance(entry, HubData):
        name = "" if entry.stand_in else entry.id
    else:
        name = data_set_of(entry) if isinstance(entry, LmEvalData) else ""
    return copy_of(name) if name else None


def copy_of(name: str) -> Path | None:
    """The folder below SBORA_DATA_ROOT of the set of that name on the hub; None where there is none."""
    root = os.environ.get("SBORA_DATA_ROOT")
    return Path(root) / name if root and (Path(root) / name).is_dir() else None
