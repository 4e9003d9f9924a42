"""Training that memory does not suffice for: halved micro-batches, the same updates, and the record says so."""

import pytest
import torch

from sbora_bench.results.records import TrainRecord
from sbora_bench.train import finetune as stage
from sbora_bench.train.out_of_memory import halved_to_fit
from tests.factories.interruptions import record_of
from tests.factories.toy_training import digests, house, train

LORA = "toy-tiny-lora-r4-s1"
SETTINGS = {"steps": None, "epochs": 3, "batch_size": 8, "micro_batch": 8, "dropout": 0.0, "checkpoint_every": 2}


def no_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def small_memory(monkeypatch):
    """Memory for so many rows at a time, from the update `step` on: more raise what CUDA raises."""

    def limit(rows: int, step: int = 0) -> None:
        real = stage.build_trainer

        def build_trainer(*arguments):
            trainer = real(*arguments)

            def check(_, inputs, named):
                if trainer.state.global_step >= step and len(named["input_ids"]) > rows:
                    no_memory()

            trainer.model.register_forward_pre_hook(check, with_kwargs=True)
            return trainer

        monkeypatch.setattr(stage, "build_trainer", build_trainer)

    return limit


def losses(record: TrainRecord) -> list[float]:
    return record.happened.losses()


@pytest.mark.parametrize("average", ["tokens", "micro-batch"])
@pytest.mark.parametrize(
    ("rows", "micro", "too_many", "at_once"),
    [
        (4, 8, [8], 0),
        (2, 8, [8, 4], 0),
        (1, 6, [6, 3], 0),
        (4, 8, [], 64),  # the protocol's own parts fit
        (2, 8, [8], 128),  # and are halved where they don't
    ],
)
def test_it_ends_as_an_undisturbed_one(tmp_path, small_memory, average, rows, micro, too_many, at_once):
    settings = SETTINGS | {"loss_average": average, "micro_batch": micro, "batch_size": 2 * micro}
    whole, small = tmp_path / "whole", tmp_path / "small"
    train(house(whole, **settings), whole, LORA)
    small_memory(rows)
    plan = house(small, **settings, tokens_at_once=at_once)
    train(plan, small, LORA)
    ours, theirs = record_of(small, LORA), record_of(whole, LORA)
    assert theirs.happened.out_of_memory_with == [] and theirs.happened.micro_batch == micro
    assert ours.happened.out_of_memory_with == too_many
    assert ours.happened.micro_batch * ours.happened.accumulation == 2 * micro == plan.protocol("toy").batch_size
    assert (ours.asked == theirs.asked) == (at_once == 0) and ours.happened.examples == theirs.happened.examples
    assert len(losses(ours)) == theirs.happened.steps > 2
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-4)
    assert digests(small, LORA)[1:] == digests(whole, LORA)[1:]


def test_the_comparison_can_fail(tmp_path, small_memory):
    """Another micro-batch with its loss averaged within it, as it would be without the parts' shares, is seen."""
    whole, other = tmp_path / "whole", tmp_path / "other"
    train(house(whole, **SETTINGS, loss_average="micro-batch"), whole, LORA)
    train(house(other, **SETTINGS | {"micro_batch": 2}, loss_average="micro-batch"), other, LORA)
    assert losses(record_of(other, LORA)) != pytest.approx(losses(record_of(whole, LORA)), abs=1e-4)


def test_in_the_midst_it_goes_on_from_its_last_checkpoint(tmp_path, small_memory):
    whole, small = tmp_path / "whole", tmp_path / "small"
    train(house(whole, **SETTINGS), whole, LORA)
    small_memory(4, step=5)
    train(house(small, **SETTINGS), small, LORA)
    record = record_of(small, LORA)
    assert record.happened.resumed_from_step == 4 and record.happened.out_of_memory_with == [8]
    assert losses(record) == pytest.approx(losses(record_of(whole, LORA)), abs=1e-4)


def test_a_row_that_does_not_fit_is_a_failed_run(tmp_path, small_memory):
    small_memory(0)
    train(house(tmp_path, **SETTINGS), tmp_path, LORA)
    record = record_of(tmp_path, LORA)
    assert record.status == "failed" and "out of memory" in record.reason


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError(" out of memory.")])
def test_other_errors_come_through(error):
    def attempt(rows, too_many):
        raise error

    with pytest.raises(type(error)) as raised:
        halved_to_fit(attempt, 8)
    assert raised.value is error
