"""A round of extending the grids of learning rates: a cell whose best rate so far ends its grid tries the next beyond.

    sbora-bench extend -e EXPERIMENT --table TABLE --round 1

Reads held-out training rows alone, as picking does (pick.py). The same scores ask for the same rates, however often the
run was stopped on the way.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sbora_bench.analysis.learning_rates import best_rate, edge_of, picking_failures, scores_by_rate
from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.stages import End
from sbora_bench.results.folders import round_file
from sbora_bench.results.read import Results
from sbora_bench.results.records import write_record
from sbora_bench.results.stages import RoundRecord, missing_round, rates_hash, rounds_made, with_grids


def extend(plan: Plan, table: str, number: int, results: Path) -> None:
    """Write `rounds/<table>-<number>.json`, whole or not at all.

    Raises UserError for a table whose grid is not extended, a round before its time, and a run without scores.
    """
    rounds = plan.experiment.tables[table].rounds
    if not 1 <= number <= rounds:
        allowed = f"1 to {rounds}" if rounds else "none: say learning_rates: {pick, seeds, extend}"
        raise UserError(f"{plan.path}: tables.{table}.learning_rates: found round {number}, allowed {allowed}")
    if len(rounds_made(plan, results, table, number - 1)) < number - 1:
        raise missing_round(plan, results, table, number - 1)
    read = Results(with_grids(plan, results, number - 1), results)
    write_record(round_file(results, table, number), extended(read, table, number))


def extended(results: Results, table: str, number: int) -> RoundRecord:
    """The record of a round. Raises UserError where a run that it needs left no scores."""
    plan = results.plan
    beyond, failed = plan.experiment.tables[table].beyond, picking_failures(results, table)
    scores = scores_by_rate(results, table)
    cells = {cell: tried for cell, tried in scores.items() if failed[cell] < sum(map(len, tried.values()))}
    following = {cell.name: next_rate(tried, beyond) for cell, tried in cells.items()}
    return RoundRecord(
        experiment=plan.name,
        table=table,
        round=number,
        settings_sha256=rates_hash(plan, table),
        more={cell: rate for cell, rate in following.items() if rate is not None},
    )


def next_rate(tried: Mapping[float, Sequence[float]], beyond: Mapping[End, Sequence[float]]) -> float | None:
    """The rate that a cell tries next by its scores on held-out rows, a seed each, at each rate tried; None where the
    best doesn't end them, where all beyond that end are tried, and where none has a score.
    """
    best = best_rate({rate: [*scores] for rate, scores in tried.items()})
    end = edge_of(best, tried)
    if not end or not all(map(math.isfinite, tried[best])):
        return None
    return next((rate for rate in beyond[end] if rate not in tried), None)
