"""How a command of `sbora-bench` names an experiment, a part of it, its results and what is prepared."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sbora_bench.errors import UserError

if TYPE_CHECKING:
    from sbora_bench.plan.experiment import Plan

EXPERIMENT = "A name in experiments/, or a YAML file."


def experiment_option(
    default: str | None = "ladder", argument: bool = False, does: str = EXPERIMENT
) -> Callable[[Callable], Callable]:
    """`-e`, as every command on an experiment takes it.

    With `argument` also EXPERIMENT alone, required unless there is a default. Both may be given where they mean one
    file; UserError else.
    """
    if not argument:
        return click.option("--experiment", "-e", default=default, show_default=default is not None, help=does)

    def decorate(command: Callable) -> Callable:
        @click.argument("experiment", required=False)
        @click.option(
            "--experiment", "-e", "named", help=f"{does}  [{f'default: {default}' if default else 'required'}]"
        )
        @wraps(command)
        def with_one(experiment: str | None, named: str | None, **rest: Any) -> None:
            context = click.get_current_context()
            if experiment and named and file_of(experiment).resolve() != file_of(named).resolve():
                raise UserError(f"{context.info_name}: found {experiment} and --experiment {named}; give one of them")
            if not (chosen := experiment or named or default):
                raise click.MissingParameter(param_type="argument", param_hint="'EXPERIMENT'", ctx=context)
            command(experiment=chosen, **rest)

        return with_one

    return decorate


def file_of(experiment: str) -> Path:
    """The file of an experiment that is named, or given as a YAML file."""
    path = Path(experiment)
    return path if path.suffix in (".yaml", ".yml") else Path("experiments") / f"{experiment}.yaml"


resources_option = click.option(
    "--resources", default="resources", type=click.Path(path_type=Path), show_default=True, help="Prepared models."
)
results_option = click.option(
    "--results", default=None, type=click.Path(path_type=Path), help="[default: results/EXPERIMENT]"
)


def narrowing_options(command: Callable) -> Callable:
    """`--only`, `--seeds` and `--limit`: of the experiment a part, whose results stand in a folder of their own."""
    for name, shape, does in (
        ("--limit", "N", "Score N items of a task at most."),
        ("--seeds", "0,1,...", "These seeds alone."),
        ("--only", "KEY=VALUE,...", "A part: table, model, method, rank, seed; the same as in planning and running."),
    ):
        command = click.option(name, default="", metavar=shape, help=does)(command)
    return command


def experiment_options(default: str | None = "ladder", argument: bool = False) -> Callable[[Callable], Callable]:
    """The options of a command on an experiment's results: which one, which part of it, and where they lie."""
    named = experiment_option(default, argument)
    return lambda command: named(narrowing_options(results_option(command)))


def load(experiment: str, only: str, seeds: str, limit: str) -> "Plan":
    """The Plan that a command's options stand for."""
    from sbora_bench.plan.load import load_plan
    from sbora_bench.plan.narrowing import narrowed

    return narrowed(load_plan(experiment), only, seeds, limit)


def load_with_rates(experiment: str, results: Path | None, **part: str) -> tuple["Plan", Path]:
    """The Plan of a command that makes runs, with the learning rates that are picked by now, and the results folder."""
    from sbora_bench.results.stages import with_rates

    whole = load(experiment, **part)
    folder = results_folder(whole.name, results)
    return with_rates(whole, folder), folder


def load_so_far(experiment: str, results: Path | None, **part: str) -> tuple["Plan", Path]:
    """The Plan of a command that reads results, with the runs that are needed by now, and the results folder."""
    from sbora_bench.results.stages import so_far

    whole = load(experiment, **part)
    folder = results_folder(whole.name, results)
    return so_far(whole, folder), folder


def results_folder(experiment: str, results: Path | None) -> Path:
    """Where the results of an experiment lie, named or given as a YAML file, unless `--results` says otherwise."""
    return results or Path("results") / file_of(experiment).stem
