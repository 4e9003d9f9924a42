"""A weight with adapters on it, as an operand of the products that a model's own code writes.

A mixture's experts are a parameter of three dimensions, and what is done with it stands in the model's forward:
a loop over experts, one grouped or batched product. PEFT's LoRA puts W + delta in the parameter's place, a second
copy of all experts, and its gradient is a third. Here an object stands in its place that behaves as a tensor of
that sum, but multiplies with W and with the adapter's small matrices one after the other, so that neither the sum
nor its gradient is ever made. Whatever else is done with it gets the sum itself, as a tensor.

Notation: x are rows to be multiplied, of width c; a product is over the dimension of W that has c entries. An
index set that points into that dimension takes inputs, `y += s x[..., I] M` with M (r, d); one that points into
the other puts outputs, `y[..., I] += s x M` with M (c, r).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_map_only

from . import functional
from .ownership import are_a_gradients, are_a_results, counts


@dataclass(eq=False)
class Adapter:
    """One adapter of a weight.

    Attributes:
        variant: `"fa"` or `"fb"`.
        weight: the trained matrix, ([experts,] out_features, r) for FA, ([experts,] r, in_features) for FB.
        index: the index set, int64 ([experts,] r).
        scaling: what the update is multiplied with.
        dropout: probability of dropping an input of the adapter.
    """

    variant: str
    weight: Tensor
    index: Tensor
    scaling: float
    dropout: float = 0.0
    _parts: list | None = field(default=None, repr=False)

    def expert(self, number: int) -> Adapter:
        """The adapter of one expert. All are taken apart at once, for one gradient of the whole to be made."""
        if self._parts is None:
            self._parts = list(zip(self.weight.unbind(0), self.index.unbind(0), strict=True))
        weight, index = self._parts[number]
        return Adapter(self.variant, weight, index, self.scaling, self.dropout)

    def takes_inputs(self, natural: bool) -> bool:
        """Whether the index set points into the dimension that a product is over."""
        return (self.variant == "fa") == natural

    def matrix(self, natural: bool, dtype: torch.dtype) -> Tensor:
        """M, to multiply rows with from the right."""
        return (self.weight.transpose(-2, -1) if natural else self.weight).to(dtype)


# an index set of each expert, (experts, r) -> of each row, (..., r); kept for the backward pass, so it holds no inputs
Place = Callable[[Tensor], Tensor]


class _GatherAt(Function):
    """(x, index) -> (x, x[row, place(index)[row]]), the gradient of x summed in place where nobody else holds it.

    An index set of each row takes more memory than what is gathered: it is made anew in the backward pass; so below.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(index)
        ctx.shape, ctx.place = x.shape, place
        return x, x.gather(-1, place(index))

    @staticmethod
    def backward(ctx: Any, grad_x: Tensor | None, grad_z: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_z is None:
            return grad_x, None, None
        index = ctx.place(*ctx.saved_tensors)
        if grad_x is None:
            return grad_z.new_zeros(ctx.shape).scatter_add(-1, index, grad_z), None, None
        alone = not torch.is_grad_enabled() and are_a_gradients(counts(grad_x))
        add = grad_x.scatter_add_ if alone else grad_x.scatter_add
        return add(-1, index, grad_z.to(grad_x.dtype)), None, None


class _ScatterAt(Function):
    """(y, z, index) -> y with z[row] added to y[row, place(index)[row]], in y's memory if told so."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, index: Tensor, place: Place, in_place: bool) -> Tensor:
        ctx.save_for_backward(index)
        ctx.place = place
        if not in_place:
            return y.scatter_add(-1, place(index), z)
        ctx.mark_dirty(y)
        return y.scatter_add_(-1, place(index), z)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return grad_y, grad_y.gather(-1, ctx.place(*ctx.saved_tensors)), None, None, None


@dataclass(eq=False)
class Operand:
    """W with its adapters.

    Attributes:
        parameter: gives W, ([experts,] d1, d2), when it is needed: hosts may load or gather it meanwhile.
        adapters: those that are added.
        in_dim: the dimension of W, from the end, that has the inputs: -1 (out x in) or -2 (in x out).
        expert: the number of the expert that was chosen, or of one for each of a batch, int64 (batch,).
        transposed: whether the last two dimensions have been exchanged.
    """

    parameter: Callable[[], Tensor]
    adapters: list[Adapter]
    in_dim: int
    expert: int | Tensor | None = None
    transposed: bool = False

    # what a tensor of the sum would say of itself, without making it

    _PLAIN: ClassVar = ("dtype", "device", "layout", "is_cuda", "is_meta", "requires_grad", "data_ptr", "element_size")
    _SHAPE: ClassVar = ("shape", "ndim", "dim", "size", "numel")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._PLAIN:
            return getattr(self.parameter(), name)
        return getattr(self._shaped() if name in self._SHAPE else self.dense(), name)

    def __len__(self) -> int:
        return len(self._shaped())

    def _shaped(self) -> Tensor:
        """A tensor of the operand's shape, and no matter what values."""
        weight = self.parameter()
        if isinstance(self.expert, Tensor):
            weight = weight[:1].expand(len(self.expert), *weight.shape[1:])
        elif self.expert is not None:
            weight = weight[self.expert]
        return weight.transpose(-2, -1) if self.transposed else weight

    def dense(self) -> Tensor:
        """The sum, as a tensor. Raises ValueError for an adapter with dropout."""
        weight = self.parameter()
        weight = weight if self.expert is None else weight[self.expert]
        for adapter in self.adapters:
            if adapter.dropout:
                raise ValueError(
                    "sbora_dropout must be 0 here: the model does more with an adapted parameter than multiply "
                    "inputs with it, and then there are no inputs to drop."
                )
            update, index = adapter.weight * adapter.scaling, adapter.index
            if self.expert is not None:
                update, index = update[self.expert], index[self.expert]
            update = update.to(weight.dtype) if self.in_dim == -1 else update.to(weight.dtype).transpose(-2, -1)
            dim = self.in_dim if adapter.variant == "fa" else -3 - self.in_dim
            index = index.unsqueeze(-2 if dim == -1 else -1).expand_as(update)
            weight = weight.scatter_add(dim, index, update)
        return weight.transpose(-2, -1) if self.transposed else weight

    # the ways to one or several experts, and to the transpose

    def __getitem__(self, key: Any) -> Operand | Tensor:
        if self.expert is None and not self.transposed and self.parameter().dim() == 3:
            if isinstance(key, int) or (isinstance(key, Tensor) and key.dim() == 0 and key.dtype == torch.int64):
                number = int(key)
                return replace(self, adapters=[a.expert(number) for a in self.adapters], expert=number)._of_one()
            if isinstance(key, Tensor) and key.dim() == 1 and key.dtype == torch.int64:
                return replace(self, expert=key)
        return self.dense()[key]

    def _of_one(self) -> Operand:
        number = self.expert
        return replace(self, parameter=lambda: self.parameter()[number], expert=None)

    def transpose(self, dim0: int, dim1: int) -> Operand | Tensor:
        n = self._shaped().dim()
        if {dim0 % n, dim1 % n} == {n - 1, n - 2}:
            return replace(self, transposed=not self.transposed)
        return self.dense().transpose(dim0, dim1)

    def t(self) -> Operand:
        return self.transpose(-2, -1)

    @property
    def T(self) -> Operand | Tensor:  # noqa: N802, a tensor's own name
        return self.t() if self._shaped().dim() == 2 else self.dense().T

    @property
    def mT(self) -> Operand:  # noqa: N802
        return self.t()

    def __matmul__(self, other: Tensor) -> Tensor:
        return torch.matmul(self, other)

    # products

    @classmethod
    def __torch_function__(cls, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        product = _PRODUCTS.get(func)
        if product is not None:
            named = [kwargs[name] for name in _OPERANDS if name in kwargs]
            settings = {name: value for name, value in kwargs.items() if name not in _OPERANDS}
            result = product(*args, *named, **settings)
            if result is not None:
                return result
        args, kwargs = tree_map_only(Operand, Operand.dense, (args, kwargs))
        return func(*args, **kwargs)

    def _natural(self) -> bool:
        """Whether a product of rows with the operand from the left is over W's inputs."""
        return (self.in_dim == -2) != self.transposed

    def _weight(self) -> Tensor:
        """W, of all experts."""
        weight = self.parameter()
        return weight.transpose(-2, -1) if self.transposed else weight

    def rows_times(self, x: Tensor, multiply: Callable, place: Place) -> Tensor:
        """x W and what the adapters add.

        Args:
            x: rows, (..., c).
            multiply: (rows, W) -> rows W; a matrix of each expert stands for W, too.
            place: index sets of the experts -> of the rows.
        """
        natural, plain, parts = self._natural(), functional.plain(), []
        for adapter in self.adapters:
            matrix = adapter.matrix(natural, x.dtype)
            index = adapter.index
            if adapter.takes_inputs(natural):
                watched = x.requires_grad and torch.is_grad_enabled() and not plain
                x, z = _GatherAt.apply(x, index, place) if watched else (x, x.gather(-1, place(index)))
                parts.append((F.dropout(z, adapter.dropout), matrix, None, adapter.scaling))
            else:
                z = multiply(F.dropout(x, adapter.dropout) if adapter.dropout else x, matrix)
                parts.append((z, None, index, adapter.scaling))
        y = multiply(x, self._weight())
        in_place = not plain and are_a_results(counts(y))
        for z, matrix, index, scaling in parts:
            if index is None:
                update = multiply(z.to(y.dtype), matrix.to(y.dtype))
                y = y.add_(update, alpha=scaling) if in_place else torch.add(y, update, alpha=scaling)
            else:
                update = (z * scaling).to(y.dtype)
                if plain:
                    y = y.scatter_add(-1, place(index), update)
                else:
                    y = _ScatterAt.apply(y, update, index, place, in_place)
        return y


def _as_dense(name: str) -> Callable:
    return lambda operand, *args: getattr(operand.dense(), name)(*args)


_OPERATORS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow rpow neg abs lt le gt ge eq ne"
)
for _operator in _OPERATORS.split():
    setattr(Operand, f"__{_operator}__", _as_dense(f"__{_operator}__"))  # Python looks them up in the class alone


def _linear(x: Tensor, weight: Operand, bias: Tensor | None = None) -> Tensor | None:
    if not isinstance(weight, Operand) or weight._shaped().dim() != 2:
        return None
    return _one(x, weight.t(), bias)


def _one(x: Tensor, operand: Operand, bias: Tensor | None = None) -> Tensor:
    """x times a matrix: an expert of its own, or a parameter of two dimensions."""
    if not operand._natural():
        y = F.linear(x, operand._weight().t(), bias)
        for adapter in operand.adapters:
            x_in = F.dropout(x, adapter.dropout) if adapter.dropout else x
            matrix = adapter.matrix(False, x.dtype)
            if adapter.takes_inputs(False):
                y = y + x_in.index_select(-1, adapter.index) @ matrix * adapter.scaling
            else:
                y = y.index_add(-1, adapter.index, (x_in @ matrix).to(y.dtype), alpha=adapter.scaling)
        return y
    y_of = partial(F.linear, weight=operand._weight().t(), bias=bias)
    for adapter in operand.adapters:
        y_of = partial(_adapted, adapter, y_of)
    return y_of(x)


def _adapted(adapter: Adapter, below: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return functional.adapted(
        adapter.variant, x, adapter.weight, adapter.index, adapter.scaling, below, adapter.dropout
    )


def _matmul(a: Tensor | Operand, b: Tensor | Operand, **settings: Any) -> Tensor | None:
    if settings:
        return None
    if isinstance(a, Operand):
        if isinstance(b, Operand) or b.dim() < 2:
            return None
        result = _matmul(b.transpose(-2, -1), a.transpose(-2, -1))  # (A B)^T = B^T A^T
        return None if result is None else result.transpose(-2, -1)
    if b._shaped().dim() == 2:
        return _one(a, b)
    if a.dim() != 3 or len(a) != len(b):
        return None
    numbers = b.expert
    return b.rows_times(
        a,
        multiply=torch.bmm if numbers is None else partial(_chosen_product, numbers=numbers),
        place=partial(_of_batches, numbers=numbers, rows=a.shape[1]),
    )


def _of_batches(index: Tensor, numbers: Tensor | None, rows: int) -> Tensor:
    """Index sets of the experts, (experts, r) -> of the rows of batches, each of one expert, (batch, rows, r)."""
    return (index if numbers is None else index[numbers]).unsqueeze(1).expand(-1, rows, -1)


def _chosen_product(rows: Tensor, matrices: Tensor, numbers: Tensor) -> Tensor:
    """Rows, (batch, n, c), each times the matrix of its number, (experts, c, d)."""
    return torch.bmm(rows, matrices[numbers]) if functional.plain() else _ChosenProduct.apply(rows, matrices, numbers)


class _ChosenProduct(Function):
    """The same, but that no copy of the chosen matrices is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrices: Tensor, numbers: Tensor) -> Tensor:
        of_rows, of_matrices, _ = ctx.needs_input_grad
        ctx.save_for_backward(rows if of_matrices else None, matrices if of_rows else None, numbers)
        ctx.shape = matrices.shape
        return torch.bmm(rows, matrices[numbers])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, matrices, numbers = ctx.saved_tensors
        grad_rows = grad_matrices = None
        if matrices is not None:
            grad_rows = torch.bmm(grad, matrices[numbers].transpose(-2, -1).to(grad.dtype))
        if rows is not None:
            of_chosen = torch.bmm(rows.transpose(-2, -1).to(grad.dtype), grad)
            grad_matrices = of_chosen.new_zeros(ctx.shape).index_put((numbers,), of_chosen, accumulate=True)
        return grad_rows, grad_matrices, None


def _grouped(x: Tensor, weight: Operand, offs: Tensor | None = None, **settings: Any) -> Tensor | None:
    if isinstance(x, Operand) or offs is None or x.dim() != 2 or weight.expert is not None or any(settings.values()):
        return None
    return weight.rows_times(
        x, multiply=partial(_grouped_product, offs=offs), place=partial(_of_grouped_rows, offs=offs, rows=len(x))
    )


def _of_grouped_rows(index: Tensor, offs: Tensor, rows: int) -> Tensor:
    """Index sets of the experts, (experts, r) -> of the rows that `offs` gives to each, (rows, r)."""
    row = torch.arange(rows, device=offs.device)
    # rows behind the last expert's belong to no one: they are no one's to compute
    return index[torch.searchsorted(offs, row, right=True).clamp(max=len(index) - 1)]


def _grouped_product(rows: Tensor, matrices: Tensor, offs: Tensor) -> Tensor:
    """Rows of the experts one after the other, each times its expert's matrix.

    The kernel wants rows of whole 16 bytes, which ranks need not be: they are filled up with zeros.
    """
    inner, outer = (-n % (16 // rows.element_size()) for n in matrices.shape[-2:])
    if inner or outer:
        rows, matrices = F.pad(rows, (0, inner)), F.pad(matrices, (0, outer, 0, inner))
    product = F.grouped_mm(rows, matrices, offs=offs)
    return product[:, : product.shape[-1] - outer] if outer else product


# the left one's names before the right one's
_OPERANDS = ("self", "input", "mat_a", "other", "weight", "mat2", "mat_b")
_PRODUCTS: dict[Any, Callable] = {
    F.linear: _linear,
    **dict.fromkeys(
        (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm), _matmul
    ),
    torch._grouped_mm: _grouped,
    F.grouped_mm: _grouped,
}
