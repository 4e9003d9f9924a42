"""An experiment checked as far as that goes before anything runs: beyond its types and names, what its entries hold.

Apart from plan.checks so that no training depends on the code of tables, prompts and answers.
"""

from sbora_bench.errors import Problems, UserError, one_of
from sbora_bench.inputs.adapters import adapter_arguments
from sbora_bench.inputs.check_data import data_problems
from sbora_bench.inputs.check_methods import method_problems
from sbora_bench.inputs.data.prompts import TEMPLATES, prompt_of
from sbora_bench.inputs.tasks.templates import config_in
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.layouts import layouts
from sbora_bench.plan.load import load_plan


def checked_plan(name: str, data: bool = True, methods: bool = False) -> Plan:
    """`load_plan(name)`, and its prompts, task templates, methods' arguments, tables' names, and `check_inputs`."""
    plan = load_plan(name)
    for table in plan.experiment.tables:
        _check_table(plan, table)
    layouts(plan)
    check_inputs(plan, data, methods)
    return plan


def check_inputs(plan: Plan, data: bool = True, methods: bool = False) -> None:
    """Look at data and tasks, and at what can't work of methods on their models.

    The latter imports PEFT unless all were good before. Raises UserError with a line a problem.
    """
    problems = data_problems(plan) if data else []
    if methods:
        problems += method_problems(plan, remember=not problems)
    if problems:
        raise Problems(problems)


def _check_table(plan: Plan, table: str) -> None:
    entry, protocol, where = plan.experiment.tables[table], plan.protocol(table), f"{plan.path}: tables.{table}"
    for key in ("train_prompt", "score_prompt"):
        template, known = getattr(protocol, key), [*TEMPLATES, *plan.catalog.prompts]
        if template not in known:
            raise UserError(f"{where}.protocol: {key}: {one_of(template, known, 'prompt template')}")
        prompt_of(plan.catalog, template)
    for task, suite in plan.scored(table).items():
        try:
            config_in(plan, table, task)
        except UserError as error:
            raise UserError(f"{where}.{'suite' if suite == entry.suite else 'also'}: {error}") from None
    for method in dict.fromkeys(method for grid in entry.grids for method in grid.methods):
        try:
            adapter_arguments(plan.catalog.methods[method], 1, 0, protocol)
        except UserError as error:
            raise UserError(f"{plan.catalog.where('methods', method)}: {error}") from None
