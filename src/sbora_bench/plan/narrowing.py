"""A part of an experiment, as an experiment under a name of its own, so that its results never mix with the whole's.

    sbora-bench plan paper --only table=arithmetic,method=sbora-fa,dora --seeds 0 --limit 8
    snakemake --cores all --config experiment=paper only=table=arithmetic,method=sbora-fa,dora seeds=0 limit=8

Stands apart from experiment.py so that no training depends on this code.
"""

from typing import Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import hash_of
from sbora_bench.plan.checks import check_plan
from sbora_bench.plan.comparison import Comparison
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.sizes import Grid
from sbora_bench.plan.table import Table

OPTIONS = ("only", "seeds", "limit")  # of the commands, and keys of `snakemake --config`
LONGEST = 80  # signs of a results folder's name


def narrowed(plan: Plan, only: str = "", seeds: str = "", limit: str = "") -> Plan:
    """The part of `plan` that the options name; `plan` itself where they name none. The bases of its models stay.

    `only`: values of the experiment by key, `table=arithmetic,method=lora,dora`, a value without a key belonging to the
    key before it; `seeds`: `0,1`; `limit`: how many items of a task are scored at most, drawn as a table's own limit.
    Raises UserError for an unknown key or value, and where no run is left.
    """
    chosen, most = _chosen(plan, only, seeds), _limit(limit)
    chosen_words = _as_words(chosen) + ([f"limit={most}"] if most else [])
    if not chosen_words:
        return plan
    parts = {name: _part(plan, name, chosen, most) for name in plan.experiment.tables}
    tables = {name: table for name, table in parts.items() if table is not None}
    if not tables:
        raise UserError(f"{plan.path}: no run is left with {', '.join(chosen_words)}; these values don't go together")
    changes = {"title": f"{plan.experiment.title} (only {', '.join(chosen_words)})", "tables": tables}
    part, options = plan.experiment.model_copy(update=changes), tuple(words(plan, only, seeds, limit))
    narrowed_plan = Plan(_name(plan.name, chosen_words), part, plan.catalog, plan.path, part=options)
    check_plan(narrowed_plan)
    return narrowed_plan


def words(plan: Plan, only: str = "", seeds: str = "", limit: str = "") -> list[str]:
    """The options that a command takes for a part of `plan`, the same whatever the order of the options' values."""
    chosen, most = _chosen(plan, only, seeds), _limit(limit)
    return ["--only", ",".join(_as_words(chosen))] * bool(chosen) + ["--limit", str(most)] * bool(most)


def _as_words(chosen: dict[str, list[str]]) -> list[str]:
    return [f"{key}={','.join(values)}" for key, values in chosen.items()]


def _chosen(plan: Plan, only: str, seeds: str) -> dict[str, list[str]]:
    """Key -> the chosen values, both in the order of the experiment, whatever the order they were given in."""
    tables = plan.experiment.tables.values()
    grids = [grid for table in tables for grid in table.grids]
    present: dict[str, Any] = {
        "table": plan.experiment.tables,
        "model": [model for grid in grids for model in grid.models],
        "method": [method for grid in grids for method in grid.methods],
        "rank": [rank for grid in grids for rank in grid.ranks],
        "seed": [seed for table in tables for seed in table.seeds],
    }
    present = {key: list(dict.fromkeys(map(str, values))) for key, values in present.items()}
    given_values: dict[str, set[str]] = {}
    for key, value in [*_pairs(only), *(("seed", seed) for seed in _words(seeds))]:
        if key not in present:
            raise UserError(f"only: {one_of(key, present, 'key')}; write table=arithmetic,method=lora,dora")
        if value not in present[key]:
            raise UserError(f"{plan.path}: only: {one_of(value, present[key], key)}")
        given_values.setdefault(key, set()).add(value)
    return {
        key: [value for value in values if value in given_values[key]]
        for key, values in present.items()
        if key in given_values
    }


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")] if text else []


def _pairs(only: str) -> list[tuple[str, str]]:
    pairs, key = [], ""
    for word in _words(only):
        before, sign, value = word.partition("=")
        key, value = (before, value) if sign else (key, before)
        pairs.append((key, value))
    return pairs


def _limit(limit: str) -> int | None:
    if limit and (not limit.isascii() or not limit.isdigit() or int(limit) < 1):
        raise UserError(f"limit: found {limit!r}, allowed a whole number of at least 1: the items of a task to score")
    return int(limit) if limit else None


def _part(plan: Plan, name: str, chosen: dict[str, list[str]], most: int | None) -> Table | None:
    """What is left of a table; None if nothing is."""

    def left(key: str, values: list) -> list:
        return [value for value in values if str(value) in chosen.get(key, map(str, values))]

    table = plan.experiment.tables[name]
    grids = [
        g.model_copy(update={"models": left("model", g.models), "methods": left("method", g.methods), "ranks": ranks})
        for g in table.grids
        if (ranks := left("rank", g.ranks))
    ]
    grids = [grid for grid in grids if grid.models and grid.methods]
    seeds = left("seed", table.seeds) if "seed" in chosen else table.seeds
    if not (left("table", [name]) and grids and seeds):
        return None
    limits = {task: min(most, table.limit.get(task, most)) for task in plan.scored(name)} if most else table.limit
    comparisons = [part for one in table.comparisons if (part := _compared(one, grids))] if len(seeds) > 1 else []
    if not comparisons and table.looks:
        seeds = list(seeds[: table.looks[0]])
    regions = table.regions and table.regions.part(lambda cell: bool(_models(cell, grids)), seeds)
    changes = {"grids": grids, "seeds": seeds, "limit": limits, "comparisons": comparisons, "regions": regions}
    return table.model_copy(update=changes)


def _compared(comparison: Comparison, grids: list[Grid]) -> Comparison | None:
    """What is left of a comparison: of the models that have both cells; None if no model has."""
    both = set(_models(comparison.a, grids)) & set(_models(comparison.b, grids))
    left = [model for model in comparison.models if model in both]
    return comparison.model_copy(update={"models": left}) if left or both and not comparison.models else None


def _models(ranked: str, grids: list[Grid]) -> list[str]:
    """The models that have this method at this rank: `lora-r16`."""
    with_cell = [grid for grid in grids if any(f"{m}-r{r}" == ranked for m in grid.methods for r in grid.ranks)]
    return [model for grid in with_cell for model in grid.models]


def _name(name: str, chosen_words: list[str]) -> str:
    """`paper_table-arithmetic_method-lora+dora_limit-8`: no experiment's own name has a `_` or a `+` in it."""
    whole = "_".join([name, *(part.replace("=", "-").replace(",", "+") for part in chosen_words)])
    return whole if len(whole) <= LONGEST else f"{name}_{hash_of(chosen_words)[:16]}"
