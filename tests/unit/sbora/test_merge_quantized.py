"""Merging into 4- and 8-bit weights on the CPU, which PEFT's own tests leave out for every method in 4 bits.

bitsandbytes quantises blocks of 64 weights of a row (4 bits) or whole rows (8 bits) by their largest magnitude. A
merge dequantises the weight, adds the region and quantises all of it anew, so no weight ends further from the exact
sum than half a step of its block, inside the region or outside; unmerging puts the old codes back.
"""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from sbora import SboraConfig

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

IN, OUT = 128, 64
# half of the widest gap between neighbouring codes, of a block whose largest magnitude is 1
HALF_STEP = {"nf4": 0.152, "fp4": 0.167, "int8": 0.5 / 127 + 2**-11}  # 8 bits are quantised from fp16
BLOCK = {"nf4": 64, "fp4": 64, "int8": IN}
EVERYWHERE = pytest.mark.parametrize(
    ("kind", "nested"), [("nf4", False), ("nf4", True), ("fp4", False), ("int8", False)]
)
VARIANTS = pytest.mark.parametrize("variant", ["fa", "fb"])


def _quantized(weight, kind, nested):
    """A linear layer with this weight, (OUT, IN), quantised, and a bias of zero."""
    if kind == "int8":
        layer = bnb.nn.Linear8bitLt(IN, OUT, has_fp16_weights=False)
    else:
        layer = bnb.nn.Linear4bit(IN, OUT, quant_type=kind, compress_statistics=nested, compute_dtype=torch.float32)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(OUT)})
    return layer.to("cpu")


def _adapted(kind, nested, variant):
    torch.manual_seed(0)
    model = nn.Sequential(_quantized(torch.randn(OUT, IN) / 10, kind, nested))
    config = SboraConfig(variant=variant, r=4, sbora_alpha=4, target_modules=["0"], init_weights=False)
    model = get_peft_model(model, config)
    model.add_adapter("other", SboraConfig(**{**config.to_dict(), "r": 8, "random_seed": 1}))
    layer = model.base_model.model[0]
    for weight in layer.sbora_weight.values():
        weight.data /= 10
    return model, layer


def _bits(layer):
    """Everything that the quantised base layer would save."""
    return {name: value.clone() for name, value in layer.get_base_layer().state_dict().items()}


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _weight(layer):
    return layer.get_base_weight().float().clone()


@EVERYWHERE
@VARIANTS
@pytest.mark.filterwarnings("ignore:Already following adapters were merged")
def test_unmerging_gives_back_the_same_codes(kind, nested, variant):
    model, layer = _adapted(kind, nested, variant)
    bits = _bits(layer)
    for names in (["default"], ["default", "other"]):
        model.merge_adapter(adapter_names=names)
        assert not _same(_bits(layer), bits)
        model.unmerge_adapter()
        assert _same(_bits(layer), bits)


@EVERYWHERE
@VARIANTS
def test_unmerging_after_inference_gives_back_the_same_outputs(kind, nested, variant):
    """bitsandbytes packs 4-bit weights anew for inference on some CPUs: merging must see through that."""
    model, layer = _adapted(kind, nested, variant)
    model.eval()
    x = torch.randn(3, IN)
    exact = _weight(layer) + layer.get_delta_weight("default")
    with torch.inference_mode():
        before = model(x)
        model.merge_adapter()
        expected = _quantized(exact, kind, nested).eval()(x)
        # packing rounds the scales to bf16, which may move a weight to the next code
        assert (model(x) - expected).norm() < 0.05 * expected.norm()
        model.unmerge_adapter()
        assert torch.equal(model(x), before)


@EVERYWHERE
@VARIANTS
def test_no_weight_is_further_from_the_sum_than_half_a_step(kind, nested, variant):
    model, layer = _adapted(kind, nested, variant)
    exact = (_weight(layer) + layer.get_delta_weight("default")).view(-1, BLOCK[kind])
    model.merge_adapter()
    error = (_weight(layer).view_as(exact) - exact).abs()
    largest = exact.abs().amax(dim=1, keepdim=True)
    slack = 0.02 if nested else 1e-3  # the blocks' scales are rounded too, nested ones to 8 bits
    assert error.max() > 0
    assert (error <= (HALF_STEP[kind] * (1 + slack) + slack * nested) * largest).all()


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_rows_outside_the_region_of_fb_keep_their_values(kind):
    """Blocks lie within rows, so FB leaves those of other rows alone; their scales must not be nested."""
    model, layer = _adapted(kind, False, "fb")
    before = _weight(layer)
    model.merge_adapter()
    others = torch.ones(OUT, dtype=torch.bool)
    others[layer.sbora_index["default"]] = False
    after = _weight(layer)
    assert torch.equal(after[others], before[others])
    assert not torch.equal(after[~others], before[~others])


@EVERYWHERE
@VARIANTS
def test_unloading_leaves_a_quantised_layer_of_the_merged_weight(kind, nested, variant):
    model, layer = _adapted(kind, nested, variant)
    exact = _weight(layer) + layer.get_delta_weight("default")
    merged = model.merge_and_unload()[0].eval()
    assert type(merged) is type(_quantized(exact, kind, nested))
    x = torch.randn(3, IN)
    with torch.inference_mode():
        assert torch.equal(merged(x), _quantized(exact, kind, nested).eval()(x))
