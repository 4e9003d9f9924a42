"""The commands of `sbora-bench` for one saved adapter."""

from pathlib import Path
from typing import Any, Literal

import click

from sbora_bench import gpus
from sbora_bench.cli.options import resources_option
from sbora_bench.errors import UserError, in_a_line
from sbora_bench.files import disk_error


@click.command()
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

    gpus.take_gpu()
    record = stage.score(catalog, stage.AdapterTrial(**trial), resources, output)
    for task, scored in record.tasks.items():
        value = (
            scored.reason if scored.value is None else f"{100 * scored.value:5.1f} %  ({scored.metric}, n {scored.n})"
        )
        click.echo(f"{catalog.tasks[task].title:12} {value}")
    click.echo(f"{output}: written")


@click.command()
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


ADAPTER = (score, export)
