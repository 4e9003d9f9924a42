"""Bytes of the storages that a model's tensors have, on any device."""

from collections.abc import Iterable, Iterator

import torch


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the different storages behind these tensors."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def weight_tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Every tensor that the model holds: parameters, buffers and the quantisation states of 4-bit layers."""
    yield from model.parameters()
    yield from model.buffers()
    for part in model.modules():
        state = getattr(getattr(part, "weight", None), "quant_state", None)
        while state is not None:
            yield from (t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor))
            state = state.state2


def saved_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) as in `state_dict`, less the states of 4-bit layers, which can't be written on `meta`."""
    yield from model.named_parameters(remove_duplicate=False)
    for prefix, part in model.named_modules(remove_duplicate=False):
        for name, buffer in part.named_buffers(recurse=False):
            if name not in part._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer
