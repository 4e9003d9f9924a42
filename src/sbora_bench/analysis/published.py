"""What others reported of a cell beside what an experiment's runs of it scored, with a band that ours should fall in.

The bands stand in `results/paper/published_runs.yaml`, or in a file of that form. Nothing is tested: a band is wide
where trainings of one setting are known to differ, and says why.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from sbora_bench.analysis.learning_rates import picked
from sbora_bench.errors import UserError
from sbora_bench.plan.entry import Strict
from sbora_bench.plan.explain import explain
from sbora_bench.results.paper.reported import HERE
from sbora_bench.results.read import Results
from sbora_bench.strict_yaml import read_yaml

BANDS = HERE / "published_runs.yaml"
AVERAGE = "average"  # in place of a task: the mean over the suite's
Percent = Annotated[float, Field(ge=0, le=100)]


class Place(StrEnum):
    """Where our result lies beside a band, or why none does."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    NOT_RUN = "not run"
    ELSEWHERE = "not in this experiment"
    NOT_COMPARED = "not compared"


class PublishedRun(Strict):
    """A result of others: `values` in per cent, the band from their lowest to their highest, `wider` by points."""

    source: str = Field(min_length=1)
    model: str
    method: str
    rank: int = Field(ge=1, strict=True)
    suite: str
    task: str
    loss_on: Literal["all", "answer"]
    values: list[Percent] = Field(min_length=1)
    wider: float = Field(ge=0)
    because: str = Field(min_length=1)

    @property
    def band(self) -> tuple[float, float]:
        """(lowest, highest) in per cent."""
        return max(0.0, min(self.values) - self.wider), min(100.0, max(self.values) + self.wider)


class Bands(Strict):
    runs: list[PublishedRun] = Field(min_length=1)


@dataclass(frozen=True)
class OwnResult:
    """What one table says of a published run: `verdict`, why it is not compared, and where it was run the mean over
    `seeds`, in per cent.
    """

    run: PublishedRun
    table: str
    verdict: Place
    value: float | None = None
    seeds: int = 0
    reason: str = ""

    @property
    def verdict_text(self) -> str:
        """`inside`, `not compared: loss on all here, on answer there`."""
        return f"{self.verdict}: {self.reason}" if self.reason else self.verdict.value


def read_bands(path: Path = BANDS) -> list[PublishedRun]:
    """The published runs of a file. Raises UserError naming file, key, what stands there and what is allowed."""
    try:
        return Bands.model_validate(read_yaml(path)).runs
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, Bands)}") from None


def beside_published(results: Results, runs: list[PublishedRun]) -> list[OwnResult]:
    """One a published run and table that has its cell; one that says so where no table has it."""
    shown = picked(results)
    return [ours for run in runs for ours in (_of_tables(shown, run) or [OwnResult(run, "", Place.ELSEWHERE)])]


def _of_tables(results: Results, run: PublishedRun) -> list[OwnResult]:
    plan = results.plan
    tables = []
    for name, entry in plan.experiment.tables.items():
        named = (cell for cell in plan.tuned_cells(name) if cell.model == run.model and cell.method == run.method)
        if entry.suite == run.suite and any(cell.rank == run.rank for cell in named):
            tables.append(_of_table(results, name, run))
    return tables


def _of_table(results: Results, table: str, run: PublishedRun) -> OwnResult:
    plan = results.plan
    if (loss_on := plan.protocol(table).loss_on) != run.loss_on:
        return OwnResult(run, table, Place.NOT_COMPARED, reason=f"loss on {loss_on} here, on {run.loss_on} there")
    tasks = plan.tasks(table) if run.task == AVERAGE else [run.task]
    if run.task not in (AVERAGE, *plan.tasks(table)):
        return OwnResult(run, table, Place.NOT_COMPARED, reason=f"{run.task} is not scored")
    values = []
    for made in plan.runs_of(table):
        if (made.model, made.method, made.rank) == (run.model, run.method, run.rank):
            scores = results.done_scores(made)
            if scores.keys() >= set(tasks):
                values.append(100 * float(np.mean([scores[task].value for task in tasks])))
    if not values:
        return OwnResult(run, table, Place.NOT_RUN)
    mean, (low, high) = float(np.mean(values)), run.band
    return OwnResult(run, table, Place.INSIDE if low <= mean <= high else Place.OUTSIDE, mean, len(values))


def as_text(rows: list[OwnResult]) -> str:
    """A line a row: who, which cell, what they report, the band and its reason, ours; one line where the experiment has
    none of the cells.
    """
    if all(row.verdict is Place.ELSEWHERE for row in rows):
        models = ", ".join(dict.fromkeys(row.run.model for row in rows))
        return (
            f"none of the {len(rows)} published results is of a cell of this experiment; they are of {models}"
            " (docs/validation.md says which experiment repeats each)"
        )
    lines = []
    for row in rows:
        run, (low, high) = row.run, row.run.band
        cell = f"{run.model} {run.method} r {run.rank}, {run.suite}/{run.task}"
        reported = ", ".join(f"{value:.1f}" for value in run.values)
        scored = "" if row.value is None else f", ours {row.value:.1f} ({row.seeds} seed{'s' * (row.seeds > 1)})"
        table = f" [{row.table}]" if row.table else ""
        lines.append(
            f"{row.verdict_text}{table}: {cell}: reported {reported}; band {low:.1f} to {high:.1f}{scored};"
            f" {run.source}: {run.because}"
        )
    counts = {
        verdict: sum(row.verdict == verdict for row in rows) for verdict in (Place.INSIDE, Place.OUTSIDE, Place.NOT_RUN)
    }
    others = len(rows) - sum(counts.values())
    lines.append(", ".join(f"{number} {verdict}" for verdict, number in counts.items()) + f", {others} not compared")
    return "\n".join(lines)
