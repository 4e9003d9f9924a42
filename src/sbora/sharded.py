"""Weights of which each process has a part (DTensor, as FSDP 2 makes them): read and written whole.

Reading gathers a weight from all processes, one layer at a time, so that all of them merge and unmerge together.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts: itself, where it is not sharded."""
    return cast("Any", tensor).full_tensor() if is_sharded(tensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, in its memory."""
    return cast("Any", tensor).to_local() if is_sharded(tensor) else tensor


def write_back(tensor: Tensor, values: Tensor) -> None:
    """Write what `whole` gave, changed, into the parts; nothing is to be done where that was the tensor itself."""
    if not is_sharded(tensor):
        return
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = tensor
    # every process has the same values, none needs to send them
    parts = distribute_tensor(values, sharded.device_mesh, sharded.placements, src_data_rank=None)
    own_part(tensor).copy_(parts.to_local())
