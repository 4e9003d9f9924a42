"""Trainings of the toy that are killed at an update, and what is left of them."""

import contextlib
from pathlib import Path

import pytest

from sbora_bench.results.records import TrainRecord, read_record
from sbora_bench.train import callbacks, checkpoints
from tests.factories.toy_training import train

RESUMED = {"schedule": "linear", "warmup_steps": 2, "dropout": 0.2, "checkpoint_every": 2}
LORA, FA = "toy-tiny-lora-r4-s1", "toy-tiny-sbora-fa-r4-s0"


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


@contextlib.contextmanager
def at_step(step: int, act):
    """Do `act` at the end of the update `step`, before its checkpoint."""
    real = callbacks.TerminationCallback.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == step:
            act(self)
        real(self, args, state, control, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.TerminationCallback, "on_step_end", on_step_end)
        yield


def kill(*_):
    raise Killed


def killed(plan, root, name, step):
    with pytest.raises(Killed), at_step(step, kill):
        train(plan, root, name)
    assert not (root / "results" / "runs" / name).exists()


def kept(root) -> list:
    """The checkpoints that stand, newest first."""
    paths = (root / "results" / "store").glob("*/*.checkpoints/checkpoint-*")
    return sorted(paths, key=checkpoints.step_of, reverse=True)


def record_of(root, name) -> TrainRecord:
    return read_record(root / "results" / "runs" / name / "train.json", TrainRecord)


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
