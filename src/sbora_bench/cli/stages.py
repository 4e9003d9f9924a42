"""The commands of `sbora-bench` that are a stage of an experiment, as the Snakefile's rules call them."""

import gc
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sbora_bench import gpus
from sbora_bench.cli.options import (
    experiment_option,
    experiment_options,
    load,
    load_so_far,
    load_with_rates,
    narrowing_options,
    resources_option,
    results_folder,
    results_option,
)
from sbora_bench.errors import UserError

if TYPE_CHECKING:
    from sbora_bench.plan.experiment import Plan
    from sbora_bench.plan.runs import Run


@click.command()
@experiment_option()
@narrowing_options
@click.option("--table", help="Prepare this table's training set and items.")
@click.option("--model", help="Prepare this model's weights.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
def prepare(experiment: str, table: str | None, model: str | None, output: Path, **part: str) -> None:
    """Fetch and check what a table or a model needs."""
    from sbora_bench.inputs import prepare as stage

    if (table is None) == (model is None):
        raise UserError("prepare: give either --table or --model")
    loaded = load(experiment, **part)
    if table is not None:
        stage.prepare_table(loaded, table, output)
        _measure_lengths(loaded, table, output)
    elif model is not None:
        stage.prepare_model(loaded.catalog, model, output, loaded.path)


def _measure_lengths(plan: "Plan", table: str, prepared: Path) -> None:
    """For `plan --cost`; what can't be measured is no reason to fail."""
    from sbora_bench.inputs.lengths import measure_lengths

    try:
        for path in measure_lengths(plan, table, prepared):
            click.echo(f"{path}: how long its examples are, for plan --cost")
    except UserError as error:
        click.echo(f"note: lengths are not measured: {error}", err=True)


@click.command()
@experiment_option()
@click.argument("model")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--threads", default=1, show_default=True)
@click.option("--ship", type=click.Path(path_type=Path), help="Also write the weights in half precision to this file.")
def pretrain(experiment: str, model: str, output: Path, threads: int, ship: Path | None) -> None:
    """Train MODEL, a small base of the ladder, from nothing."""
    from sbora_bench.plan.load import load_plan

    catalog = load_plan(experiment).catalog
    catalog.find("models", model, "pretrain")
    from sbora_bench.train import pretrain as stage

    stage.pretrain_model(catalog, model, output, threads)
    if ship is not None:
        from sbora_bench.inputs.models import shipped

        click.echo(f"{ship}: SHA-256 {shipped.ship(output, catalog.models[model], ship)}")


Work = Callable[["Plan", list["Run"], Path, Path], None]


def _train_and_score(plan: "Plan", runs: list["Run"], resources: Path, results: Path) -> None:
    """Both stages of each run in this process, of an untuned base scoring alone; a finished one is not run again."""
    from sbora_bench.score.evaluate import evaluate
    from sbora_bench.train.finetune import finetune

    for run in runs:
        if not run.is_base:
            finetune(plan, [run], resources, results)
            gc.collect()  # a model's cycles hold its memory until then
        evaluate(plan, [run], resources, results)


def _stage(module: str) -> Work:
    """The function of a module that has its name; imported when it is called."""

    def work(*arguments: Any) -> None:
        getattr(import_module(f"sbora_bench.{module}"), module.rpartition(".")[2])(*arguments)

    return work


def _running(stage: str, work: Work, does: str) -> click.Command:
    """A command that works on runs, on a GPU where there is one."""

    @click.command(stage, help=does)
    @experiment_option()
    @narrowing_options
    @click.argument("runs", nargs=-1, required=True)
    @resources_option
    @results_option
    def command(experiment: str, runs: tuple[str, ...], resources: Path, results: Path | None, **part: str) -> None:
        loaded, folder = load_with_rates(experiment, results, **part)
        chosen = [loaded.run(run) for run in runs]
        gpus.take_gpu()
        work(loaded, chosen, resources, folder)

    return command


RUNNING = [
    _running(name, work, does)
    for name, work, does in (
        ("run", _train_and_score, "Train RUNS and score them, each in turn; an untuned base is only scored."),
        ("finetune", _stage("train.finetune"), "Train the adapters of RUNS; leaves adapter/ and train.json."),
        ("evaluate", _stage("score.evaluate"), "Score RUNS on their suite; leaves samples/ and scores.json."),
    )
]


def _of_table(table: str, command: str, experiment: str, part: dict[str, str]) -> "Plan":
    """The plan of a command on one table. Raises UserError for a table that the experiment doesn't have."""
    loaded = load(experiment, **part)
    loaded.table(table, command)
    return loaded


@click.command()
@experiment_options()
@click.option("--table", required=True, help="The table whose grids of learning rates are extended.")
@click.option("--round", "number", type=int, required=True, help="Which of its rounds; the first is 1.")
def extend(experiment: str, results: Path | None, table: str, number: int, **part: str) -> None:
    """Find the cells whose best learning rate ends their grid, and the next they try; leaves rounds/TABLE-N.json."""
    loaded = _of_table(table, "extend", experiment, part)
    from sbora_bench.analysis.extend import extend as stage

    stage(loaded, table, number, results_folder(loaded.name, results))


@click.command()
@experiment_options()
@click.option("--table", required=True, help="The table whose learning rates are picked.")
def pick(experiment: str, results: Path | None, table: str, **part: str) -> None:
    """Pick a learning rate for each cell of a table by held-out training rows; leaves rates/TABLE.json."""
    loaded = _of_table(table, "pick", experiment, part)
    from sbora_bench.analysis.pick import pick as stage

    stage(loaded, table, results_folder(loaded.name, results))


@click.command()
@experiment_options()
@click.option("--table", required=True, help="The table whose comparisons are looked at.")
@click.option("--look", "number", type=int, required=True, help="Which of its looks; the first is 1.")
def look(experiment: str, results: Path | None, table: str, number: int, **part: str) -> None:
    """Decide a table's planned comparisons on the seeds so far; leaves looks/TABLE-N.json."""
    loaded = _of_table(table, "look", experiment, part)
    from sbora_bench.analysis.look import look as stage

    stage(loaded, table, number, results_folder(loaded.name, results))


def _refuse_nothing(plan: "Plan", results: Path) -> None:
    """Raise UserError where no run of the plan has left anything that could be read."""
    from sbora_bench.results.folders import SCORES, TRAINING, footprint_of, run_folder

    for run in plan.all_runs:
        folder = run_folder(results, run)
        if any(path.is_file() for path in (folder / SCORES, folder / TRAINING, footprint_of(plan, results, run))):
            return
    command = f"snakemake --cores all --config experiment={plan.path if plan.path.endswith('.yaml') else plan.name}"
    raise UserError(f"{results}: no run of {plan.name} has results yet; make them with: {command}")


def _reading(stage: str, module: str, does: str) -> click.Command:
    """The command of a stage that only reads what runs left; the module's function has the command's name."""

    @click.command(stage, help=does)
    @experiment_options()
    def command(experiment: str, results: Path | None, **part: str) -> None:
        (loaded, folder), made = load_so_far(experiment, results, **part), import_module(f"sbora_bench.{module}")
        _refuse_nothing(loaded, folder)
        gc.freeze()  # what is imported stays: a tenth of the time would go into searching it for garbage
        getattr(made, stage)(loaded, folder)

    return command


DRAWING = [
    _reading(stage, module, does)
    for stage, module, does in (
        ("collect", "analysis.collect", "Gather every record into scores.csv, footprint.csv and budget.csv."),
        ("cards", "report.cards", "Write a model card, README.md, beside the adapter of every run that is scored."),
        ("tables", "report.tables", "Draw the paper's tables and the separation from what was collected."),
        ("figures", "report.figures", "Draw the figures, PNG and SVG, from what was collected."),
        ("report", "report.page", "Write report.html, one page that holds it all."),
    )
]


STAGES = (prepare, pretrain, *RUNNING, extend, pick, look, *DRAWING)
