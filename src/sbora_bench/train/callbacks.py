"""What is done at each update of a training: checkpoints sealed, losses logged, divergence and SIGTERM noticed."""

import contextlib
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from sbora_bench import progress
from sbora_bench.errors import Terminated
from sbora_bench.results import store
from sbora_bench.train.checkpoints import keep_newest

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

EXPLODED = 10  # times the loss of a uniform guess over the vocabulary


class SealCheckpointCallback(TrainerCallback):
    """Writes the SHA-256 of a new checkpoint's files into it, then removes old checkpoints."""

    def on_save(self, args: "TrainingArguments", state: "TrainerState", control: Any, **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # each process writes its generators' states
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        store.seal(folder / f"checkpoint-{state.global_step}")
        keep_newest(folder, Path(state.best_model_checkpoint).name if state.best_model_checkpoint else "")


class StepLogCallback(TrainerCallback):
    """Writes step and loss of a run to its job's log."""

    def __init__(self, run: str) -> None:
        self.run = run

    def on_log(self, args: Any, state: "TrainerState", control: Any, logs: dict[str, float], **_: Any) -> None:
        values = {key: logs[key] for key in ("loss", "grad_norm", "learning_rate", "eval_loss") if key in logs}
        if values:
            progress.write("finetune", self.run, "step", step=state.global_step, steps=state.max_steps, **values)


class DivergenceCallback(TrainerCallback):
    """Ends a training whose loss diverges (`check_loss`)."""

    def __init__(self, vocabulary: int, scaled: bool) -> None:
        """`vocabulary`: tokens of the model; `scaled`: float16, whose scaler meets infinite gradients and goes on."""
        self.vocabulary, self.scaled = vocabulary, scaled

    def on_log(self, args: Any, state: "TrainerState", control: Any, logs: dict[str, float], **_: Any) -> None:
        gradient = 0.0 if self.scaled else logs.get("grad_norm", 0.0)
        check_loss(state.global_step, logs.get("loss", 0.0), gradient, self.vocabulary)


class TerminationCallback(TrainerCallback):
    """Where a termination is requested, saves a checkpoint after the update under way and ends the training."""

    requested = False

    def on_step_end(self, args: Any, state: Any, control: "TrainerControl", **_: Any) -> None:
        if self.requested:
            control.should_save = control.should_training_stop = True
        if control.should_save:
            control.should_log = True  # the loss since the last line is in no checkpoint

    @contextlib.contextmanager
    def by_sigterm(self) -> Iterator[None]:
        """While the block trains, SIGTERM requests a termination. Raises Terminated at the end of the block then."""

        def request(*_: Any) -> None:
            self.requested = True

        before = signal.signal(signal.SIGTERM, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
        if self.requested:
            raise Terminated("terminated after a checkpoint")


def check_loss(step: int, loss: float, gradient: float, vocabulary: int) -> None:
    """Raises FloatingPointError where loss (nats a token) or gradient norm is infinite or NaN, or the loss exploded."""
    if not (math.isfinite(loss) and math.isfinite(gradient)):
        raise FloatingPointError(f"loss {loss}, gradient norm {gradient} at step {step}")
    limit = EXPLODED * math.log(vocabulary)
    if loss > limit:
        raise FloatingPointError(
            f"loss {loss:.4g} at step {step}, above {limit:.4g}: {EXPLODED} times that of a uniform guess"
        )


def check_finite(model: torch.nn.Module, step: int) -> None:
    """Raises FloatingPointError where weights that are trained are infinite or NaN."""
    if not all(parameter.isfinite().all() for parameter in model.parameters() if parameter.requires_grad):
        raise FloatingPointError(f"weights are not finite at step {step}")
