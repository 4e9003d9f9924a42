"""Training goes on from its last whole checkpoint to the same bits; one that diverges or must stop says so."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from sbora_bench.errors import Terminated
from sbora_bench.results import store
from sbora_bench.train import callbacks
from sbora_bench.train import finetune as stage
from tests import forked
from tests.factories.interruptions import FA, LORA, RESUMED, at_step, flip, kept, killed, record_of
from tests.factories.toy_training import FILES, digests, house, train

VALIDATED = {"validation_rows": 6, "validation_every": 3, "keep_best": True, "checkpoint_every": None}
CASES = {
    "one epoch": {"steps": 5},
    "whole updates an epoch": {"steps": None, "epochs": 3, "batch_size": 8},
    "epochs that run on": {"steps": None, "epochs": 3, "batch_size": 10},
    "grouped by length": {"steps": None, "epochs": 2, "batch_size": 8, "group_by_length": "tokens"},
    "validation, the best kept": {"steps": None, "epochs": 3, "batch_size": 6, "learning_rate": 0.05, **VALIDATED},
}


@pytest.mark.parametrize("name", [LORA, FA])
@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_ends_in_the_bits_of_an_undisturbed_one(tmp_path, case, name):
    settings = RESUMED | CASES[case]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(house(whole, **settings), whole, name)
    last = record_of(whole, name).happened.steps
    plan = house(broken, **settings)
    for step in (3, last):
        killed(plan, broken, name, step)
    train(plan, broken, name)
    assert digests(broken, name) == digests(whole, name)
    ours, theirs = record_of(broken, name).happened, record_of(whole, name).happened
    assert theirs.resumed_from_step == 0 < ours.resumed_from_step < last
    assert last - ours.resumed_from_step <= (settings["checkpoint_every"] or settings["validation_every"])
    timed = {"seconds", "tokens_per_second", "peak_memory_bytes", "resumed_from_step"}
    assert ours.model_dump(exclude=timed) == theirs.model_dump(exclude=timed)
    assert kept(broken) == []


def test_a_dropped_generator_would_be_seen(tmp_path, monkeypatch):
    """The comparison above can fail: without the generators' states the bits differ."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = RESUMED | CASES["one epoch"]
    train(house(whole, **settings), whole, LORA)
    plan = house(broken, **settings)
    killed(plan, broken, LORA, 3)
    monkeypatch.setattr("transformers.Trainer._load_rng_state", lambda *_: None)
    train(plan, broken, LORA)
    assert digests(broken, LORA) != digests(whole, LORA)


