"""Which rank of each method comes closest to a size: `sbora-bench sizes EXPERIMENT`, for the grids that say `at`."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sbora_bench.cost.counting import counts_and_twin
from sbora_bench.errors import Problems, UserError
from sbora_bench.files import read_json, write_json
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.load import read_experiment
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.sizes import Grid, own_config, size_hash, sizes_file, stands

LARGEST = 2**17  # ranks beyond are not tried
NEIGHBOURS = 8  # ranks without a count that are passed before an interval is given up
FAR = 4  # times the wanted size: further that way nothing is looked for


def choose_sizes(experiment: str) -> tuple[Path, list[dict[str, Any]]]:
    """Write the file of chosen ranks of an experiment; (its path, its rows).

    What was chosen from the same entries stands; no file is made where no grid says a size. Raises UserError with a
    line for each method of which no rank works, once the others are written.
    """
    path, written, catalog = read_experiment(experiment)
    target = sizes_file(path)
    before = {tuple(row[key] for key in KEYS): row for row in (read_json(target) if target.is_file() else [])}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    problems: list[str] = []
    for name, table in written.tables.items():
        protocol = catalog.protocol(table.protocol, table.suite, table.overrides, f"{path}: tables.{name}.protocol")
        for about, method in _requested(table.grids, catalog, protocol, f"{path}: tables.{name}.grids"):
            key = tuple(about[key] for key in KEYS)
            if key not in rows and key in before and stands(before[key], catalog, protocol):
                rows[key] = before[key]
            elif key not in rows:
                config = own_config(catalog.models[about["model"]])
                try:
                    counted = closest(catalog, about, method, protocol)
                except UserError as error:
                    problems.append(f"{path}: tables.{name}.grids: {error}; take {about['method']} out of that grid")
                    continue
                rows[key] = about | ({"config": config} if config else {}) | counted
                write_json(target, list((before | rows).values()))  # a stopped command goes on from there
    if rows or target.is_file():
        write_json(target, list(rows.values()))
    if problems:
        raise Problems(dict.fromkeys(problems))
    return target, list(rows.values())


KEYS = ("model", "method", "of", "wanted", "settings")


def _requested(
    grids: list[Grid], catalog: Catalog, protocol: Protocol, where: str
) -> Iterator[tuple[dict[str, Any], MethodEntry]]:
    for grid in grids:
        for model in grid.models if grid.at else ():
            catalog.find("models", model, where)
            for method in grid.methods:
                entry = catalog.find("methods", method, where)
                settings = size_hash(catalog, model, method, protocol)
                assert grid.at is not None
                quantity, wanted = grid.at.wanted
                yield {"model": model, "method": method, "of": quantity, "wanted": wanted, "settings": settings}, entry


def closest(catalog: Catalog, about: dict[str, Any], method: MethodEntry, protocol: Protocol) -> dict[str, Any]:
    """`rank`, `trainable_parameters` and `adapter_bytes` of the rank whose count is nearest to the wanted one.

    Raises UserError where no rank works.
    """
    counted: dict[int, dict[str, Any]] = {}
    reason = ""

    def count(rank: int) -> int | None:
        nonlocal reason
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                counted[rank], _ = counts_and_twin(catalog, about["model"], method, rank, protocol)
        except UserError as error:
            reason = reason or str(error)  # of the smallest rank
            return None
        return counted[rank][about["of"]]

    rank = nearest(count, about["wanted"]) if method.has_size else 1 if count(1) else None
    if rank is None:
        raise UserError(f"{method.title} on {about['model']}: no rank works: {reason}")
    return {"rank": rank, **{key: counted[rank][key] for key in ("trainable_parameters", "adapter_bytes")}}


def nearest(count: Callable[[int], int | None], wanted: int) -> int | None:
    """The rank whose `count` is nearest to `wanted`, the smaller of two; None where no rank has one.

    Counts grow or shrink with the rank; some ranks have none (None). Powers of two first, then between the two around
    the wanted count; where ranks of no count stand between them, their neighbours are tried. So are those of the best
    where counts do not grow or shrink throughout: LoKr's fall where its second factor needs none any more.
    """
    sizes: dict[int, int] = {}
    rank = 1
    while rank <= LARGEST:
        size = count(rank)
        if size is not None:
            sizes[rank] = size
            if len(sizes) > 1:
                grows = sizes[rank] > min(sizes.values())
                if (grows and size > FAR * wanted) or (not grows and size * FAR < wanted):
                    break
        rank *= 2
    if not sizes:
        return None
    tried = set(sizes)
    while True:
        best = min(sizes, key=lambda r: (abs(sizes[r] - wanted), r))
        grows = sizes[max(sizes)] >= sizes[min(sizes)]
        if sizes[best] == wanted:
            return best
        if (sizes[best] < wanted) == grows:
            low, high = best, min((r for r in sizes if r > best), default=max(2 * best, best + NEIGHBOURS + 1))
        else:
            low, high = max((r for r in sizes if r < best), default=0), best
        counted = _between(count, best, low, high, tried)
        if counted is None and not _throughout(sizes):
            counted = _first_counted(count, range(max(1, best - NEIGHBOURS), best + NEIGHBOURS + 1), tried)
        if counted is None:
            return best
        sizes[counted[0]] = counted[1]


def _throughout(sizes: dict[int, int]) -> bool:
    """Whether counts grow, or shrink, with every rank."""
    counts = [sizes[rank] for rank in sorted(sizes)]
    return len(set(counts)) == len(counts) and counts in (sorted(counts), sorted(counts, reverse=True))


def _first_counted(count: Callable[[int], int | None], ranks: Iterable[int], tried: set[int]) -> tuple[int, int] | None:
    """(rank, its count) of the first that has one among ranks that were not tried."""
    for rank in ranks:
        if rank not in tried:
            tried.add(rank)
            size = count(rank)
            if size is not None:
                return rank, size
    return None


def _between(
    count: Callable[[int], int | None], best: int, low: int, high: int, tried: set[int]
) -> tuple[int, int] | None:
    """(rank, its count) of the first rank that has one strictly between two, from their middle on towards `best`."""
    while True:
        middle = (low + high) // 2
        untried = sorted((r for r in range(low + 1, high) if r not in tried), key=lambda r: abs(r - middle))
        if counted := _first_counted(count, untried[:NEIGHBOURS], tried):
            return counted
        if not untried:
            return None
        low, high = (low, middle) if best == low else (middle, high)
