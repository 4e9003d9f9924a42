"""Bases quantised by HQQ, by torchao's quantize_, and by kinds that cannot be merged into, beside PEFT's LoRA."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from sbora import SboraConfig, layer
from sbora._peft import resolve_quantization_backend

VARIANTS = pytest.mark.parametrize("variant", ["fa", "fb"])


def _adapted(base, variant, **settings):
    torch.manual_seed(1)
    settings = {"r": 4, "sbora_alpha": 1, "target_modules": ["0"], "init_weights": False} | settings
    model = get_peft_model(base, SboraConfig(variant=variant, **settings))
    return model, model.base_model.model[0]


def _base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64))


@pytest.fixture
def hqq():
    quantize = pytest.importorskip("hqq.core.quantize", reason="hqq is not installed")
    base = _base().requires_grad_(False)
    settings = quantize.BaseQuantizeConfig(nbits=8, group_size=64)
    base[0] = quantize.HQQLinear(base[0], settings, compute_dtype=torch.float32, device="cpu")
    return base


@VARIANTS
def test_hqq_trains_merges_and_gives_back_the_same_codes(hqq, variant):
    linear = hqq[0]
    model, adapted = _adapted(hqq, variant)
    model.add_adapter("other", SboraConfig(**{**model.peft_config["default"].to_dict(), "random_seed": 1}))
    x = torch.randn(3, 64)
    model(x).square().sum().backward()
    assert adapted.sbora_weight["default"].grad.any()
    before, y = adapted.base_layer.W_q.clone(), model(x).detach()
    for name in ("default", "other"):
        model.merge_adapter(adapter_names=[name])
        exact = linear.dequantize() + adapted.get_delta_weight(name)
        # 8 bits over a group's range: half a step of 255
        step = (exact.view(-1, 64).amax(1) - exact.view(-1, 64).amin(1)).max() / 255
        assert (adapted.base_layer.dequantize() - exact).abs().max() <= 0.75 * step
        torch.testing.assert_close(model(x), x @ exact.t() + linear.bias, rtol=0, atol=0.05)
        model.unmerge_adapter()
        assert torch.equal(adapted.base_layer.W_q, before)
    assert torch.equal(model(x), y)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(x), y, rtol=0, atol=0.05)


@VARIANTS
def test_torchao_trains_where_how_it_was_quantised_is_lost(variant):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    base = _base()
    quantization.quantize_(base, quantization.Int8WeightOnlyConfig())
    lora = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, target_modules=["0"]))
    x = torch.randn(3, 64)
    lora(x).sum().backward()
    linear = base[0]
    model, adapted = _adapted(base, variant)
    y = model(x)
    expected = x @ (linear.weight.dequantize() + adapted.get_delta_weight("default")).t() + linear.bias
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    y.sum().backward()
    assert adapted.sbora_weight["default"].grad.any()
    with pytest.raises(ValueError, match="load the base with transformers' TorchAoConfig to merge"):
        model.merge_adapter()
    assert torch.equal(model(x), y)


class Packed(nn.Module):
    """A layer of a kind that only runs: no weight that could be read."""

    in_features = out_features = 64

    def __init__(self):
        super().__init__()
        self.qweight = nn.Parameter(torch.zeros(8, 64, dtype=torch.int32), requires_grad=False)
        self.bias = None

    def forward(self, x):
        return x * 2


@VARIANTS
@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_kinds_that_only_run_train_and_say_in_pefts_words_that_they_do_not_merge(monkeypatch, variant, kind):
    from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend

    from sbora import quantized, targets

    def resolve(base, **settings):
        return ForwardOnlyQuantizationBackend(kind) if isinstance(base, Packed) else resolve_quantization_backend(base)

    monkeypatch.setattr(quantized, "resolve_quantization_backend", resolve)
    monkeypatch.setattr(targets, "resolve_quantization_backend", resolve)
    for module in (layer, targets):
        monkeypatch.setattr(module, "_get_in_out_features", lambda _: (64, 64))
    model, adapted = _adapted(nn.Sequential(Packed()), variant)
    x = torch.randn(3, 64)
    y = model(x)
    torch.testing.assert_close(y, 2 * x + x @ adapted.get_delta_weight("default").t(), rtol=1e-4, atol=1e-4)
    y.sum().backward()
    with pytest.raises(TypeError, match=f"not supported for {kind} layers. Merging/unmerging is not available"):
        model.merge_adapter()
    with pytest.raises(TypeError, match="Merging/unmerging is not available"):
        model.merge_and_unload()
    waiting, _ = _adapted(nn.Sequential(Packed()), variant, index_init="weight")
    with pytest.raises(ValueError, match="needs a base whose weights can be read"):
        waiting(x)