LONG = {"steps": 9, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Digests of a run that nothing happened to."""
    root = tmp_path_factory.mktemp("undisturbed")
    train(house(root, **RESUMED | LONG), root, LORA)
    return digests(root, LORA)


def not_finite(checkpoint: Path) -> None:
    """Weights that became NaN between two lines of the log, sealed as they were."""
    path = checkpoint / "adapter_model.safetensors"
    save_file({name: tensor * torch.nan for name, tensor in load_file(path).items()}, path)
    store.seal(checkpoint)


DAMAGE = {
    "half written": (lambda at: (at / store.DONE).unlink(), "was not written to its end"),
    "weights flipped": (lambda at: flip(at / "adapter_model.safetensors"), "damaged"),
    "optimizer flipped": (lambda at: flip(at / "optimizer.pt"), "damaged"),
    "generators truncated": (lambda at: os.truncate(at / "rng_state.pth", 100), "damaged"),
    "state gone": (lambda at: (at / "trainer_state.json").unlink(), "damaged"),
    "NaN": (not_finite, "its weights are not finite"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, undisturbed, capsys, case):
    damage, message = DAMAGE[case]
    plan = house(tmp_path, **RESUMED | LONG)
    killed(plan, tmp_path, LORA, 7)
    assert [checkpoint.name for checkpoint in kept(tmp_path)] == ["checkpoint-6", "checkpoint-4", "checkpoint-2"]
    damage(kept(tmp_path)[0])
    train(plan, tmp_path, LORA)
    assert f"checkpoint-6: {message}" in capsys.readouterr().err
    assert record_of(tmp_path, LORA).happened.resumed_from_step == 4
    assert digests(tmp_path, LORA) == undisturbed


def test_with_every_checkpoint_damaged_it_starts_anew(tmp_path, undisturbed):
    plan = house(tmp_path, **RESUMED | LONG)
    killed(plan, tmp_path, LORA, 7)
    for checkpoint in kept(tmp_path):
        flip(checkpoint / "scheduler.pt")
    train(plan, tmp_path, LORA)
    assert record_of(tmp_path, LORA).happened.resumed_from_step == 0
    assert digests(tmp_path, LORA) == undisturbed


def test_other_settings_never_go_on_from_it(tmp_path, undisturbed):
    plan = house(tmp_path, **RESUMED | LONG, learning_rate=5e-3)
    killed(plan, tmp_path, LORA, 7)
    assert kept(tmp_path)
    train(house(tmp_path, **RESUMED | LONG), tmp_path, LORA)
    assert record_of(tmp_path, LORA).happened.resumed_from_step == 0
    assert digests(tmp_path, LORA) == undisturbed


def test_a_clock_that_was_set_back_keeps_the_newest_checkpoints(tmp_path, undisturbed):
    plan = house(tmp_path, **RESUMED | LONG)

    def set_back(_):
        for hours, checkpoint in enumerate(kept(tmp_path)):
            os.utime(checkpoint, (2e9 - 3600 * hours, 2e9 - 3600 * hours))

    with at_step(6, set_back):
        killed(plan, tmp_path, LORA, 9)
    assert [checkpoint.name for checkpoint in kept(tmp_path)] == ["checkpoint-8", "checkpoint-6", "checkpoint-4"]
    train(plan, tmp_path, LORA)
    assert digests(tmp_path, LORA) == undisturbed


def test_what_trainer_pickles_is_read_with_weights_only(tmp_path, monkeypatch):
    plan = house(tmp_path, **RESUMED | LONG)
    killed(plan, tmp_path, LORA, 7)
    real, read = torch.load, []

    def load(file, *arguments, **named):
        read.append((Path(file).name, named["weights_only"]))
        return real(file, *arguments, **named)

    monkeypatch.setattr(torch, "load", load)
    train(plan, tmp_path, LORA)
    assert sorted(read) == [("optimizer.pt", True), ("rng_state.pth", True), ("scheduler.pt", True)]


def spoil(step: int):
    """From the update `step` on, the trained weights are NaN: the next loss tells."""

    def on_step_begin(self, args, state, control, model, **_):
        if state.global_step >= step:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.fill_(torch.nan)

    patch = pytest.MonkeyPatch()
    patch.setattr(callbacks.TerminationCallback, "on_step_begin", on_step_begin)
    return patch


def test_a_diverging_loss_is_a_failed_record_and_siblings_go_on(tmp_path, undisturbed, capsys):
    plan = house(tmp_path, **RESUMED | LONG)
    real = stage.train_run

    def train_run(plan, run, *rest):
        patch = spoil(4) if run.seed == 0 else pytest.MonkeyPatch()
        try:
            return real(plan, run, *rest)
        finally:
            patch.undo()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "train_run", train_run)
        sibling = LORA.replace("s1", "s0")
        train(plan, tmp_path, sibling, LORA)
    assert digests(tmp_path, LORA) == undisturbed
    record = record_of(tmp_path, sibling)
    assert record.status == "failed" and "loss nan" in record.reason and "at step 5" in record.reason
    assert record.happened.step == 5 and record.happened.last_good_checkpoint == 4
    assert [row.step for row in record.happened.loss_curve if row.loss is not None][:4] == [1, 2, 3, 4]
    assert f"{sibling}: failed: {record.reason}" in capsys.readouterr().err
    assert [(tmp_path / "results" / "runs" / sibling / name).stat().st_size for name in FILES[:2]] == [0, 0]
    assert [checkpoint.name for checkpoint in kept(tmp_path)] == ["checkpoint-4", "checkpoint-2"]


@pytest.mark.parametrize(
    ("logs", "scaled", "fails"),
    [
        ({"loss": 9.0, "grad_norm": 1e6}, False, ""),
        ({"loss": 9.3}, False, "loss 9.3 at step 3, above 9.211: 10 times that of a uniform guess"),
        ({"loss": float("inf")}, False, "loss inf"),
        ({"loss": 1.0, "grad_norm": float("nan")}, False, "gradient norm nan at step 3"),
        ({"loss": 1.0, "grad_norm": float("inf")}, True, ""),
        ({"eval_loss": 50.0}, False, ""),
    ],
)
def test_what_counts_as_diverging(logs, scaled, fails):
    diverging = callbacks.DivergenceCallback(vocabulary=2.512, scaled=scaled)  # the logarithm is 0.921
    check = contextlib.nullcontext() if not fails else pytest.raises(FloatingPointError, match=fails)
    with check:
        diverging.on_log(None, TrainerState(global_step=3), None, logs)


def test_weights_that_diverge_in_the_last_update_fail_too(tmp_path, monkeypatch):
    plan = house(tmp_path, **RESUMED | {"steps": 2})

    def on_train_end(self, args, state, control, model, **_):
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(torch.inf)

    monkeypatch.setattr(callbacks.TerminationCallback, "on_train_end", on_train_end)
    train(plan, tmp_path, LORA)
    assert record_of(tmp_path, LORA).reason == "weights are not finite at step 2"


def test_sigterm_saves_a_checkpoint_at_once(tmp_path, undisturbed):
    plan = house(tmp_path, **RESUMED | LONG)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), at_step(5, lambda _: signal.raise_signal(signal.SIGTERM)):
        train(plan, tmp_path, LORA)
    assert signal.getsignal(signal.SIGTERM) is before
    assert kept(tmp_path)[0].name == "checkpoint-5" and store.is_whole(kept(tmp_path)[0])
    assert not (tmp_path / "results" / "runs").exists()
    train(plan, tmp_path, LORA)
    assert record_of(tmp_path, LORA).happened.resumed_from_step == 5
    assert digests(tmp_path, LORA) == undisturbed


SCRIPT = """
import os, signal, sys
from sbora_bench.cli import main as cli
from sbora_bench.train import callbacks
real, number = callbacks.TerminationCallback.on_step_end, int(sys.argv.pop())

def on_step_end(self, args, state, control, **rest):
    if state.global_step == 5:
        os.kill(os.getpid(), number)
    real(self, args, state, control, **rest)

callbacks.TerminationCallback.on_step_end = on_step_end
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job may have it ignored
sys.argv[:1] = ["sbora-bench", "finetune", "--experiment", "experiments/toy.yaml", "--results", "results"]
cli.main()
"""


@pytest.mark.parametrize(
    ("number", "status", "line", "newest"),
    [
        (signal.SIGTERM, 143, "sbora-bench: terminated; the same command goes on from here", "checkpoint-5"),
        (signal.SIGINT, 130, "sbora-bench: interrupted; the same command goes on from here", "checkpoint-4"),
        (signal.SIGKILL, -9, "", "checkpoint-4"),
    ],
)
def test_a_process_that_gets_a_signal(tmp_path, undisturbed, number, status, line, newest):
    plan = house(tmp_path, **RESUMED | LONG)
    done = forked.python("-c", SCRIPT, LORA, str(int(number)), folder=tmp_path)
    assert done.returncode == status, done.stderr
    ours = [text for text in done.stderr.splitlines() if text.startswith("sbora-bench")]
    assert ours == ([line] if line else []) and "Traceback" not in done.stderr
    assert kept(tmp_path)[0].name == newest
    train(plan, tmp_path, LORA)
    assert digests(tmp_path, LORA) == undisturbed
