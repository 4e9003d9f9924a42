"""Defects of the libraries that the authors ran on, not of their design: named switches, all off by default.

A protocol's `host_defects` brings them back; docs/protocol.md gives the reason of each.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from sbora_bench.plan.protocol import Protocol

if TYPE_CHECKING:
    import torch


def host_config(config: Any, protocol: Protocol) -> Any:
    """`config` as the authors' libraries read it. rope-base-10000: transformers 4.31 knows no `rope_theta`."""
    if "rope-base-10000" in protocol.host_defects:
        config.rope_parameters = {**config.rope_parameters, "rope_theta": 10000.0}
    return config


def host_adapter(model: Any, protocol: Protocol) -> Any:
    """`model`, an adapter on it, with the authors' forward pass.

    qdora-norm-unscaled: DoRA's norm is that of W + BA, though s BA is what is added (s = alpha / r).
    """
    from peft.tuners.lora.dora import DoraLinearLayer

    if "qdora-norm-unscaled" in protocol.host_defects:
        for module in model.modules():
            if isinstance(module, DoraLinearLayer):
                module.get_weight_norm = partial(_unscaled, module.get_weight_norm)
    return model


def _unscaled(
    norm: "Callable[..., torch.Tensor]",
    weight: "torch.Tensor",
    lora_weight: "torch.Tensor",
    scaling: float,
    **named: Any,
) -> "torch.Tensor":
    return norm(weight, lora_weight, 1.0, **named)
