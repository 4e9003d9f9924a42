"""What PEFT's methods want of training: values from data, a step's end, an optimizer; nothing for the others."""

import itertools

import pytest
import torch
from peft import PeftModel

from sbora_bench.errors import UserError
from sbora_bench.inputs.adapters import adapter_arguments, adapter_config, as_trained
from sbora_bench.inputs.method_hooks import adapted, after_update, changes_base, optimizer_of
from sbora_bench.train.method_steps import first_values
from tests.factories import shipped, toy_runs
from tests.factories.toy_runs import method_entry

LORA = {"r": "$rank", "lora_alpha": "$alpha", "target_modules": "$target_modules"}
PRUNED = {"target_r": "$rank", "init_r": "$rank*1.5", "tinit": 1, "tfinal": 2, "deltaT": 1, "total_step": "$steps"}


@pytest.fixture
def protocol():
    return shipped.protocol("tiny", "arithmetic", target_modules=["q_proj", "v_proj"], weights_dtype="float32")


def batches():
    for seed in range(100):
        ids = torch.randint(5, 30, (2, 6), generator=torch.Generator().manual_seed(seed))
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def made(method, protocol, rank=4):
    torch.manual_seed(0)
    return adapted(toy_runs.model(), method, adapter_config(method, rank, 0, protocol), protocol, batches)


def test_a_method_that_needs_nothing_is_made_as_ever(protocol):
    method = method_entry(**LORA)
    model = made(method, protocol)
    torch.manual_seed(0)
    plain = as_trained(toy_runs.model(), method, adapter_config(method, 4, 0, protocol), protocol)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert after_update(model) is None and optimizer_of(model, method, protocol) is None


@pytest.mark.parametrize("start", ["eva", "lora_ga", "corda"])
def test_first_values_come_from_the_data(start, protocol):
    """Other data, other values; and none of them are plain LoRA's."""
    values = []
    for method in (method_entry(**LORA), method_entry(**LORA, init_lora_weights=start)):
        state = made(method, protocol).state_dict()
        values.append(torch.cat([state[name].flatten() for name in sorted(state) if "lora_A" in name]))
    assert values[0].shape == values[1].shape and not torch.allclose(values[0], values[1])
    assert changes_base(adapter_config(method_entry(**LORA, init_lora_weights=start), 4, 0, protocol)) == (
        start != "eva"
    )


@pytest.mark.parametrize("start", ["lora_ga", "corda"])
def test_a_changed_base_is_the_model_that_it_was_and_its_adapter_fits_the_unchanged_one(start, protocol, tmp_path):
    """The loss of rows that the start has not seen: the base's before training, the trained model's once loaded."""
    ids = torch.randint(5, 30, (3, 12), generator=torch.Generator().manual_seed(999))
    model = made(method_entry(**LORA, init_lora_weights=start), protocol).eval()
    assert model(ids, labels=ids).loss.item() == pytest.approx(toy_runs.model()(ids, labels=ids).loss.item(), rel=1e-6)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    with first_values(model) as first:
        for batch in itertools.islice(batches(), 5):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(tmp_path, save_embedding_layers=False, path_initial_model_for_weight_conversion=first)
    loss = model(ids, labels=ids).loss.item()
    loaded = PeftModel.from_pretrained(toy_runs.model(), tmp_path)
    assert loaded(ids, labels=ids).loss.item() == pytest.approx(loss, rel=1e-6)
    assert loss != pytest.approx(toy_runs.model()(ids, labels=ids).loss.item(), rel=1e-3)


def test_adalora_prunes_to_its_target(protocol):
    method = method_entry("ADALORA", lora_alpha="$alpha", target_modules="$target_modules", **PRUNED)
    model = made(method, protocol)
    step_end, optimizer = after_update(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step, batch in zip(range(protocol.steps), batches(), strict=False):
        model(**batch).loss.backward()
        optimizer.step()
        step_end(step)
        optimizer.zero_grad()
    ranks = [int(torch.count_nonzero(p)) for name, p in model.named_parameters() if "lora_E" in name]
    assert sum(ranks) == 4 * len(ranks), "rank 4 on average, of the 6 that each layer began with"


def test_parts_of_a_number_are_filled_in(protocol):
    arguments = adapter_arguments(
        method_entry(a="$rank*1.5", b="$steps*0.2", c={"d": "$alpha"}), 4, 0, protocol, steps=30
    )
    assert (arguments["a"], arguments["b"], arguments["c"]["d"]) == (
        6,
        6,
        adapter_arguments(method_entry(a="$alpha"), 4, 0, protocol)["a"],
    )
    with pytest.raises(UserError, match="rank\\*much"):
        adapter_arguments(method_entry(a="$rank*much"), 4, 0, protocol)


def test_an_optimizer_of_its_own(protocol):
    method = method_entry(hooks={"optimizer": "lora-plus", "optimizer_arguments": {"loraplus_lr_ratio": 8}}, **LORA)
    groups = optimizer_of(made(method, protocol), method, protocol).param_groups
    rates = sorted({group["lr"] for group in groups if group["params"]})
    assert rates == pytest.approx([protocol.learning_rate, 8 * protocol.learning_rate])
    fixed = method_entry(hooks={"optimizer": "lora-fa"}, **LORA)
    model = made(fixed, protocol)
    optimizer_of(model, fixed, protocol)
    assert {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad} == {"lora_B"}


def test_an_entry_without_hooks_is_the_same_settings_as_before():
    assert "hooks" not in method_entry(**LORA).model_dump(mode="json")
    assert method_entry(hooks={"init_batches": 2}, **LORA).model_dump(mode="json")["hooks"]["init_batches"] == 2
