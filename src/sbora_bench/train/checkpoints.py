"""Checkpoints of training and pre-training: whole or not used, and what saves or ends a training early.

A checkpoint is a folder `checkpoint-<step>` and in it `done.json`, the SHA-256 of its files, written last. Training's
are transformers' (the adapter in safetensors; optimizer, schedule and generators as Trainer pickles them, which reads
them back with `weights_only=True`), pre-training's are safetensors and JSON (pretrain.py).
"""

import contextlib
import math
import shutil
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from sbora_bench import progress
from sbora_bench.errors import Terminated
from sbora_bench.files import disk_error, full_disk, read_json
from sbora_bench.results import store

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

SMALL_FILES = 64 * 1024  # bytes of a checkpoint's other files, generators' states and arguments above all
EXPLODED = 10  # times the loss of a uniform guess over the vocabulary


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that can be gone on from, None if there is none; newer ones that can't are removed.

    It must have the bytes that it was written with, finite weights, and its best checkpoint (`keep_best`) must too.
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
    """Why a checkpoint can't be gone on from; empty where it can."""
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


class Sealing(TrainerCallback):
    """Seals each checkpoint, then removes old ones."""

    def on_save(self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # each process writes its generators' states
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        store.seal(folder / f"checkpoint-{state.global_step}")
        keep_newest(folder, Path(state.best_model_checkpoint).name if state.best_model_checkpoint else "")


class Telling(TrainerCallback):
    """Tells step and loss of a run in its job's log."""

    def __init__(self, run: str) -> None:
        self.run = run

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        values = {key: logs[key] for key in ("loss", "grad_norm", "learning_rate", "eval_loss") if key in logs}
        if values:
            progress.tell("finetune", self.run, "step", step=state.global_step, steps=state.max_steps, **values)


class Watching(TrainerCallback):
    """Ends a training whose loss diverges, and one that is to stop (`stopping`), after a checkpoint."""

    def __init__(self, vocabulary: int, scaled: bool) -> None:
        """`vocabulary`: tokens of the model; `scaled`: float16, whose scaler meets infinite gradients and goes on."""
        self.limit, self.scaled, self.stop = EXPLODED * math.log(vocabulary), scaled, False

    def on_step_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **_: Any
    ) -> None:
        if self.stop:
            control.should_save = control.should_training_stop = True
        if control.should_save:
            control.should_log = True  # the loss since the last line is in no checkpoint

    def on_log(
        self,
        args: "TrainingArguments",
        state: "TrainerState",
        control: "TrainerControl",
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        self.check(state.global_step, logs.get("loss", 0.0), logs.get("grad_norm", 0.0))

    def check(self, step: int, loss: float, gradient: float) -> None:
        """Raises FloatingPointError where loss or gradient norm is infinite or NaN, or the loss exploded."""
        gradient = 0.0 if self.scaled else gradient
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            raise FloatingPointError(f"loss {loss}, gradient norm {gradient} at step {step}")
        if loss > self.limit:
            raise FloatingPointError(
                f"loss {loss:.4g} at step {step}, above {self.limit:.4g}: {EXPLODED} times that of a uniform guess"
            )


def check_finite(model: torch.nn.Module, step: int) -> None:
    """Raises FloatingPointError where weights that are trained are infinite or NaN."""
    if not all(parameter.isfinite().all() for parameter in model.parameters() if parameter.requires_grad):
        raise FloatingPointError(f"weights are not finite at step {step}")


@contextlib.contextmanager
def stopping(watching: Watching) -> Iterator[None]:
    """While the block trains, SIGTERM makes `watching` save a checkpoint after the update under way and end the
    training. Raises Terminated at the end of the block then.
    """

    def ask(*_: Any) -> None:
        watching.stop = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if watching.stop:
        raise Terminated("terminated after a checkpoint")
