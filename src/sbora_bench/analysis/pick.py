"""The learning rate of each cell, picked before its runs are made: the best on held-out training rows.

    sbora-bench pick -e EXPERIMENT --table TABLE

Reads `runs/<run>/validation/` of the runs with the picking seeds alone, which are never scored on a test item.
"""

import math
from pathlib import Path

from sbora_bench.analysis.learning_rates import best_rate, edge_of, picking_failures, scores_by_rate
from sbora_bench.errors import UserError
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.runs import rate_text
from sbora_bench.results.folders import rates_file
from sbora_bench.results.read import Results
from sbora_bench.results.records import write_record
from sbora_bench.results.stages import (
    PickedRate,
    RatesRecord,
    missing_round,
    rates_hash,
    rounds_ended,
    rounds_made,
    with_grids,
)


def pick(plan: Plan, table: str, results: Path) -> None:
    """Write `rates/<table>.json`, whole or not at all.

    Raises UserError where a run that it needs left no scores, and where a round of extending is still to come.
    """
    if not plan.experiment.tables[table].picking_seeds:
        raise UserError(f"{plan.path}: tables.{table}: no learning rate is picked; say learning_rates: {{pick, seeds}}")
    if not rounds_ended(plan, results, table):
        raise missing_round(plan, results, table, len(rounds_made(plan, results, table)) + 1)
    read = Results(with_grids(plan, results), results)
    failed = picking_failures(read, table)
    cells = {cell.name: picked_rate(tried, failed[cell]) for cell, tried in scores_by_rate(read, table).items()}
    rates = RatesRecord(experiment=plan.name, table=table, settings_sha256=rates_hash(plan, table), cells=cells)
    write_record(rates_file(results, table), rates)


def picked_rate(tried: dict[float, list[float]], failed: int = 0) -> PickedRate:
    """Of a cell's scores on held-out rows, a seed each, at each rate: the best rate, and whether it ends the grid."""
    rate = best_rate(tried)
    means = {rate: sum(scores) / len(scores) for rate, scores in tried.items()}
    known = {rate_text(rate): mean if math.isfinite(mean) else None for rate, mean in means.items()}
    return PickedRate(learning_rate=rate, edge=edge_of(rate, tried), means=known, failed=failed)
