"""The forward and backward of SBoRA, written so as to keep and to compute as little as possible.

A layer computes, with I the index set, s the scaling and W0 the frozen weight (arXiv 2407.05413),

    FA   y = x W0^T + s x[..., I] W^T            W: (out_features, r)
    FB   y = x W0^T,  y[..., I] += s x W^T       W: (r, in_features)

in two steps: the adapter's hidden values z are taken off the input x, and their contribution is added to the
base layer's output. For each of the two the gradient could be left to autograd, but autograd would make a
second tensor of the size of x or y, only to add it to the first; here the sums are made in place where nobody
else holds that tensor (`ownership`), and nothing is kept but z (FA) or x (FB), and no x that autograd can make
from what the model keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .ownership import are_a_gradients, are_a_results, counts, results_are_kept


def _rows(x: Tensor) -> Tensor:
    """(..., n) -> (rows, n), also where either is 0."""
    width = x.shape[-1]
    return x.reshape(x.numel() // width if width else x.shape[:-1].numel(), width)  # torch.jit sees through the first


def _take(x: Tensor, index: Tensor) -> Tensor:
    """x[..., index]. Through the transpose, for whole rows are copied faster than single entries."""
    if not x.is_contiguous():
        return x.index_select(-1, index)
    taken = _rows(x).t().index_select(0, index)
    return taken.view(index.numel(), *x.shape[:-1]).movedim(0, -1)


def _add_at(x: Tensor, index: Tensor, z: Tensor) -> Tensor:
    """x[..., index] += z, for a contiguous x; an index occurs only once."""
    rows, z_rows = _rows(x), _rows(z).to(x.dtype)
    if x.dtype in (torch.bfloat16, torch.float16):  # where PyTorch's sum at an index is several times slower
        sums = rows.t().index_select(0, index).add_(z_rows.t())
        rows.index_copy_(1, index, sums.t())
    else:
        rows.index_add_(1, index, z_rows)
    return x


def _product_over_rows(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over all rows of a (column) times b's conjugate (row), in `dtype`.

    Such a sum overflows in fp16 where each of its terms is far from it: there it is made in fp32, part by part.
    """
    a, b = _rows(a), _rows(b)
    if a.dtype != torch.float16:
        return (a.t() @ b.to(a.dtype).conj()).to(dtype)
    total = a.new_zeros(a.shape[1], b.shape[1], dtype=torch.float32)
    for part, other in zip(a.split(512), b.split(512), strict=True):
        total = total.addmm_(part.t().float(), other.float())
    return total.to(dtype)


class _Gather(Function):
    """x -> (x, x[..., index]), such that the gradient of x is a sum made in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return x.detach(), _take(x, index)  # no view, so that the layer below may write to it

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor | None, grad_z: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_z is None:
            return grad_x, None
        (index,) = ctx.saved_tensors
        if grad_x is None:
            return grad_z.new_zeros(ctx.shape).index_add(-1, index, grad_z), None
        if not torch.is_grad_enabled() and are_a_gradients(counts(grad_x)):
            return _add_at(grad_x, index, grad_z), None
        return grad_x.index_add(-1, index, grad_z.to(grad_x.dtype)), None


class _Project(Function):
    """(x, weight) -> (x, scaling x weight^T), such that the gradient of x is a sum made in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, scaling: float, factors: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, *((factors or (x,)) if ctx.needs_input_grad[1] else ()))
        ctx.scaling = scaling
        return x.detach(), F.linear(x, (weight * scaling).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor | None, grad_z: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_z is None:
            return grad_x, None, None, None
        weight, *kept = ctx.saved_tensors
        grad_weight = None
        if ctx.needs_input_grad[1]:
            x = kept[0] if len(kept) == 1 else kept[0] * kept[1]
            grad_weight = _product_over_rows(grad_z, x, weight.dtype) * ctx.scaling
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None
        weight = (weight * ctx.scaling).to(grad_z.dtype).conj()
        if grad_x is None:
            return grad_z @ weight, grad_weight, None, None
        if not torch.is_grad_enabled() and are_a_gradients(counts(grad_x)):
            rows = _rows(grad_x)
            rows.addmm_(_rows(grad_z).to(rows.dtype), weight.to(rows.dtype))
            return grad_x, grad_weight, None, None
        return grad_x + (grad_z @ weight).to(grad_x.dtype), grad_weight, None, None


class _AddProduct(Function):
    """(y, z, weight) -> y + scaling z weight^T, in y's memory if told so."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, scaling: float, in_place: bool) -> Tensor:
        ctx.save_for_backward(z if ctx.needs_input_grad[2] else None, weight)
        ctx.scaling = scaling
        rows, matrix = _rows(z), weight.to(y.dtype).t()
        if results_are_kept():  # a copy of y would be, too
            return torch.add(y, (rows @ matrix).view(y.shape), alpha=scaling)
        if in_place:
            ctx.mark_dirty(y)
        else:
            y = y.clone(memory_format=torch.contiguous_format)  # no view, which nobody could write to
        _rows(y).addmm_(rows, matrix, alpha=scaling)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        z, weight = ctx.saved_tensors
        grad_z = grad_weight = None
        # the scaling goes to the small tensors
        if ctx.needs_input_grad[1]:
            grad_z = grad_y @ (weight * ctx.scaling).to(grad_y.dtype).conj()
        if ctx.needs_input_grad[2]:
            grad_weight = _product_over_rows(grad_y, z, weight.dtype) * ctx.scaling
        return grad_y, grad_z, grad_weight, None, None


class _AddAt(Function):
    """(y, z) -> y with z added to y[..., index], in y's memory if told so.

    The same is kept for the backward pass either way: where a checkpoint computes anew, others may hold y who did not.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, index: Tensor, in_place: bool) -> Tensor:
        ctx.save_for_backward(index)
        if not in_place:
            return y.index_add(-1, index, z)
        ctx.mark_dirty(y)
        return _add_at(y, index, z)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        return grad_y, _take(grad_y, index), None, None


