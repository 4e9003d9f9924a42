"""What the tests say of pairs of methods, in words: the one place where verdicts become prose."""

from dataclasses import fields
from typing import Any

from sbora_bench.analysis.pairs import Pair
from sbora_bench.analysis.separation import Separation


def verdict_text(pair: Pair) -> str:
    """`better` or `worse` of the first cell, or that no difference is shown; with one seed none can be."""
    return pair.verdict.outcome.value + ("" if pair.p_both is not None else "; one seed")


OF_PAIR = ("table", "model", "seeds", "sd", "low", "high", "p_both")  # what a pair knows beside its fields


def pair_values(pair: Pair) -> dict[str, Any]:
    """Column of a file of pairs -> its value."""
    values = {field.name: getattr(pair, field.name) for field in fields(pair)}
    values |= {name: getattr(pair, name) for name in OF_PAIR}
    values |= {"task": pair.column, "measure": pair.column}
    for side, cell in (("a", pair.a), ("b", pair.b)):
        values |= {f"method_{side}": cell.method, f"rank_{side}": cell.rank}
    return values | {"q_both": pair.verdict.q, "word": verdict_text(pair)}


def verdict_on_methods(tested: Separation) -> str:
    """What both tests say of the pairs of methods, in a sentence; empty where no pair was compared."""
    tables = dict.fromkeys(pair.table for pair in tested.differences)
    pairs = [pair for table in tables for pair in tested.method_pairs(table)]
    if not pairs:
        return ""
    differ, shown = sum(pair.differs for pair in pairs), sum(pair.verdict.shown for pair in pairs)
    said = f"Not planned, so exploratory: of {len(pairs)} pairs of methods at equal rank or parameters, {differ} differ"
    if all(pair.p_both is None for pair in pairs):
        return f"{said} as trained here; one seed can't show that others would."
    return f"{said} as trained here and {shown} with other seeds and items too (of those shown 5 % may be false)."
