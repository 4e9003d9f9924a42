"""What a method wants of training, called where Trainer has a place for it; its state stands in the checkpoints."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from sbora_bench.files import read_json, write_json
from sbora_bench.inputs.method_hooks import after_update, changes_base

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerState

STATE, RANKS = "method.safetensors", "method.json"
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what AdaLoRA's allocator remembers of each weight


class MethodCallback(TrainerCallback):
    """Calls the method after each update (AdaLoRA prunes then), before gradients are cleared."""

    def __init__(self, model: "PeftModel") -> None:
        self.call = after_update(model)

    def on_optimizer_step(self, args: Any, state: "TrainerState", control: Any, **_: Any) -> None:
        if self.call is not None:
            self.call(state.global_step)


@contextlib.contextmanager
def whole_ranks(model: "torch.nn.Module") -> Iterator[None]:
    """While the block saves or loads a checkpoint of AdaLoRA: all ranks, pruned ones too, so that training can go on
    from it with the optimizer's state; PEFT would leave them out.
    """
    config = _allocated(model)
    if config is None:
        yield
        return
    pattern, config.rank_pattern = config.rank_pattern, None
    try:
        yield
    finally:
        config.rank_pattern = pattern


def save_state(model: "torch.nn.Module", checkpoint: Path) -> None:
    """Write what AdaLoRA's allocator remembers into a checkpoint; nothing for other methods."""
    from safetensors.torch import save_file

    config = _allocated(model)
    if config is None:
        return
    allocator = model.base_model.rankallocator
    tensors = {
        f"{kind}.{name}": tensor.contiguous()
        for kind in IMPORTANCE
        for name, tensor in getattr(allocator, kind).items()
    }
    save_file(tensors, checkpoint / STATE)
    write_json(checkpoint / RANKS, {"rank_pattern": config.rank_pattern})


def load_state(model: "torch.nn.Module", checkpoint: Path) -> None:
    """Bring AdaLoRA's allocator to where it was at a checkpoint; nothing for other methods."""
    from safetensors.torch import load_file

    config = _allocated(model)
    if config is None:
        return
    allocator = model.base_model.rankallocator
    allocator.reset_ipt()
    device = next(model.parameters()).device
    for key, tensor in load_file(checkpoint / STATE).items():
        kind, _, name = key.partition(".")
        getattr(allocator, kind)[name] = tensor.to(device)
    config.rank_pattern = read_json(checkpoint / RANKS)["rank_pattern"]


def _allocated(model: "torch.nn.Module") -> Any:
    """The config of an adapter whose ranks are allocated while it trains; None for others."""
    return model.active_peft_config if hasattr(getattr(model, "base_model", None), "rankallocator") else None


@contextlib.contextmanager
def first_values(model: "PeftModel") -> Iterator[Path | None]:
    """A folder with the adapter's first values while the block runs, for a method that changed its base's weights to
    start: with them the adapter is saved as one that fits the base as it was. None for the others.
    """
    if not changes_base(model.active_peft_config):
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_embedding_layers=False)
        yield Path(folder)
