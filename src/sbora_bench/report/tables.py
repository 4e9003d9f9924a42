"""Collected files to the experiment's tables, in the paper's layout: `tables/<name>.{md,csv,tex,html}`.

`sbora-bench tables -e EXPERIMENT`. Rows are model x rank x method; columns are the suite's tasks and their average:
mean ± standard deviation over the seeds, in per cent. Where a cell is the paper's, its number stands beside ours.
"""

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from sbora_bench.analysis.csv_files import by_place, read_footprint, read_scores
from sbora_bench.analysis.entries import Entry, entries, row_titles
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.separation import separation
from sbora_bench.analysis.statistics import Summary
from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Cell, Plan
from sbora_bench.plan.file_names import Layout, draw_groups, layouts
from sbora_bench.report import render
from sbora_bench.report.cells import write_cells
from sbora_bench.report.forgetting_tables import also_view, forgetting_view
from sbora_bench.report.index_seed_tables import draws_view
from sbora_bench.report.learning_rate_tables import rates_view
from sbora_bench.report.render import MARKS, View, write_views
from sbora_bench.report.separation_tables import write_separation
from sbora_bench.results.paper.reported import AVERAGE, anomaly_of
from sbora_bench.results.read import Results


def tables(plan: Plan, results: Path) -> None:
    """Write every file of `outputs.table_files`. Raises UserError where `collect` has not run."""
    folder, read = results / "tables", Results(plan, results)
    for view in views(read):
        write_views(view, folder)
    scores, plan = read_scores(results), picked(read).plan
    write_cells(plan, {layout: entries(plan, layout, scores) for layout in layouts(plan)}, folder)
    write_separation(plan, separation(read), folder)


def views(results: Results) -> list[View]:
    """All tables of the experiment but the separation's, as data; where the rate is picked, at that rate."""
    plan, shown = results.plan, picked(results)
    scores, footprint = read_scores(results.folder), read_footprint(results.folder)
    found = [score_view(shown, layout, scores, footprint) for layout in layouts(plan)]
    varied = [name for name, table in plan.experiment.tables.items() if table.learning_rates]
    found += [rates_view(results, table) for table in varied]
    beside = [name for name, table in plan.experiment.tables.items() if table.also]
    found += [view(results, table) for table in beside for view in (also_view, forgetting_view)]
    found += [draws_view(results)] if draw_groups(plan) else []
    return found + ([paper_footprint_view(plan, results.folder)] if plan.experiment.paper_footprint else [])


BESIDE_NOTES = {
    "clean": "clean: the score without the items whose question is in the training set.",
    "micro": "The score is the mean over subjects; micro: the mean over items.",
    "macro": "The score is the mean over items; macro: the mean over subjects.",
}


