"""The paper's cells at true scale, on `meta`: counts beside the reported millions, and memory of a training step.

Imports nothing heavy where all of them are kept, as those that are published are.
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sbora_bench.cost import cell_work
from sbora_bench.cost.kept_traces import CACHE
from sbora_bench.files import hash_of, write_text
from sbora_bench.plan.catalog import Catalog
from sbora_bench.results.paper.footprint import COLUMNS
from sbora_bench.results.paper.reported import SUITE_OF, UNSTATED_RANK, plain, read_reported
from sbora_bench.results.records import MEMORY_KINDS

MEMORY_COLUMNS = ["table", "model", "method", "rank", "micro_batch", "length", *MEMORY_KINDS, "peak"]
# All of a protocol that the counts depend on.
COUNTED = {"target_modules", "weights_dtype", "pad", "double_quantization"}


def true_counts(catalog: Catalog) -> Callable[[str, str, str, int], int]:
    """A function of (table, model, method, rank), titles as the paper prints them, that builds and counts once."""
    models, methods = _by_title(catalog)
    known: dict[str, dict] = {}

    def count(table: str, model: str, method: str, rank: int) -> int:
        return paper_counts(catalog, known, table, models[plain(model)], methods[plain(method)], rank)[
            "trainable_parameters"
        ]

    return count


def memory_ratio(catalog: Catalog, claim: dict[str, Any]) -> float:
    """Peak of a training step of a claim's method as a part of the other's, at the official protocol on a GPU."""
    models, methods = _by_title(catalog)
    protocol = catalog.protocol("official", claim["suite"], {}, "claims.yaml")
    of, over = (
        cell_work.peak_by_kind(
            catalog, models[plain(claim["model"])], methods[plain(claim[side])], claim["rank"], protocol, CACHE
        )["peak"]
        for side in ("of", "over")
    )
    return of / over


def _by_title(catalog: Catalog) -> tuple[dict[str, str], dict[str, str]]:
    return {plain(name): name for name in catalog.models}, {plain(name): name for name in catalog.methods}


def paper_counts(catalog: Catalog, known: dict[str, dict], table: str, model: str, method: str, rank: int) -> dict:
    """`cell_counts` of a cell under the official protocol of a table of the paper; `known` keeps what was built."""
    protocol = catalog.protocol("official", SUITE_OF[table], {}, "reported.csv")
    key = hash_of([model, method, rank, protocol.model_dump(mode="json", include=COUNTED)])
    if key not in known:
        known[key] = cell_work.cell_counts(catalog, model, method, rank, protocol, CACHE)
    return known[key]


def paper_footprint(catalog: Catalog, output: Path) -> None:
    """Write a CSV of the paper's cells at true scale: exact counts beside the reported millions."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    known: dict[str, dict] = {}
    for table, model, method, rank, reported in paper_cells(catalog):
        count = paper_counts(catalog, known, table, model, method, rank)
        figures = (count["trainable_parameters"], count["total_parameters"], count["adapter_bytes"])
        writer.writerow([table, model, method, rank, *figures, reported])
    write_text(output, out.getvalue())


def paper_memory(catalog: Catalog, output: Path) -> None:
    """Write a CSV of bytes by kind at the peak of a training step on a GPU, official protocol, for each method at each
    scale of the paper, at the lowest of its ranks; arithmetic's memory is commonsense's but for the micro-batch.
    """
    cells: dict[tuple[str, str, str], int] = {}
    for table, model, method, rank, _ in paper_cells(catalog):
        if table != "arithmetic":
            cells[table, model, method] = min(rank, cells.get((table, model, method), rank))
    out = io.StringIO()
    writer = csv.DictWriter(out, MEMORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for (table, model, method), rank in cells.items():
        protocol = catalog.protocol("official", SUITE_OF[table], {}, "reported.csv")
        peak = cell_work.peak_by_kind(catalog, model, method, rank, protocol, CACHE)
        about = {"table": table, "model": model, "method": method, "rank": rank}
        sizes = {"micro_batch": protocol.micro_batch, "length": protocol.max_length}
        writer.writerow(about | sizes | peak)
    write_text(output, out.getvalue())


def paper_cells(catalog: Catalog) -> list[tuple[str, str, str, int, float | None]]:
    """The paper's language-model cells: table, model and method of the catalog, rank, reported millions."""
    models, methods = _by_title(catalog)
    cells = dict.fromkeys(
        (row.table, row.model, row.method, row.rank, row.params_millions)
        for row in read_reported()
        if row.table in SUITE_OF
    )
    return [
        (table, models[plain(model)], methods[plain(method)], rank or UNSTATED_RANK, millions)
        for table, model, method, rank, millions in cells
    ]
