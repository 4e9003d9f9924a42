"""The commands that estimate parameters, memory and compute without weights or a GPU.

`cell-footprint`, `table-footprint` and `paper-footprint`; `footprint` is all three, told apart by its options.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sbora_bench.cli.options import (
    experiment_option,
    experiment_options,
    load,
    narrowing_options,
    results_folder,
    results_option,
)
from sbora_bench.errors import UserError


def cell_options(command: Callable) -> Callable:
    """How a cell is trained, where that isn't as its protocol says."""
    for option in reversed(
        (
            click.option("--method", default="base", show_default=True, help="A method of the catalog ..."),
            click.option("--rank", type=int, help="... and its rank."),
            click.option("--protocol", default="official", show_default=True, help="How the cell is trained."),
            click.option("--suite", help="The suite that the protocol is meant for  [default: mmlu for 4-bit methods]"),
            click.option("--micro-batch", type=int, help="Rows of a forward pass  [default: the protocol's]"),
            click.option("--length", type=int, help="Tokens of a row  [default: the protocol's]"),
            click.option("--tokens-at-once", type=int, help="Of a micro-batch, the model's  [default: the protocol's]"),
            click.option(
                "--checkpointing/--no-checkpointing", default=None, help="Of activations  [default: the protocol's]"
            ),
            click.option("--optimizer", help="adamw_torch, adamw_8bit ...  [default: the protocol's]"),
            click.option("--target-modules", help="Names, commas between, or all-linear  [default: the protocol's]"),
            click.option("--device", help="A card of the catalog: does it fit? (cpu: the kernels of a CPU)"),
            click.option("--sweep", type=click.Choice(["rank", "length"]), help="The peak over ranks or lengths."),
            click.option("--beams", type=int, help="The peak of generating too, with a KV cache and so many beams."),
            click.option("--json", "as_json", is_flag=True),
        )
    ):
        command = option(command)
    return command


@click.command("cell-footprint")
@click.argument("model")
@cell_options
def cell_footprint(model: str, as_json: bool, **request: Any) -> None:
    """Estimate parameters, memory and compute of one cell.

    MODEL: a model of the catalog, a hub id, a folder or a config.json.
    """
    from sbora_bench.plan.catalog import load_catalog

    catalog = load_catalog()
    from sbora_bench.cost import one_cell

    figures = one_cell.cell_report(catalog, one_cell.CellRequest(model=model, **request))
    click.echo(one_cell.as_json(figures) if as_json else one_cell.as_text(figures))


@click.command("table-footprint")
@click.argument("table")
@experiment_options()
def table_footprint(table: str, experiment: str, results: Path | None, **part: str) -> None:
    """Estimate every run of TABLE, a table of the experiment, and write its footprint.json."""
    plan = load(experiment, **part)
    plan.table(table, plan.path)
    from sbora_bench.cost.footprint import run_footprints

    folder = results_folder(plan.name, results)
    run_footprints(plan, table, folder)
    click.echo(f"{folder}: footprint.json of {len(plan.runs_by_cell(table))} cells of {table}")


@click.command("paper-footprint")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--memory", is_flag=True, help="Memory of each method at each scale, in the place of the counts.")
def paper_footprint(output: Path, memory: bool) -> None:
    """Count the paper's cells at true scale and write the CSV file OUTPUT."""
    from sbora_bench.plan.catalog import load_catalog

    catalog = load_catalog()
    from sbora_bench.cost import paper_cells

    (paper_cells.paper_memory if memory else paper_cells.paper_footprint)(catalog, output)


# The experiments that are dear, with the card that the docs plan each on, and the part where it is not the whole.
PLANNED = [
    ("paper", "a100-80gb", ""),
    ("paper-clean", "a100-80gb", ""),
    ("paper-one-gpu", "rtx-4090", ""),
    ("peft-metamath", "l40s", ""),
    ("paper-clean", "rtx-4090", "table=arithmetic,model=llama-7b"),
    ("paper-clean", "rtx-4090", "table=mmlu-alpaca,model=llama-7b-huggyllama,llama-13b"),
]


@click.command("publish-traces")
def publish_traces() -> None:
    """Trace the paper's cells, or take them from the cache, and keep them in results/published.

    `make reproduce` takes them from there, and `plan --cost` of the paper's experiments. They hold for the code and
    packages of now; others trace anew.
    """
    import tempfile

    from sbora_bench.cost import estimate, kept_traces, paper_cells
    from sbora_bench.plan.catalog import load_catalog
    from sbora_bench.plan.load import load_plan
    from sbora_bench.plan.narrowing import narrowed
    from sbora_bench.report import audit
    from sbora_bench.results.paper.reported import read_reported

    catalog = load_catalog()
    kept_traces.PUBLISHED.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        paper_cells.paper_footprint(catalog, Path(folder) / "counts.csv")
        paper_cells.paper_memory(catalog, Path(folder) / "memory.csv")
    counts, memory = paper_cells.true_counts(catalog), lambda claim: paper_cells.memory_ratio(catalog, claim)
    audit.audit(read_reported(), counts, memory)
    for experiment, device, only in PLANNED:
        part = narrowed(load_plan(experiment), only=only) if only else load_plan(experiment)
        for _ in ("traced by other processes", "and read by this one"):
            estimate.costs(part, catalog.devices[device], {})
    click.echo(f"{kept_traces.PUBLISHED}: {kept_traces.publish_traces()} counts and traces")


@click.command()
@experiment_option(
    default=None, does="Count every run of a table of this experiment, a name in experiments/ or a YAML file ..."
)
@click.option("--table", help="... of this one.")
@narrowing_options
@results_option
@click.option("--paper", is_flag=True, help="Count the paper's cells at true scale.")
@click.option("--paper-memory", is_flag=True, help="Estimate the memory of each method at each of the paper's scales.")
@click.option("--output", type=click.Path(path_type=Path), help="CSV file for --paper or --paper-memory.")
@click.option("--model", help="One cell: a model of the catalog, a hub id, a folder or a config.json.")
@cell_options
@click.pass_context
def footprint(
    context: click.Context,
    experiment: str | None,
    table: str | None,
    results: Path | None,
    paper: bool,
    paper_memory: bool,
    output: Path | None,
    model: str | None,
    only: str,
    seeds: str,
    limit: str,
    **request: Any,
) -> None:
    """Estimate parameters, memory and compute of runs, of the paper's cells, or of one cell: no weights, no GPU."""
    of_paper = paper != paper_memory and output is not None
    if [bool(experiment and table), of_paper, bool(model)].count(True) != 1:
        raise UserError("footprint: give --experiment and --table, or --paper and --output, or --model")
    if experiment is not None:
        part = {"only": only, "seeds": seeds, "limit": limit}
        context.invoke(table_footprint, table=table, experiment=experiment, results=results, **part)
    elif of_paper:
        context.invoke(paper_footprint, output=output, memory=paper_memory)
    else:
        context.invoke(cell_footprint, model=model, **request)


ESTIMATING = (footprint, cell_footprint, table_footprint, paper_footprint, publish_traces)
