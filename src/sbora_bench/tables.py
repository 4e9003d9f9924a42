"""Collected files to the experiment's tables, in the paper's layout: `tables/<name>.{md,csv,tex,html}`.

`sbora-bench tables -e EXPERIMENT`. Rows are model x rank x method; columns are the suite's tasks and their average:
mean ± standard deviation over the seeds, in per cent. Where a cell is the paper's, its number stands beside ours.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sbora_bench.cells import write_cells
from sbora_bench.collect import contamination_of, read_footprint, read_scores, task_scores
from sbora_bench.errors import UserError
from sbora_bench.experiment import Plan
from sbora_bench.outputs import Column, Layout, Row, layouts
from sbora_bench.paper.reported import AVERAGE, Reported, anomalies_of, plain, reported_cell
from sbora_bench.render import Cell, View, write_views
from sbora_bench.separation import separation
from sbora_bench.separation_tables import write_separation
from sbora_bench.statistics import Summary, over_seeds


def tables(plan: Plan, results: Path) -> None:
    """Write every file of `outputs.table_files`. Raises UserError where `collect` has not run."""
    for view in views(plan, results):
        write_views(view, results / "tables")
    scores = read_scores(results)
    write_cells(plan, {layout: entries(plan, layout, scores) for layout in layouts(plan)}, results / "tables")
    write_separation(plan, separation(plan, results), results / "tables")


def views(plan: Plan, results: Path) -> list[View]:
    """All tables of the experiment but the separation's, as data."""
    scores, footprint = read_scores(results), read_footprint(results)
    found = [score_view(plan, results, layout, scores, footprint) for layout in layouts(plan)]
    return found + ([paper_footprint_view(plan, results)] if plan.experiment.paper_footprint else [])


@dataclass(frozen=True)
class Entry:
    """A cell before it is spelt: over the seeds, in per cent; `asked` seeds; `status` where none has a value."""

    summary: Summary | None
    asked: int
    status: str
    reported: Reported | None = None

    @property
    def text(self) -> str:
        if self.summary is None:
            return self.status
        spread = "" if self.summary.sd is None else f" ± {self.summary.sd:.1f}"
        seeds = "" if self.summary.n == self.asked else f" [{self.summary.n} of {self.asked} seeds]"
        return f"{self.summary.mean:.1f}{spread}{seeds}"


ABSENT = Entry(None, 0, "–")  # the cell is not part of this table


def entries(plan: Plan, layout: Layout, scores: pd.DataFrame) -> dict[Row, list[Entry]]:
    """Row -> its entries in the layout's columns, the average last where the layout has one."""
    values: dict[Row, list[pd.DataFrame]] = {}
    for row in layout.rows:
        mine = scores[(scores.model == row.model) & (scores.method == row.method)]
        mine = mine[mine["rank"].isna() if row.rank is None else mine["rank"] == row.rank]
        values[row] = [mine[(mine.table == c.table) & (mine.task == c.task)] for c in layout.columns]
    available = [
        any((frames[index].status != "not available").any() for frames in values.values())
        for index in range(len(layout.columns))
    ]
    found = {}
    for row, frames in values.items():
        printed = {column: _reported(plan, layout, row, column) for column in (*layout.columns, None)}
        cells = [_entry(frame, printed[column]) for frame, column in zip(frames, layout.columns, strict=True)]
        if layout.averaged:
            kept = [frame for frame, there in zip(frames, available, strict=True) if there]
            cells.append(_average(kept, printed[None]))
        found[row] = cells
    return found


def _entry(frame: pd.DataFrame, reported: Reported | None) -> Entry:
    if frame.empty:
        return ABSENT
    done = frame[frame.status == "ok"].value.dropna()
    summary = over_seeds([100 * float(value) for value in done]) if len(done) else None
    return Entry(summary, len(frame), "" if summary else str(frame.status.iloc[0]), reported)


def _average(frames: list[pd.DataFrame], reported: Reported | None) -> Entry:
    """Mean over the tasks, seed by seed; a seed that lacks a task has none."""
    if not frames or all(frame.empty for frame in frames):
        return ABSENT
    rows = pd.concat(frames).assign(seed=lambda frame: frame.seed.fillna(-1))
    by_seed = rows.pivot(index="seed", columns=["table", "task"], values="value").astype("float64")
    whole = by_seed.dropna().mean(axis="columns")
    summary = over_seeds([100 * float(value) for value in whole]) if len(whole) else None
    return Entry(summary, len(by_seed), "" if summary else "–", reported)


def _reported(plan: Plan, layout: Layout, row: Row, column: Column | None) -> Reported | None:
    """What the paper prints of this row in this column (None: the average), where the items scored are the paper's."""
    table = plan.experiment.tables[column.table if column else layout.tables[0]]
    if row.method == "base" or (table.items or plan.experiment.items) != "paper":
        return None
    names = {plain(plan.catalog.tasks[column.task].title), plain(table.train)} if column else {plain(AVERAGE)}
    printed = reported_cell(layout.suite, *row_titles(plan, row), row.rank)
    return next((number for number in printed if plain(number.metric) in names), None)


