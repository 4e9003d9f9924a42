"""Parity with the authors' code, step by step: what the Trainer really does to a toy under the paper's protocols
(protocol sections 2, 3 and 5), against closed formulas."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback

from sbora_bench.plan.protocol import Protocol
from sbora_bench.plan.runs import Cell, Run
from sbora_bench.plan.steps import carried_epochs, examples_seen, micro_batches, update_steps
from sbora_bench.train.record import logged_losses
from sbora_bench.train.split import split
from sbora_bench.train.trainer import build_trainer
from tests.factories import shipped, toy_runs

RUN = Run(Cell("t", "m", "lora", 4), 0)
# What a CPU can't do; none of it is part of what is tested here.
CPU = {"autocast": None, "weights_dtype": "float32", "gradient_checkpointing": False}


def rows(count: int) -> Dataset:
    """Rows of 3 to 9 tokens; the second token is the row's number."""
    made = []
    for row in range(count):
        ids = [1, 4 + row % 30, *(4 + (row * 7 + place) % 30 for place in range(1 + row % 7))]
        made.append({"input_ids": ids, "labels": ids, "length": len(ids)})
    return Dataset.from_list(made)


class Watch(TrainerCallback):
    """What stands at every update: learning rate, norm of the gradient, gradients, weights before and after."""

    def __init__(self, keep: bool = False) -> None:
        self.keep, self.rates, self.norms, self.gradients, self.weights = keep, [], [], [], []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.weights.append(_copy(model))

    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        self.rates.append(rate)
        gradients = [p.grad.double() for p in model.parameters() if p.requires_grad]
        self.norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        if self.keep:
            self.gradients.append([gradient.clone() for gradient in gradients])

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.keep:
            self.weights.append(_copy(model))


def _copy(model) -> list[torch.Tensor]:
    return [p.detach().double().clone() for p in model.parameters() if p.requires_grad]


