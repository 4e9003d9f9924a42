"""The three collected files of a results folder, each read once for a `Results`, and the printed tables' cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.csv_files import by_place, read_budget, read_footprint, read_scores
from sbora_bench.analysis.entries import Entry, entries
from sbora_bench.plan.layouts import Layout
from sbora_bench.plan.runs import Cell
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    import pandas as pd

Lines = dict[tuple[str, str, str, int | None], Any]  # (table, model, method, rank) -> its line of a file


def scores(results: Results) -> pd.DataFrame:
    """`scores.csv`. Raises UserError where `collect` has not run."""
    return results.once("scores.csv", lambda: read_scores(results.folder))


def footprint_frame(results: Results) -> pd.DataFrame:
    """`footprint.csv`. Raises UserError where `collect` has not run."""
    return results.once("footprint.csv", lambda: read_footprint(results.folder))


def footprint_lines(results: Results) -> Lines:
    """The lines of `footprint.csv`."""
    return results.once("footprint lines", lambda: by_place(footprint_frame(results)))


def budget_lines(results: Results) -> Lines:
    """The lines of `budget.csv`. Raises UserError where `collect` has not run."""
    return results.once("budget lines", lambda: by_place(read_budget(results.folder)))


def entries_of(results: Results, layout: Layout) -> dict[Cell, list[Entry]]:
    """The rows of a printed table, each with its entries."""
    return results.once(("entries", layout), lambda: entries(results.plan, layout, scores(results)))


def lines_of(layout: Layout, row: Cell, lines: Lines) -> list[Any]:
    """A row's lines of a file, one for each table of the layout that has it."""
    places = [(table, row.model, row.method, row.rank) for table in sorted(layout.tables)]
    return [lines[place] for place in places if place in lines]


def row_parameters(layout: Layout, row: Cell, lines: Lines) -> int | None:
    """Of a row, as counted; None for the base and where nothing was counted."""
    if row.is_base:
        return None
    counts = (line.trainable_parameters for line in lines_of(layout, row, lines))
    return next((count for count in counts if count is not None), None)
