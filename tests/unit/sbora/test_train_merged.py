"""Training on the merged weight: the same training, and the base comes back bit for bit."""

import copy

import pytest
import torch
from peft import get_peft_model

from sbora import SboraConfig

VARIANTS = ("fa", "fb")


def _steps(model, x, count=20):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(count):
        for part in x:  # gradients add up over several passes
            (model(part) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def _base_weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if "base_layer" in name}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_training_is_the_same(toy, adapt, variant):
    model = adapt(toy, variant=variant)
    other = copy.deepcopy(model)
    other.base_model.train_merged()
    x = torch.randn(2, 3, 5, 20)
    untrained = model(x).detach()
    for each in (model, other):
        _steps(each, x)
    assert (model(x) - untrained).abs().max() > 0.1
    torch.testing.assert_close(other(x), model(x), rtol=0, atol=1e-4)
    grad = {}
    for each in (model, other):
        inputs = x.clone().requires_grad_(True)
        each(inputs).square().sum().backward()
        grad[each] = inputs.grad
    torch.testing.assert_close(grad[other], grad[model], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_base_comes_back_bit_for_bit(toy, adapt, variant, dtype):
    model = adapt(toy.to(dtype), variant=variant)
    before = _base_weights(model)
    model.base_model.train_merged()
    _steps(model, torch.randn(2, 3, 20, dtype=dtype), 3)
    assert any(not torch.equal(before[name], weight) for name, weight in _base_weights(model).items())
    model.base_model.train_merged(False)
    after = _base_weights(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_merging_takes_the_last_step_along_and_unloading_leaves_nothing(toy, adapt, variant):
    x = torch.randn(2, 3, 20)
    model = adapt(toy, variant=variant)
    model.base_model.train_merged()
    _steps(model, x, 3)
    other = copy.deepcopy(model)
    expected = model(x).detach()
    merged = other.merge_and_unload()
    torch.testing.assert_close(merged(x), expected)
    assert all(p.is_contiguous() for p in merged.parameters())
    with model.disable_adapter():
        torch.testing.assert_close(model(x), toy(x))
    torch.testing.assert_close(model(x), expected)  # and it goes on
    assert torch.equal(model.unload()(x), toy(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_switching_adapters_writes_the_right_one(toy, adapt, variant):
    model = adapt(toy, variant=variant)
    model.add_adapter("other", SboraConfig(variant=variant, r=3, target_modules=["lin"], init_weights=False))
    x = torch.randn(3, 20)
    expected = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        expected[name] = model(x).detach()
    model.base_model.train_merged()
    for name in ("default", "other", "default"):
        model.set_adapter(name)
        torch.testing.assert_close(model(x), expected[name])


@pytest.mark.parametrize(
    ("settings", "message"), [({"sbora_dropout": 0.1}, "sbora_dropout = 0"), ({}, "one active adapter")]
)
def test_what_it_cannot_do_is_refused(toy, adapt, settings, message):
    model = adapt(toy, **settings)
    model.add_adapter("other", SboraConfig(r=2, target_modules=["lin"]))
    if not settings:
        model.base_model.set_adapter(["default", "other"])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        model.base_model.train_merged()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_second_derivative_is_refused(toy):
    model = get_peft_model(toy, SboraConfig(r=4, target_modules=["lin"]))
    model.base_model.train_merged()
    x = torch.randn(3, 20, requires_grad=True)
    weight = model.base_model.model.lin.sbora_weight["default"]
    (grad,) = torch.autograd.grad(model(x).square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