def row_titles(plan: Plan, row: Row) -> tuple[str, str]:
    method = "Base, untuned" if row.method == "base" else plan.catalog.methods[row.method].title
    return plan.catalog.models[row.model].title, method


def score_view(plan: Plan, results: Path, layout: Layout, scores: pd.DataFrame, footprint: pd.DataFrame) -> View:
    """One layout as data."""
    found = entries(plan, layout, scores)
    titles = [column.title for column in layout.columns] + ([AVERAGE] if layout.averaged else [])
    best = _best(found, len(titles))
    beside = any(entry.reported for cells in found.values() for entry in cells)
    groups: dict[tuple, list[list[Cell]]] = {}
    header = ["model", "method", "rank", "trainable_parameters"] + (["reported_millions"] if beside else [])
    for title in titles:
        header += [title, f"{title} sd", f"{title} seeds"]
        header += [f"{title} reported", f"{title} difference"] if beside else []
    numbers = [[*header, "status"]]
    for row, cells in found.items():
        count = trainable(layout, row, footprint)
        printed = next((cell.reported for cell in cells if cell.reported), None)
        millions = printed.params_millions if printed else None
        model, method = row_titles(plan, row)
        line = [Cell(model), Cell(method), Cell("–" if row.rank is None else str(row.rank))]
        line.append(Cell("–" if count is None else f"{count:,}", aside="" if millions is None else f"{millions}M"))
        line += [_spell(cell, (row, index) in best) for index, cell in enumerate(cells)]
        groups.setdefault((row.model, row.rank), []).append(line)
        numbers.append(
            [row.model, row.method, row.rank, count]
            + ([millions] if beside else [])
            + [number for cell in cells for number in _numbers(cell, beside)]
            + ["; ".join(f"{t}: {c.status}" for t, c in zip(titles, cells, strict=True) if c.status not in ("", "–"))]
        )
    notes = _notes(plan, results, layout, scores, found)
    columns = ["Model", "Method", "Rank", "Trainable parameters", *titles]
    return View(layout.name, layout.title, columns, list(groups.values()), notes, numbers, text_columns=2)


def _spell(entry: Entry, bold: bool) -> Cell:
    return Cell(entry.text, bold, f"{entry.reported.value:.1f}" if entry.reported else "")


def _numbers(entry: Entry, beside: bool) -> list[float | int | None]:
    mean, sd, n = (entry.summary.mean, entry.summary.sd, entry.summary.n) if entry.summary else (None, None, 0)
    printed = entry.reported.value if entry.reported else None
    difference = None if printed is None or mean is None else mean - printed
    return [mean, sd, n] + ([printed, difference] if beside else [])


def trainable(layout: Layout, row: Row, footprint: pd.DataFrame) -> int | None:
    """Trainable parameters of a row as counted; None for the base and where nothing was counted."""
    if row.method == "base":
        return None
    mine = footprint[footprint.table.isin(layout.tables) & (footprint.model == row.model)]
    mine = mine[(mine.method == row.method) & (mine["rank"] == row.rank)].trainable_parameters.dropna()
    return int(mine.iloc[0]) if len(mine) else None


def _best(found: dict[Row, list[Entry]], columns: int) -> set[tuple[Row, int]]:
    """(row, column) of the highest mean, as printed, among the methods of one model and rank; some may share it, but
    where all do there is no best.
    """
    best = set()
    groups: dict[tuple, list[Row]] = {}
    for row in found:
        if row.method != "base":
            groups.setdefault((row.model, row.rank), []).append(row)
    for rows in groups.values():
        for column in range(columns):
            means = {row: round(found[row][column].summary.mean, 1) for row in rows if found[row][column].summary}
            if len(set(means.values())) > 1:
                best |= {(row, column) for row, mean in means.items() if mean == max(means.values())}
    return best


def _notes(plan: Plan, results: Path, layout: Layout, scores: pd.DataFrame, found: dict[Row, list[Entry]]) -> list[str]:
    seeds = {table: plan.experiment.tables[table].seeds for table in layout.tables}
    counts = sorted({len(each) for each in seeds.values()})
    many = max(counts) > 1
    over = f"mean ± standard deviation over {' or '.join(map(str, counts))} seeds" if many else "one seed, so no spread"
    notes = [
        f"Score in per cent: {over}; the untuned base is scored once. Bold: the highest of the methods with one model"
        " and rank, whether or not a test shows the difference."
    ]
    cells = [entry for entries_ in found.values() for entry in entries_]
    if any(entry.reported for entry in cells):
        notes.append("In parentheses: the number reported by the paper (one run, no seed).")
    notes += list(dict.fromkeys(note for entry in cells if entry.reported for note in anomalies_of(entry.reported)))
    mine = scores[scores.table.isin(layout.tables)]
    scored = {column: mine[(mine.table == column.table) & (mine.task == column.task)] for column in layout.columns}
    sizes = [f"{c.title} {int(frame.n.max()):,}" for c, frame in scored.items() if frame.n.notna().any()]
    if sizes:
        notes.append(f"Items scored: {', '.join(sizes)}.")
    missing = [c.title for c, frame in scored.items() if (frame.status == "not available").all()]
    if missing and layout.averaged:
        notes.append(f"The average is over the tasks that could be had, without {', '.join(missing)}.")
    for table in layout.tables:
        notes += _data_notes(plan, results, table)
    return notes + _failures(plan, results, mine)


