"""Merging where a weight has another user or another adapter on it: the base's bits come back, or it is refused."""

import copy
import gc

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import parametrizations, prune

from sbora import SboraConfig, SboraLinear, merge_order

VARIANTS = ("fa", "fb")
X = torch.linspace(-1, 1, 60).view(3, 20)


def _two_on_one_weight():
    """Two modules on one Parameter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    model[1].weight = model[0].weight
    return model


def _config(variant, **settings):
    return SboraConfig(variant=variant, **({"r": 12, "target_modules": ["0", "1"], "init_weights": False} | settings))


def _adapted(model, variant, **settings):
    torch.manual_seed(1)
    return get_peft_model(model, _config(variant, **settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_layers_on_one_weight(variant, dtype):
    model = _two_on_one_weight().to(dtype)
    before = model[0].weight.detach().clone()
    model = _adapted(model, variant)
    x = X.to(dtype)
    expected = model(x)
    first, second = (m for m in model.modules() if isinstance(m, SboraLinear))
    for _ in range(2):
        model.merge_adapter()
        with pytest.raises(ValueError, match="has changed since"):
            first.unmerge()  # not the last writer
        model.unmerge_adapter()
        assert torch.equal(first.base_layer.weight, before)
    model.merge_adapter()
    second.unmerge()
    first.unmerge()
    assert torch.equal(first.base_layer.weight, before)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_refused_unmerge_changes_nothing(variant):
    model = _adapted(_two_on_one_weight(), variant)
    first = next(m for m in model.modules() if isinstance(m, SboraLinear))
    model.merge_adapter()
    merged = first.base_layer.weight.detach().clone()
    with pytest.raises(ValueError, match="has changed since"):
        first.unmerge()
    assert torch.equal(first.base_layer.weight, merged) and first.merged_adapters == ["default"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_lora_that_is_merged_below(variant):
    torch.manual_seed(0)
    lora = get_peft_model(nn.Sequential(nn.Linear(20, 20)), LoraConfig(target_modules=["0"], init_lora_weights=False))
    below = lora.base_model.model[0]
    before = below.base_layer.weight.detach().clone()
    model = _adapted(lora.base_model.model, variant, target_modules=["0"])
    layer = model.base_model.model[0]
    assert layer.base_layer is below

    below.merge()  # the order of a stack
    layer.merge()
    layer.unmerge()
    below.unmerge()
    torch.testing.assert_close(below.base_layer.weight, before)

    stood = below.base_layer.weight.detach().clone()
    layer.merge()  # another order: refused, and nothing is lost
    below.merge()
    with pytest.raises(ValueError, match="has changed since"):
        layer.unmerge()
    below.unmerge()
    layer.unmerge()
    torch.testing.assert_close(below.base_layer.weight, before)
    index = layer.sbora_index["default"]
    region = (slice(None), index) if variant == "fa" else index
    assert torch.equal(below.base_layer.weight[region], stood[region])


class Fused(nn.Module):
    """Two layers whose weights are parts of one tensor, as of a fused projection or of flattened parameters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fused = torch.randn(30, 20)
        self.q, self.k = nn.Linear(20, 10, bias=False), nn.Linear(20, 20, bias=False)
        self.q.weight, self.k.weight = nn.Parameter(self.fused[:10]), nn.Parameter(self.fused[10:])

    def forward(self, x):
        return torch.cat([self.q(x), self.k(x)], -1)