class _Become(Function):
    """(x, changed) -> x, with the history of a tensor in the same memory that was changed in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, changed: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor) -> tuple[Tensor | None, ...]:
        return None, grad_x


class _Learn(Function):
    """(y, kept, weight) -> y untouched, with the gradient of a weight that is merged into the base."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        kept: Tensor,
        weight: Tensor,
        index: Tensor | None,
        scaling: float,
        merging: Callable | None,
    ) -> Tensor:
        ctx.save_for_backward(kept if ctx.needs_input_grad[2] else None, weight, index)
        ctx.scaling, ctx.merging = scaling, merging
        return y.detach()  # no view, so that it may be written to like any other output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, index = ctx.saved_tensors  # here autograd raises if they have changed since
        if ctx.merging is not None and ctx.needs_input_grad[0]:
            ctx.merging(weight, ctx.scaling)  # the base layer's own backward comes next, and takes its weight
        grad_weight = None
        if ctx.needs_input_grad[2]:
            grad = grad_y if index is None else _take(grad_y, index)
            grad_weight = _product_over_rows(grad, kept, weight.dtype) * ctx.scaling
        return grad_y, None, grad_weight, None, None, None


def adapted(
    variant: str,
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    scaling: float,
    below: Callable[[Tensor], Tensor],
    dropout: float = 0.0,
) -> Tensor:
    """The output of the layer below with the adapter's contribution added to it.

    What is adapted is what the layer below has left of x: it, or a hook of it, may change its input in place, and
    a merged layer would see what LoRA sees then. Only where the gradient of x is to be one sum are the hidden values
    taken before, and taken again if x was written to meanwhile.

    Args:
        variant: `"fa"` or `"fb"`.
        x: the layer's input, (..., in_features).
        weight: the trained matrix, (out_features, r) for FA, (r, in_features) for FB.
        index: int64, (r,).
        scaling: alpha / r.
        below: x -> the layer's output without the adapter, (..., out_features).
        dropout: probability of dropping an input of the adapter. FA draws it for the r gathered inputs
            alone: the others do not matter.

    Returns:
        (..., out_features), of the dtype of the output of `below`, and in its memory if nobody else holds that.
    """
    if not is_dense(x):
        return _by_two_products(variant, x, weight, index, scaling, below, dropout)
    z, is_plain = None, plain()
    if not is_plain and x.requires_grad and torch.is_grad_enabled() and (variant == "fa" or not dropout):
        given, z = _Gather.apply(x, index) if variant == "fa" else _Project.apply(x, weight, scaling, _kept_factors(x))
        node, version = given.grad_fn, given._version
        y = below(given)
        if given._version != version:
            if given.grad_fn is not node:  # autograd saw the change
                with torch.autograd._unsafe_preserve_version_counter(x):  # written to it was already
                    _Become.apply(x, given)
            x, z = given, None
    else:
        y = below(x)
    if z is None:
        z = _hidden(variant, x, weight, index, scaling, dropout)
    in_place = not is_plain and are_a_results(counts(y)) and not (y.is_leaf and y.requires_grad)
    if variant == "fa":
        z = F.dropout(z, dropout) if dropout else z
        if is_plain:
            return y + _linear(z, weight * scaling).to(y.dtype)
        return _AddProduct.apply(y, z.to(y.dtype), weight, scaling, in_place)
    z = z.to(y.dtype)
    return y.index_add(-1, index, z) if is_plain else _AddAt.apply(y, z, index, in_place)


