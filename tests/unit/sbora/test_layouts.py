"""Inputs that are nested or sparse: values and gradients are those of dense ones, as LoRA's are."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sbora import SboraConfig, preprocess_index

pytestmark = pytest.mark.filterwarnings("ignore:.*(prototype|beta) (stage|state)")
METHODS = pytest.mark.parametrize("method", ["fa", "fb", "lora"])
LAYOUTS = {  # (6, 20) -> a tensor of the layout, and its results -> those of the rows
    "jagged": (lambda x: torch.nested.nested_tensor(list(x.split([2, 4])), layout=torch.jagged), lambda y: y.values()),
    "strided": (lambda x: torch.nested.nested_tensor(list(x.split([2, 4]))), lambda y: torch.cat(y.unbind())),
    "coo": (lambda x: x.to_sparse(), lambda y: y),
    "csr": (lambda x: x.to_sparse_csr(), lambda y: y),
}


def _adapted(base, method, **settings):
    torch.manual_seed(1)
    targets = {"r": 4, "target_modules": ["lin"], **settings}
    if method == "lora":
        config = LoraConfig(init_lora_weights=False, **targets)
    else:
        config = SboraConfig(variant=method, init_weights=False, **targets)
    return get_peft_model(copy.deepcopy(base), config).base_model.model


def _gradients(layer, outputs):
    layer.zero_grad()
    outputs.square().sum().backward()
    return [p.grad.clone() for p in layer.parameters() if p.requires_grad]


@METHODS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_other_layouts(toy, layout, method):
    lay_out, rows = LAYOUTS[layout]
    layer = _adapted(toy, method).lin
    x = torch.randn(6, 20).relu()
    dense = layer(x)
    expected = _gradients(layer, dense)

    outputs = rows(layer(lay_out(x)))

    torch.testing.assert_close(outputs, dense)
    torch.testing.assert_close(_gradients(layer, outputs), expected)
    layer.merge()
    torch.testing.assert_close(rows(layer(lay_out(x))), dense)


@METHODS
def test_gradients_of_ragged_inputs(toy, method):
    layer = _adapted(toy, method).lin
    x = torch.randn(6, 20, requires_grad=True)
    layer(x).square().sum().backward()
    ragged = torch.nested.nested_tensor(list(x.detach().split([2, 4])), layout=torch.jagged, requires_grad=True)
    layer(ragged).values().square().sum().backward()
    torch.testing.assert_close(ragged.grad.values(), x.grad)


@pytest.mark.parametrize("variant", ["fa", "fb"])
def test_training_merged_says_that_it_takes_dense_inputs(toy, variant):
    layer = _adapted(toy, variant).lin
    layer.train_merged()
    with pytest.raises(ValueError, match="train_merged takes dense inputs"):
        layer(torch.randn(6, 20).to_sparse())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", ["fa", "fb"])
def test_index_sets_by_activations_of_other_layouts(toy, variant, layout):
    x = torch.randn(6, 20).relu()
    chosen = []
    for lay_out in (lambda x: x, LAYOUTS[layout][0]):
        config = SboraConfig(variant=variant, r=4, index_init="activation", target_modules=["lin"])
        base = copy.deepcopy(toy)
        preprocess_index(base, config, lambda base=base, lay_out=lay_out: [base.lin(lay_out(x))])
        chosen.append(get_peft_model(base, config).base_model.model.lin.sbora_index["default"].tolist())
    assert chosen[0] == chosen[1]
