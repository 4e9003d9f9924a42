"""Score any PEFT adapter, from a folder or the hub, as `evaluate` scores our own; only safetensors are read.

    sbora-bench score ADAPTER --model llama-7b --suite arithmetic --protocol official --output scored

Leaves `samples/<task>.jsonl` and `scores.json` in a new folder.
"""

import re
import tempfile
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sbora_bench.errors import UserError, one_of
from sbora_bench.files import hash_of, sha256, whole_folder
from sbora_bench.hub import snapshot
from sbora_bench.inputs.data.contamination import trained_questions
from sbora_bench.inputs.data.sources import read_examples
from sbora_bench.inputs.models.load import prepared_files
from sbora_bench.inputs.models.sources import named_source
from sbora_bench.inputs.out_of_memory import is_out_of_memory
from sbora_bench.inputs.prepare import Columns, prepare_items, prepare_model
from sbora_bench.inputs.saved_adapter import read_adapter
from sbora_bench.inputs.tasks.templates import task_config
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.results.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE, SCORES, model_folder
from sbora_bench.results.records import ScoresRecord, write_record
from sbora_bench.score.load import load_scorer
from sbora_bench.score.tasks import score_tasks


@dataclass(frozen=True)
class AdapterTrial:
    """What is scored, on which base, how. `train`: the catalog's set that the adapter was trained on, where known."""

    adapter: str
    model: str
    suite: str
    protocol: str = "official"
    items: str = "paper"
    limit: int | None = None
    train: str | None = None
    quantization: str | None = None
    revision: str = "main"


def score(catalog: Catalog, trial: AdapterTrial, resources: Path, output: Path) -> ScoresRecord:
    """Score an adapter into the new folder `output`; the record that stands there as `scores.json`.

    Raises UserError for a name that the catalog lacks, an adapter that isn't one or doesn't fit the base, and an
    `output` that exists.
    """
    if output.exists():
        raise UserError(f"{output}: is there already; choose another folder or remove it")
    if trial.limit is not None and trial.limit < 1:
        raise UserError(f"--limit: found {trial.limit}, allowed a whole number of at least 1")
    suite = catalog.find("suites", trial.suite, "--suite")
    protocol = catalog.protocol(trial.protocol, trial.suite, {}, "--protocol")
    configs = {task: task_config(task, catalog.tasks[task], protocol) for task in suite.tasks}
    sources = {}
    for task in suite.tasks:
        items_of_task = catalog.tasks[task].items_of(task, trial.items)
        if items_of_task is None:
            raise UserError(f"--items: task {task}: {one_of(trial.items, catalog.tasks[task].items, 'set of items')}")
        sources[task] = items_of_task
    train = None if trial.train is None else catalog.find("data", trial.train, "--train")
    adapter = fetched_adapter(trial)
    config = read_adapter(adapter)
    kind = config["peft_type"]
    method = MethodEntry(title=kind, peft_type=kind, arguments={}, quantization=trial.quantization)
    trained_on = None if train is None else trained_questions(read_examples(trial.train or "", train))
    with tempfile.TemporaryDirectory() as made_here, whole_folder(output) as made:
        catalog, name, where = ready_model(catalog, trial.model, resources, Path(made_here))
        data = Path(made_here) / "data"
        items = {
            task: prepare_items(
                catalog,
                source,
                protocol.score_prompt,
                trained_on,
                data / f"{task}.jsonl",
                trial.limit,
                columns=Columns(whole=catalog.tasks[task].own_template() is not None),
            )
            for task, source in sources.items()
        }

        @cache
        def scorer() -> Any:
            return load_fitting(catalog, name, where, protocol, method, adapter)

        metrics = {task: catalog.tasks[task].metrics for task in configs}
        scores = score_tasks(configs, metrics, items, data, protocol, scorer, adapter.name, made)
        settings = {
            "adapter": {file: sha256(adapter / file) for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)},
            "base": prepared_files(where, name)["files"] or prepared_files(where, name)["source"],
            "items": {task: catalog.data[source].model_dump(mode="json") for task, source in sources.items()},
            "protocol": protocol.model_dump(mode="json"),
            **{key: getattr(trial, key) for key in ("limit", "quantization", "suite", "train")},
        }
        rank = config.get("r")
        record = ScoresRecord(
            experiment="score",
            table=trial.suite,
            run=adapter.name,
            model=name,
            method=method.peft_type.lower(),
            rank=rank if isinstance(rank, int) else None,
            seed=None,
            suite=trial.suite,
            train=trial.train,
            protocol=trial.protocol,
            settings_sha256=hash_of(settings),
            model_check=scorer().model_check if any(score.status == "ok" for score in scores.values()) else None,
            tasks=scores,
        )
        write_record(made / SCORES, record)
    return record


def fetched_adapter(trial: AdapterTrial) -> Path:
    """The folder with the adapter's config and safetensors, fetched where a hub id is given.

    Raises UserError where there is no such folder, Unreachable where the hub is not reached.
    """
    folder = Path(trial.adapter)
    if not folder.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", trial.adapter):
            raise UserError(f"{trial.adapter}: no such folder; give the folder of an adapter, or a hub id owner/name")
        files = [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
        folder = snapshot(trial.adapter, trial.revision, "model", files, "give the adapter's folder instead")
    return folder.resolve()


def ready_model(catalog: Catalog, model: str, resources: Path, spare: Path) -> tuple[Catalog, str, Path]:
    """(catalog with the model, its name there, folder of prepared models): prepared now where it isn't yet.

    `model`: of the catalog, or a local folder or GGUF file, which is checked and linked into `spare`.
    """
    folder = Path(model)
    if model not in catalog.models and (folder.is_dir() or folder.suffix == ".gguf"):
        source = named_source(catalog, str(folder.resolve())).settings
        model, resources = folder.resolve().stem if folder.is_file() else folder.resolve().name, spare
        entry = ModelEntry(title=model, source=source)
        catalog = catalog.model_copy(update={"models": catalog.models | {model: entry}})
    catalog.find("models", model, "--model")
    place = model_folder(model, resources)
    if not (place / BASE).is_file():
        prepare_model(catalog, model, place)
    return catalog, model, resources


def load_fitting(
    catalog: Catalog, name: str, resources: Path, protocol: Protocol, method: MethodEntry, adapter: Path
) -> Any:
    """The model with the adapter. Raises UserError where some of the base's layers get no weights, or others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            return load_scorer(catalog, name, resources, protocol, method, adapter, 0)
        except UserError:
            raise
        except Exception as error:  # a foreign config can make PEFT raise anything
            if is_out_of_memory(error):
                raise
            raise UserError(f"{adapter}: does not fit {name}: {str(error)[:300]}") from None
