"""The commands of `sbora-bench` that plan and check."""

import json
import math
import shlex
from typing import TYPE_CHECKING

import click

from sbora_bench.cli.options import EXPERIMENT, experiment_option, narrowing_options, results_folder
from sbora_bench.errors import UserError

if TYPE_CHECKING:
    from sbora_bench.plan.experiment import Plan


@click.command()
@experiment_option(argument=True)
@narrowing_options
@click.option("--cost", is_flag=True, help="Steps, tokens, GPU-hours, disk, memory and batch split of every run.")
@click.option("--device", default="a100-80gb", show_default=True, help="For --cost: a card of the catalog, or cpu.")
@click.option("--calibrate", is_flag=True, help="For --cost: time training steps on this machine, and go by them.")
@click.option("--price", type=click.FloatRange(min=0), help="For --cost: of an hour of the device, in any currency.")
@click.option("--power", type=float, metavar="SD", help="The smallest differences that can be shown, from this spread.")
@click.option(
    "--pilot",
    type=click.IntRange(min=2),
    metavar="N",
    help="For --power: on how many seeds SD was measured, and so how sure it is: --power 0.006 --pilot 8.",
)
@click.option("--json", "as_json", is_flag=True, help="Every run with all that it resolves to, or all costs.")
def plan(
    experiment: str,
    cost: bool,
    device: str,
    calibrate: bool,
    price: float | None,
    power: float | None,
    pilot: int | None,
    as_json: bool,
    **part: str,
) -> None:
    """Print the runs of EXPERIMENT, seeds folded; with --cost, what they take."""
    from sbora_bench.inputs.check import checked_plan
    from sbora_bench.plan.narrowing import narrowed

    loaded = narrowed(checked_plan(experiment), **part)
    for option, given in (("--price", price is not None), ("--calibrate", calibrate)):
        if given and not cost:
            raise UserError(f"plan: {option} belongs to --cost; say plan --cost {option}")
    if price is not None and not math.isfinite(price):
        raise UserError(f"plan: --price: found {price}, allowed the price of an hour, from 0")
    if pilot is not None and power is None:
        raise UserError("plan: --pilot belongs to --power; say plan --power SD --pilot")
    if power is not None and as_json:
        raise UserError("plan: --power prints lines, not JSON; leave out --power or --json")
    differences = [] if power is None else _smallest_differences(loaded, power, pilot)
    if cost:
        _print_cost(loaded, device, calibrate, price, as_json)
        if not (differences or as_json) and _compares(loaded):
            command = shlex.join(["sbora-bench", "plan", experiment, *loaded.part, "--power", "SD"])
            click.echo(f"The smallest differences that can be shown: {command}")
    for line in differences:
        click.echo(line)
    if not (cost or differences):
        click.echo(_settings_text(loaded) if as_json else _runs_text(loaded))


def _settings_text(loaded: "Plan") -> str:
    """JSON of every run with all that it resolves to."""
    from sbora_bench.plan.settings import run_settings
    from sbora_bench.results.stages import settled, with_rates

    known = with_rates(loaded, results_folder(loaded.name, None))
    return json.dumps([run_settings(known, run) for run in settled(known)], indent=1, sort_keys=True)


def _runs_text(loaded: "Plan") -> str:
    """Every table with its cells, seeds folded, and how many runs they are."""
    tables = loaded.experiment.tables
    lines = [line for name in tables for line in _table_lines(loaded, name)]
    most = f", at most {loaded.most_runs}," if loaded.first_runs < loaded.most_runs else ""
    count = "1 table" if len(tables) == 1 else f"{len(tables)} tables"
    return "\n".join([*lines, f"{loaded.first_runs} runs{most} in {count}; results/{loaded.name}/"])


def _table_lines(loaded: "Plan", name: str) -> list[str]:
    """A table's settings, its cells, the runs that a learning rate is picked by, and its planned comparisons."""
    from sbora_bench.plan.runs import rate_text

    table = loaded.experiment.tables[name]
    seeds = ",".join(map(str, table.seeds))
    looks = f" (looks at {', '.join(map(str, table.looks))})" if table.looks else ""
    lines = [f"{name}: {table.suite}, trained on {table.train}, protocol {table.protocol}, seeds {seeds}{looks}"]
    rates = ",".join(map(rate_text, table.learning_rates))
    varied = (f"-lr{{{rates}}}" if rates and not table.picking_seeds else "") + f"-s{{{seeds}}}"
    lines += [f"  {cell.name}" + ("" if cell.is_base else varied) for cell in loaded.cells(name)]
    if table.picking_seeds:
        picking = len(loaded.tuned_cells(name)) * len(table.learning_rates) * len(table.picking_seeds)
        seeds = ",".join(map(str, table.picking_seeds))
        lines.append(f"  {picking} runs before, -lr{{{rates}}}-s{{{seeds}}}, to pick each cell's rate")
        for end, further in table.beyond.items():
            if further:
                tried = ",".join(map(rate_text, further))
                lines.append(f"  of a cell that is best at the {end}: at most -lr{{{tried}}}-s{{{seeds}}} too")
    return lines + [f"  compared: {comparison.name}" for comparison in loaded.comparisons(name)]


