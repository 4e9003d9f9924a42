"""Who else holds a tensor: the only memory that is written to is memory that nobody else can see.

A hook, a saved activation, selective checkpointing or `torch.autograd.grad` may keep the output of the layer below,
or the gradient of its input. Each is seen in one of three counts: references to the Python object, to the tensor in
C++, and to the storage, in C++ and in Python. What they are where nobody else holds a tensor depends on the versions
of Python and PyTorch alone, and so is measured once. Anything above it, and any kind of tensor but the plain one, is
left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

Counts = tuple[int, ...]
UNKNOWN: Counts = ()


def counts(tensor: Tensor) -> Counts:
    """References to the Python object, to the tensor, and to its storage; of a view, to what it is a view of, too.

    Call it where the tensor is a variable of the caller's, or an argument, and nothing else there.
    """
    if type(tensor) is not Tensor or torch._C._are_functorch_transforms_active() or not tensor.is_contiguous():
        return UNKNOWN
    try:
        storage = tensor.untyped_storage()
    except NotImplementedError:  # batched or otherwise wrapped by a transform
        return UNKNOWN
    if results_are_kept() or not storage.resizable():  # borrowed, and perhaps held by numpy or another process
        return UNKNOWN
    in_storage = sys.getrefcount(storage) + torch._C._storage_Use_Count(storage._cdata)
    counts = sys.getrefcount(tensor), tensor._use_count(), in_storage
    base = tensor._base
    return counts if base is None else (*counts, sys.getrefcount(base), base._use_count())


def results_are_kept() -> bool:
    """Whether selective checkpointing is on, which keeps results, and must see the same operations when it computes
    anew."""
    modes = _get_current_dispatch_mode_stack() if torch._C._len_torch_dispatch_stack() else ()
    return any(type(mode).__module__ == "torch.utils.checkpoint" for mode in modes)


@contextmanager
def _unwatched() -> Iterator[None]:
    """Without those who would be counted, too: modes, and a debugger or profiler that looks at local variables."""
    trace, profile = sys.gettrace(), sys.getprofile()
    sys.settrace(None)
    sys.setprofile(None)
    try:
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            yield
    finally:
        sys.settrace(trace)
        sys.setprofile(profile)


@cache
def of_a_result() -> Counts:
    """The counts of a tensor that a function has just returned and that nobody else holds."""
    with _unwatched():
        result = torch.empty(1, device="cpu")
        return counts(result)


@cache
def of_gradients() -> tuple[Counts, Counts]:
    """The counts of the first gradient that a `Function` is given, where nobody else holds it: as it comes from a
    product, and as a view of that."""
    measured: list[Counts] = []
    with _unwatched(), torch.enable_grad():
        for shape in ((2, 3), (1, 2, 3)):
            x = torch.ones(shape, device="cpu", requires_grad=True)
            first, second = _Measure.apply(x, measured)
            product = torch.mm(first.view(2, 3) if len(shape) == 3 else first, torch.ones(3, 4, device="cpu"))
            (product.sum() + second.sum()).backward()
    return measured[0], measured[1]


def are_a_results(held: Counts) -> bool:
    """Whether counts are those of a result that nobody else holds. Nothing is measured, which a transform would not
    allow, where they are unknown; so below."""
    return held != UNKNOWN and held == of_a_result()


def are_a_gradients(held: Counts) -> bool:
    """Whether counts are those of a gradient that nobody else holds."""
    return held != UNKNOWN and held in of_gradients()


class _Measure(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, measured: list[Counts]) -> tuple[Tensor, Tensor]:
        ctx.measured = measured
        return x, x.clone()

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor, grad_z: Tensor) -> tuple[Tensor | None, ...]:
        ctx.measured.append(counts(grad_x))
        return grad_x, None