def score_view(results: Results, layout: Layout, scores: pd.DataFrame, footprint: pd.DataFrame) -> View:
    """One layout as data."""
    plan = results.plan
    found, counted = entries(plan, layout, scores), by_place(footprint)
    titles = [column.title for column in layout.columns] + ([AVERAGE] if layout.averaged else [])
    best = _best(found, len(titles))
    printed = any(entry.reported for cells in found.values() for entry in cells)
    named = [
        list(dict.fromkeys(name for cells in found.values() for name in cells[i].beside)) for i in range(len(titles))
    ]
    groups: dict[tuple, list[list[render.Text]]] = {}
    header = ["model", "method", "rank", "trainable_parameters"] + (["reported_millions"] if printed else [])
    for title, names in zip(titles, named, strict=True):
        header += [title, f"{title} sd", f"{title} seeds"]
        header += [f"{title} reported", f"{title} difference"] if printed else []
        header += [f"{title} {name}{end}" for name in names for end in ("", " sd")]
    numbers: list[list[Any]] = [[*header, "status"]]
    footnotes: dict[str, str] = {}
    for row, cells in found.items():
        count = trainable(layout, row, counted)
        reported = next((cell.reported for cell in cells if cell.reported), None)
        millions = reported.params_millions if reported else None
        model, method = row_titles(plan, row)
        line = [render.Text(model), render.Text(method), render.Text("–" if row.rank is None else str(row.rank))]
        below: tuple[str, ...] = ()
        if reported is not None and millions is not None:
            below = (f"{millions}M{_mark(footnotes, anomaly_of(reported, 'parameters'))}",)
        line.append(render.Text("–" if count is None else f"{count:,}", below=below))
        line += [_spell(cell, (row, index) in best, footnotes) for index, cell in enumerate(cells)]
        groups.setdefault((row.is_base or row.model, row.rank), []).append(line)
        numbers.append(
            [row.model, row.method, row.rank, count]
            + ([millions] if printed else [])
            + [x for cell, names in zip(cells, named, strict=True) for x in _numbers(cell, printed, names)]
            + ["; ".join(f"{t}: {c.status}" for t, c in zip(titles, cells, strict=True) if c.status not in ("", "–"))]
        )
    notes = _notes(results, layout, scores, found, [f"{mark} {note}" for note, mark in footnotes.items()])
    columns = ["Model", "Method", "Rank", "Trainable parameters", *titles]
    return View(layout.name, layout.title, columns, list(groups.values()), notes, numbers, text_columns=2)


def _mark(footnotes: dict[str, str], note: str) -> str:
    """The mark of a footnote, new if the note is; empty for no note."""
    return footnotes.setdefault(note, MARKS[len(footnotes)]) if note else ""


def _spell(entry: Entry, bold: bool, footnotes: dict[str, str]) -> render.Text:
    below = []
    if entry.reported:
        mark = _mark(footnotes, anomaly_of(entry.reported, entry.reported.metric))
        difference = _difference(entry)
        less = "" if difference is None else f" ({difference:+.1f})".replace("-", "−")
        below.append(f"{entry.reported.value:.1f}{mark}{less}")
    below += [f"{name} {entry.spell(summary) if summary else '–'}" for name, summary in entry.beside.items()]
    return render.Text(entry.text, bold, tuple(below), entry.interval)


def _difference(entry: Entry) -> float | None:
    return entry.summary.mean - entry.reported.value if entry.summary and entry.reported else None


def _numbers(entry: Entry, printed: bool, names: list[str]) -> list[float | int | None]:
    def spread(summary: Summary | None) -> list[float | None]:
        return [summary.mean, summary.sd] if summary else [None, None]

    numbers = [*spread(entry.summary), entry.summary.n if entry.summary else 0]
    if printed:
        numbers += [entry.reported.value if entry.reported else None, _difference(entry)]
    return numbers + [number for name in names for number in spread(entry.beside.get(name))]


def trainable(layout: Layout, row: Cell, footprint: dict[tuple, Any]) -> int | None:
    """Trainable parameters of a row as counted (`by_place`); None for the base and where nothing was counted."""
    if row.is_base:
        return None
    counts = (line.trainable_parameters for line in lines_of(layout, row, footprint))
    return next((count for count in counts if count is not None), None)


def lines_of(layout: Layout, row: Cell, found: dict[tuple, Any]) -> list[Any]:
    """A row's lines in what `by_place` gives, one a table of the layout that has it."""
    places = [(table, row.model, row.method, row.rank) for table in sorted(layout.tables)]
    return [found[place] for place in places if place in found]


def _best(found: dict[Cell, list[Entry]], columns: int) -> set[tuple[Cell, int]]:
    """(row, column) of the highest mean, as printed, among the methods of one model and rank; some may share it, but
    where all do there is no best.
    """
    best = set()
    groups: dict[tuple, list[Cell]] = {}
    for row in found:
        if not row.is_base:
            groups.setdefault((row.model, row.rank), []).append(row)
    for rows in groups.values():
        for column in range(columns):
            scored = ((row, found[row][column].summary) for row in rows)
            means = {row: round(summary.mean, 1) for row, summary in scored if summary}
            if len(set(means.values())) > 1:
                best |= {(row, column) for row, mean in means.items() if mean == max(means.values())}
    return best