@pytest.mark.parametrize("kind", ["lora", *VARIANTS])
def test_parts_of_one_tensor_are_merged_each_on_its_own(kind):
    base = Fused()
    before = base.fused.clone()
    config = LoraConfig(r=4, init_lora_weights=False) if kind == "lora" else _config(kind, r=4)
    config.target_modules = {"q", "k"}
    model = get_peft_model(base, config)
    expected = model(X)
    model.merge_adapter()
    torch.testing.assert_close(X @ base.fused.t(), expected)
    for layer in (base.q, base.k):  # the one that was merged first is taken out first
        layer.unmerge()
    torch.testing.assert_close(base.fused, before, rtol=0, atol=1e-6 if kind == "lora" else 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_merged_leaves_parts_of_one_tensor_where_they_are(variant):
    model = _adapted(Fused(), variant, r=4, target_modules=["q", "k"])
    base = model.base_model.model
    before, gradients = base.fused.clone(), []
    for merged in (False, True):
        model.base_model.train_merged(merged)
        model.zero_grad()
        model(X).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(X @ base.fused.t(), model(X))
    model.base_model.train_merged(False)
    assert torch.equal(base.fused, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_merges_into_weights_that_are_gone_are_forgotten(variant):
    gc.collect()
    noted = len(merge_order._merges)
    for _ in range(3):
        _adapted(_two_on_one_weight(), variant).merge_and_unload()
        gc.collect()
    assert len(merge_order._merges) <= noted


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.body, self.head = nn.Embedding(30, 20), nn.Linear(20, 20), nn.Linear(20, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.body(self.embedding(ids))))


def _twice():
    """One module under two names: PEFT puts a layer under the first of them."""
    torch.manual_seed(0)
    linear = nn.Linear(20, 20)
    return nn.Sequential(linear, nn.Tanh(), linear)


def _view():
    model = _two_on_one_weight()
    model[1].weight = nn.Parameter(model[0].weight.data.view(20, 20))
    return model


@pytest.mark.parametrize(
    ("make", "targets"),
    [(Tied, ["head"]), (_two_on_one_weight, ["0"]), (_two_on_one_weight, ["0", "1"]), (_twice, ["0"]), (_view, ["1"])],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_merged_refuses_a_weight_with_another_user(variant, make, targets):
    model = _adapted(make(), variant, r=4, target_modules=targets)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match="weights with one user"):
        model.base_model.train_merged()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_merged_takes_tied_weights_that_are_no_targets(variant):
    model = _adapted(Tied(), variant, r=4, target_modules=["body"])
    ids = torch.arange(9).view(3, 3)
    expected = model(ids)
    model.base_model.train_merged()
    torch.testing.assert_close(model(ids), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_module_under_two_names_adapts_as_lora_does(variant):
    model = _adapted(_twice(), variant, r=4, target_modules=["0"])
    lora = get_peft_model(_twice(), LoraConfig(target_modules=["0"])).base_model.model
    assert hasattr(lora[0], "lora_A") and type(lora[2]) is nn.Linear
    assert isinstance(model.base_model.model[0], SboraLinear) and type(model.base_model.model[2]) is nn.Linear
    expected = model(X)
    model.merge_adapter()
    model.unmerge_adapter()
    assert torch.equal(model(X), expected)
    assert copy.deepcopy(model)(X).equal(expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_updates_below_the_rounding_of_a_weight_are_taken_out_in_order(variant):
    """In 16 bits the values alone do not show that somebody else has written."""
    model = _two_on_one_weight().bfloat16()
    before = model[0].weight.detach().clone()
    model = _adapted(model, variant)
    layers = [m for m in model.modules() if isinstance(m, SboraLinear)]
    for layer in layers:
        layer.sbora_weight["default"].data.mul_(1e-3)
    model.merge_adapter()
    with pytest.raises(ValueError, match="has changed since"):
        layers[0].unmerge()
    copied = copy.deepcopy(model)
    for merged in (model, copied):
        merged.unmerge_adapter()
        assert torch.equal(next(m for m in merged.modules() if isinstance(m, SboraLinear)).base_layer.weight, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_small_lora_that_is_merged_below_meanwhile(variant):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(20, 20)).bfloat16()
    lora = get_peft_model(base, LoraConfig(target_modules=["0"], init_lora_weights=False, lora_alpha=0.01))
    below = lora.base_model.model[0]
    layer = _adapted(lora.base_model.model, variant, target_modules=["0"]).base_model.model[0]
    layer.merge()
    below.merge()
    with pytest.raises(ValueError, match="has changed since"):
        layer.unmerge()
    below.unmerge()
    layer.unmerge()


@pytest.mark.parametrize("variant", VARIANTS)
def test_disabling_takes_out_the_last_one_first(variant):
    model = _two_on_one_weight()
    expected = model(X)
    model = _adapted(model, variant)
    merged = model(X)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(X), expected)
    assert torch.equal(model(X), merged)


@pytest.mark.parametrize("how", [parametrizations.weight_norm, lambda m: prune.l1_unstructured(m, "weight", 0.5)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_weight_that_is_computed_anew_in_every_pass(variant, how):
    """What is merged into it is lost: LoRA loses it without a word."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20))
    how(model[0])
    model = _adapted(model, variant, target_modules="0")  # an expression of the whole name
    expected = model(X)
    for refused in (model.merge_adapter, model.base_model.train_merged):
        with pytest.raises(ValueError, match="computed anew in every pass"):
            refused()
    assert torch.equal(model(X), expected)
