"""The commands of `sbora-bench` that plan and check (cli.py holds the others), and how a command is told its runs."""

import json
from collections.abc import Callable

import click

experiment_option = click.option(
    "--experiment", "-e", default="ladder", show_default=True, help="A name in experiments/, or a YAML file."
)


def narrowing_options(command: Callable) -> Callable:
    """`--only`, `--seeds` and `--limit`: of the experiment a part, whose results stand in a folder of their own."""
    for name, shape, told in (
        ("--limit", "N", "Score N items of a task at most."),
        ("--seeds", "0,1,...", "These seeds alone."),
        ("--only", "KEY=VALUE,...", "A part: table, model, method, rank, seed; the same as in planning and running."),
    ):
        command = click.option(name, default="", metavar=shape, help=told)(command)
    return command


def load(experiment: str, only: str, seeds: str, limit: str):
    """The Plan that a command's options stand for."""
    from sbora_bench.experiment import load_plan
    from sbora_bench.narrowing import narrowed

    return narrowed(load_plan(experiment), only, seeds, limit)


@click.command()
@click.argument("experiment", default="ladder")
@narrowing_options
@click.option("--json", "as_json", is_flag=True, help="Every run with all that it resolves to.")
def plan(experiment: str, as_json: bool, **part: str) -> None:
    """Print the runs of EXPERIMENT, seeds folded."""
    from sbora_bench.check import checked_plan
    from sbora_bench.narrowing import narrowed

    loaded = narrowed(checked_plan(experiment), **part)
    if as_json:
        click.echo(json.dumps([loaded.settings(run) for run in loaded.runs], indent=1, sort_keys=True))
        return
    for name, table in loaded.experiment.tables.items():
        bases = [run for run in loaded.runs_of(name) if run.is_base]
        cells = loaded.cells_of(name)
        seeds = ",".join(map(str, table.seeds))
        click.echo(f"{name}: {table.suite}, trained on {table.train}, protocol {table.protocol}, seeds {seeds}")
        for run in bases + cells:
            click.echo(f"  {run.cell}" + ("" if run.is_base else f"-s{{{seeds}}}"))
    click.echo(f"{len(loaded.runs)} runs in {len(loaded.experiment.tables)} tables; results/{loaded.name}/")


@click.command()
@click.argument("files", nargs=-1, required=True)
def validate(files: tuple[str, ...]) -> None:
    """Check experiment FILES with their catalog."""
    from sbora_bench.check import checked_plan

    for file in files:
        loaded = checked_plan(file)
        click.echo(f"{loaded.path}: good, {len(loaded.runs)} runs")


@click.command()
def schema() -> None:
    """Print the JSON schema of an experiment file."""
    from sbora_bench.experiment import json_schema

    click.echo(json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False))


PLANNING = (plan, validate, schema)
