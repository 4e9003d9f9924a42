"""Real training steps on this CPU, with random weights, watched through the allocator's own events.

What `traced_step` estimates is checked against this: by the tests, by `benchmarks/footprint.py`, and by stage
`footprint` for cells that are small enough to be run on the side.
"""

import contextlib
import gc
import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM

from sbora_bench.cost.storages import storage_bytes, weight_tensors
from sbora_bench.inputs.adapters import adapter_config, as_trained
from sbora_bench.inputs.models.config import read_config
from sbora_bench.inputs.models.load import leave_unpacked, nf4_config
from sbora_bench.inputs.padding_free import packed, take_packed_rows
from sbora_bench.inputs.parts import parts_of
from sbora_bench.inputs.products import products
from sbora_bench.inputs.supervised_loss import SupervisedLoss, Unfit
from sbora_bench.plan.catalog import Catalog
from sbora_bench.plan.method_entry import MethodEntry
from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FUSED = {"adamw_torch": False, "adamw_torch_fused": True}  # optimizers that are measured: what `fused` is for them


def random_model(config: "PretrainedConfig", method: MethodEntry, rank: int, protocol: Protocol) -> torch.nn.Module:
    """A model of `config` with random weights, quantised and adapted as training does it, where it would be trained."""
    dtype = getattr(torch, protocol.weights_dtype)
    base = AutoModelForCausalLM.from_config(config, dtype=dtype)
    place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if method.quantization:
        with tempfile.TemporaryDirectory() as folder:
            base.save_pretrained(folder)
            settings = {"quantization_config": nf4_config(protocol), "device_map": {"": place}}
            if place == "cpu":
                del settings["device_map"]
            base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **settings)
        leave_unpacked(base)
    else:
        base = base.to(place)
    return as_trained(base, method, adapter_config(method, rank, 0, protocol), protocol)


def highest(work: Callable[[], object]) -> int:
    """Bytes at the highest while `work` runs: allocations and releases that `torch.profiler` saw, added up."""
    quiet = logging.getLogger("torch.profiler")
    quiet.setLevel(logging.ERROR)
    gc.collect()  # what was there before, in cycles, and went while this runs would be taken off
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def step_loss(model: torch.nn.Module, protocol: Protocol, row: list[int]) -> SupervisedLoss | None:
    """The loss from supervised positions alone where the protocol wants it and the model takes it."""
    if protocol.logits == "supervised":
        with contextlib.suppress(Unfit):
            return SupervisedLoss(model, row)
    return None


def add_gradients(
    model: torch.nn.Module,
    protocol: Protocol,
    supervised: SupervisedLoss | None,
    parts: Iterable[dict[str, torch.Tensor]],
    flat: bool = False,
) -> None:
    """Forward and backward through the parts of a padded micro-batch; `flat`: each as one row without padding."""
    device, low = next(model.parameters()).device.type, getattr(torch, protocol.autocast or "bfloat16")
    for part in parts:
        with torch.autocast(device, low, enabled=protocol.autocast is not None):
            inputs = packed(part) if flat else part
            loss = model(**inputs).loss if supervised is None else supervised(model, inputs)[0]
        loss.backward()


def step_peak(model: torch.nn.Module, protocol: Protocol, rows: int, length: int) -> int:
    """Bytes over the model at the highest of two training steps of `rows` x `length` tokens; other rows than the first
    end in padding, unless the protocol has none. In parts where the protocol has them so.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=FUSED[protocol.optimizer])
    model.config.use_cache = False
    model.train()
    ids = torch.ones(rows, length, dtype=torch.long)
    mask = torch.ones_like(ids)
    if protocol.padding_free:
        take_packed_rows(model, ids[0].tolist())
    else:
        mask[1:, -5:] = 0
    supervised = step_loss(model, protocol, ids[0].tolist())
    parts = parts_of(protocol, rows).of({"input_ids": ids, "labels": ids, "attention_mask": mask})

    def steps() -> None:
        for _ in range(2):
            with products(model, protocol.products):
                add_gradients(model, protocol, supervised, parts, flat=protocol.padding_free)
            torch.nn.utils.clip_grad_norm_(trained, protocol.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

    return highest(steps)


def cell_peak(catalog: Catalog, model: str, method: MethodEntry, rank: int, protocol: Protocol) -> int:
    """Bytes at the highest of a training step of a cell, the model's own among them; at the protocol's longest or, in
    parts, at the length that makes the largest.
    """
    torch.set_num_threads(1)
    cell = random_model(read_config(catalog, model), method, rank, protocol)
    _, length = parts_of(protocol, protocol.micro_batch).largest(protocol.micro_batch, protocol.max_length)
    over = step_peak(cell, protocol, protocol.micro_batch, length)
    return storage_bytes(weight_tensors(cell)) + over
