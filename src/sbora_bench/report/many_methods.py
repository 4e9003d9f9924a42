"""Which methods a figure tells apart, where an experiment has more than can be: those of its planned comparisons."""

from collections.abc import Iterable

from sbora_bench.plan.experiment import Plan

MANY = 14  # methods that can be told apart in a figure


def compared(plan: Plan, tables: Iterable[str]) -> list[str]:
    """The methods of the planned comparisons of some tables, in the catalog's order."""
    planned = [one for table in tables for one in plan.comparisons(table)]
    methods = {cell.method for one in planned for cell in one.cells}
    return [method for method in plan.catalog.methods if method in methods]


def apart(plan: Plan, tables: Iterable[str], methods: Iterable[str]) -> list[str]:
    """The compared ones of more than `MANY` methods; none where they are fewer, or nothing is compared: all are shown
    alike then."""
    return compared(plan, tables) if len(set(methods)) > MANY else []
