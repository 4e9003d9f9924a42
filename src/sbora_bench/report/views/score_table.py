"""The tables of scores in the paper's layout: `tables/<name>.{md,csv,tex,html}`.

Rows are model x rank x method; columns are the suite's tasks and their average: mean ± standard deviation over the
seeds, in per cent. Where a cell is the paper's, its number stands beside ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.entries import BY_SIZE, Entry
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.statistics import Summary
from sbora_bench.plan.layouts import Layout
from sbora_bench.plan.metric import Metric
from sbora_bench.plan.runs import Cell
from sbora_bench.plan.titles import row_titles, task_titles
from sbora_bench.report.collected import entries_of, footprint_lines, row_parameters, scores
from sbora_bench.report.render import MARKS, PrintedTable, Text
from sbora_bench.report.texts import whole
from sbora_bench.report.view import AGAIN, RUN, TableView, of_layouts
from sbora_bench.results.aggregate import CUT
from sbora_bench.results.paper.reported import AVERAGE, anomaly_of
from sbora_bench.results.read import Results

if TYPE_CHECKING:
    import pandas as pd

BESIDE_NOTES = {
    "clean": "clean: the score without the items whose question is in the training set.",
    "micro": "The score is the mean over subjects; micro: the mean over items.",
    "macro": "The score is the mean over items; macro: the mean over subjects.",
    BY_SIZE: "The average is the mean over tasks; by size: over items, lm-eval's weight_by_size.",
}


def score_table(results: Results, layout: Layout) -> PrintedTable:
    """One layout as data; where the learning rate is picked, at that rate."""
    results = picked(results)
    plan, by_row, counted = results.plan, entries_of(results, layout), footprint_lines(results)
    titles = [column.title for column in layout.columns] + ([AVERAGE] if layout.averaged else [])
    best = _best(by_row, len(titles))
    printed = any(entry.reported for cells in by_row.values() for entry in cells)
    named = [
        list(dict.fromkeys(name for cells in by_row.values() for name in cells[i].beside)) for i in range(len(titles))
    ]
    groups: dict[tuple, list[list[Text]]] = {}
    header = ["model", "method", "rank", "trainable_parameters"] + (["reported_millions"] if printed else [])
    for title, names in zip(titles, named, strict=True):
        header += [title, f"{title} sd", f"{title} seeds"]
        header += [f"{title} reported", f"{title} difference"] if printed else []
        header += [f"{title} {name}{end}" for name in names for end in ("", " sd")]
    numbers: list[list[Any]] = [[*header, "status"]]
    footnotes: dict[str, str] = {}
    for row, cells in by_row.items():
        count = row_parameters(layout, row, counted)
        reported = next((cell.reported for cell in cells if cell.reported), None)
        millions = reported.params_millions if reported else None
        model, method = row_titles(plan, layout.tables, row)
        line = [Text(model), Text(method), Text("–" if row.rank is None else str(row.rank))]
        below: tuple[str, ...] = ()
        if reported is not None and millions is not None:
            below = (f"{millions}M{_mark(footnotes, anomaly_of(reported, 'parameters'))}",)
        line.append(Text(whole(count), below=below))
        line += [_spell(cell, (row, index) in best, footnotes) for index, cell in enumerate(cells)]
        groups.setdefault((row.is_base or row.model, row.rank), []).append(line)
        numbers.append(
            [row.model, row.method, row.rank, count]
            + ([millions] if printed else [])
            + [x for cell, names in zip(cells, named, strict=True) for x in _numbers(cell, printed, names)]
            + ["; ".join(f"{t}: {c.status}" for t, c in zip(titles, cells, strict=True) if c.status not in ("", "–"))]
        )
    notes = _notes(results, layout, by_row, [f"{mark} {note}" for note, mark in footnotes.items()])
    columns = ["Model", "Method", "Rank", "Trainable parameters", *titles]
    return PrintedTable(layout.name, layout.title, columns, list(groups.values()), notes, numbers, text_columns=2)


def _mark(footnotes: dict[str, str], note: str) -> str:
    """The mark of a footnote, new if the note is; empty for no note."""
    return footnotes.setdefault(note, MARKS[len(footnotes)]) if note else ""


def _spell(entry: Entry, bold: bool, footnotes: dict[str, str]) -> Text:
    below = []
    if entry.reported:
        mark = _mark(footnotes, anomaly_of(entry.reported, entry.reported.metric))
        difference = _difference(entry)
        less = "" if difference is None else f" ({difference:+.1f})".replace("-", "−")
        below.append(f"{entry.reported.value:.1f}{mark}{less}")
    below += [f"{name} {entry.spell(summary) if summary else '–'}" for name, summary in entry.beside.items()]
    return Text(entry.text, bold, tuple(below), entry.interval)


def _difference(entry: Entry) -> float | None:
    return entry.summary.mean - entry.reported.value if entry.summary and entry.reported else None


def _numbers(entry: Entry, printed: bool, names: list[str]) -> list[float | int | None]:
    def spread(summary: Summary | None) -> list[float | None]:
        return [summary.mean, summary.sd] if summary else [None, None]

    numbers = [*spread(entry.summary), entry.summary.n if entry.summary else 0]
    if printed:
        numbers += [entry.reported.value if entry.reported else None, _difference(entry)]
    return numbers + [number for name in names for number in spread(entry.beside.get(name))]


def _best(entries: dict[Cell, list[Entry]], columns: int) -> set[tuple[Cell, int]]:
    """(row, column) of the best mean, as printed, among the methods of one model and rank; some may share it, but
    where all do there is no best.
    """
    best = set()
    groups: dict[tuple, list[Cell]] = {}
    for row in entries:
        if not row.is_base:
            groups.setdefault((row.model, row.rank), []).append(row)
    for rows in groups.values():
        for column in range(columns):
            means = {row: mean for row in rows if (mean := entries[row][column].rounded) is not None}
            if len(set(means.values())) > 1:
                top = max(means.values(), key=lambda mean: entries[rows[0]][column].metric.sign * mean)
                best |= {(row, column) for row, mean in means.items() if mean == top}
    return best


def _unit(metric: Metric) -> str:
    unit = "per cent" if metric.is_share else metric.unit or "its own unit"
    return unit + ("" if metric.higher_is_better else ", less is better")


def _notes(results: Results, layout: Layout, entries: dict[Cell, list[Entry]], footnotes: list[str]) -> list[str]:
    plan, frame = results.plan, scores(results)
    seeds = {table: len(plan.experiment.tables[table].seeds) for table in layout.tables}
    tuned = [cell for table in layout.tables for cell in plan.tuned_cells(table)]
    counts = sorted({plan.numbers.get(cell, seeds[cell.table]) for cell in tuned})
    many = max(counts) > 1
    over = f"mean ± standard deviation over {' or '.join(map(str, counts))} seeds" if many else "one seed, so no spread"
    metrics = [column.metric for column in layout.columns]
    alike = all(metrics[0].averages_with(metric) for metric in metrics)
    best = "highest" if all(metric.higher_is_better for metric in metrics) else "best"
    shown = f"Score in {_unit(metrics[0])}" if alike else "Score"
    notes = [
        f"{shown}: {over}; the untuned base is scored once. Bold: the {best} of the methods with one model and rank,"
        " whether or not a test shows the difference."
    ]
    notes += [f"{column.title}: in {_unit(column.metric)}." for column in layout.columns if not alike]
    cells = [entry for row in entries.values() for entry in row]
    if any(entry.reported for entry in cells):
        notes.append(
            "In parentheses: the number of seeds. Below: the number that the paper reports (one run, no seed), and ours"
            " less that."
        )
    names = {name for entry in cells for name in entry.beside}
    notes += [note for name, note in BESIDE_NOTES.items() if name in names]
    notes += footnotes
    frame = frame[frame.table.isin(layout.tables)]
    scored = {column: frame[(frame.table == column.table) & (frame.task == column.task)] for column in layout.columns}
    notes += items_scored({column.title: lines for column, lines in scored.items() if lines.n.notna().any()})
    missing = [column.title for column, lines in scored.items() if (lines.status == "not available").all()]
    if missing and layout.averaged:
        notes.append(f"The average is over the tasks that could be had, without {', '.join(missing)}.")
    for table in layout.tables:
        notes += _data_notes(results, table)
    return notes + _failures(results, frame)


def items_scored(scored: dict[str, pd.DataFrame]) -> list[str]:
    """How many items a run has, by column; and the untuned base, where that has all seeds' own."""

    def spelt(base: bool) -> str:
        parts = {title: lines[(lines.method == "base") == base].n.dropna() for title, lines in scored.items()}
        return ", ".join(f"{title} {int(items.max()):,}" for title, items in parts.items() if len(items))

    tuned, base = spelt(base=False), spelt(base=True)
    if tuned and base and tuned != base:
        return [f"Items scored in each run: {tuned}, of every seed its own. The untuned base, on all of them: {base}."]
    return [f"Items scored: {tuned or base}."] if tuned or base else []


