"""In which order adapters were merged into memory that several layers share, and what each merge replaced.

Each merge keeps what it replaced, so that only the last may be taken out. The values alone don't show it: a small
update is lost in the rounding of a 16-bit weight.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import uuid4

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .region import spare_integers

# by storage, the merges that have not been undone and the bytes that each wrote to, the last one last
_merges = WeakIdKeyDictionary(ref_type=weakref.ref)


@dataclass
class Replaced:
    """What a merge replaced in a weight.

    Attributes:
        values: the region as it was.
        index: which region it was, int64.
        written: what was written there; None where it is written anew in every pass.
        below: the adapters that were merged into the same weight below the layer.
        merge: the merge, as it is noted here.
    """

    values: Tensor
    index: Tensor
    written: Tensor | None = None
    below: list[list[str]] = field(default_factory=list)
    merge: str = field(default_factory=lambda: uuid4().hex)

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Move or cast the tensors as a module's are."""
        change = spare_integers(change)
        self.values, self.index = change(self.values), change(self.index)
        self.written = None if self.written is None else change(self.written)


def span(tensor: Tensor) -> range:
    """The bytes of its storage that a tensor lies in."""
    first = tensor.storage_offset()
    last = first + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return range(first * tensor.element_size(), (last + 1) * tensor.element_size()) if tensor.numel() else range(0)


def overlap(a: range, b: range) -> bool:
    """Whether two ranges of bytes have one in common."""
    return max(a.start, b.start) < min(a.stop, b.stop)


def note(weight: Tensor, merge: str) -> None:
    """Note a merge into a weight."""
    _merges.setdefault(weight.untyped_storage(), {})[merge] = span(weight)


def is_last(weight: Tensor, merge: str) -> bool:
    """Whether nothing was merged into the weight after this merge; of a copy of the weight that is not known."""
    merges = _merges.get(weight.untyped_storage(), {})
    if merge not in merges:
        return True
    later = list(merges)[list(merges).index(merge) + 1 :]
    return not any(overlap(merges[merge], merges[other]) for other in later)


def forget(weight: Tensor, merge: str) -> None:
    """Forget a merge that is undone."""
    _merges.get(weight.untyped_storage(), {}).pop(merge, None)


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
