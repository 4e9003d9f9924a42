"""The commands of `sbora-bench` that check and read what runs left."""

import json
import sys
from pathlib import Path

import click

from sbora_bench.cli.options import (
    experiment_option,
    experiment_options,
    load,
    load_so_far,
    narrowing_options,
    resources_option,
    results_folder,
)
from sbora_bench.errors import UserError


@click.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
@experiment_option(
    default=None, does="Whose results they are: a name in experiments/, or a YAML file.  [default: the folder's name]"
)
@narrowing_options
def verify(results: Path, experiment: str | None, **part: str) -> None:
    """Recompute the tables of RESULTS from the samples alone; a line a finding, exit status 2 if any."""
    plan, _ = load_so_far(experiment or _experiment_of(results), results, **part)
    from sbora_bench.report import verify as stage

    findings, notes = stage.verify(plan, results)
    if any(map(plan.region_runs, plan.experiment.tables)):
        from sbora_bench.score import regions

        findings += regions.wrong_regions(plan, results, Path("resources"))
    for line in findings:
        click.echo(line)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if findings:
        click.echo(f"sbora-bench: {results}: {len(findings)} findings", err=True)
        sys.exit(2)
    click.echo(f"{results}: {len(plan.runs)} runs; every table is what the samples give, byte for byte")


def _experiment_of(results: Path) -> str:
    """The experiment that a results folder is named after: its file beside `results/`, wherever that lies.

    Raises UserError for the folder of a part, whose name does not say which in every case.
    """
    place = results.resolve()
    whole, _, part = place.name.partition("_")
    if part:
        raise UserError(
            f"{results}: a part of an experiment: say --experiment {whole}, and the --only, --seeds and --limit that it"
            " was run with"
        )
    beside = place.parent.parent / "experiments" / f"{whole}.yaml"
    return str(beside) if beside.is_file() and not Path("experiments", beside.name).is_file() else whole


def _folder(results: Path | None, experiment: str, part: dict[str, str], *runs: str) -> Path:
    """The results folder of an experiment, or of a part of one; runs that are folders need none."""
    whole = not any(part.values()) or all(Path(run).is_dir() for run in runs)
    return results_folder(experiment if whole else load(experiment, **part).name, results)


@click.command()
@experiment_options()
@click.option("--into", type=click.Path(path_type=Path), help="[default: results/published/EXPERIMENT]")
def publish(experiment: str, results: Path | None, into: Path | None, **part: str) -> None:
    """Copy the tables and figures that README, docs and notebooks show."""
    plan = load(experiment, **part)
    from sbora_bench.report import publish as stage

    folder = into or Path("results") / "published" / plan.name
    published = stage.publish(plan, results_folder(plan.name, results), folder)
    click.echo(f"{folder}: {len(published.files)} files")
    for name in published.left_out:
        click.echo(f"left out, over {stage.LARGEST // 2**20} MB: {name}")


@click.command()
@click.argument("run")
@experiment_options()
def show(run: str, experiment: str, results: Path | None, **part: str) -> None:
    """Print RUN, a name or a folder, on one screen."""
    from sbora_bench.report import terminal

    click.echo(terminal.show(terminal.run_at(run, _folder(results, experiment, part, run))))


@click.command()
@click.argument("a")
@click.argument("b")
@experiment_options()
def compare(a: str, b: str, experiment: str, results: Path | None, **part: str) -> None:
    """Compare runs A and B, names or folders, on the items that both answered."""
    from sbora_bench.report import terminal

    place = _folder(results, experiment, part, a, b)
    click.echo(terminal.compare(terminal.run_at(a, place), terminal.run_at(b, place)))