def _data_notes(results: Results, table: str) -> list[str]:
    """What was found of the table's test items in its training set, and which tasks could not be had."""
    record, plan = results.contamination(table), results.plan
    train = plan.experiment.tables[table].train
    if record is None:
        return [f"Not checked: whether test items of {table} stand in {train}."]
    title = task_titles(plan, table)
    data_of = {title[task]: data for task, data in record.tasks.items() if task in title}
    leaks = [
        f"{name} {len(data.contaminated):,} of {data.available:,}"
        for name, data in data_of.items()
        if data.contaminated
    ]
    fate = "left out of the score" if record.policy == "drop" else "scored with the rest"
    notes = [
        f"Test items whose question is in {train}, {fate}: {', '.join(leaks)}."
        if leaks
        else f"No test item's question is in {train}."
    ]
    notes += [*_long_rows(results, table), *_long_prompts(results, table)]
    requested = {title[task]: name for task, name in plan.items(table).items()}
    notes += [
        f"{name}: the items are {data.source}, for {requested[name]} could not be had."
        for name, data in data_of.items()
        if data.status == "ok" and data.source and data.source != requested[name]
    ]
    return notes + [
        f"Not available: {name} ({data.reason})." for name, data in data_of.items() if data.status == "not available"
    ]


def _long_rows(results: Results, table: str) -> list[str]:
    """How many training rows were cut or left out for their length; by model, for each has its own tokenizer."""
    plan, counts = results.plan, {}
    for run in plan.runs_of(table):
        training = results.training(run)
        if training is not None and training.happened.too_long is not None:
            counts[run.model] = training.happened.too_long
    limit = f"more than {plan.protocol(table).max_length:,} tokens"
    return [
        f"Rows of {plan.experiment.tables[table].train} with {limit} to {plan.catalog.models[model].title}:"
        f" {count.rows:,}, of which {count.cut:,} were cut and {count.dropped:,} left out of training."
        for model, count in counts.items()
    ]


