"""The comparisons that a table plans: which two cells, on what metric, and which difference doesn't matter.

They are declared before anything runs, so that only these few tests share the table's 5 % of false answers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.data_entries import TaskEntry
from sbora_bench.plan.entry import Strict
from sbora_bench.plan.metric import GOLD_LOSS, LOSS, Metric
from sbora_bench.plan.runs import Cell, CellPair
from sbora_bench.plan.stages import each_once

METHOD_AND_RANK = r"^[a-z0-9][a-z0-9.-]*-r[1-9][0-9]*$"  # a method with its rank, as names of runs have it
PARAMETERS_WITHIN = 0.15  # LLaMA3-8B's SBoRA at twice the rank has 0.89 or 1.11 times LoRA's


class Comparison(Strict):
    """Is `a` better than `b`? Asked of every model that has both, or of `models` alone."""

    a: str = Field(pattern=METHOD_AND_RANK, description="a method and its rank: sbora-fa-r16")
    b: str = Field(pattern=METHOD_AND_RANK, description="the same of what it is compared with: lora-r16")
    equal: Literal["rank", "parameters", "neither"] = Field(
        description="what both have alike: the rank, or the trainable parameters within 15 %"
    )
    metric: str = Field(default="", description="gold_loss, or a metric of the tasks; none: the tasks' own score")
    margin: float = Field(
        gt=0, description="the difference that doesn't matter, in the metric's unit: 0.02 is 2 points"
    )
    models: Annotated[list[str], each_once("model")] = Field(
        default_factory=list, description="none: all that have both"
    )


@dataclass(frozen=True)
class Planned(CellPair):
    """A planned comparison of two cells of one model. `metric_name`: empty for the tasks' own score."""

    equal: Literal["rank", "parameters", "neither"]
    metric_name: str
    metric: Metric
    margin: float

    @property
    def name(self) -> str:
        """`MODEL: A - B`, as messages and files have it."""
        return f"{self.model}: {ranked(self.a)} - {ranked(self.b)}"


def ranked(cell: Cell) -> str:
    """A cell's method with its rank: `lora-r16`."""
    return f"{cell.method}-r{cell.rank}"


def planned(
    comparisons: Sequence[Comparison], cells: Sequence[Cell], metric_of: Callable[[str, str], Metric], where: str
) -> list[Planned]:
    """The comparisons of a table, model by model, in the order of the file.

    `cells`: the table's tuned ones; `metric_of`: a metric by its name and the place for messages; `where`: begins them.
    Raises UserError for cells that the table hasn't, a pair that stands twice, a margin that no difference can leave,
    and methods that aren't at one rank where the file says so. Whether parameters are equal is for `check_methods.py`,
    which can count.
    """
    resolved: list[Planned] = []
    for index, comparison in enumerate(comparisons):
        place = f"{where}.comparisons.{index}"
        if comparison.a == comparison.b:
            raise UserError(f"{place}: a and b are both {comparison.a}; compare two cells")
        pairs = list(_pairs(comparison, cells, place))
        if comparison.equal == "rank" and any(a.rank != b.rank for a, b in pairs):
            raise UserError(
                f"{place}.equal: found rank, and {comparison.a} and {comparison.b} have two; say equal: parameters"
                " where those are alike, else equal: neither"
            )
        metric = metric_of(comparison.metric, f"{place}.metric")
        if comparison.margin >= metric.width:
            raise UserError(
                f"{place}.margin: found {comparison.margin:g}, allowed below {metric.width:g}, how far the metric goes:"
                " every difference would be within; two points of a share are 0.02"
            )
        for a, b in pairs:
            if any({a, b} == set(other.cells) and comparison.metric == other.metric_name for other in resolved):
                raise UserError(f"{place}: {a.model}: {ranked(a)} and {ranked(b)} are compared twice; remove one")
            resolved.append(Planned(a, b, comparison.equal, comparison.metric, metric, comparison.margin))
    return resolved


def common_metric(tasks: dict[str, TaskEntry], name: str, where: str, answer_by: str = "generation") -> Metric:
    """The metric that all these tasks are compared on: by its name, or without one that of their scores.

    Raises UserError beginning with `where` for one that they don't all have, or that doesn't average.
    """
    if name == GOLD_LOSS:
        return LOSS
    if name:
        named = [entry.metrics for entry in tasks.values()]
        common = set.intersection(*(set(metrics) for metrics in named)) | {GOLD_LOSS}
        if name not in common:
            raise UserError(f"{where}: {one_of(name, common, 'metric of all tasks of this table')}")
        metrics = [metrics[name] for metrics in named]
    else:
        metrics = [entry.metric_by(answer_by) for entry in tasks.values()]
    for task, metric in zip(tasks, metrics, strict=True):
        if not metrics[0].averages_with(metric):
            raise UserError(
                f"{where}: {task} is scored in another unit, range or direction than {next(iter(tasks))}, so that there"
                f" is no average to compare; say metric: {GOLD_LOSS}"
            )
    return metrics[0]


def _pairs(comparison: Comparison, cells: Sequence[Cell], where: str) -> Iterator[tuple[Cell, Cell]]:
    """Model by model the two cells. Raises UserError where the table has them not."""
    by_name: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        by_name.setdefault(ranked(cell), {})[cell.model] = cell
    for key in ("a", "b"):
        name = getattr(comparison, key)
        if name not in by_name:
            raise UserError(f"{where}.{key}: {one_of(name, by_name, 'cell of this table')}")
    a, b = by_name[comparison.a], by_name[comparison.b]
    both = [model for model in a if model in b]
    for model in comparison.models:
        if model not in both:
            raise UserError(f"{where}.models: {one_of(model, both, 'model with both cells')}")
    if not both:
        raise UserError(f"{where}: no model of this table has both {comparison.a} and {comparison.b}; add the cells")
    yield from ((a[model], b[model]) for model in comparison.models or both)


def equal_parameters(a: int, b: int) -> bool:
    """Whether two numbers of trainable parameters are equal: the larger at most 15 % above the smaller."""
    return max(a / b, b / a) <= 1 + PARAMETERS_WITHIN