@click.command("compare-published")
@experiment_options(default=None, argument=True)
@click.option("--published", type=click.Path(path_type=Path), help="A file of bands.  [default: that of the harness]")
def compare_published(experiment: str, results: Path | None, published: Path | None, **part: str) -> None:
    """What others reported of EXPERIMENT's cells, beside ours: inside or outside of a band."""
    plan, folder = load_so_far(experiment, results, **part)
    from sbora_bench.analysis import published as stage
    from sbora_bench.results.read import Results

    bands = stage.read_bands(published or stage.BANDS)
    click.echo(stage.as_text(stage.beside_published(Results(plan, folder), bands)))


@click.command()
@experiment_options(argument=True)
@resources_option
@click.option("--prune", is_flag=True, help="Delete what no table needs, and say what was deleted.")
@click.option("--json", "as_json", is_flag=True, help="All of it, and every run.")
def status(experiment: str, results: Path | None, resources: Path, prune: bool, as_json: bool, **part: str) -> None:
    """How far EXPERIMENT is, from its files: done, running, failed, waiting; and the disk that it takes."""
    plan, place = load_so_far(experiment, results, **part)
    from sbora_bench.results import disk
    from sbora_bench.results import status as stage

    by_state, used = stage.status(plan, place, resources), disk.usage(place)
    needless = disk.needless(plan, place, resources)
    room = disk.freed(list(needless))
    if prune:
        disk.prune(list(needless), Path(".snakemake"))
    if as_json:
        summary = {"runs": by_state, "bytes": used, "needless": {str(path): why for path, why in needless.items()}}
        click.echo(json.dumps(summary | {"needless_bytes": room, "deleted": prune}, indent=1))
        return
    click.echo(f"{plan.name}: {stage.as_text(by_state)}")
    shown = ", ".join(f"{part} {megabytes(size)}" for part, size in used.items() if size >= SHOWN)
    click.echo(f"disk: {place} {megabytes(sum(used.values()))}" + (f" ({shown})" if shown else ""))
    for path, why in needless.items():
        click.echo(f"  {'deleted' if prune else 'needless'} {path}: {why}")
    if needless:
        click.echo(f"{megabytes(room)} {'deleted' if prune else 'may be deleted: --prune'}")


SHOWN = 50_000  # bytes: 0.1 MB


def megabytes(size: int) -> str:
    """Of bytes, in millions of them: `12.3 MB`."""
    return f"{size / 1e6:,.1f} MB"


@click.command()
@click.argument("runs", nargs=-1, required=True)
@experiment_options()
@resources_option
@click.option("--keep", is_flag=True, help="Write each run's to regions/RUN.json of the results folder, print nothing.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file to write the first run's regions to.")
@click.option("--figure", type=click.Path(path_type=Path), help="Heat maps of the first run's, .svg or .png.")
def regions(
    runs: tuple[str, ...],
    experiment: str,
    results: Path | None,
    resources: Path,
    keep: bool,
    output: Path | None,
    figure: Path | None,
    **part: str,
) -> None:
    """Which rows and columns of which layers RUNS changed; of several, what the first and each other both changed."""
    from sbora_bench.analysis import regions as shown
    from sbora_bench.report import terminal
    from sbora_bench.results.records import write_record
    from sbora_bench.score import regions as stage

    place = _folder(results, experiment, part, *runs)
    if keep:
        stage.keep([load(experiment, **part).run(run).name for run in runs], place, resources)
        return
    folders = [terminal.run_at(run, place) for run in runs]
    records = [stage.record_of(folder, resources) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if record.status != "ok":
            raise UserError(f"{folder}: {record.reason}; name another run")
        click.echo(shown.as_text(folder.name, record.layers))
    for record in records[1:]:
        click.echo(shown.overlap_text(records[0].layers, record.layers))
    if output is not None:
        write_record(output, records[0])
    if figure is not None:
        from sbora_bench.report.heat_maps import write_figure

        write_figure({axis: shown.heat_data(records[0].layers, axis) for axis in ("columns", "rows")}, figure)


@click.command()
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


READING = (verify, publish, show, compare, compare_published, status, failures, regions)
