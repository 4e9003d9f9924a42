"""The numbers that the SBoRA paper reports (arXiv 2407.05413, the tables of its README), and which cell each is of.

`reported.csv` holds them as printed, typing slips mended; `anomalies.yaml` lists those that do not agree with
themselves. A reported number stands beside ours only where suite, model, method, rank and column are the paper's.
"""

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SUITE_OF = {"commonsense": "commonsense", "arithmetic": "arithmetic", "qsbora_mmlu": "mmlu"}
UNSTATED_RANK = 64  # the 4-bit table gives no rank; its parameter counts (twice those printed) fit no other
AVERAGE = "Average"


@dataclass(frozen=True)
class Reported:
    """One number, `printed` as text, for its decimals count, as do those of the `millions` of trained parameters."""

    table: str
    model: str
    method: str
    rank: int | None
    millions: str
    metric: str
    printed: str

    @property
    def value(self) -> float:
        """In per cent (the diffusion tables: a similarity)."""
        return float(self.printed)

    @property
    def params_millions(self) -> float | None:
        """Trained parameters; None where none are printed."""
        return float(self.millions) if self.millions else None

    @property
    def name(self) -> str:
        """Table, model, method and rank, as findings say it."""
        rank = "" if self.rank is None else f" r={self.rank}"
        return f"{self.table}, {self.model}, {self.method}{rank}"


@cache
def read_reported() -> tuple[Reported, ...]:
    """All reported numbers, in the paper's order."""
    with open(HERE / "reported.csv", encoding="utf-8", newline="") as file:
        return tuple(
            Reported(
                table=row["table"],
                model=row["model"],
                method=row["method"],
                rank=int(row["rank"]) if row["rank"] else None,
                millions=row["params_millions"],
                metric=row["metric"],
                printed=row["value"],
            )
            for row in csv.DictReader(file)
        )


@cache
def claims() -> tuple[dict[str, Any], ...]:
    """What the paper claims in words, with what it takes to recompute it."""
    return _listed("claims.yaml")


@cache
def anomalies() -> tuple[dict[str, Any], ...]:
    """Reported numbers that do not agree with themselves: table, metric, note, and model, method, rank where one."""
    return _listed("anomalies.yaml")


def _listed(name: str) -> tuple[dict[str, Any], ...]:
    import yaml

    return tuple(yaml.safe_load((HERE / name).read_text(encoding="utf-8")))


def plain(name: str) -> str:
    """A name as it is compared: letters and digits alone, lower case (`Llama-3-8B` is `LLaMA3-8B`)."""
    return re.sub("[^a-z0-9]", "", name.lower())


def reported_cell(suite: str, model: str, method: str, rank: int | None) -> list[Reported]:
    """What the paper prints of one row (titles of model and method), empty where the row isn't the paper's."""
    return [
        row
        for row in read_reported()
        if SUITE_OF.get(row.table) == suite
        and plain(row.model) == plain(model)
        and plain(row.method) == plain(method)
        and (UNSTATED_RANK if row.rank is None else row.rank) == rank
    ]


def anomaly_of(row: Reported, metric: str) -> str:
    """The note on a printed number of a row, its score in `metric` or its count (`parameters`); empty if it's sound."""
    about = {"table": row.table, "model": row.model, "method": row.method, "rank": row.rank, "metric": metric}
    return next((e["note"] for e in anomalies() if all(e.get(key, value) == value for key, value in about.items())), "")
