"""Quantised bases: what is needed to merge into one, and to put the very same weight back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NoReturn

from torch import Tensor, nn

from ._peft import BaseTunerLayer, resolve_quantization_backend


def quantization_backend(base: nn.Module, get_apply_tensor_subclass: Callable | None = None) -> Any:
    """PEFT's way to read and write a quantised layer's weight; None if the layer is not quantised.

    Args:
        get_apply_tensor_subclass: gives what torchao quantises with, which transformers' `TorchAoConfig` knows.
            A model that `quantize_` was called on has lost it: it can be trained on, but not merged into.
    """
    return resolve_quantization_backend(base, get_apply_tensor_subclass=get_apply_tensor_subclass or _unknown)


def _unknown() -> NoReturn:
    raise ValueError(
        "Merging quantises the weight anew, and a model that torchao's quantize_ was called on does not say how: "
        "load the base with transformers' TorchAoConfig to merge into it."
    )


def dequantize(layer: BaseTunerLayer) -> Tensor:
    """The base weight in full, as a tensor of its own.

    Raises:
        TypeError: weights of this kind cannot be read, in PEFT's words.
    """
    base = layer.get_base_layer()
    state: Any = getattr(getattr(base, "weight", None), "quant_state", None)
    if getattr(state, "packing_format_for_cpu", False):
        # bitsandbytes repacks 4-bit weights in place when a CPU with AVX512-BF16 first runs them in
        # inference, and dequantises only the usual packing; writing a state dict restores that, but
        # for the scales if they are not quantised themselves (0.50)
        base.state_dict()
        if state.absmax.dim() == 2:
            state.absmax = state.absmax.t().reshape(-1).float()
    return layer.get_base_weight()


def keep_quantized(layer: BaseTunerLayer) -> tuple:
    """What `restore_quantized` needs, taken before the weight is quantised anew.

    Raises:
        ValueError: it is not known how to do that.
    """
    if hasattr(layer.quantization_backend, "get_apply_tensor_subclass"):
        layer.quantization_backend.get_apply_tensor_subclass()  # which raises before anything is changed
    base = layer.get_base_layer()
    weight: Any = getattr(base, "weight", None)  # HQQ's layers have none, and are replaced as a whole
    if type(weight).__name__ == "Params4bit":
        weight = copy.copy(weight)  # the same storage; PEFT alters the attributes of the one it replaces
    state: Any = getattr(base, "state", None)
    scale = None if state is None else (state.SCB if state.SCB is not None else weight.SCB)
    return layer.base_layer, weight, scale


def requantize(layer: BaseTunerLayer, weight: Tensor) -> None:
    """Quantise a weight in the place of the layer's own."""
    bias = getattr(layer.get_base_layer(), "bias", None)
    layer.set_base_weight(weight)
    if bias is not None and layer.get_base_layer().bias is None:  # PEFT makes HQQ's layers anew, without it
        layer.get_base_layer().bias = bias


def restore_quantized(layer: BaseTunerLayer, kept: tuple) -> None:
    """Put back the weight that was kept, bit by bit."""
    device = next(layer.get_base_layer().parameters()).device
    layer.base_layer, weight, scale = kept
    base = layer.get_base_layer()
    if weight is None:
        if device.type == "cuda":
            base.cuda(device)  # HQQ's own; its `to` does nothing
        return
    if scale is not None:  # bitsandbytes' 8-bit layers hold what belongs to the weight beside it
        weight.CB, weight.SCB = weight.data, scale
        base.state.reset_grads()
    base.weight = weight if weight.device == device else weight.to(device)
    if getattr(weight, "quant_state", None) is not None:
        base.quant_state = base.weight.quant_state
