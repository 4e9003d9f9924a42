"""Checkpoints of training and pre-training: whole or not used.

A checkpoint is a folder `checkpoint-<step>` and in it `done.json`, the SHA-256 of its files, written last. Training's
are transformers' (the adapter in safetensors; optimizer, schedule and generators as Trainer pickles them, which reads
them back with `weights_only=True`), pre-training's are safetensors and JSON (pretrain.py).
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from sbora_bench.files import disk_error, full_disk, read_json
from sbora_bench.results import store

SMALL_FILES = 64 * 1024  # bytes of a checkpoint's other files, generators' states and arguments above all


def newest(folder: Path) -> Path | None:
    """The newest usable checkpoint, None if there is none; newer ones that aren't usable are removed.

    Usable: it has the bytes that it was written with and finite weights, and the best checkpoint (`keep_best`) that it
    names has the bytes that it was written with.
    """
    for checkpoint in _by_step(folder):
        reason = _unusable(checkpoint)
        if not reason:
            return checkpoint
        print(f"{checkpoint}: {reason}; going on from the checkpoint before it, if any", file=sys.stderr, flush=True)
        shutil.rmtree(checkpoint)
    return None


def step_of(checkpoint: Path) -> int:
    """The update after which `checkpoint-<step>` was written."""
    return int(checkpoint.name.rpartition("-")[2])


def _by_step(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("checkpoint-*"), key=step_of, reverse=True)


def _unusable(checkpoint: Path) -> str:
    """Why training can't go on from a checkpoint; empty where it can."""
    from safetensors.torch import load_file

    if not (checkpoint / store.DONE).is_file():
        return "was not written to its end"
    if not store.is_whole(checkpoint):
        return "damaged, a file differs from its SHA-256"
    if not all(
        tensor.isfinite().all() for path in checkpoint.glob("*.safetensors") for tensor in load_file(path).values()
    ):
        return "its weights are not finite"
    state = checkpoint / "trainer_state.json"
    best = read_json(state)["best_model_checkpoint"] if state.is_file() else None
    if best is not None and not store.is_whole(Path(best)):
        return f"the best checkpoint, {best}, is damaged or gone"
    return ""


def keep_newest(folder: Path, best: str = "") -> None:
    """Remove older checkpoints, but for the one named `best`, by step: a clock that was set back doesn't matter."""
    for checkpoint in _by_step(folder)[store.CHECKPOINTS :]:
        if checkpoint.name != best:
            shutil.rmtree(checkpoint)


@contextlib.contextmanager
def whole_checkpoint(checkpoint: Path, model: torch.nn.Module) -> Iterator[None]:
    """While the block writes a checkpoint: whole, or gone again.

    Raises UserError where the disk is full; torch.save says of that no more than that it could not write.
    """
    try:
        yield
    except Exception as error:
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        needed = 3 * trained + SMALL_FILES  # the weights, and what the optimizer keeps of each
        full = isinstance(error, RuntimeError) and shutil.disk_usage(checkpoint.parent).free < needed
        shutil.rmtree(checkpoint, ignore_errors=True)
        explained = (full_disk if full else partial(disk_error, error))(checkpoint, f"about {needed:,}")
        if explained is error:
            raise
        raise explained from error
