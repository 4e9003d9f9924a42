"""A look at the seeds so far: the verdict on each planned comparison, and which cells need the next look's seeds.

    sbora-bench look -e EXPERIMENT --table TABLE --look 1

The same records give the same verdicts, however often the run was stopped on the way.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbora_bench.analysis.estimate import Differences, Estimate, estimate
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.analysis.sequential import Decision, decide
from sbora_bench.errors import UserError
from sbora_bench.plan.comparison import Planned, ranked
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.results.aggregate import value_of
from sbora_bench.results.folders import look_file
from sbora_bench.results.read import Results
from sbora_bench.results.records import write_record
from sbora_bench.results.stages import Compared, LookRecord, looks_hash, looks_made, so_far

ALPHA = 0.05  # two-sided, of all the planned comparisons of a table together


def look(plan: Plan, table: str, number: int, results: Path) -> None:
    """Write `looks/<table>-<number>.json`, whole or not at all.

    Raises UserError for a table without looks, a look before its time, and a run whose scores are not there.
    """
    planned = plan.experiment.tables[table].looks
    if not 1 <= number <= len(planned):
        allowed = f"1 to {len(planned)}" if planned else "none: its seeds are a list"
        raise UserError(f"{plan.path}: tables.{table}.seeds: found look {number}, allowed {allowed}")
    if len(looks_made(plan, results, table)) < number - 1:
        before = plan.command("look", "--table", table, "--look", str(number - 1))
        raise UserError(f"{look_file(results, table, number - 1)}: no such look of this plan; make it with: {before}")
    write_record(
        look_file(results, table, number), looked(Results(so_far(plan, results, number - 1), results), table, number)
    )


def looked(results: Results, table: str, number: int) -> LookRecord:
    """The record of a look. Raises UserError where a run that it needs left no scores."""
    plan = results.plan
    looks = plan.experiment.tables[table].looks
    comparisons = plan.comparisons(table)
    compared = [compared_at(results, one, number) for one in comparisons]
    open_ones = [one for one, row in zip(comparisons, compared, strict=True) if row.verdict == "undecided"]
    more = dict.fromkeys(cell.name for one in open_ones for cell in one.cells) if number < len(looks) else {}
    return LookRecord(
        experiment=plan.name,
        table=table,
        look=number,
        looks=list(looks),
        alpha=ALPHA / len(comparisons),
        settings_sha256=looks_hash(plan, table),
        comparisons=compared,
        more=list(more),
    )


def compared_at(results: Results, planned: Planned, number: int) -> Compared:
    """What the looks up to `number` say of a comparison; the first that decides holds."""
    seeds, decision = decided(results, planned, number)
    return Compared(
        model=planned.model,
        a=ranked(planned.a),
        b=ranked(planned.b),
        equal=planned.equal,
        metric=planned.metric_name,
        margin=planned.margin,
        verdict=decision.verdict.value,
        seeds=decision.seeds,
        failed=seeds - decision.seeds,
        difference=decision.difference,
        low=decision.low,
        high=decision.high,
    )


def decided(results: Results, planned: Planned, number: int | None = None) -> tuple[int, Decision]:
    """Seeds that were run for it, and the verdict; of a table whose seeds are a list all are one look.

    `number`: of looks that were made; without, of all that both cells have the runs of.
    """
    results = picked(results)
    looks = results.plan.experiment.tables[planned.table].looks_planned
    runs = runs_compared(results, planned)
    reached = [planned_seeds for planned_seeds in looks[:number] if planned_seeds <= min(map(len, runs.values()))]
    alpha = ALPHA / len(results.plan.comparisons(planned.table))
    used = 0

    def estimates() -> Iterator[Estimate | None]:
        nonlocal used
        for used in reached:
            yield _estimate(results, planned, {cell: of[:used] for cell, of in runs.items()})

    decision = decide(estimates(), looks, alpha, planned.margin, higher_is_better=planned.metric.higher_is_better)
    return used, decision


def runs_compared(results: Results, planned: Planned) -> dict[Cell, list[Run]]:
    """The runs of both cells, in the order of their seeds; none of a cell that has none so far."""
    by_cell = results.plan.runs_by_cell(planned.table)
    return {cell: by_cell.get(cell, []) for cell in planned.cells}


def _estimate(results: Results, planned: Planned, runs: dict[Cell, list[Run]]) -> Estimate | None:
    tasks = [task for task in results.plan.tasks(planned.table) if _was_available(results, runs, task)]
    return estimate([_differences(results, planned, runs, task) for task in tasks], planned.metric.is_share)


def _was_available(results: Results, runs: dict[Cell, list[Run]], task: str) -> bool:
    """Whether a task's items could be had; `missing: skip` goes on without those of a file that is not at hand."""
    scores = (results.task_scores(run)[task] for of_cell in runs.values() for run in of_cell)
    return not any(score is not None and score.status == "not available" for score in scores)


def _differences(results: Results, planned: Planned, runs: dict[Cell, list[Run]], task: str) -> Differences:
    """Seed -> item -> a's value less b's, of the seeds in which neither failed."""
    a, b = (
        {run.seed: _values(results, run, task, planned.metric_name) for run in runs[cell]} for cell in planned.cells
    )
    both = {seed: (values, b[seed]) for seed, values in a.items() if values and b.get(seed)}
    return {
        seed: {item: value - of_b[item] for item, value in of_a.items() if item in of_b}
        for seed, (of_a, of_b) in both.items()
    }


def _values(results: Results, run: Run, task: str, metric: str) -> dict[Any, float]:
    """Item -> its value of a metric; none where the run failed. Raises UserError where it left no scores."""
    score = results.task_scores(run)[task]
    if score is None:
        raise UserError(f"{results.folder}: {run.name}: no scores of {task}; score it first")
    if score.status != "ok":
        return {}
    return {row["id"]: value_in(row, metric) for row in results.items(run, task)}


def value_in(row: dict[str, Any], metric: str) -> float:
    """What a sample counts under a metric beside its score (`metrics`, or a key of its own); without, its score."""
    return value_of(row) if not metric else float(row.get("metrics", row).get(metric, row.get(metric)))
