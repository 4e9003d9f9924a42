"""How fast this machine trains: `sbora-bench plan NAME --cost --calibrate` times a micro-batch of each kind of update.

A kind is a model and method under a protocol. Its model has the true layers with random weights, but two of them, and
is quantised and adapted as `finetune` does it; what is kept is FLOP/s, which the layers have in common.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbora_bench import provenance
from sbora_bench.cost import cell_work
from sbora_bench.cost.estimate import rate_key
from sbora_bench.cost.kept_traces import CACHE
from sbora_bench.errors import UserError
from sbora_bench.files import read_json, write_json
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.experiment import Plan
from sbora_bench.plan.model_entry import FolderSource, ModelEntry
from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Cell

if TYPE_CHECKING:
    import torch

LAYERS = 2
TIMED = 3  # micro-batches, after one that warms up


def speeds_file(device: str, cache: Path = CACHE) -> Path:
    """Where the measured speeds of a device are."""
    return Path(cache) / f"speed-{device}.json"


def known_rates(device: str, cache: Path = CACHE) -> dict[str, float]:
    """FLOP/s by `cost.rate_key`; empty where nothing was measured, or by other packages than are here."""
    path = speeds_file(device, cache)
    measured = read_json(path) if path.is_file() else {}
    if measured.get("versions") != provenance.versions():
        return {}
    return {key: entry["flops_per_second"] for key, entry in measured["speeds"].items()}


def calibrate(plan: Plan, device: str, cache: Path = CACHE) -> Path:
    """Measure each kind of update of `plan` on this machine and note it as the speed of `device`; the file.

    Raises UserError where `device` is a card and there is no GPU here.
    """
    import torch
    from rich.console import Console
    from rich.progress import track

    if (device == "cpu") == torch.cuda.is_available():
        here = f"a GPU ({torch.cuda.get_device_name(0)})" if device == "cpu" else "no GPU"
        raise UserError(
            f"--calibrate: {here} is here, so the speed of {device} can't be measured; name the right device"
        )
    kinds: dict[str, Cell] = {}
    for table in plan.experiment.tables:
        for cell in plan.tuned_cells(table):
            kinds.setdefault(rate_key(plan.catalog, cell, plan.protocol(table)), cell)
    path = speeds_file(device, cache)
    speeds = read_json(path)["speeds"] if known_rates(device, cache) else {}
    for key, cell in track(kinds.items(), "measuring", console=Console(stderr=True)):
        speeds[key] = {"cell": cell.name, **measured_speed(plan, cell, cache)}
        machine = {"device": device, "hardware": provenance.hardware(), "versions": provenance.versions()}
        write_json(path, {**machine, "speeds": speeds})
    return path


def measured_speed(plan: Plan, cell: Cell, cache: Path) -> dict[str, Any]:
    """Seconds of a micro-batch of a kind of update, and the FLOP/s that they make."""
    import torch

    from sbora_bench.cost.real_step import random_model
    from sbora_bench.inputs.models.config import read_config

    assert cell.rank is not None, cell.name
    protocol = plan.protocol(cell.table)
    protocol = protocol.model_copy(update={"batch_size": protocol.micro_batch})
    catalog, name = shallow(plan.catalog, cell.model)
    kernels = "cuda" if torch.cuda.is_available() else "cpu"
    work = cell_work.update_work(catalog, name, cell.method, cell.rank, protocol, cache, kernels)
    torch.set_num_threads(protocol.threads)
    torch.manual_seed(0)
    config = read_config(catalog, name)
    model = random_model(config, catalog.methods[cell.method], cell.rank, protocol).train()
    step = training_step(model, protocol)
    step()
    began = time.perf_counter()
    for _ in range(TIMED):
        step()
    seconds = (time.perf_counter() - began) / TIMED
    tokens = protocol.micro_batch * protocol.max_length
    return {"flops_per_second": work.flops / seconds, "seconds": seconds, "tokens": tokens, "layers": LAYERS}


def shallow(catalog: Catalog, model: str) -> tuple[Catalog, str]:
    """(catalog with the model cut to its first layers, its name there)."""
    from sbora_bench.inputs.models.config import first_layers, read_config

    values = first_layers(read_config(catalog, model), LAYERS).to_dict()
    entry = ModelEntry(title=model, source=FolderSource(kind="folder", path=""), architecture=values)
    name = f"{model}.shallow"
    return catalog.model_copy(update={"models": catalog.models | {name: entry}}), name


def training_step(model: "torch.nn.Module", protocol: Protocol) -> Callable[[], None]:
    """A function that takes one micro-batch through forward, backward and the optimizer, and waits for the device."""
    import torch

    from sbora_bench.cost import real_step
    from sbora_bench.cost.traced_step import OPTIMIZERS
    from sbora_bench.inputs.parts import parts_of

    device = next(model.parameters()).device
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = OPTIMIZERS[protocol.optimizer](trained, lr=protocol.learning_rate)
    ids = torch.randint(
        model.config.get_text_config().vocab_size, (protocol.micro_batch, protocol.max_length), device=device
    )
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # a batch with padding, as most are
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    supervised = real_step.step_loss(model, protocol, ids[0].tolist())
    parts = parts_of(protocol, protocol.micro_batch).of(inputs)

    def step() -> None:
        real_step.add_gradients(model, protocol, supervised, parts)
        if protocol.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained, protocol.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step
