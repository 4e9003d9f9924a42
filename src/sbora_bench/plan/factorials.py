"""The factorials of an experiment: methods that are one but for a fixed index seed. Imports nothing heavy."""

from dataclasses import dataclass

from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.method_entry import MethodEntry

DRAWS = "draws"  # name of the table and of the figure of the factorials


@dataclass(frozen=True)
class DrawGroup:
    """A factorial: the methods of a table that are one but for a fixed index seed, on one model at one rank."""

    table: str
    model: str
    rank: int
    title: str
    methods: tuple[str, ...]
    index_seeds: tuple[int, ...]


def draw_groups(plan: Plan) -> list[DrawGroup]:
    """The factorials of an experiment, of two index seeds and two seeds at least."""
    seeds_of: dict[tuple, dict[str, int]] = {}
    titles: dict[str, str] = {}
    for method in plan.catalog.methods.values():
        titles.setdefault(_drawn(method), method.title)
    for name, table in plan.experiment.tables.items():
        for cell in plan.tuned_cells(name) if len(table.seeds) > 1 else ():
            method = plan.catalog.methods[cell.method]
            seed = method.arguments.get("random_seed")
            if isinstance(seed, int):
                seeds_of.setdefault((name, cell.model, cell.rank, _drawn(method)), {})[cell.method] = seed
    return [
        DrawGroup(name, model, rank, titles[alike], tuple(seeds), tuple(seeds.values()))
        for (name, model, rank, alike), seeds in seeds_of.items()
        if len(set(seeds.values())) > 1
    ]


def _drawn(method: MethodEntry) -> str:
    """What methods have in common that differ in title and index seed alone."""
    arguments = method.arguments | {"random_seed": "$seed"}
    return method.model_copy(update={"title": "", "arguments": arguments}).model_dump_json()
