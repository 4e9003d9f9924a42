"""What the tests say of pairs of methods, in words: the one place where verdicts become prose."""

from dataclasses import fields
from typing import Any

from sbora_bench.analysis.pairs import Pair
from sbora_bench.analysis.separation import Separation


def verdict_text(pair: Pair) -> str:
    """`better` or `worse` of the first cell; else how far one point is from being shown."""
    verdict, metric = pair.verdict, pair.metric
    if verdict.shown:
        return verdict.outcome.value
    if verdict.p is None or verdict.more_seeds is None:
        return f"{verdict.outcome.value}; one seed"
    seeds = "seed" if verdict.more_seeds == 1 else "seeds"
    point = "1 point" if metric.is_share else f"{metric.point:g} {metric.unit}".rstrip()
    return f"{verdict.outcome.value}; {verdict.more_seeds:,} more {seeds} would show {point}"


def pair_values(pair: Pair) -> dict[str, Any]:
    """Column of a file of pairs -> its value."""
    values = {field.name: getattr(pair, field.name) for field in fields(pair)}
    values |= {"table": pair.table, "model": pair.model, "task": pair.column, "measure": pair.column}
    for side, cell in (("a", pair.a), ("b", pair.b)):
        values |= {f"method_{side}": cell.method, f"rank_{side}": cell.rank}
    return values | {"p_both_holm": pair.verdict.p, "word": verdict_text(pair)}


def verdict_on_methods(tested: Separation) -> str:
    """What both tests say of the pairs of methods, in a sentence; empty where no pair was compared."""
    tables = dict.fromkeys(pair.table for pair in tested.differences)
    pairs = [pair for table in tables for pair in tested.method_pairs(table)]
    if not pairs:
        return ""
    differ, shown = sum(pair.differs for pair in pairs), sum(pair.verdict.shown for pair in pairs)
    said = f"Of {len(pairs)} pairs of methods at equal rank or parameters, {differ} differ as trained here"
    said += f" and {shown} are shown to differ with other seeds too"
    needed = sorted(pair.seeds_for_1_point - pair.seeds for pair in pairs if pair.seeds_for_1_point is not None)
    if not needed:
        return f"{said}: one seed can't show any."
    return f"{said}; {max(needed[len(needed) // 2], 0):,} more seeds would show 1 point in half of them."
