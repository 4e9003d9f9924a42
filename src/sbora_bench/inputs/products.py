"""What products with frozen weights are computed in: 16-bit ones in float32, on a CPU that takes less time over that.

An Intel Xeon with AVX-512's products of bfloat16, but without AMX, does 145 thousand million operations a second and
core in float32, 80 in bfloat16 (products of SmolLM2-135M's shapes); elsewhere it may be the other way. Sums are
float32 either way, so few results differ, in their last bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

NARROW = (torch.bfloat16, torch.float16)


@contextmanager
def products(
    model: torch.nn.Module, computed_in: Literal["weights", "float32"], device: str | None = None
) -> Iterator[None]:
    """Where float32 is chosen, have `model`'s frozen linear layers with 16-bit weights on the CPU multiply in it.

    `device`: `cpu` or `cuda`, what weights on `meta` stand for. A head whose loss is computed by `head_loss` isn't
    called: that asks `multiplies_in_float32`.
    """
    linear = [module for module in model.modules() if type(module) is torch.nn.Linear]
    layers = [layer for layer in linear if computed_in == "float32" and _is_narrow(layer, device)]
    for layer in layers:
        layer.forward = partial(_product, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def multiplies_in_float32(layer: torch.nn.Module) -> bool:
    """Whether `products` has the layer multiply in float32 just now."""
    return getattr(vars(layer).get("forward"), "func", None) is _product


def _is_narrow(layer: torch.nn.Linear, device: str | None) -> bool:
    frozen = not any(parameter.requires_grad for parameter in layer.parameters())
    return frozen and narrow_on_cpu(layer.weight, device)


def narrow_on_cpu(tensor: torch.Tensor, device: str | None = None) -> bool:
    """Whether a CPU computes with the tensor, of 16-bit floats; `device`: what one on `meta` stands for."""
    return (device or tensor.device.type) == "cpu" and tensor.dtype in NARROW


def _product(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return WideProduct.apply(x, layer.weight, layer.bias)


class WideProduct(torch.autograd.Function):
    """x (..., inputs), weight (outputs, inputs), bias (outputs,) or None -> (..., outputs), of the weight's type."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.dtype = x.dtype
        with torch.autocast("cpu", enabled=False):
            wide = F.linear(x.float(), weight.float(), None if bias is None else bias.float())
        return wide.to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            return (gradients[0].float() @ weight.float()).to(ctx.dtype), None, None
