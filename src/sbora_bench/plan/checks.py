"""That what an experiment file names is there and goes together: tasks, seeds, learning rates, ranks, runs."""

from sbora_bench.errors import UserError, one_of
from sbora_bench.plan.data_entries import SyntheticData
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layer_widths import narrowest
from sbora_bench.plan.method_entry import LOW_RANK
from sbora_bench.plan.metric import GOLD_LOSS
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import rate_text
from sbora_bench.plan.sizes import Grid
from sbora_bench.plan.table import Table


def check_plan(plan: Plan) -> None:
    """What no field of an experiment file knows alone. Raises UserError for the first mistake."""
    seen = set()
    for name, table in plan.experiment.tables.items():
        where = f"{plan.path}: tables.{name}"
        _check_tasks(plan, table, where)
        plan.catalog.find("data", table.train, f"{where}.train")
        if table.fresh_items:
            _check_fresh(plan, name, f"{where}.fresh_items")
        _check_stages(plan, name, where)
        for index, grid in enumerate(table.grids):
            _check_grid(plan, grid, plan.protocol(name), f"{where}.grids.{index}")
        for run in [*plan.runs_of(name), *plan.picking_runs(name)]:
            if run.name in seen:
                raise UserError(f"{where}.grids: run {run.name} stands twice; each run once")
            seen.add(run.name)
        if table.comparisons and len(table.seeds) < 2:
            raise UserError(f"{where}.seeds: found one, allowed at least 2 where comparisons are planned; add seeds")
        plan.comparisons(name)
        plan.region_runs(name)


def _check_tasks(plan: Plan, table: Table, where: str) -> None:
    suites = [plan.catalog.find("suites", table.suite, f"{where}.suite")]
    suites += [plan.catalog.find("suites", suite, f"{where}.also") for suite in table.also]
    which, scored = table.items or plan.experiment.items, [task for suite in suites for task in suite.tasks]
    for task in scored:
        if scored.count(task) > 1:
            raise UserError(f"{where}.also: task {task} stands in two of the suites; name each suite once")
        entry = plan.catalog.tasks[task]
        if entry.items_of(task, which) is None:
            raise UserError(f"{where}.items: task {task}: {one_of(which, entry.items, 'set of items')}")
    for task in table.limit:
        if task not in scored:
            raise UserError(f"{where}.limit: {one_of(task, scored, 'task')}")


def _check_stages(plan: Plan, name: str, where: str) -> None:
    """Seeds, looks and learning rates of a table go together."""
    table, default = plan.experiment.tables[name], plan.protocol(name).learning_rate
    if both := sorted(set(table.seeds) & set(table.picking_seeds)):
        raise UserError(
            f"{where}.learning_rates.seeds: found {both[0]}, which the table's own runs have; pick with others,"
            " of which no result is shown"
        )
    if table.looks and not table.comparisons:
        raise UserError(
            f"{where}.seeds: looks, and no comparison that they could decide; plan comparisons, or give a list of seeds"
        )
    if table.learning_rates and not table.picking_seeds and default not in table.learning_rates:
        raise UserError(
            f"{where}.learning_rates: found {', '.join(map(rate_text, table.learning_rates))}, which lacks the"
            f" protocol's own, {rate_text(default)}; add it: what choosing gains is over that one"
        )
    by_score = table.metric != GOLD_LOSS or not table.picking_seeds
    for task in plan.tasks(name) if table.learning_rates and by_score else ():
        metric = plan.metric(name, task)
        if not (metric.is_share and metric.higher_is_better):
            raise UserError(
                f"{where}.learning_rates: task {task} is scored from {metric.low} to {metric.high}, allowed a"
                " score from 0 to 1 of which more is better; drop learning_rates or choose another metric"
            )


def _check_fresh(plan: Plan, table: str, where: str) -> None:
    for task, name in plan.items(table).items():
        if not isinstance(plan.catalog.data[name], SyntheticData):
            raise UserError(
                f"{where}: task {task}: found data {name}, which is not made here, allowed are synthetic data;"
                " drop fresh_items"
            )


def _check_grid(plan: Plan, grid: Grid, protocol: Protocol, where: str) -> None:
    methods = [plan.catalog.find("methods", method, f"{where}.methods") for method in grid.methods]
    widths = [plan.catalog.find("models", model, f"{where}.models").architecture for model in grid.models]
    for method in methods if grid.ranks else ():
        own = method.arguments.get("target_modules")
        targets = protocol.target_modules if own == "$target_modules" else own
        for model, architecture in zip(grid.models, widths, strict=True):
            layer, width = narrowest(architecture, targets)
            if method.peft_type in LOW_RANK and method.has_size and width and max(grid.ranks) > width:
                raise UserError(
                    f"{where}.ranks: found rank {max(grid.ranks)}, allowed 1 to {width} ({layer} is the narrowest"
                    f" layer of {model} that is tuned); lower the rank"
                )
