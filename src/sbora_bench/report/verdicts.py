"""What the tests say of pairs of methods, in words: the one place where verdicts become prose."""

from typing import Any

from sbora_bench.analysis.separation import Separation


def method_rows(tested: Separation, table: str) -> list[dict[str, Any]]:
    """A table's pairs of two methods: on the average of its tasks, or in the task where it has but one."""
    averages = [row for row in tested.averages if row["table"] == table]
    rows = averages or [row for row in tested.differences if row["table"] == table]
    return [row for row in rows if row["equal"] != "method"]


def verdict_on_methods(tested: Separation) -> str:
    """What both tests say of the pairs of methods, in a sentence; empty where no pair was compared."""
    tables = dict.fromkeys(row["table"] for row in tested.differences)
    rows = [row for table in tables for row in method_rows(tested, table)]
    shown = [row for row in rows if row["word"] in ("better", "worse")]
    if not rows:
        return ""
    differ = sum(row["differs"] for row in rows)
    said = f"Of {len(rows)} pairs of methods at equal rank or parameters, {differ} differ as trained here"
    said += f" and {len(shown)} are shown to differ with other seeds too"
    needed = sorted(row["seeds_for_1_point"] - row["seeds"] for row in rows if row["seeds_for_1_point"] is not None)
    if not needed:
        return f"{said}: one seed can't show any."
    return f"{said}; {max(needed[len(needed) // 2], 0):,} more seeds would show 1 point in half of them."
