"""Collected scores to the cells of a printed table: over the seeds, as shown, with what the paper reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sbora_bench.analysis.csv_files import lines
from sbora_bench.analysis.statistics import Summary, seed_summary, share_summary
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import Column, Layout
from sbora_bench.plan.metric import SHARE, Metric
from sbora_bench.plan.runs import Cell
from sbora_bench.results.paper.reported import AVERAGE, Reported, plain, reported_cell

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Entry:
    """A cell before it is spelt: over the seeds, as shown; of `planned` seeds; `status` where none has a value.

    `beside` has what stands beside the score by name: that of the clean items, where some are not; micro or macro.
    """

    summary: Summary | None
    planned: int
    status: str
    reported: Reported | None = None
    beside: dict[str, Summary | None] = field(default_factory=dict)
    metric: Metric = SHARE

    @property
    def text(self) -> str:
        """As it is printed: mean ± standard deviation, or why there is none."""
        return self.spell(self.summary) if self.summary else self.status

    @property
    def interval(self) -> str:
        """The 95 % interval over the seeds, of a share by its log-odds; empty for one seed."""
        if self.summary is None or self.summary.low is None:
            return ""
        digits = self.metric.digits
        return f"[{self.summary.low:.{digits}f}, {self.summary.high:.{digits}f}]".replace("-", "−")

    @property
    def rounded(self) -> float | None:
        """The mean as it is shown."""
        return None if self.summary is None else round(self.summary.mean, self.metric.digits)

    def spell(self, summary: Summary) -> str:
        """Mean and standard deviation; the number of seeds too where some are lost or a reported number stands by."""
        digits = self.metric.digits
        spread = "" if summary.sd is None else f" ± {summary.sd:.{digits}f}"
        lost = summary.n < self.planned
        seeds = f" ({summary.n} of {self.planned} seeds)" if lost else f" ({summary.n})" if self.reported else ""
        return f"{summary.mean:.{digits}f}{spread}{seeds}"


ABSENT = Entry(None, 0, "–")  # the cell is not part of this table
BESIDE = {"clean": "clean_value", "micro": "micro", "macro": "macro"}  # name -> column of scores.csv

BY_SIZE = "by size"


def entries(plan: Plan, layout: Layout, scores: pd.DataFrame) -> dict[Cell, list[Entry]]:
    """Row -> its entries in the layout's columns, the average last where the layout has one."""
    by_column: dict[tuple, list[Any]] = {}
    for line in lines(scores[scores.table.isin(layout.tables)]):
        by_column.setdefault((line.table, line.task, line.model, line.method, line.rank), []).append(line)
    values = {
        row: [by_column.get((c.table, c.task, row.model, row.method, row.rank), []) for c in layout.columns]
        for row in layout.rows
    }
    columns = [[line for cells in values.values() for line in cells[index]] for index in range(len(layout.columns))]
    available = [any(line.status != "not available" for line in column) for column in columns]
    named = [_named(column) for column in columns]
    leaks = any("clean" in names for names in named)
    of_lm_eval = all(plan.catalog.tasks[column.task].lm_eval for column in layout.columns)
    by_row: dict[Cell, list[Entry]] = {}
    for row, scored in values.items():
        printed = {column: _reported(plan, layout, row, column) for column in (*layout.columns, None)}
        cells = [
            _entry(of_row, printed[column], names, column.metric)
            for of_row, column, names in zip(scored, layout.columns, named, strict=True)
        ]
        if layout.averaged:
            kept = [line for of_row, in_column in zip(scored, available, strict=True) if in_column for line in of_row]
            whole = printed[None] if all(available) else None  # the paper's average is over all of its tasks
            cells.append(_average(kept, whole, leaks, layout.columns[0].metric, of_lm_eval))
        by_row[row] = cells
    return by_row


def _named(column: list[Any]) -> list[str]:
    """What stands beside the scores of a column: `clean` where not all items are, and the average that isn't scored."""
    done = [line for line in column if line.status == "ok"]
    names = ["clean"] if any(line.clean_n is not None and line.clean_n < line.n for line in done) else []
    if any(line.micro is not None for line in done):
        names.append("micro" if all(line.mean_over == "subjects" for line in done) else "macro")
    return names


