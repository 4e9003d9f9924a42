"""`sbora-bench`: one subcommand a stage.

Exit status 0 done, 2 the user's mistake (one line), 143 stopped by SIGTERM and 130 by Ctrl-C (the same command goes on
from there), 1 anything else.
"""

import gc
import io
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import click

from sbora_bench import gpus
from sbora_bench.cli.footprint import ESTIMATING
from sbora_bench.cli.grouped import Grouped
from sbora_bench.cli.init import init
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
from sbora_bench.cli.plan import PLANNING
from sbora_bench.cli.results import READING
from sbora_bench.errors import Terminated, UserError, in_a_line
from sbora_bench.files import disk_error

if TYPE_CHECKING:
    from sbora_bench.plan.experiment import Plan, Run


@click.group(cls=Grouped, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Reproduce the SBoRA paper: plan, prepare, train, score, count, and draw its tables."""


def _measure_lengths(plan: "Plan", table: str, prepared: Path) -> None:
    """For `plan --cost`; what can't be measured is no reason to fail."""
    from sbora_bench.inputs.lengths import measure_lengths

    try:
        for path in measure_lengths(plan, table, prepared):
            click.echo(f"{path}: how long its examples are, for plan --cost")
    except UserError as error:
        click.echo(f"note: lengths are not measured: {error}", err=True)


for command in (init, *PLANNING, *READING, *ESTIMATING):
    cli.add_command(command)


@cli.command()
@click.option("--into", type=click.Path(path_type=Path, exists=True), help="Put them between this file's markers.")
def protocols(into: Path | None) -> None:
    """Print protocols `official` and `clean` side by side, with sources and reasons."""
    from sbora_bench.plan import protocol_table
    from sbora_bench.plan.catalog import load_catalog

    catalog = load_catalog()
    if into is None:
        click.echo(protocol_table.drawn(catalog))
    else:
        protocol_table.write_into(catalog, into)


@cli.command()
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


@cli.command()
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
        gpus.take()
        work(loaded, chosen, resources, folder)

    return command


for name, work, does in (
    ("run", _train_and_score, "Train RUNS and score them, each in turn; an untuned base is only scored."),
    ("finetune", _stage("train.finetune"), "Train the adapters of RUNS; leaves adapter/ and train.json."),
    ("evaluate", _stage("score.evaluate"), "Score RUNS on their suite; leaves samples/ and scores.json."),
):
    cli.add_command(_running(name, work, does))


def _of_table(table: str, command: str, experiment: str, part: dict[str, str]) -> "Plan":
    """The plan of a command on one table. Raises UserError for a table that the experiment doesn't have."""
    loaded = load(experiment, **part)
    loaded.table(table, command)
    return loaded


@cli.command()
@experiment_options()
@click.option("--table", required=True, help="The table whose grids of learning rates are extended.")
@click.option("--round", "number", type=int, required=True, help="Which of its rounds; the first is 1.")
def extend(experiment: str, results: Path | None, table: str, number: int, **part: str) -> None:
    """Find the cells whose best learning rate ends their grid, and the next they try; leaves rounds/TABLE-N.json."""
    loaded = _of_table(table, "extend", experiment, part)
    from sbora_bench.analysis.extend import extend as stage

    stage(loaded, table, number, results_folder(loaded.name, results))


@cli.command()
@experiment_options()
@click.option("--table", required=True, help="The table whose learning rates are picked.")
def pick(experiment: str, results: Path | None, table: str, **part: str) -> None:
    """Pick a learning rate for each cell of a table by held-out training rows; leaves rates/TABLE.json."""
    loaded = _of_table(table, "pick", experiment, part)
    from sbora_bench.analysis.pick import pick as stage

    stage(loaded, table, results_folder(loaded.name, results))


@cli.command()
@experiment_options()
@click.option("--table", required=True, help="The table whose comparisons are looked at.")
@click.option("--look", "number", type=int, required=True, help="Which of its looks; the first is 1.")
def look(experiment: str, results: Path | None, table: str, number: int, **part: str) -> None:
    """Decide a table's planned comparisons on the seeds so far; leaves looks/TABLE-N.json."""
    loaded = _of_table(table, "look", experiment, part)
    from sbora_bench.analysis.look import look as stage

    stage(loaded, table, number, results_folder(loaded.name, results))


@cli.command()
@click.argument("adapter")
@click.option("--model", required=True, help="Its base: a model of the catalog, or a local folder.")
@click.option("--suite", required=True, help="commonsense, arithmetic, mmlu, or one of your own.")
@click.option("--protocol", default="official", show_default=True, help="How it is prompted, decoded and read.")
@click.option("--items", default="paper", show_default=True, help="Which items of each task.")
@click.option("--limit", type=int, help="Score so many items of a task at most.")
@click.option("--train", help="The training set, to mark the items whose question it holds.")
@click.option("--quantization", type=click.Choice(["nf4"]), help="Of the base.")
@click.option("--revision", default="main", show_default=True, help="Of an adapter on the hub.")
@resources_option
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
def score(resources: Path, output: Path, **trial: Any) -> None:
    """Score a PEFT ADAPTER from anywhere: a folder, or a hub id; safetensors only."""
    from sbora_bench.plan.catalog import load_catalog

    catalog = load_catalog()
    from sbora_bench.score import any_adapter as stage

    gpus.take()
    record = stage.score(catalog, stage.AdapterTrial(**trial), resources, output)
    for task, scored in record.tasks.items():
        value = (
            scored.reason if scored.value is None else f"{100 * scored.value:5.1f} %  ({scored.metric}, n {scored.n})"
        )
        click.echo(f"{catalog.tasks[task].title:12} {value}")
    click.echo(f"{output}: written")


@cli.command()
@click.option("--tables", type=click.Path(path_type=Path, exists=True), help="Check the averages of these tables too.")
@click.option("--own", is_flag=True, help="Those of --tables alone.")
@click.option(
    "--reported", type=click.Path(path_type=Path, exists=True), help="The rest as it was found before, with --json."
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder for audit.json and audit.{md,csv,tex,html}.")
@click.option("--json", "as_json", is_flag=True, help="Every finding, those that agree too.")
@click.option("--summary", is_flag=True, help="One line a claim, as a Markdown table.")
def audit(
    tables: Path | None, own: bool, reported: Path | None, output: Path | None, as_json: bool, summary: bool
) -> None:
    """Recompute the reported numbers and claims, and list what doesn't agree."""
    from sbora_bench.report import audit as stage

    if own and tables is None:
        raise UserError("audit: --own needs --tables")
    findings = list(stage.own_tables(tables)) if tables else []
    if reported is not None:
        findings = stage.read_findings(reported) + findings
    elif not own:
        from sbora_bench.cost import paper_cells
        from sbora_bench.plan.catalog import load_catalog
        from sbora_bench.results.paper.reported import read_reported

        catalog = load_catalog()
        count, memory = paper_cells.true_counts(catalog), lambda claim: paper_cells.memory_ratio(catalog, claim)
        findings = stage.audit(read_reported(), count, memory) + findings
    if output is not None:
        stage.write(findings, output)
    if summary:
        from sbora_bench.report.render import markdown

        click.echo(markdown(stage.summary(findings)), nl=False)
    else:
        click.echo(stage.as_json(findings) if as_json else stage.as_text(findings))


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


for stage, module, does in (
    ("collect", "analysis.collect", "Gather every record into scores.csv, footprint.csv and budget.csv."),
    ("cards", "report.cards", "Write a model card, README.md, beside the adapter of every run that is scored."),
    ("tables", "report.tables", "Draw the paper's tables and the separation from what was collected."),
    ("figures", "report.figures", "Draw the figures, PNG and SVG, from what was collected."),
    ("report", "report.page", "Write report.html, one page that holds it all."),
):
    cli.add_command(_reading(stage, module, does))


@cli.command()
@experiment_options()
def failures(experiment: str, results: Path | None, **part: str) -> None:
    """Name the runs that failed, with the reasons; exit status 1 if there are any."""
    from sbora_bench.results.failures import failed_runs

    loaded, folder = load_so_far(experiment, results, **part)
    failed = failed_runs(loaded, folder)
    for run, reason in failed.items():
        click.echo(f"{run}: failed: {reason}")
    click.echo(f"{len(failed)} of {len(loaded.all_runs)} runs failed")
    if failed:
        click.echo("run them again with: snakemake --cores all --config retry_failed=true (and the experiment)")
        sys.exit(1)


@cli.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.Choice(["lora", "merged"]), required=True, help="A plain LoRA adapter, or a whole model."
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write; must not exist.")
@click.option("--base", help="Folder or hub id of the base.  [default: the prepared model that the adapter names]")
@resources_option
def export(adapter: Path, to: Literal["lora", "merged"], output: Path, base: str | None, resources: Path) -> None:
    """Write a saved SBoRA ADAPTER so that it loads without `sbora`."""
    from safetensors import SafetensorError

    from sbora_bench.inputs.saved_adapter import read_adapter
    from sbora_bench.results.folders import BASE, model_folder

    config = read_adapter(adapter)
    if base is None:
        named = config.get("base_model_name_or_path") or ""
        if named and (model_folder(named, resources) / BASE).is_file():
            from sbora_bench.inputs.models.load import prepared_folder

            base, _ = prepared_folder(resources, named)
    import sbora

    try:
        sbora.export(adapter, to, output, base)
    except (ValueError, FileExistsError) as error:
        raise UserError(f"export: {error}") from None
    except (OSError, SafetensorError) as error:  # of a full disk, or of a base that can't be found or read
        explained = disk_error(error, output)
        if explained is not error:
            raise explained from None
        reason = f"base {base or config.get('base_model_name_or_path')} can't be read: {in_a_line(error)}"
        raise UserError(f"export: {reason}; give its folder, or a hub id, with --base") from None
    click.echo(f"{output}: written")


def _terminate(*_: Any) -> None:
    raise Terminated


def _end_with(status: int, *lines: str) -> NoReturn:
    """Exit with `status` and the lines, also where they go to a log on a full disk, which then stays empty."""
    try:
        for line in lines:
            click.echo(line, err=True)
    except OSError:
        sys.stderr = sys.stdout = io.StringIO()  # what is kept back would change the status at exit
    sys.exit(status)


def main() -> None:
    """Entry point: turns mistakes into one line and exit status 2."""
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="transformers"
    )  # of its own names, as PEFT uses them
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports optional kernels that it doesn't find
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli(prog_name="sbora-bench", standalone_mode=False)
    except UserError as error:
        _end_with(2, *(f"sbora-bench: {line}" for line in str(error).splitlines()))
    except click.exceptions.Abort:
        _end_with(130, "sbora-bench: interrupted; the same command goes on from here")
    except Terminated:
        _end_with(128 + signal.SIGTERM, "sbora-bench: terminated; the same command goes on from here")
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        place = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "sbora-bench"
        _end_with(2, str(UserError(f"{place}: {error.format_message()} See {place} --help")))
    except OSError as error:
        explained = disk_error(error, Path(error.filename or "."))
        if explained is error:
            raise
        _end_with(2, f"sbora-bench: {explained}")
