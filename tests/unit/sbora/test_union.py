"""The union of adapters adds their updates, exactly."""

import copy
import itertools

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from sbora import SboraConfig
from tests.factories.adapted import adapted

VARIANTS = ("fa", "fb")
X = torch.linspace(-1, 1, 60).view(3, 20)


def _with_adapters(model, adapt, variant, **other):
    torch.manual_seed(1)
    model = adapt(model, variant=variant, **other.get("default", {}))
    for name, settings in other.items():
        if name != "default":
            settings = {"r": 4, "sbora_alpha": 8, "target_modules": ["lin", "conv"], "init_weights": False} | settings
            model.add_adapter(name, SboraConfig(**{"variant": variant} | settings))
    return model


def _deltas(model, layers, name):
    return [layer.get_delta_weight(name).detach() for layer in layers(model).values()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_disjoint_regions_join_without_a_loss(tmp_path, toy, adapt, layers, variant):
    regions = {name: {"region": (k, 2)} for k, name in enumerate(("default", "other"))}
    model = _with_adapters(toy, adapt, variant, **regions)
    for layer in layers(model).values():
        assert not set(layer.sbora_index["default"].tolist()) & set(layer.sbora_index["other"].tolist())
    model.add_weighted_adapter(["default", "other"], "both")
    for layer in layers(model).values():
        assert layer.r["both"] == 8
        assert (
            sum(layer.sbora_weight[name].numel() for name in ("default", "other")) == layer.sbora_weight["both"].numel()
        )
    parts = zip(_deltas(model, layers, "default"), _deltas(model, layers, "other"), strict=True)
    for joined, (one, two) in zip(_deltas(model, layers, "both"), parts, strict=True):
        assert torch.equal(joined, one + two)

    x = torch.randn(3, 20)
    model.base_model.set_adapter(["default", "other"])
    together = model(x)
    model.set_adapter("both")
    torch.testing.assert_close(model(x), together)
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    loaded = PeftModel.from_pretrained(toy, tmp_path / "both")
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("weights", [None, [0.5, -2.0]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_overlapping_regions_add_up(tmp_path, toy, adapt, layers, variant, weights):
    settings = {"default": {"r": 6}, "other": {"r": 5, "sbora_alpha": 3, "random_seed": 1}}
    model = _with_adapters(toy, adapt, variant, **settings)
    model.add_weighted_adapter(["default", "other"], "both", weights)
    one, two = (_deltas(model, layers, name) for name in ("default", "other"))
    a, b = weights or (1, 1)
    for joined, x, y in zip(_deltas(model, layers, "both"), one, two, strict=True):
        torch.testing.assert_close(joined, a * x + b * y)
    ranks = [layer.r["both"] for layer in layers(model).values()]
    assert any(rank < 11 for rank in ranks)

    x = torch.randn(3, 20)
    model.set_adapter("both")
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    loaded = PeftModel.from_pretrained(toy, tmp_path / "both")
    assert torch.equal(loaded(x), model(x))
    assert [layer.r["default"] for layer in layers(loaded).values()] == ranks


def test_adapters_of_different_layers(toy, adapt, layers):
    model = _with_adapters(toy, adapt, "fa", default={"target_modules": ["lin"]}, other={"target_modules": ["conv"]})
    model.add_weighted_adapter(["default", "other"], "both")
    x = torch.randn(3, 20)
    model.base_model.set_adapter(["default", "other"])
    together = model(x)
    model.set_adapter("both")
    torch.testing.assert_close(model(x), together)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_joined_layers_are_adapted(tmp_path, toy, adapt, layers, variant):
    """Another's name ends in a joined one's."""
    toy.block = torch.nn.ModuleDict({"lin": torch.nn.Linear(3, 3)})
    settings = {"target_modules": "lin"}
    base = copy.deepcopy(toy)
    model = _with_adapters(toy, adapt, variant, default=settings, other=settings | {"random_seed": 1})
    model.add_weighted_adapter(["default", "other"], "both")
    assert list(layers(model)) == ["base_model.model.lin"]
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    model.set_adapter("both")
    assert torch.equal(PeftModel.from_pretrained(base, tmp_path / "both")(X), model(X))


@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_a_union_is_of_the_same_revision_of_the_base(toy, kind):
    model = adapted(toy, kind, revision="other")
    model.add_weighted_adapter(["default"], [1.0], "same", combination_type="cat")
    assert model.peft_config["same"].revision == "other"


def test_a_name_that_is_refused_leaves_no_configuration(toy, adapt):
    model = adapt(toy)
    with pytest.raises(ValueError, match="cannot be named"):
        model.add_weighted_adapter(["default"], "v1.0")
    assert list(model.peft_config) == ["default"]


def test_many_regions_of_many_tasks(toy, adapt, layers):
    names = ["default", *(f"task_{k}" for k in range(1, 5))]
    model = _with_adapters(toy, adapt, "fa", **{name: {"region": (k, 5)} for k, name in enumerate(names)})
    for layer in layers(model).values():
        for a, b in itertools.combinations(names, 2):
            assert not set(layer.sbora_index[a].tolist()) & set(layer.sbora_index[b].tolist())
    model.add_weighted_adapter(names, "all")
    expected = [sum(parts) for parts in zip(*(_deltas(model, layers, name) for name in names), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(_deltas(model, layers, "all"), expected, strict=True))


@pytest.mark.parametrize(
    ("adapters", "name", "weights", "message"),
    [
        (["default", "nobody"], "both", None, "no adapter 'nobody'"),
        (["default", "other"], "other", None, "'other' already"),
        (["default", "default"], "both", None, "different adapters"),
        ([], "both", None, "at least one"),
        (["default", "other"], "both", [1.0], "2 adapters, but 1 weights"),
        (["default", "rows"], "both", None, "both variants"),
        (["default", "whole"], "both", None, "'whole' trains modules"),
    ],
)
def test_what_cannot_be_joined(toy, adapt, adapters, name, weights, message):
    toy.head = torch.nn.Linear(10, 5)
    head = {"target_modules": ["lin"], "modules_to_save": ["head"]}
    model = _with_adapters(toy, adapt, "fa", other={}, rows={"variant": "fb"}, whole=head)
    with pytest.raises(ValueError, match=message):
        model.add_weighted_adapter(adapters, name, weights)
    assert list(model.peft_config) == ["default", "other", "rows", "whole"]


@pytest.mark.parametrize("kind", ["lora", "fa", "fb"])
def test_weights_may_stand_before_the_name_as_peft_has_them(toy, adapt, layers, kind):
    if kind == "lora":
        common = {"r": 4, "target_modules": ["lin"], "init_lora_weights": False}
        model = get_peft_model(toy, LoraConfig(**common))
        model.add_adapter("other", LoraConfig(**common))
    else:
        model = _with_adapters(toy, adapt, kind, other={"random_seed": 1})
        model.add_weighted_adapter(["default", "other"], "named", weights=[1.0, 0.5])
    model.add_weighted_adapter(["default", "other"], [1.0, 0.5], "both")
    assert "both" in model.peft_config
    if kind != "lora":
        both, named = (_deltas(model, layers, name) for name in ("both", "named"))
        assert all(torch.equal(a, b) for a, b in zip(both, named, strict=True))
