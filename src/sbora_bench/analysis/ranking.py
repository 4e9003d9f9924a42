"""The cells of a table ranked: with an interval of each rank, and letters that cells share which can't be told apart.

Every two cells are tested over seeds and items, Holm over all pairs of a table and model. A cell's rank lies between
one more than the number of cells shown to be better and as many as are not shown to be worse (Mogstad et al., Review of
Economic Studies 2024: simultaneously at the tests' level). Letters: Piepho, J. Comput. Graph. Stat. 2004.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_lowercase

import numpy as np

from sbora_bench.analysis.collect import parameter_counts
from sbora_bench.analysis.estimate import Estimate
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.paired_arrays import CellItems
from sbora_bench.analysis.pairs import items_by_cell, pair_estimates
from sbora_bench.analysis.statistics import LEVEL, Summary, holm, seed_summary, share_summary
from sbora_bench.plan.metric import Metric
from sbora_bench.plan.runs import Cell
from sbora_bench.results.read import Results

MANY_GROUPS = 100  # of which hardly an alphabet's worth will be left


@dataclass(frozen=True)
class Ranked:
    """A cell on the average of its table's tasks, over its seeds; `first`, `last`: the interval of its rank; `letters`:
    empty where the ranking has none.
    """

    cell: Cell
    metric: Metric
    score: Summary
    trainable_parameters: int | None
    first: int
    last: int
    letters: str


@dataclass(frozen=True)
class Ranking:
    """The cells of a table and model, best first; `better`: (a, b) where a is shown to be better than b."""

    cells: list[Ranked]
    better: frozenset[tuple[Cell, Cell]]


def rankings(results: Results, table: str) -> list[Ranking]:
    """One a model whose cells have scores; none where the tasks' scores don't average."""
    return results.once(("ranking", table), lambda: _rankings(picked(results), table))


def _rankings(results: Results, table: str) -> list[Ranking]:
    plan = results.plan
    metric = plan.common_metric(table)
    if metric is None:
        return []
    made = []
    for model in dict.fromkeys(run.model for run in plan.runs_of(table)):
        tasks = [_items(results, table, model, task) for task in plan.tasks(table)]
        tasks = [cells for cells in tasks if any(not cell.is_base for cell in cells)]
        if tasks:
            made.append(ranking(tasks, metric, parameter_counts(results)))
    return made


def _items(results: Results, table: str, model: str, task: str) -> CellItems:
    runs = [run for run in results.plan.runs_of(table) if run.model == model and not run.is_base]
    return items_by_cell(results, [run for run in runs if task in results.done_scores(run)], task)


def ranking(tasks: list[CellItems], metric: Metric, counts: dict[Cell, int]) -> Ranking:
    """Of the cells that have every task, over the seeds in which they have them all."""
    cells = {cell: score for cell in tasks[0] if (score := _score(tasks, cell, metric)) is not None}
    order = sorted(cells, key=lambda cell: -metric.sign * cells[cell].mean)
    better = shown_better(pair_estimates(tasks, metric.right_or_wrong), metric)
    letters = compact_letters(order, better)
    ranked = [
        Ranked(
            cell,
            metric,
            cells[cell],
            counts.get(cell),
            1 + sum((other, cell) in better for other in order),
            len(order) - sum((cell, other) in better for other in order),
            letters[cell],
        )
        for cell in order
    ]
    return Ranking(ranked, better)


def _score(tasks: list[CellItems], cell: Cell, metric: Metric) -> Summary | None:
    if any(cell not in items for items in tasks):
        return None
    seeds = [seed for seed in tasks[0][cell] if all(seed in items[cell] for items in tasks)]
    if not seeds:
        return None
    means = [float(np.mean([np.mean(list(items[cell][seed].values())) for items in tasks])) for seed in seeds]
    sizes = [sum(len(items[cell][seed]) for items in tasks) for seed in seeds]
    return share_summary(means, sizes) if metric.is_share else seed_summary(means)


def shown_better(differences: Mapping[tuple[Cell, Cell], Estimate], metric: Metric) -> frozenset[tuple[Cell, Cell]]:
    """Which cell is shown to be better than which, after Holm over all these pairs; one seed shows nothing."""
    adjusted = holm([1.0 if over.p_both is None else over.p_both for over in differences.values()])
    shown = [(pair, over) for (pair, over), p in zip(differences.items(), adjusted, strict=True) if p < LEVEL]
    return frozenset((a, b) if metric.sign * over.mean > 0 else (b, a) for (a, b), over in shown)


def compact_letters(order: list[Cell], better: frozenset[tuple[Cell, Cell]]) -> dict[Cell, str]:
    """Letters, a the best's; two cells share one exactly where neither is shown to be better.

    Empty for all where the alphabet doesn't do: of many cells the groups can be thousands, which say nothing.
    """
    place = {cell: number for number, cell in enumerate(order)}
    groups: list[set[Cell]] = [set(order)]
    for one, other in sorted(better, key=lambda pair: (place[pair[0]], place[pair[1]])):
        for group in [group for group in groups if {one, other} <= group]:
            groups.remove(group)
            groups += [group - {one}, group - {other}]
        groups = [group for group in groups if not any(group < larger for larger in groups)]
        groups = [group for place, group in enumerate(groups) if group not in groups[:place]]
        if len(groups) > MANY_GROUPS:
            break
    if len(groups) > len(ascii_lowercase):
        return dict.fromkeys(order, "")
    groups.sort(key=lambda group: sorted(place[cell] for cell in group))
    return {
        cell: "".join(a for a, group in zip(ascii_lowercase, groups, strict=False) if cell in group) for cell in order
    }
