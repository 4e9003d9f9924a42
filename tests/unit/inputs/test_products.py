"""Frozen 16-bit layers that multiply in float32: which do, and that their products and gradients are rounded once."""

import pytest
import torch
from torch import nn

from sbora_bench.inputs.products import multiplies_in_float32, products
from sbora_bench.inputs.supervised_loss import head_loss


def layer(dtype: torch.dtype = torch.bfloat16, trained: bool = False, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(96, 40, bias=bias).to(dtype).requires_grad_(trained)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_and_its_gradient_are_those_of_float32_rounded_once(dtype, bias):
    model, exact = layer(dtype, bias=bias), layer(torch.float32, bias=bias)
    exact.load_state_dict(model.state_dict())
    x, wanted = torch.randn(2, 5, 96, dtype=dtype, requires_grad=True), torch.randn(2, 5, 40, dtype=dtype)
    with products(model, "float32"):
        y = model(x)
        (gradient,) = torch.autograd.grad(y, x, wanted)
    exact_x = x.detach().float().requires_grad_()
    exact_y = exact(exact_x)
    (exact_gradient,) = torch.autograd.grad(exact_y, exact_x, wanted.float())
    assert y.dtype == gradient.dtype == dtype
    assert torch.equal(y, exact_y.to(dtype)) and torch.equal(gradient, exact_gradient.to(dtype))


def test_under_autocast_too():
    model = layer()
    x = torch.randn(3, 96)
    with products(model, "float32"), torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, nn.functional.linear(x, model.weight.float(), model.bias.float()).bfloat16())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_the_loss_of_a_head_is_that_of_float32_and_its_gradient_rounded_once(bias, autocast):
    head, exact = layer(bias=bias), layer(torch.float32, bias=bias)
    exact.load_state_dict(head.state_dict())
    positions, targets = torch.arange(4), torch.tensor([3, 0, 7, 39])
    hidden = torch.randn(1, 5, 96, dtype=torch.bfloat16, requires_grad=True)
    exact_hidden = hidden.detach().float().requires_grad_()
    exact_loss = head_loss(exact_hidden, exact, positions, targets)
    (exact_gradient,) = torch.autograd.grad(exact_loss, exact_hidden)
    with products(head, "float32"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = head_loss(hidden, head, positions, targets)
        (gradient,) = torch.autograd.grad(loss, hidden)
    assert torch.equal(loss, exact_loss) and torch.equal(gradient, exact_gradient.bfloat16())
    (narrow,) = torch.autograd.grad(head_loss(hidden, head, positions, targets), hidden)
    assert not torch.equal(narrow, gradient)


@pytest.mark.parametrize(
    ("model", "computed_in", "wide"),
    [
        (layer(), "float32", True),
        (layer(), "weights", False),
        (layer(torch.float32), "float32", False),
        (layer(trained=True), "float32", False),
        (layer().to("meta"), "float32", False),
    ],
    ids=["narrow", "not-chosen", "float32", "trained", "elsewhere"],
)
def test_which_layers_multiply_in_float32_and_no_longer_than_wanted(model, computed_in, wide):
    with pytest.raises(KeyError), products(nn.Sequential(model), computed_in):
        assert ("forward" in vars(model)) == multiplies_in_float32(model) == wide
        raise KeyError
    assert "forward" not in vars(model)