def trainer_of(protocol: Protocol, folder, train: int = 64, validation: int = 8, **settings):
    """(trainer, watch) of a LoRA on the toy."""
    torch.manual_seed(0)
    model = get_peft_model(toy_runs.model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    held = rows(validation) if protocol.validation_every else None
    trainer = build_trainer(model, toy_runs.tokenizer(), rows(train), held, protocol, RUN, folder)
    watch = Watch(**settings)
    trainer.add_callback(watch)
    return trainer, watch


def linear(step: int, steps: int, rate: float) -> float:
    """Update `step` (from 0) of `steps`: up over the first 100, then down to 0 after the last."""
    return rate * (step / 100 if step < 100 else (steps - step) / (steps - 100))


def test_operations_are_counted_as_trainer_has_it_and_the_parameters_once(tmp_path, monkeypatch):
    trainer, _ = trainer_of(shipped.protocol("official", "arithmetic", **CPU), tmp_path)
    batch = {"input_ids": torch.ones(3, 5, dtype=torch.long)}
    expected = Trainer.floating_point_ops(trainer, batch)
    assert trainer.floating_point_ops(batch) == expected > 0
    monkeypatch.setattr(type(trainer.model.get_base_model()), "num_parameters", lambda *_, **__: pytest.fail("again"))
    assert trainer.floating_point_ops(batch) == expected


# --- how many updates -----------------------------------------------------------------------------------------------


def test_updates_of_the_paper():
    """From the real row counts, the validation rows taken off."""
    assert update_steps(170_420 - 120, shipped.protocol("official", "commonsense")) == 10_643
    assert update_steps(9_919 - 120, shipped.protocol("official", "arithmetic")) == 3_675
    for examples in (52_002 - 1_024, 50_000 - 1_024):
        assert update_steps(examples, shipped.protocol("official", "mmlu")) == 10_000
    for name in ("commonsense", "arithmetic", "mmlu"):
        official, clean = shipped.protocol("official", name), shipped.protocol("clean", name)
        assert (official.batch_size, official.steps, official.epochs) == (clean.batch_size, clean.steps, clean.epochs)


def test_epochs_of_the_paper():
    """Commonsense leaves 6 micro-batches over, which nothing follows; suite 3's epochs run on into one another."""
    protocol = {suite: shipped.protocol("official", suite) for suite in ("commonsense", "arithmetic", "mmlu")}
    assert micro_batches(170_300, protocol["commonsense"]) == 85_150 and 85_150 - 8 * 10_643 == 6
    assert examples_seen(170_300, 10_643, protocol["commonsense"]) == 170_300 - 12
    assert micro_batches(9_799, protocol["arithmetic"]) == 2_450
    assert examples_seen(9_799, 3_675, protocol["arithmetic"]) == 3 * 9_799
    assert (carried_epochs(50_978, protocol["mmlu"]), carried_epochs(48_976, protocol["mmlu"])) == (13, 14)
    assert examples_seen(50_978, 10_000, protocol["mmlu"]) == 12 * 50_978 + (40_000 - 12 * 3_187) * 16


@pytest.mark.parametrize("grouped", [False, True])
def test_an_update_takes_what_the_last_epoch_left_over(tmp_path, grouped):
    """5 micro-batches an epoch, 4 an update, 3 epochs: 3 updates of 4 (today's Trainer alone: 6, each second of 1)."""
    protocol = shipped.protocol(
        "official", "arithmetic", **CPU, batch_size=8, micro_batch=2, validation_every=None, keep_best=False
    )
    grouping = shipped.protocol("official", "mmlu" if grouped else "arithmetic").group_by_length
    protocol = protocol.model_copy(update={"group_by_length": grouping})
    trainer, watch = trainer_of(protocol, tmp_path, train=10)
    seen, plain = [], trainer.data_collator
    trainer.data_collator = lambda batch: (seen.append([row["input_ids"][1] for row in batch]), plain(batch))[1]
    trainer.train()
    assert trainer.state.global_step == len(watch.rates) == 3
    assert [len(batch) for batch in seen[:12]] == [2] * 12
    for epoch in (seen[0:5], seen[5:10]):
        assert Counter(row for batch in epoch for row in batch) == Counter(range(4, 14))
    assert seen[0:5] != seen[5:10]


def test_a_resumed_run_goes_on_in_the_same_order(tmp_path):
    """Also in the second epoch, across the update that belongs to two."""
    protocol = shipped.protocol("official", "mmlu", **CPU, steps=4, batch_size=8, micro_batch=2, checkpoint_every=1)
    protocol = protocol.model_copy(update={"validation_every": None, "optimizer": "adamw_torch"})
    whole, watch = trainer_of(protocol, tmp_path / "whole", train=10, keep=True)
    whole.train()
    again, other = trainer_of(protocol, tmp_path / "again", train=10, keep=True)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert again.state.global_step == 4 and len(other.weights) == 3
    for first, second in zip(watch.weights[-1], other.weights[-1], strict=True):
        assert torch.equal(first, second)


# --- learning rate, optimizer, clipping -----------------------------------------------------------------------------


@pytest.mark.parametrize(("suite", "rate"), [("commonsense", 2e-4), ("arithmetic", 3e-4)])
def test_learning_rate_at_every_update_of_a_run(tmp_path, suite, rate):
    steps = 112
    protocol = shipped.protocol("official", suite, **CPU, steps=steps, epochs=None, batch_size=1, micro_batch=1)
    protocol = protocol.model_copy(update={"validation_every": None, "keep_best": False})
    trainer, watch = trainer_of(protocol, tmp_path)
    trainer.train()
    assert watch.rates == pytest.approx([linear(step, steps, rate) for step in range(steps)], rel=1e-12)
    rates = {row["step"]: row["learning_rate"] for row in logged_losses(trainer.state.log_history) if "loss" in row}
    assert rates == {step: pytest.approx(linear(step - 1, steps, rate), rel=1e-9) for step in rates}
    assert len(rates) == steps


@pytest.mark.parametrize("warmup", [0, 5])
def test_the_constant_schedule_ignores_warm_up(tmp_path, warmup):
    protocol = shipped.protocol(
        "official", "mmlu", **CPU, steps=9, batch_size=4, micro_batch=2, optimizer="adamw_torch"
    )
    protocol = protocol.model_copy(update={"validation_every": None, "warmup_steps": warmup})
    trainer, watch = trainer_of(protocol, tmp_path)
    trainer.train()
    assert watch.rates == [2e-4] * 9


@pytest.mark.parametrize(
    ("name", "suite", "steps", "formula"),
    [
        ("official", "commonsense", 10_643, lambda step: linear(step, 10_643, 2e-4)),
        ("official", "arithmetic", 3_675, lambda step: linear(step, 3_675, 3e-4)),
        ("official", "mmlu", 10_000, lambda step: 2e-4),
        ("clean", "commonsense", 10_643, lambda step: linear(step, 10_643, 2e-4)),
        ("clean", "arithmetic", 3_675, lambda step: linear(step, 3_675, 3e-4)),
        ("clean", "mmlu", 10_000, lambda step: 2e-4 * min(1, step / 300)),
    ],
)
def test_learning_rate_at_every_update_of_the_paper(tmp_path, name, suite, steps, formula):
    """The schedule that the Trainer builds, at its true length."""
    protocol = shipped.protocol(name, suite, **CPU, optimizer="adamw_torch", steps=steps, epochs=None)
    trainer, _ = trainer_of(protocol, tmp_path)
    assert trainer.args.max_steps == steps
    trainer.create_optimizer_and_scheduler(trainer.args.max_steps)
    rates = []
    for _ in range(steps):
        rates += [group["lr"] for group in trainer.optimizer.param_groups]
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    groups = len(trainer.optimizer.param_groups)
    assert rates == pytest.approx([formula(step) for step in range(steps) for _ in range(groups)], rel=1e-9)


@pytest.mark.parametrize("suite", ["commonsense", "arithmetic", "mmlu"])
@pytest.mark.parametrize("name", ["official", "clean"])
def test_optimizer_as_the_trainer_builds_it(tmp_path, name, suite):
    """AdamW, betas 0.9 and 0.999, epsilon 1e-8, no decay; suite 3 by bitsandbytes, paged, 32 bits."""
    from transformers import Trainer

    trainer, _ = trainer_of(shipped.protocol(name, suite, **CPU), tmp_path)
    kind, arguments = Trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    assert (kind.__name__, arguments["betas"], arguments["eps"]) == ("AdamW", (0.9, 0.999), 1e-8)
    assert trainer.args.weight_decay == 0.0
    assert trainer.args.max_grad_norm == (0.3 if suite == "mmlu" else 1.0)
    if suite == "mmlu":
        assert kind.__module__.startswith("bitsandbytes") and (arguments["is_paged"], arguments["optim_bits"]) == (
            True,
            32,
        )
    else:
        assert kind is torch.optim.AdamW
        built = trainer.create_optimizer()
        for group in built.param_groups:
            assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.0)
        trained = {id(p) for group in built.param_groups for p in group["params"]}
        assert trained == {id(p) for p in trainer.model.parameters() if p.requires_grad}