def is_dense(x: Tensor) -> bool:
    """Whether single entries of x can be taken and written: it is neither nested nor sparse."""
    return x.layout is torch.strided and not x.is_nested


def _by_two_products(
    variant: str, x: Tensor, weight: Tensor, index: Tensor, scaling: float, below: Callable, dropout: float
) -> Tensor:
    """`adapted` as LoRA has it, with the index set as a one-hot matrix: all that nested and sparse inputs allow is to
    multiply with them."""
    y = below(x)
    width = x.size(-1) if variant == "fa" else y.size(-1)
    one_hot = F.one_hot(index, width)
    x = F.dropout(x, dropout) if dropout else x
    if variant == "fa":
        return y + _linear(F.linear(x, one_hot.to(x.dtype)), weight * scaling).to(y.dtype)
    return y + F.linear(_linear(x, weight * scaling).to(y.dtype), one_hot.t().to(y.dtype))


def _hidden(variant: str, x: Tensor, weight: Tensor, index: Tensor, scaling: float, dropout: float) -> Tensor:
    """The adapter's hidden values, (..., r): FA's inputs, or FB's product, which is scaled and of a dropped x.

    FB's is better scaled here than later: the small matrix is scaled, and fp16 holds the result wherever it holds the
    output.
    """
    if variant == "fa":
        return _take(x, index)
    x = F.dropout(x, dropout) if dropout else x
    if plain() or not torch.is_grad_enabled():
        return _linear(x, weight * scaling)
    return _Project.apply(x, weight, scaling, None)[1]


def _kept_factors(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """The two tensors that x is the product of, where autograd keeps them both anyway, as those of a gated activation:
    then x need not be kept beside them. Not where x was written to since, nor where hooks pack what is saved: asking
    would unpack it."""
    made_by = x.grad_fn
    if made_by is None or x._version or made_by.name() != "MulBackward0":
        return None
    if torch._C._autograd._top_saved_tensors_default_hooks(True):
        return None
    try:
        factors = made_by._saved_self, made_by._saved_other
    except RuntimeError:  # freed by a backward pass, or written to
        return None
    if any(factor is None or factor.shape != x.shape or factor.dtype != x.dtype for factor in factors):
        return None
    return factors


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T in the dtype of x, but for fp16, whose gradient of the weight would overflow."""
    if x.dtype == torch.float16 and not torch.is_autocast_enabled(x.device.type):
        return F.linear(x.to(weight.dtype), weight).to(x.dtype)
    return F.linear(x, weight.to(x.dtype))


def learn(
    variant: str,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    scaling: float,
    merging: Callable[[Tensor, float], object] | None = None,
) -> Tensor:
    """Give the trained matrix its gradient where the adapter is merged into the base weight.

    The base layer computes the output and the gradient of x on its own, so that only the region's gradient
    is left to compute. A second derivative is refused.

    Args:
        y: the output of the merged layer, (..., out_features).
        x: its input, (..., in_features).
        merging: called in the backward with weight and scaling, before the base layer's own backward.

    Raises:
        ValueError: x is nested or sparse.
    """
    if not is_dense(x):
        raise ValueError(
            "train_merged takes dense inputs, but a layer was given a nested or sparse one: switch it off, and the "
            "adapter is trained as usual."
        )
    x = x.detach()
    kept, at = (_take(x, index), None) if variant == "fa" else (x, index)
    return _Learn.apply(y, kept, weight, at, scaling, merging)


def plain() -> bool:
    """Whether plain operations are to be run, which whoever runs the pass can see through: a compiler, a tracer, a
    transform of `torch.func`, forward-mode differentiation."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )
