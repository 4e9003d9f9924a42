"""What a layer does when its state is taken or loaded: hooks of its module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .region import UNDECIDED, has_sunk, may_sink


def watch(layer: Any) -> None:
    """Register the hooks with a layer."""
    layer.register_state_dict_pre_hook(leave_merged_pass)
    layer.register_load_state_dict_pre_hook(leave_merged_pass)
    layer.register_load_state_dict_pre_hook(rename_old_keys)
    layer.register_load_state_dict_pre_hook(take_whole_numbers)
    layer.register_state_dict_pre_hook(restore_averaged)
    layer.register_load_state_dict_post_hook(check_loaded_index)


def take_whole_numbers(layer: Any, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """Take index sets of other types as int64, and refuse averages of them, as FedAvg makes of states, but for those
    of equal ones that are still numbers with a fraction.

    Raises:
        ValueError: what is loaded is, or must be, an average.
    """
    for name, own in layer.sbora_index.items():
        key = f"{prefix}sbora_weight.{name}.index"
        index = state.get(key)
        if index is None or index.is_meta:
            continue
        comparable = not own.is_meta and own.shape == index.shape
        off = own.to(index.device, torch.float64) - index.to(torch.float64) if comparable else None
        if off is not None and index.is_floating_point() and off.abs().max() < 0.01:
            state[key] = own.clone()
            continue
        if index.is_floating_point():
            averaged = index.dtype not in (torch.float32, torch.float64) or bool((index != index.round()).any())
        else:
            size = layer.in_features if layer.variant[name] == "fa" else layer.out_features
            drawn = layer.sbora_weight.region(name).drawn_by[-1] == "random"  # sets chosen by data are often near
            averaged = drawn and off is not None and bool(off.any()) and _is_cut(index, own.to(index.device), size)
        if averaged:
            raise ValueError(
                f"The index set of adapter {name!r} ({prefix.rstrip('.')}) must be whole numbers, but what was loaded "
                f"({index.dtype}) is an average of different index sets, or was rounded: average adapters "
                "of one random_seed, and leave the index sets out."
            )
        state[key] = index.to(torch.int64)


def _is_cut(index: Tensor, own: Tensor, size: int) -> bool:
    """Whether an index set must be an average of the own one with itself, cast to integers: of other sets less than one
    in a million is that near."""
    sets, near = own[..., 0].numel(), (1 + may_sink(own)).double().log().sum()
    return has_sunk(index, own) and sets * math.log(math.comb(size, own.shape[-1])) - near > math.log(10**6)


def restore_averaged(layer: Any, *args: Any) -> None:
    """Restore the layer's index sets where weights were averaged in place, before a state is taken."""
    for name in layer.sbora_weight:
        layer.sbora_weight.region(name).restore_averaged()


def leave_merged_pass(layer: Any, *args: Any) -> None:
    """Give a state that is taken or loaded the base's own bits: the next pass merges anew."""
    if layer._train_merged and layer.merged:
        layer.unmerge()


def rename_old_keys(layer: Any, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """Give the tensors of a state from before adapters had a module of their own the names they have now, in place."""
    for name in layer.sbora_weight:
        for old, new in (("sbora_weight", "weight"), ("sbora_index", "index")):
            if f"{prefix}{old}.{name}" in state:
                state[f"{prefix}sbora_weight.{name}.{new}"] = state.pop(f"{prefix}{old}.{name}")


def check_loaded_index(layer: Any, incompatible_keys: object) -> None:
    """Take the layer's index sets as they were loaded. Raises ValueError where one is not of different numbers of the
    layer's columns (FA) or rows (FB)."""
    for name, index in layer.sbora_index.items():
        layer.sbora_weight.region(name).is_new = False
        layer.sbora_weight.region(name).keep_index()
        size = layer.in_features if layer.variant[name] == "fa" else layer.out_features
        if index.is_meta or layer.sbora_weight.region(name).undecided and (index == UNDECIDED).all():
            continue
        if index.min() < 0 or index.max() >= size or (index.sort(-1).values.diff() == 0).any():
            raise ValueError(
                f"The index set of adapter {name!r} must be different numbers from 0 to {size - 1}, but "
                f"{index.tolist()} was loaded: the file is broken or belongs to another model."
            )