def _compares(loaded: "Plan") -> bool:
    return any(table.comparisons for table in loaded.experiment.tables.values())


def _smallest_differences(loaded: "Plan", sd: float, pilot: int | None) -> list[str]:
    """A line a planned comparison, and what they rest on. `sd`: of one seed's difference, in the metric's unit."""
    from sbora_bench.analysis.look import ALPHA
    from sbora_bench.analysis.power import CONFIDENCE, LIKELY, smallest_difference, spread_limits
    from sbora_bench.analysis.sequential import nominal_level

    if not 0 < sd < float("inf"):
        raise UserError(f"plan: --power: found {sd}, allowed the spread of one seed's difference, above 0")
    if not _compares(loaded):
        raise UserError(f"{loaded.path}: no comparison is planned; say in a table's comparisons what is to be shown")
    limits = spread_limits(sd, pilot) if pilot else ()

    def difference_text(seeds: int, level: float) -> str:
        most_likely, *ends = (smallest_difference(seeds, level, spread) for spread in (sd, *limits))
        between = f" [{', '.join(f'{end:.4g}' for end in ends)}]" if ends else ""
        return f"{most_likely:.4g}{between} at {seeds} seeds"

    lines = []
    for name, table in loaded.experiment.tables.items():
        comparisons = loaded.comparisons(name)
        for one in comparisons:
            level = nominal_level(table.looks_planned, ALPHA / len(comparisons))
            shown = ", ".join(difference_text(seeds, level) for seeds in table.looks_planned)
            lines.append(f"{name}: {one.name}: {shown} (level {level:.4f}, margin {one.margin:g})")
    lines.append(
        f"Each is shown in {100 * LIKELY:.0f} of 100 such experiments if one seed's difference spreads by {sd:g}"
    )
    if limits:
        low, high = limits
        lines.append(
            f"In brackets: the same for a spread of {low:.4g} and of {high:.4g}, the {100 * CONFIDENCE:.0f} % limits of"
            f" one that was measured on {pilot} seeds"
        )
    return lines


def _print_cost(loaded: "Plan", device: str, calibrate: bool, price: float | None, as_json: bool) -> None:
    from sbora_bench import gpus
    from sbora_bench.cost import calibrate as speeds
    from sbora_bench.cost import estimate, estimate_text

    card = None if device == "cpu" else loaded.catalog.find("devices", device, "--device")
    if calibrate:
        gpus.take_gpu()
        speeds.calibrate(loaded, device)
    cells = estimate.costs(loaded, card, speeds.known_rates(device))
    summary = estimate_text.summary(loaded, device, card, cells, price)
    if as_json:
        click.echo(estimate_text.as_json(summary))
    else:
        estimate_text.print_estimate(loaded, summary, cells, "this machine's CPU" if card is None else card.title)


@click.command()
@click.argument("files", nargs=-1)
@click.option("--experiment", "-e", "named", multiple=True, help=f"{EXPERIMENT} One more of FILES.")
@click.pass_context
def validate(context: click.Context, files: tuple[str, ...], named: tuple[str, ...]) -> None:
    """Check experiment FILES, or names in experiments/, with their catalog."""
    if not (files or named):
        raise click.MissingParameter(param_type="argument", param_hint="'FILES...'", ctx=context)
    from sbora_bench.inputs.check import checked_plan
    from sbora_bench.inputs.notes import notes
    from sbora_bench.report.outputs import figure_files, table_files

    for file in (*files, *named):
        loaded = checked_plan(file, methods=True)
        table_files(loaded)
        figure_files(loaded)
        for note in notes(loaded):
            click.echo(f"note: {note}", err=True)
        click.echo(f"{loaded.path}: good, {len(loaded.runs)} runs")


@click.command()
def schema() -> None:
    """Print the JSON schema of an experiment file."""
    from sbora_bench.plan.load import json_schema

    click.echo(json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False))


@click.command()
@experiment_option(default=None, argument=True)
def sizes(experiment: str) -> None:
    """Choose the ranks of EXPERIMENT's grids that say a size (`at`), and write them beside it."""
    from sbora_bench.cost.sizes import choose_sizes

    path, rows = choose_sizes(experiment)
    for row in rows:
        off = 100 * (row[row["of"]] / row["wanted"] - 1)
        click.echo(
            f"{row['model']:12} {row['method']:20} rank {row['rank']:<5} {row[row['of']]:>14,} of {row['wanted']:,}"
            f" {row['of'].rpartition('_')[2]} ({off:+.1f} %)"
        )
    click.echo(f"{path}: {len(rows)} ranks" if rows else "no grid says a size (at): none is chosen")


PLANNING = (plan, validate, schema, sizes)
