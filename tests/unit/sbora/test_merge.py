"""Merging changes the region alone, and unmerging gives back the same bits."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sbora import SboraConfig
from tests.factories.adapted import adapted

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
VARIANTS = ["fa", "fb"]


def base_weights(model):
    """Copies of the base weights, (out_features, in_features), by name."""
    weights = {}
    for name in ("lin", "conv"):
        layer = model.base_model.model.get_submodule(name)
        weight = layer.base_layer.weight.detach().clone()
        weights[name] = weight.t() if layer.fan_in_fan_out else weight
    return weights


def _equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("safe_merge", [True, False])
def test_unmerging_gives_back_the_same_bits(toy, adapt, variant, dtype, safe_merge):
    model = adapt(toy.to(dtype), variant=variant)
    before = base_weights(model)
    for _ in range(3):
        model.merge_adapter(safe_merge=safe_merge)
        assert not _equal(base_weights(model), before)
        model.unmerge_adapter()
        assert _equal(base_weights(model), before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_region_changes_and_is_rounded_once(toy, adapt, layers, variant, dtype):
    model = adapt(toy.to(dtype), variant=variant)
    before = base_weights(model)
    model.merge_adapter()
    after = base_weights(model)
    for name in before:
        layer = model.base_model.model.get_submodule(name)
        index, weight = layer.sbora_index["default"], layer.sbora_weight["default"].detach()
        expected = before[name].clone()
        region = (slice(None), index) if variant == "fa" else (index, slice(None))
        expected[region] = (before[name][region].float() + 2.0 * weight.float()).to(dtype)
        assert torch.equal(after[name], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variants", [("fa", "fa"), ("fa", "fb"), ("fb", "fb")])
def test_several_overlapping_adapters(toy, adapt, dtype, variants):
    model = adapt(toy.to(dtype), variant=variants[0], r=8)
    model.add_adapter(
        "other", SboraConfig(variant=variants[1], r=8, target_modules=["lin", "conv"], init_weights=False)
    )
    before = base_weights(model)
    x = torch.randn(5, 20, dtype=dtype)
    model.base_model.set_adapter(["default", "other"])
    both = model(x)
    model.merge_adapter(["other"])
    with pytest.warns(UserWarning, match="other"):
        model.merge_adapter()
    torch.testing.assert_close(model(x), both, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.1)
    model.unmerge_adapter()
    assert _equal(base_weights(model), before)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("start", "casts"),
    [
        (torch.float32, [torch.float64, torch.float32]),
        (torch.bfloat16, [torch.float32, torch.bfloat16]),
        (torch.float32, [torch.bfloat16]),
        (torch.float16, [torch.float64]),
    ],
)
def test_casting_between_merge_and_unmerge(toy, adapt, variant, start, casts):
    """The base comes back as if it had been cast alone."""
    model = adapt(toy.to(start), variant=variant)
    expected = base_weights(model)
    model.merge_adapter()
    for dtype in casts:
        model.to(dtype)
        expected = {name: weight.to(dtype) for name, weight in expected.items()}
    model.unmerge_adapter()
    assert _equal(base_weights(model), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_a_cast_of_everything_to_a_type_between_merge_and_unmerge(toy, kind, dtype):
    """`type` casts whole numbers too."""
    model = adapted(toy, kind)
    expected = {name: weight.type(dtype) for name, weight in base_weights(model).items()}
    model.merge_adapter()
    model.type(dtype)
    model.unmerge_adapter()
    for name, weight in base_weights(model).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0 if kind != "lora" else 1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_copy_and_a_changed_adapter_still_unmerge(toy, adapt, layers, variant):
    model = adapt(toy, variant=variant)
    before = base_weights(model)
    model.merge_adapter()
    model = copy.deepcopy(model)
    for layer in layers(model).values():
        layer.sbora_weight["default"].data.add_(1)
        layer.sbora_index["default"].copy_(torch.arange(4))
    model.unmerge_adapter()
    assert _equal(base_weights(model), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_broken_adapter_is_not_merged_safely(toy, adapt, layers, variant):
    model = adapt(toy, variant=variant)
    before = base_weights(model)
    with torch.no_grad():
        layers(model)["base_model.model.lin"].sbora_weight["default"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="adapter default seems to be broken"):
        model.merge_adapter(safe_merge=True)
    assert _equal(base_weights(model), before)


@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_nobody_sees_what_a_merge_keeps(toy, kind):
    """Averages go through buffers in pairs, and processes send them to each other."""
    model = adapted(toy, kind)
    names = [*model.state_dict(), *dict(model.named_buffers())]
    model.merge_adapter()
    assert [*model.state_dict(), *dict(model.named_buffers())] == names


@pytest.mark.parametrize("variant", VARIANTS)
def test_disabling_unmerges_and_scaling_scales(toy, adapt, layers, variant):
    model = adapt(toy, variant=variant)
    x = torch.randn(4, 20)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(x), toy(x))
    layer = layers(model)["base_model.model.lin"]
    x, base = torch.randn(4, 20), layer.base_layer
    update = layer(x) - base(x)
    layer.scale_layer(3)
    torch.testing.assert_close(layer(x) - base(x), 3 * update)
    layer.unscale_layer(1.5)
    torch.testing.assert_close(layer(x) - base(x), 2 * update)
    layer.unscale_layer()
    torch.testing.assert_close(layer(x) - base(x), update)
    layer.set_scale("default", 0)
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_scalings_that_are_replaced_as_a_whole_are_followed_by_the_pass(toy, adapt, kind):
    """As `peft.helpers.rescale_adapter_scale` does it."""
    x = torch.randn(4, 20)
    if kind == "lora":
        model = get_peft_model(toy, LoraConfig(r=4, target_modules=["lin"], init_lora_weights=False))
    else:
        model = adapt(toy, variant=kind, target_modules=["lin"])
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        layer = same.base_model.model.lin
        before, base, update = layer.scaling.copy(), layer.base_layer(x), layer(x) - layer.base_layer(x)
        layer.scaling = {name: 3 * scaling for name, scaling in before.items()}
        torch.testing.assert_close(layer(x) - base, 3 * update, rtol=1e-4, atol=1e-5)
        layer.merge()
        torch.testing.assert_close(layer(x) - base, 3 * update, rtol=1e-4, atol=1e-5)
        layer.unmerge()
        layer.scaling = before
        torch.testing.assert_close(layer(x) - base, update)


def test_dropouts_that_are_replaced_as_a_whole_are_followed_by_the_pass(toy, adapt):
    layer = adapt(toy, target_modules=["lin"]).train().base_model.model.lin
    layer.sbora_dropout = {"default": 0.5}
    torch.manual_seed(0)
    one, other = layer(torch.ones(2, 20)), layer(torch.ones(2, 20))
    assert not torch.equal(one, other)
    layer.sbora_dropout = layer.sbora_dropout
    assert layer.sbora_dropout == {"default": 0.5}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_delta_weight_is_what_merging_adds(toy, adapt, layers, variant):
    model = adapt(toy, variant=variant)
    for layer in layers(model).values():
        before = layer.base_layer.weight.detach().clone()
        delta = layer.get_delta_weight("default").detach()
        layer.merge()
        torch.testing.assert_close(layer.base_layer.weight, before + delta)
        assert layer.supports_lora_conversion()