def _data_notes(plan: Plan, results: Path, table: str) -> list[str]:
    """What was found of the table's test items in its training set, and which tasks could not be had."""
    record = contamination_of(results, table)
    train = plan.experiment.tables[table].train
    if record is None:
        return [f"Not checked: whether test items of {table} stand in {train}."]
    title = {task: plan.catalog.tasks[task].title for task in plan.tasks(table)}
    told = {title[task]: data for task, data in record.tasks.items() if task in title}
    leaks = [
        f"{name} {len(data.contaminated):,} of {data.available:,}" for name, data in told.items() if data.contaminated
    ]
    fate = "left out of the score" if record.policy == "drop" else "scored with the rest"
    notes = [
        f"Test items whose question is in {train}, {fate}: {', '.join(leaks)}."
        if leaks
        else f"No test item's question is in {train}."
    ]
    return notes + [
        f"Not available: {name} ({data.reason})." for name, data in told.items() if data.status == "not available"
    ]


def _failures(plan: Plan, results: Path, scores: pd.DataFrame) -> list[str]:
    """One note for every run that failed, with its reason, and one that counts the runs never made."""
    notes = []
    for name in scores[scores.status == "failed"].run.unique():
        told = task_scores(plan, results, plan.run(name)).values()
        reasons = dict.fromkeys(score.reason for score in told if score is not None and score.status == "failed")
        notes.append(f"Failed: {name} ({'; '.join(reasons)}).")
    missing = scores[scores.status == "not run"].run.unique()
    if len(missing):
        notes.append(f"Not run: {', '.join(missing)}.")
    return notes


def paper_footprint_view(plan: Plan, results: Path) -> View:
    """The paper's cells at true scale: parameters as counted here beside those reported."""
    lines = read_paper_footprint(results)
    groups: dict[tuple[str, str], list[list[Cell]]] = {}
    header = ["table", "model", "method", "rank", "trainable_parameters", "total_parameters", "adapter_bytes"]
    header += ["reported_millions", "agrees"]
    numbers = [header]
    for line in lines:
        count, reported = line["trainable_parameters"], line["reported_millions"]
        agrees = agreement(int(count), float(reported)) if count and reported else ""
        total, size = line["total_parameters"], line["adapter_bytes"]
        groups.setdefault((line["table"], line["model"]), []).append(
            [
                Cell(line["table"]),
                Cell(_title(plan.catalog.models, line["model"])),
                Cell(_title(plan.catalog.methods, line["method"])),
                Cell(line["rank"] or "–"),
                Cell(f"{int(count):,}" if count else "not available"),
                Cell(f"{100 * int(count) / int(total):.2f}" if count and total else "–"),
                Cell(f"{int(size) / 2**20:,.1f}" if size else "–"),
                Cell(f"{float(reported):.1f}" if reported else "–"),
                Cell(agrees or "–"),
            ]
        )
        numbers.append([line[key] for key in header[:-1]] + [agrees])
    columns = ["Table", "Model", "Method", "Rank", "Trainable parameters", "of all, %", "Adapter, MiB"]
    columns += ["Reported, millions", "Agrees"]
    notes = [
        "Counted by building each model without weights. Agrees: the count rounds to the one reported; half: the"
        " reported one is half of it; other: neither."
    ]
    title = "Trainable parameters of the paper's cells, counted at true scale"
    return View("paper_footprint", title, columns, list(groups.values()), notes, numbers, text_columns=3)


PAPER_FOOTPRINT = [
    "table",
    "model",
    "method",
    "rank",
    "trainable_parameters",
    "total_parameters",
    "adapter_bytes",
    "reported_millions",
]


def read_paper_footprint(results: Path) -> list[dict[str, str]]:
    """Rows of `paper_footprint.csv`, as text. Raises UserError if it's missing or has other columns."""
    path = results / "paper_footprint.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `sbora-bench footprint` for the paper's cells first") from None
    if reader.fieldnames != PAPER_FOOTPRINT:
        raise UserError(
            f"{path}: columns: found {reader.fieldnames}, allowed {PAPER_FOOTPRINT}; delete it and count again"
        )
    return rows


def agreement(count: int, reported_millions: float) -> str:
    """Whether a count rounds to the one printed in millions with one decimal (`yes`), twice that (`half`), or not."""
    slack = 0.05 + 1e-9
    if abs(count / 1e6 - reported_millions) <= slack:
        return "yes"
    return "half" if abs(count / 2e6 - reported_millions) <= slack else "other"


def _title(section: dict, name: str) -> str:
    return section[name].title if name in section else name