def _notes(
    results: Results,
    layout: Layout,
    scores: pd.DataFrame,
    found: dict[Cell, list[Entry]],
    footnotes: list[str],
) -> list[str]:
    plan = results.plan
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
        notes.append(
            "In parentheses: the number of seeds. Below: the number that the paper reports (one run, no seed), and ours"
            " less that."
        )
    names = {name for entry in cells for name in entry.beside}
    notes += [note for name, note in BESIDE_NOTES.items() if name in names]
    notes += footnotes
    mine = scores[scores.table.isin(layout.tables)]
    scored = {column: mine[(mine.table == column.table) & (mine.task == column.task)] for column in layout.columns}
    sizes = [f"{c.title} {int(frame.n.max()):,}" for c, frame in scored.items() if frame.n.notna().any()]
    if sizes:
        notes.append(f"Items scored: {', '.join(sizes)}.")
    missing = [c.title for c, frame in scored.items() if (frame.status == "not available").all()]
    if missing and layout.averaged:
        notes.append(f"The average is over the tasks that could be had, without {', '.join(missing)}.")
    for table in layout.tables:
        notes += _data_notes(results, table)
    return notes + _failures(results, mine)


def _data_notes(results: Results, table: str) -> list[str]:
    """What was found of the table's test items in its training set, and which tasks could not be had."""
    record, plan = results.contamination(table), results.plan
    train = plan.experiment.tables[table].train
    if record is None:
        return [f"Not checked: whether test items of {table} stand in {train}."]
    title = {task: plan.catalog.tasks[task].title for task in plan.scored(table)}
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
    asked = {title[task]: name for task, name in plan.items(table).items()}
    notes += [
        f"{name}: the items are {data.source}, for {asked[name]} could not be had."
        for name, data in told.items()
        if data.status == "ok" and data.source and data.source != asked[name]
    ]
    return notes + [
        f"Not available: {name} ({data.reason})." for name, data in told.items() if data.status == "not available"
    ]


def _failures(results: Results, scores: pd.DataFrame) -> list[str]:
    """One note for every run that failed, with its reason, and one that counts the runs never made."""
    notes = []
    for name in scores[scores.status == "failed"].run.unique():
        told = results.task_scores(results.plan.run(name)).values()
        reasons = dict.fromkeys(score.reason for score in told if score is not None and score.status == "failed")
        notes.append(f"Failed: {name} ({'; '.join(reasons)}).")
    missing = scores[scores.status == "not run"].run.unique()
    if len(missing):
        notes.append(f"Not run: {', '.join(missing)}.")
    return notes


def paper_footprint_view(plan: Plan, results: Path) -> View:
    """The paper's cells at true scale: parameters as counted here beside those reported."""
    lines = read_paper_footprint(results)
    groups: dict[tuple[str, str], list[list[render.Text]]] = {}
    header = ["table", "model", "method", "rank", "trainable_parameters", "total_parameters", "adapter_bytes"]
    header += ["reported_millions", "agrees"]
    numbers = [header]
    for line in lines:
        count, reported = line["trainable_parameters"], line["reported_millions"]
        agrees = agreement(int(count), float(reported)) if count and reported else ""
        total, size = line["total_parameters"], line["adapter_bytes"]
        groups.setdefault((line["table"], line["model"]), []).append(
            [
                render.Text(line["table"]),
                render.Text(_title(plan.catalog.models, line["model"])),
                render.Text(_title(plan.catalog.methods, line["method"])),
                render.Text(line["rank"] or "–"),
                render.Text(f"{int(count):,}" if count else "not available"),
                render.Text(f"{100 * int(count) / int(total):.2f}" if count and total else "–"),
                render.Text(f"{int(size) / 2**20:,.1f}" if size else "–"),
                render.Text(f"{float(reported):.1f}" if reported else "–"),
                render.Text(agrees or "–"),
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
