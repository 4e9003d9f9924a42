"""A toy base that is pre-trained, killed before an update, and what is left of it."""

import contextlib
import functools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sbora_bench.inputs.data import corpus
from sbora_bench.plan.model_entry import ModelEntry
from sbora_bench.results.records import BaseRecord, read_record
from sbora_bench.train import pretrain as stage
from sbora_bench.train.checkpoints import step_of
from tests.factories import toy_runs
from tests.factories.interruptions import Killed, kill

RECIPE = {"steps": 9, "choices_first": 2, "batch": 4, "warmup": 3, "held_out": 4, "checkpoint_every": 2}
ARCHITECTURE = toy_runs.ARCHITECTURE | {"attention_dropout": 0.2, "tie_word_embeddings": True}
BUCKET = 4  # so that going on leaves whole buckets unread
tokenizer = functools.cache(corpus.tokenizer)


def entry(**recipe) -> dict:
    """A catalog's entry of a toy that is pre-trained."""
    source = {"kind": "pretrain", "recipe": RECIPE | recipe}
    return {"title": "Toy", "source": source, "architecture": ARCHITECTURE}


def train(root: Path, threads: int = 1, **recipe) -> dict[str, str]:
    """Pre-train the toy in `root`; returns the SHA-256 of its files but the record."""
    catalog = SimpleNamespace(models={"toy": ModelEntry.model_validate(entry(**recipe))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "tokenizer", tokenizer)  # made once a process
        patch.setattr(stage, "BUCKET", BUCKET)
        try:
            stage.pretrain_model(catalog, "toy", root / "toy", threads)
        finally:
            torch.use_deterministic_algorithms(False)  # other tests' trainings are not
    return read_record(root / "toy" / "base.json", BaseRecord).files


def kept(root: Path) -> list[Path]:
    """The checkpoints that stand, newest first."""
    return sorted(root.glob("toy.checkpoints/*/checkpoint-*"), key=step_of, reverse=True)


@contextlib.contextmanager
def at_step(step: int, act):
    """Do `act` before the update `step`."""
    real = stage.batches

    def batches(recipe, tokenizer, begun=0):
        for number, batch in enumerate(real(recipe, tokenizer, begun), begun + 1):
            if number == step:
                act()
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "batches", batches)
        yield


def killed(root: Path, step: int, **recipe) -> None:
    with pytest.raises(Killed), at_step(step, kill):
        train(root, **recipe)
    assert not (root / "toy").exists()


def begun(text: str) -> int:
    """The step that the last loop in the log `text` went on from."""
    lines = [line for line in text.splitlines() if '"event": "begin"' in line]
    return int(lines[-1].partition('"step": ')[2].partition(",")[0])