def _summary(values: list[float | None], items: list[float | None], metric: Metric) -> Summary | None:
    """Over the seeds, as shown. `items`: how many items each value is of."""
    scored = [(value, count) for value, count in zip(values, items, strict=True) if value is not None]
    if not scored:
        return None
    numbers = [value for value, _ in scored]
    if not metric.is_share:
        return seed_summary([metric.scale * value for value in numbers])
    shares = share_summary(numbers, [count or 1 for _, count in scored])
    ends = (None if end is None else metric.scale * end for end in (shares.sd, shares.low, shares.high))
    return Summary(shares.n, metric.scale * shares.mean, *ends)


def _entry(scored: list[Any], reported: Reported | None, names: list[str], metric: Metric) -> Entry:
    if not scored:
        return ABSENT
    done = [line for line in scored if line.status == "ok"]
    summary = _summary([line.value for line in done], [line.n for line in done], metric)
    beside = {
        name: _summary([getattr(line, BESIDE[name]) for line in done], [_items(line, name) for line in done], metric)
        for name in names
    }
    status = "" if summary else scored[0].status
    return Entry(summary, len(scored), status, reported, beside if summary else {}, metric)


def _items(line: Any, name: str) -> int | None:
    """How many items what stands beside a score is of."""
    return line.clean_n if name == "clean" else line.n


def _average(
    scored: list[Any], reported: Reported | None, leaks: bool, metric: Metric, of_lm_eval: bool = False
) -> Entry:
    """Mean over the tasks, seed by seed; a seed that lacks a task has none. Of lm-eval's own tasks also as it takes the
    mean of a group `weight_by_size`: over their items.
    """
    if not scored:
        return ABSENT
    tasks = len({line.task for line in scored})
    by_seed: dict[int, list[Any]] = {}
    sizes: dict[str, int] = {}
    for line in scored:
        sizes[line.task] = max(sizes.get(line.task, 0), line.n or 0)
    items = sum(sizes.values())
    for line in scored:
        by_seed.setdefault(-1 if line.seed is None else line.seed, []).append(line)

    def over_tasks(value: str, weights: dict[str, int]) -> Summary | None:
        seeds = [[(getattr(line, value), weights[line.task]) for line in by_seed[seed]] for seed in sorted(by_seed)]
        whole = [values for values in seeds if len(values) == tasks and None not in [number for number, _ in values]]
        means = [sum(number * weight for number, weight in values) / sum(weights.values()) for values in whole]
        return _summary(means, [items] * len(whole), metric)

    alike = dict.fromkeys(sizes, 1)
    summary = over_tasks("value", alike)
    beside = {"clean": over_tasks("clean_value", alike)} if leaks and summary else {}
    if of_lm_eval and summary and len(set(sizes.values())) > 1:
        beside[BY_SIZE] = over_tasks("value", sizes)
    return Entry(summary, len(by_seed), "" if summary else "–", reported, beside, metric)


def _reported(plan: Plan, layout: Layout, row: Cell, column: Column | None) -> Reported | None:
    """What the paper prints of this row in this column (None: the average), where the items scored are the paper's."""
    table = plan.experiment.tables[column.table if column else layout.tables[0]]
    if row.is_base or (table.items or plan.experiment.items) != "paper":
        return None
    if column is not None and not column.metric.right_or_wrong:
        return None  # the paper's scores are shares of right answers
    names = {plain(plan.catalog.tasks[column.task].title), plain(table.train)} if column else {plain(AVERAGE)}
    printed = reported_cell(layout.suite, *_catalog_titles(plan, row), row.rank)
    return next((number for number in printed if plain(number.metric) in names), None)


def _catalog_titles(plan: Plan, row: Cell) -> tuple[str, str]:
    """Of a row's model and method, as the paper's numbers name them: two entries may have one."""
    method = "Base, untuned" if row.is_base else plan.catalog.methods[row.method].title
    return plan.catalog.models[row.model].title, method
