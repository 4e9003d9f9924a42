"""Copies of sets of the hub that lie below SBORA_DATA_ROOT, which anyone may change, and are read in their place."""

import os
from pathlib import Path

from sbora_bench.plan.data_entries import DataEntry, HubData, LmEvalData
from sbora_bench.plan.lm_eval_yaml import data_set_of


def below_root(entry: DataEntry) -> Path | None:
    """The folder that an entry's set is read from; None where it has none there."""
    root = os.environ.get("SBORA_DATA_ROOT")
    if not root:
        return None
    if isinstance(entry, HubData):
        name = "" if entry.stand_in else entry.id
    else:
        name = data_set_of(entry) if isinstance(entry, LmEvalData) else ""
    return Path(root) / name if name and (Path(root) / name).is_dir() else None
