"""Parameters of the paper's cells, as they were counted at true scale: `paper_footprint.csv`."""

import csv
from pathlib import Path

from sbora_bench.errors import UserError
from sbora_bench.results.folders import PAPER_FOOTPRINT

COLUMNS = ["table", "model", "method", "rank", "trainable_parameters", "total_parameters", "adapter_bytes"]
COLUMNS += ["reported_millions"]


def read_paper_footprint(results: Path) -> list[dict[str, str]]:
    """Rows of `paper_footprint.csv`, as text. Raises UserError if it's missing or has other columns."""
    path = results / PAPER_FOOTPRINT
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `sbora-bench footprint` for the paper's cells first") from None
    if reader.fieldnames != COLUMNS:
        raise UserError(f"{path}: columns: found {reader.fieldnames}, allowed {COLUMNS}; delete it and count again")
    return rows