def _long_prompts(results: Results, table: str) -> list[str]:
    """How many items were asked with a part of their prompt alone; the most of a task's on a model."""
    plan, counts = results.plan, dict[tuple[str, str], tuple[float, int]]()
    for run in plan.runs_of(table):
        for task, score in results.task_scores(run).items():
            if score is not None and (cut := score.extra.get(CUT)):
                counts[run.model, task] = max(counts.get((run.model, task), (0.0, 0)), (cut, score.n))
    title = task_titles(plan, table)
    shown = [
        f"{title.get(task, task)} {cut:.0f} of {n:,} ({plan.catalog.models[model].title})"
        for (model, task), (cut, n) in counts.items()
    ]
    return [f"Prompts that were cut, for more tokens don't go through the model: {', '.join(shown)}."] if shown else []


def _failures(results: Results, scores: pd.DataFrame) -> list[str]:
    """One note for every run that failed, with its reason, and one that counts the runs never made."""
    notes = []
    for name in scores[scores.status == "failed"].run.unique():
        tasks = results.task_scores(results.plan.run(name)).values()
        reasons = dict.fromkeys(score.reason for score in tasks if score is not None and score.status == "failed")
        notes.append(f"Failed: {name} ({'; '.join(reasons)}).")
    missing = scores[scores.status == "not run"].run.unique()
    if len(missing):
        notes.append(f"Not run: {', '.join(missing)}.")
    return notes


SCORES = TableView(
    key="score",
    subjects=of_layouts(),
    make=score_table,
    caption=(
        "Score, mean ± standard deviation over the seeds; in brackets the 95 % interval."
        " tables/cells.csv names the runs of every cell."
    ),
    hints=(
        AGAIN,
        ("From a cell to its runs", "grep -E '^(table|TABLE,MODEL,METHOD,RANK,)' {results}/tables/cells.csv"),
        RUN,
        ("From a score to what the model said", "less {results}/runs/RUN/samples/TASK.jsonl"),
    ),
)