def test_weights_after_every_update_are_those_of_adamw(tmp_path):
    """Adam's formulas by hand in float64, from the gradients that the optimizer was given."""
    protocol = shipped.protocol(
        "official", "commonsense", **CPU, steps=6, epochs=None, batch_size=4, micro_batch=2, warmup_steps=2
    )
    protocol = protocol.model_copy(update={"validation_every": None, "keep_best": False})
    trainer, watch = trainer_of(protocol, tmp_path, keep=True)
    trainer.train()
    first = [torch.zeros_like(weight) for weight in watch.weights[0]]
    second = [torch.zeros_like(weight) for weight in watch.weights[0]]
    for step, (rate, gradients) in enumerate(zip(watch.rates, watch.gradients, strict=True), start=1):
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
        second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, gradients, strict=True)]
        for place, before in enumerate(watch.weights[step - 1]):
            m, v = first[place] / (1 - 0.9**step), second[place] / (1 - 0.999**step)
            expected = before - rate * m / (v.sqrt() + 1e-8)
            assert torch.allclose(watch.weights[step][place], expected, rtol=0, atol=2e-7)
    moved = [float((a - b).abs().max()) for a, b in zip(watch.weights[0], watch.weights[-1], strict=True)]
    assert max(moved) > 1e-4


@pytest.mark.parametrize(("suite", "limit"), [("commonsense", 1.0), ("mmlu", 0.3)])
def test_gradients_are_clipped_by_their_norm_together(tmp_path, suite, limit):
    protocol = shipped.protocol("official", suite, **CPU, steps=12, epochs=None, batch_size=2, micro_batch=1)
    protocol = protocol.model_copy(update={"validation_every": None, "keep_best": False, "optimizer": "adamw_torch"})
    trainer, watch = trainer_of(protocol, tmp_path)
    trainer.train()
    raw = [row["grad_norm"] for row in logged_losses(trainer.state.log_history) if "grad_norm" in row]
    assert watch.norms == pytest.approx([min(norm, limit) for norm in raw], rel=1e-4)
    assert sum(norm > limit for norm in raw) >= 3


# --- validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "count", "held"), [("commonsense", 1_700, 120), ("arithmetic", 9_919, 120), ("mmlu", 52_002, 1_024)]
)
def test_validation_rows_are_the_first_of_numpy_s_permutation_with_seed_42(suite, count, held):
    """`datasets` splits so; the authors call it with this seed, and leave the order afterwards to chance."""
    drawn = np.random.default_rng(42).permutation(count)
    train, validation = split(Dataset.from_dict({"row": range(count)}), shipped.protocol("official", suite), seed=7)
    trained, kept = (part.with_format("numpy")[:]["row"] for part in (train, validation))
    assert set(kept) <= set(drawn[:held]) and len(kept) in (held, 1_000)
    assert np.array_equal(np.sort(trained), np.sort(drawn[held:]))


def test_the_checkpoint_of_lowest_validation_loss_is_the_result(tmp_path):
    overrides = {
        "steps": 8,
        "epochs": None,
        "batch_size": 2,
        "micro_batch": 1,
        "validation_every": 1,
        "warmup_steps": 0,
    }
    protocol = shipped.protocol("official", "commonsense", **CPU, **overrides, learning_rate=0.3)
    trainer, watch = trainer_of(protocol, tmp_path, keep=True)
    trainer.train()
    losses = {row["step"]: row["validation_loss"] for row in logged_losses(trainer.state.log_history) if len(row) == 2}
    best = min(losses, key=losses.get)
    assert len(losses) == 8 and best < 8 and not math.isnan(sum(losses.values()))
    assert trainer.state.best_global_step == best
    for kept, then in zip(_copy(trainer.model), watch.weights[best], strict=True):
        assert torch.equal(kept, then)
