"""In which order adapters were merged into a storage that several layers share.

Each keeps what it replaced, so that only the last may be taken out. The values alone don't show it: a small update
is lost in the rounding of a 16-bit weight.
"""

from __future__ import annotations

from uuid import uuid4

import torch
from torch import Tensor

_merges: dict[int, list[str]] = {}  # by the address of a storage, those that have not been undone


def note(weight: Tensor) -> str:
    """Note a merge into a weight. Returns what it is known by."""
    merge = uuid4().hex
    _merges.setdefault(_address(weight), []).append(merge)
    return merge


def is_last(weight: Tensor, merge: str) -> bool:
    """Whether nothing was merged into the weight after this merge; of a copy of the weight that is not known."""
    merges = _merges.get(_address(weight), [])
    return merge not in merges or merges[-1] == merge


def forget(weight: Tensor, merge: str) -> None:
    """Forget a merge that is undone."""
    merges = _merges.get(_address(weight), [])
    if merge in merges:
        merges.remove(merge)
    if not merges:
        _merges.pop(_address(weight), None)


def check_untouched(adapter: str, region: Tensor, written: Tensor) -> None:
    """Raise if a region holds more than was written into it, but for the rounding of a sum that was undone."""
    rounding = 2 * torch.finfo(region.dtype).eps * written.abs().max() if written.numel() else 0
    if not region.is_meta and ((region - written.to(region)).abs() > rounding).any():
        raise changed_since(adapter)


def changed_since(adapter: str) -> ValueError:
    """The error of an adapter that cannot be taken out."""
    return ValueError(
        f"Adapter {adapter!r} cannot be taken out of its weight: what was merged there has changed since. Another "
        "adapter was merged into the same weight, or taken out of it: undo that first, the last one first "
        "(unmerge_adapter of the model takes its own in that order)."
    )


def _address(weight: Tensor) -> int:
    return weight.untyped_storage()._cdata
