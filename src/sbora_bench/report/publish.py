"""Copy what README, docs and notebooks show of an experiment's results: `sbora-bench publish -e EXPERIMENT`."""

import shutil
from pathlib import Path
from typing import NamedTuple

from sbora_bench.analysis.collect import csv_texts, runs_waiting
from sbora_bench.analysis.learning_rates import picked
from sbora_bench.errors import UserError
from sbora_bench.files import whole_file, write_text
from sbora_bench.plan.experiment import Plan
from sbora_bench.report.outputs import PAGE, published_files
from sbora_bench.report.page import page
from sbora_bench.results.folders import LOOKS, REGIONS, ROUNDS, look_file, rates_file, region_file, round_file
from sbora_bench.results.read import Results
from sbora_bench.results.stages import looks_made, rounds_made, so_far

LARGEST = 4 * 2**20  # bytes of a file that is published: all who clone the repository get it


class Published(NamedTuple):
    """The names of the files that were published, and of those left out as too large."""

    files: list[str]
    left_out: list[str]


def publish(plan: Plan, results: Path, folder: Path) -> Published:
    """Copy the published files of `results` into `folder`, and draw the page for it.

    Raises UserError where one or a run is missing, and where the records are not those of the plan or give others now.

    With them what the experiment's stages decided, so that the plan as it was run can be read from `folder` too.
    """
    names = [*published_files(plan), *stage_files(plan, results), *region_files(plan)]
    missing = [name for name in names if not (results / name).is_file()]
    if missing:
        raise UserError(f"{results}: {missing[0]}: no such file; run the experiment to its end, then publish")
    made = so_far(plan, results)
    whole = Results(made, results)
    shown = picked(whole)
    for name, text in csv_texts(whole, shown).items():
        if (results / name).read_text(encoding="utf-8") != text:
            raise UserError(
                f"{results / name}: not what {plan.path} and the records give now; run the experiment again, then"
                " publish"
            )
    if waiting := runs_waiting(shown):
        raise UserError(
            f"{results}: {len(waiting)} runs have no results yet, {waiting[0]} say; run the experiment to its end, then"
            " publish"
        )
    text = page(made, results, published=True)
    for part in (ROUNDS, LOOKS, REGIONS):
        shutil.rmtree(folder / part, ignore_errors=True)  # an earlier run may have taken more
    large = [name for name in names if (results / name).stat().st_size > LARGEST]
    for name in large:
        (folder / name).unlink(missing_ok=True)
    kept = [name for name in names if name not in large]
    for name in kept:
        with whole_file(folder / name) as beside:
            shutil.copyfile(results / name, beside)
    write_text(folder / PAGE, text)
    return Published([*kept, PAGE], large)


def region_files(plan: Plan) -> list[str]:
    """The regions of the runs that the experiment shows them of."""
    runs = [run for table in plan.experiment.tables for run in plan.region_runs(table)]
    return [str(region_file("", run)) for run in runs]


def stage_files(plan: Plan, results: Path) -> list[str]:
    """The files of the rates that were picked, and of the rounds and looks that were taken, the first at least."""
    names: list[str] = []
    for name, table in plan.experiment.tables.items():
        if table.picking_seeds:
            names.append(str(rates_file("", name)))
        rounds = len(rounds_made(plan, results, name)) or bool(table.rounds)
        looks = len(looks_made(plan, results, name)) or bool(table.looks)
        names += [str(round_file("", name, number)) for number in range(1, rounds + 1)]
        names += [str(look_file("", name, number)) for number in range(1, looks + 1)]
    return names
